package instance

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestStepDamaged keeps machines in reach whose record is lost, and says when they are not.
func TestStepDamaged(t *testing.T) {
	for name, tt := range map[string]struct {
		change                           func(*Snapshot)
		now                              time.Duration
		watch, changed, unreachable, end bool
	}{
		"connected":                    {change: func(*Snapshot) {}},
		"after a restart":              {change: func(s *Snapshot) { s.Link = Link{} }, watch: true},
		"not connected yet":            {change: func(s *Snapshot) { s.Link = Link{Watched: true, Since: start} }, now: lostGrace - 1},
		"lost":                         {change: func(s *Snapshot) { s.Link = Link{Watched: true, Since: start} }, now: lostGrace, changed: true, unreachable: true},
		"still lost":                   {change: func(s *Snapshot) { s.Link, s.Instance.Unreachable = Link{Watched: true, Since: start}, true }, now: time.Hour, unreachable: true},
		"back":                         {change: func(s *Snapshot) { s.Instance.Unreachable = true }, changed: true},
		"the address is not known":     {change: func(s *Snapshot) { s.Machine.Hostname = "" }, changed: true, unreachable: true},
		"the machine is gone":          {change: func(s *Snapshot) { s.Machine.Gone = true }, changed: true, end: true},
		"a host of the user":           {change: func(s *Snapshot) { s.Machine, s.Instance.IntentID = Machine{}, "" }},
		"a host, after a restart":      {change: func(s *Snapshot) { s.Machine, s.Instance.IntentID, s.Link = Machine{}, "", Link{} }},
		"a machine that is being made": {change: func(s *Snapshot) { s.Instance.Status, s.Link = api.InstanceProvisioning, Link{} }},
	} {
		t.Run(name, func(t *testing.T) {
			s := paid(api.InstanceBusy)
			s.Instance.Data = Data{Damage: "no JSON", IdleSeconds: -1}
			tt.change(&s)
			d := Step(at(tt.now), s)
			if got := slices.Contains(d.Effects, Watch); got != tt.watch {
				t.Errorf("watch: %v", got)
			}
			if d.Changed != tt.changed || d.Instance.Unreachable != tt.unreachable || (d.Instance.Status == api.InstanceTerminating) != tt.end {
				t.Errorf("changed %v, unreachable %v, %s", d.Changed, d.Instance.Unreachable, d.Instance.Status)
			}
			if tt.watch || name == "not connected yet" {
				if d.Again.IsZero() {
					t.Error("it is not looked at again")
				}
			}
		})
	}
}

// TestDamagedHost says of a host whose record is lost what may be left on it; a machine is deleted.
func TestDamagedHost(t *testing.T) {
	for host, want := range map[string]bool{"10.0.0.7": true, "": false} {
		i := Instance{SSHHost: host}
		if err := i.whole(&store.Damage{Err: errors.New("no JSON"), Document: true}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(i.Data.Problem, "containers of jobs may run on"); got != want {
			t.Errorf("host %q: %s", host, i.Data.Problem)
		}
	}
}

// TestUncountedHolds moves holds by hand, of which an instance that is remembered knows nothing: they are given back
// and taken again all the same.
func TestUncountedHolds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "test"})
		if err != nil {
			t.Fatal(err)
		}
		s := &Service{Config: Config{DB: db, Engine: e, Freed: func(string) {}}, known: newKnown()}
		here := Instance{ID: "here", ProjectID: "p", FleetID: "f", Name: "f-0", Status: api.InstanceBusy, Blocks: 2, CreatedAt: time.Now()}
		there := Instance{ID: "there", ProjectID: "p", FleetID: "f", Num: 1, Name: "f-1", Status: api.InstanceIdle, Blocks: 1, CreatedAt: time.Now()}
		write := func(fn func(tx *store.Tx) error) error {
			t.Helper()
			return db.Write(ctx, fn)
		}
		err = write(func(tx *store.Tx) error {
			return errors.Join(insert(ctx, tx, &here), insert(ctx, tx, &there), assign(ctx, tx, &here, Assignment{JobID: "a", Blocks: 1}, "r"))
		})
		if err != nil {
			t.Fatal(err)
		}
		holds := func() (list []string) {
			t.Helper()
			for _, id := range []string{"here", "there"} {
				inst, err := s.Get(ctx, db.Read(), id)
				if err != nil {
					t.Fatal(err)
				}
				jobs, err := JobsOn(ctx, db.Read(), id)
				if err != nil || len(jobs) != len(inst.Assignments) {
					t.Errorf("%s is held by %q, and known to be by %v: %v", id, jobs, inst.Assignments, err)
				}
				for _, job := range jobs {
					list = append(list, job+" "+id)
				}
			}
			return list
		}
		holds() // from now on both are remembered
		edit := func(text string) {
			t.Helper()
			if err := write(func(tx *store.Tx) error { _, err := tx.ExecContext(ctx, text); return err }); err != nil {
				t.Fatal(err)
			}
		}
		release := func(job, id string) {
			t.Helper()
			if err := write(func(tx *store.Tx) error { _, err := s.Release(ctx, tx, id, job); return err }); err != nil {
				t.Fatal(err)
			}
		}
		rehold := func(job string, blocks int, want error) {
			t.Helper()
			err := write(func(tx *store.Tx) error {
				_, err := s.Rehold(ctx, tx, Claim{InstanceID: "here", JobID: job, RunID: "r", Blocks: blocks})
				return err
			})
			if !errors.Is(err, want) {
				t.Errorf("Rehold = %v, want %v", err, want)
			}
		}
		check := func(want ...string) {
			t.Helper()
			if got := holds(); !slices.Equal(got, want) {
				t.Errorf("holds %q, want %q", got, want)
			}
		}
		edit(`INSERT INTO assignment (job_id, instance_id, blocks, created_at) VALUES ('nothing', 'there', 1, 1)`)
		release("nothing", "there")
		check("a here")
		edit(`UPDATE assignment SET instance_id = 'there'`)
		rehold("a", 1, nil)
		check("a here")
		edit(`DELETE FROM assignment`)
		rehold("a", 1, nil)
		check("a here")
		rehold("b", 2, ErrNoRoom)
		check("a here")
		edit(`UPDATE assignment SET instance_id = 'nowhere'`)
		rehold("a", 1, nil)
		check("a here")
	})
}

// TestHoldOfNobody has a hold that names no job, which SQLite takes: it holds nothing, and its instance can be read.
func TestHoldOfNobody(t *testing.T) {
	db, ctx := storetest.SQLite(t), t.Context()
	inst := Instance{ID: "i", ProjectID: "p", FleetID: "f", Name: "f-0", Status: api.InstanceBusy, Blocks: 2, CreatedAt: time.Now()}
	err := db.Write(ctx, func(tx *store.Tx) error {
		_, edited := tx.ExecContext(ctx, `INSERT INTO assignment (job_id, instance_id, blocks, created_at) VALUES (NULL, 'i', 1, 0)`)
		return errors.Join(insert(ctx, tx, &inst), assign(ctx, tx, &inst, Assignment{JobID: "a", Blocks: 1}, "r"), edited)
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Config: Config{DB: db}, known: newKnown()}
	got, err := s.Get(ctx, db.Read(), "i")
	if err != nil || got.Busy() != 1 {
		t.Errorf("%d blocks are held, %v, want 1", got.Busy(), err)
	}
	if jobs, err := JobsOn(ctx, db.Read(), "i"); err != nil || !slices.Equal(jobs, []string{"a"}) {
		t.Errorf("jobs on it: %q, %v", jobs, err)
	}
}
