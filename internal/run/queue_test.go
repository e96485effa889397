package run

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/jobspec"
	"dstack/internal/scheduler"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A gang may wait for as long as its policy says, however long that is.
func TestGangUntil(t *testing.T) {
	for seconds, later := range map[int64]bool{0: false, 60: true, 10_000_000_000: true} {
		job := Job{Data: JobData{WaitFrom: start, Spec: api.JobSpec{Retry: &api.Retry{OnEvents: []string{"no-capacity"}, Duration: seconds}}}}
		g := gang{run: &Run{}, jobs: []*Job{&job}}
		if got := g.until(); got.After(start) != later {
			t.Errorf("with %d seconds until %v, from %v", seconds, got, start)
		}
	}
}

// What a gang asks for is remembered for as long as its rows are the same.
func TestRecall(t *testing.T) {
	asks := func(priority int, jobs ...*Job) gang {
		r := &Run{ID: "r"}
		r.Data.Spec.Configuration.Task = &config.Task{}
		r.Data.Spec.Configuration.Task.Priority = &priority
		return gang{run: r, jobs: jobs}
	}
	job := func(id string, cpus int) *Job {
		j := &Job{ID: id}
		j.Data.Spec.JobsPerReplica = 1
		j.Data.Spec.Requirements.Resources.CPU.Count = config.IntRange{Min: &cpus}
		return j
	}
	a, b, c := asks(1, job("a", 1)), asks(1, job("b", 2)), asks(1, job("c0", 1), job("c1", 1))
	larger := gang{run: b.run, jobs: []*Job{job("b", 8)}}
	rerun := asks(2, a.jobs...)
	fewer := gang{run: c.run, jobs: c.jobs[:1]}
	var q projectQueue
	for n, gangs := range [][]gang{{a, b, c}, {a, b, c}, {c, a}, {a, larger, fewer}, {rerun, b}, {}, {a}} {
		got := q.recall(gangs)
		want := make([]scheduler.Gang, len(gangs))
		for i := range gangs {
			want[i] = wish(&gangs[i])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pass %d (-made +remembered):\n%s", n, diff)
		}
		if len(q.wishes) != len(gangs) {
			t.Errorf("pass %d: %d are remembered of %d", n, len(q.wishes), len(gangs))
		}
	}
}

// Of a service whose groups wait for different things one reason is told, once: no pass corrects the one before.
func TestOneReasonPerRun(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "me"})
		if err != nil {
			t.Fatal(err)
		}
		s := &Service{Config: Config{DB: db, Engine: e, Log: slog.New(slog.DiscardHandler)}, rows: newRows(), queues: newQueueCache()}
		spec, err := normalised("type: service\nname: waits\nport: 80\nreplicas: 4\ncommands: [work]\nretry:\n  on_events: [no-capacity]\n  duration: 1h\n")
		if err != nil {
			t.Fatal(err)
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			r := Run{ID: "r", ProjectID: "p", UserID: "u", Name: "r", Status: api.RunSubmitted, SubmittedAt: time.Now(), Data: Data{Spec: spec}}
			err := r.insert(t.Context(), tx)
			for n := range 4 {
				specs, e := jobspec.Images{}.Replica(spec, "r", jobspec.OnlyGroup, n)
				if err = errors.Join(err, e); err != nil {
					return err
				}
				j := Job{ID: fmt.Sprint("j", n), RunID: r.ID, ProjectID: "p", Replica: n, Status: api.JobSubmitted, SubmittedAt: time.Now(), Data: JobData{Spec: specs[0]}}
				err = j.insert(t.Context(), tx)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		var c projectQueue
		for pass := range 5 {
			gangs, _, err := s.waitingGangs(t.Context(), &c, "p", allJobs)
			if err != nil || len(gangs) != 4 {
				t.Fatalf("%d gangs (%v)", len(gangs), err)
			}
			verdicts := make([]scheduler.Verdict, len(gangs))
			for n := range verdicts {
				verdicts[n] = scheduler.Verdict{Later: true, Why: []string{"no H100", "no L40S"}[n/2]}
			}
			now := time.Now()
			again, err := s.carryOut(t.Context(), engine.Item{ID: "p", Fence: engine.Fence{Shard: 0}}, gangs, verdicts, make([]time.Time, len(gangs)))
			if err != nil || again.Before(now.Add(lookAnyway)) || again.After(now.Add(2*lookAnyway)) {
				t.Errorf("pass %d: again in %v (%v), want %v", pass, again.Sub(now), err, lookAnyway)
			}
		}
		r, err := s.rows.run(t.Context(), db.Read(), "r")
		if err != nil || r.Version != 2 || r.Data.Waiting == nil || r.Data.Waiting.Why != "no H100" {
			t.Errorf("version %d, waiting %+v (%v), want one change with the first reason", r.Version, r.Data.Waiting, err)
		}
	})
}

