package sim

import (
	"context"
	"testing"
	"testing/synctest"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// maxSeeds is within how many seeds each planted defect must be found.
const maxSeeds = 60

// TestPlantedDefects checks the check: servers with known defects, each planted from outside
// of the code, do not get through.
func TestPlantedDefects(t *testing.T) {
	tp := newTemplate(t)
	for name, spoil := range map[string]func(w *world, p *process){
		// The record of what was asked for is not there while the provider is asked.
		"skip the intent record": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.state = 'unknown' AND OLD.state = 'intended'
			       BEGIN DELETE FROM main.intent WHERE id = NEW.id; END`)
		},
		// A create request that was not answered is sent again as a new one.
		"retry a create after a timeout without listing": func(_ *world, p *process) { p.retries = true },
		// A deletion is asked for again and again until it is done.
		"pester a cloud": func(_ *world, p *process) { p.pesters = true },
		// A deletion counts as done once it was asked for.
		"mark terminated without confirmation": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.state = 'deleting'
			       BEGIN UPDATE intent SET state = 'gone', idle = TRUE WHERE id = NEW.id; END`)
		},
		// The epoch that a server checks is its own copy: nobody ever fences it.
		"ignore the fence": func(w *world, p *process) {
			w.overtakes = true
			p.unfenced = true
		},
		// A service's replica that is to go is put back on its feet by its next change.
		"never end what is scaled down": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.job WHEN NEW.status = 'terminating' AND json_extract(NEW.data, '$.reason') = 'scaled_down'
			       BEGIN UPDATE job SET status = OLD.status, data = OLD.data WHERE id = NEW.id; END`)
		},
		// The record of a placement group is not there while the provider is asked; of one alone,
		// since who finds no group tries elsewhere, without end.
		"make a group without a record": func(w *world, p *process) {
			p.sql(`CREATE TEMP TABLE planted (id TEXT)`)
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent
			       WHEN NEW.kind = 'placement' AND NEW.state = 'unknown' AND OLD.state = 'intended' AND NOT EXISTS (SELECT 1 FROM planted)
			       BEGIN INSERT INTO planted VALUES (NEW.id); DELETE FROM main.intent WHERE id = NEW.id; END`)
		},
		// Who is in a group is forgotten as soon as it is there.
		"delete a group with instances in it": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.kind = 'instance' AND NEW.state = 'created'
			       BEGIN UPDATE intent SET group_id = '' WHERE id = NEW.id; END`)
		},
		// A group that is not wanted any more is taken for deleted.
		"leave a group behind": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF state ON main.intent WHEN NEW.kind = 'placement' AND NEW.state = 'deleting'
			       BEGIN UPDATE intent SET state = 'gone', idle = TRUE WHERE id = NEW.id; END`)
		},
		// A job that is to leave a fleet that is not shared any more stays.
		"keep jobs where their project may not be": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.job
			       WHEN NEW.status = 'terminating' AND json_extract(NEW.data, '$.reason') = 'instance_access_revoked'
			       BEGIN UPDATE job SET status = OLD.status, data = OLD.data WHERE id = NEW.id; END`)
		},
		// How many GPUs a run needs is forgotten when it is submitted.
		"place a run on what it did not ask for": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.job
			       BEGIN UPDATE job SET data = json_remove(data, '$.spec.requirements.resources.gpu') WHERE id = NEW.id; END`)
		},
		// For how long a machine may be idle is forgotten when it is.
		"keep idle machines": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF status ON main.instance WHEN NEW.status = 'idle'
			       BEGIN UPDATE instance SET data = json_set(data, '$.idle_seconds', 86400), version = version + 1 WHERE id = NEW.id; END`)
		},
		// A job that failed is stored with the exit code of one that is done.
		"lose an exit code": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF data ON main.job WHEN json_extract(NEW.data, '$.exit') > 0
			       BEGIN UPDATE job SET data = json_set(data, '$.exit', 0), version = version + 1 WHERE id = NEW.id; END`)
		},
		// What a machine may cost is forgotten when it is wished for.
		"keep a machine that is too dear": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER INSERT ON main.intent WHEN json_extract(NEW.doc, '$.max_price') IS NOT NULL
			       BEGIN UPDATE intent SET doc = json_remove(doc, '$.max_price') WHERE id = NEW.id; END`)
		},
		// A host that is to come back when it has been taken off is forgotten.
		"forget a host that is removed and added again": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER UPDATE OF data ON main.instance WHEN json_extract(NEW.data, '$.next') IS NOT NULL
			       BEGIN UPDATE instance SET data = json_remove(data, '$.next'), version = version + 1 WHERE id = NEW.id; END`)
		},
		// When a job gives blocks back, another job of the instance loses its own.
		"release capacity twice": func(w *world, p *process) {
			p.sql(`CREATE TEMP TRIGGER plant AFTER DELETE ON main.assignment
			       BEGIN DELETE FROM assignment WHERE job_id = (SELECT min(job_id) FROM assignment WHERE instance_id = OLD.instance_id); END`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(maxSeeds) {
				var r result
				synctest.Test(t, func(t *testing.T) {
					w := live(t, seed+1, tp, spoil, false)
					r = w.result(false)
					w.end()
				})
				if len(r.Violations) > 0 {
					t.Logf("found by seed %d: %s", r.Seed, r.Violations[0])
					return
				}
			}
			t.Errorf("%d worlds with this defect, and nothing was noticed", maxSeeds)
		})
	}
}

// sql runs a statement on the connection with which a process writes. What is temporary there
// holds for this process alone.
func (p *process) sql(statement string) {
	err := p.db.Write(context.Background(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(context.Background(), statement)
		return err
	})
	if err != nil {
		p.w.t.Fatal(err)
	}
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
