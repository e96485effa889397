package run

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
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