// Nothing is remembered of a queue in which nobody waits any more.
func TestQueueIsForgotten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{Config: Config{DB: db}, queues: newQueueCache()}
		c := s.queues.of("p")
		c.jobs, c.runs, c.wishes = map[string]*Job{"j": {}}, map[string]*Run{"r": {}}, map[string]wished{"j": {}}
		if again, err := s.reconcileQueue(t.Context(), engine.Item{ID: "p"}); err != nil || !again.IsZero() {
			t.Fatal(again, err)
		}
		if len(c.jobs)+len(c.runs)+len(c.wishes) > 0 {
			t.Errorf("remembered: %d jobs, %d runs, %d wishes", len(c.jobs), len(c.runs), len(c.wishes))
		}
	})
}

// Nothing is remembered of queues that are another replica's now.
func TestQueueIsLost(t *testing.T) {
	c := newQueueCache()
	mine, theirs := c.of("mine"), c.of("theirs")
	c.lost(func(id string) bool { return id == "theirs" })
	if len(c.projects) != 1 || c.of("mine") != mine {
		t.Errorf("remembered: %v, want that of the project that is still ours", c.projects)
	}
	if c.of("theirs") == theirs {
		t.Error("a project that is ours again has what was remembered before")
	}
}

// Of a long queue no more is read than is asked for, and no gang in part.
func TestBeginningOfAQueue(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		spec, err := normalised("type: task\nname: pair\nnodes: 2\ncommands: [work]\n")
		if err != nil {
			t.Fatal(err)
		}
		specs, err := jobspec.Images{}.Replica(spec, "pair", jobspec.OnlyGroup, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			for n := range 4 {
				r := Run{ID: fmt.Sprint("r", n), ProjectID: "p", UserID: "u", Name: fmt.Sprint("r", n), Status: api.RunSubmitted, SubmittedAt: at(time.Duration(n) * time.Second), Data: Data{Spec: spec}}
				if err := r.insert(t.Context(), tx); err != nil {
					return err
				}
				for num, js := range specs {
					j := Job{ID: fmt.Sprint(r.ID, "-", num), RunID: r.ID, ProjectID: "p", Num: num, Status: api.JobSubmitted, SubmittedAt: start, Data: JobData{Spec: js}}
					if err := j.insert(t.Context(), tx); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &Service{Config: Config{DB: db}, rows: newRows()}
		for most, want := range map[int]int{1: 0, 2: 0, 3: 1, 5: 2, 7: 3, 9: 4, allJobs: 4} {
			var c projectQueue
			gangs, _, err := s.waitingGangs(t.Context(), &c, "p", most)
			if err != nil || len(gangs) != want || len(c.jobs) > most {
				t.Errorf("of %d jobs %d gangs, want %d; %d jobs were read (%v)", most, len(gangs), want, len(c.jobs), err)
			}
			for n, g := range gangs {
				if g.run.ID != fmt.Sprint("r", n) || len(g.jobs) != 2 {
					t.Errorf("of %d jobs gang %d is %s with %d jobs", most, n, g.run.ID, len(g.jobs))
				}
			}
		}
		if gangs, err := s.firstGangs(t.Context(), "p", 1); err != nil || len(gangs) != 1 {
			t.Errorf("of one job, where the first gang has two, %d gangs (%v)", len(gangs), err)
		}
		if gangs, err := s.firstGangs(t.Context(), "none", 1); err != nil || len(gangs) != 0 {
			t.Errorf("of an empty queue %d gangs (%v)", len(gangs), err)
		}
	})
}
