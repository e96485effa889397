package sim

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// maxSeeds is within how many seeds each planted defect must be found.
const maxSeeds = 60

// TestPlantedDefects checks the check: servers with known defects, each planted from outside
// of the code, are found out by the invariant that is about it.
func TestPlantedDefects(t *testing.T) {
	tp := newTemplate(t)
	for name, d := range map[string]struct {
		by    string // the invariant
		plant func(w *world, p *process)
	}{
		// The record of what was asked for is not there while the provider is asked.
		"skip the intent record": {"I1", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.state = 'unknown' AND OLD.state = 'intended'
			       BEGIN DELETE FROM main.intent WHERE id = NEW.id; END`)
		}},
		// A create request that was not answered is sent again as a new one.
		"retry a create after a timeout without listing": {"I2", func(_ *world, p *process) { p.retries = true }},
		// A deletion is asked for again and again until it is done.
		"pester a cloud": {"I17", func(_ *world, p *process) { p.pesters = true }},
		// A deletion counts as done once it was asked for.
		"mark terminated without confirmation": {"I3", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.state = 'deleting'
			       BEGIN UPDATE intent SET state = 'gone', idle = TRUE WHERE id = NEW.id; END`)
		}},
		// The epoch that a server checks is its own copy: nobody ever fences it.
		"ignore the fence": {"I4", func(w *world, p *process) {
			w.overtakes = true
			p.unfenced = true
		}},
		// A service's replica that is to go is put back on its feet by its next change.
		"never end what is scaled down": {"I13", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.job WHEN NEW.status = 'terminating' AND json_extract(NEW.data, '$.reason') = 'scaled_down'
			       BEGIN UPDATE job SET status = OLD.status, data = OLD.data WHERE id = NEW.id; END`)
		}},
		// The record of a placement group is not there while the provider is asked; of one alone,
		// since who finds no group tries elsewhere, without end.
		"make a group without a record": {"I1", func(w *world, p *process) {
			p.sql(`CREATE TEMP TABLE planted (id TEXT)`)
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent
			       WHEN NEW.kind = 'placement' AND NEW.state = 'unknown' AND OLD.state = 'intended' AND NOT EXISTS (SELECT 1 FROM planted)
			       BEGIN INSERT INTO planted VALUES (NEW.id); DELETE FROM main.intent WHERE id = NEW.id; END`)
		}},
		// Who is in a group is forgotten as soon as it is there.
		"delete a group with instances in it": {"I14", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.kind = 'instance' AND NEW.state = 'created'
			       BEGIN UPDATE intent SET group_id = '' WHERE id = NEW.id; END`)
		}},
		// A group that is not wanted any more is taken for deleted.
		"leave a group behind": {"I3", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.kind = 'placement' AND NEW.state = 'deleting'
			       BEGIN UPDATE intent SET state = 'gone', idle = TRUE WHERE id = NEW.id; END`)
		}},
		// A job that is to leave a fleet that is not shared any more stays.
		"keep jobs where their project may not be": {"I16", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.job
			       WHEN NEW.status = 'terminating' AND json_extract(NEW.data, '$.reason') = 'instance_access_revoked'
			       BEGIN UPDATE job SET status = OLD.status, data = OLD.data WHERE id = NEW.id; END`)
		}},
		// How many GPUs a run needs is forgotten when it is submitted.
		"place a run on what it did not ask for": {"I20", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.job
			       BEGIN UPDATE job SET data = json_remove(data, '$.spec.requirements.resources.gpu') WHERE id = NEW.id; END`)
		}},
		// For how long a machine may be idle is forgotten when it is.
		"keep idle machines": {"I21", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.instance WHEN NEW.status = 'idle'
			       BEGIN UPDATE instance SET data = json_set(data, '$.idle_seconds', 86400), version = version + 1 WHERE id = NEW.id; END`)
		}},
		// A job that failed is stored with the exit code of one that is done.
		"lose an exit code": {"I3", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF data ON main.job WHEN json_extract(NEW.data, '$.exit') > 0
			       BEGIN UPDATE job SET data = json_set(data, '$.exit', 0), version = version + 1 WHERE id = NEW.id; END`)
		}},
		// What a machine may cost is forgotten when it is wished for.
		"keep a machine that is too dear": {"I18", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.intent WHEN json_extract(NEW.doc, '$.max_price') IS NOT NULL
			       BEGIN UPDATE intent SET doc = json_remove(doc, '$.max_price') WHERE id = NEW.id; END`)
		}},
		// A host that is to come back when it has been taken off is forgotten.
		"forget a host that is removed and added again": {"I19", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF data ON main.instance WHEN json_extract(NEW.data, '$.next') IS NOT NULL
			       BEGIN UPDATE instance SET data = json_remove(data, '$.next'), version = version + 1 WHERE id = NEW.id; END`)
		}},
		// When a job gives blocks back, another job of the instance loses its own.
		"release capacity twice": {"I6", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER DELETE ON main.assignment
			       BEGIN DELETE FROM assignment WHERE job_id = (SELECT min(job_id) FROM assignment WHERE instance_id = OLD.instance_id); END`)
		}},
		// Whatever happens is an event of the policy of a run that has one.
		"try again what was not asked for": {"I22", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.job WHEN json_extract(NEW.data, '$.spec.retry') IS NOT NULL
			       BEGIN UPDATE job SET data = json_set(data, '$.spec.retry.on_events', json('["no-capacity", "interruption", "error"]')) WHERE id = NEW.id; END`)
		}},
		// A policy loses its events but the first.
		"do not try again what was asked for": {"I22", func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.job WHEN json_extract(NEW.data, '$.spec.retry.on_events[1]') IS NOT NULL
			       BEGIN UPDATE job SET data = json_set(data, '$.spec.retry.on_events', json_array(json_extract(data, '$.spec.retry.on_events[0]'))) WHERE id = NEW.id; END`)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(maxSeeds) {
				r := planted(t, seed+1, tp, d.plant)
				for _, v := range r.Violations {
					if strings.Contains(v, senseless) {
						t.Fatalf("seed %d: what is planted does not do what it should: %s", r.Seed, v)
					}
				}
				if i := slices.IndexFunc(r.Violations, func(v string) bool { return strings.HasPrefix(v, d.by+" ") }); i >= 0 {
					t.Logf("found by seed %d: %s", r.Seed, r.Violations[i])
					return
				}
			}
			t.Errorf("%d worlds with this defect, and %s did not notice it", maxSeeds, d.by)
		})
	}
}

// planted runs the world of a seed with a defect.
func planted(t *testing.T, seed uint64, tp template, plant func(*world, *process)) (r result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := live(t, seed, tp, plant, false)
		r = w.result(false)
		w.end()
	})
	return r
}

// TestPlantThatBreaksWrites plants a trigger that fails when it fires, as one of those above would if a column or
// a table had another name: it is told from a defect.
func TestPlantThatBreaksWrites(t *testing.T) {
	r := planted(t, 1, newTemplate(t), func(_ *world, p *process) {
		p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.job BEGIN UPDATE job SET former = 1 WHERE id = NEW.id; END`)
	})
	if !slices.ContainsFunc(r.Violations, func(v string) bool { return strings.Contains(v, senseless) }) {
		t.Errorf("violations %q, want one with %q", r.Violations, senseless)
	}
}

// sql runs a statement on the connection with which a process writes, and returns how many rows it changed. What is
// temporary there holds for this process alone.
func (p *process) sql(statement string, args ...any) (changed int64) {
	err := p.db.Write(context.Background(), func(tx *store.Tx) error {
		result, err := tx.ExecContext(context.Background(), statement, args...)
		if err == nil {
			changed, err = result.RowsAffected()
		}
		return err
	})
	if err != nil {
		p.w.t.Fatal(err)
	}
	return changed
}

// createAgain is Create of a process that takes silence for a refusal.
func (a *account) createAgain(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	inst, err := a.create(ctx, req)
	if err != nil && !backend.Refused(err) && a.p.alive() {
		req.Token += "-again"
		return a.create(context.WithoutCancel(ctx), req)
	}
	return inst, err
}
