package run

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
)

// living is a run with its jobs, which a test changes as the service does: every change of a
// row is another version, but for what hosts say and the name that a new run takes over.
type living struct {
	*rand.Rand
	now  time.Time
	run  Run
	jobs []Job
	wait *api.RunWaiting
	form form
	of   names
}

// steps are what can happen to a run.
var steps = map[string]func(l *living){
	"time passes": func(l *living) { l.now = l.now.Add(time.Duration(l.IntN(1e12))) },
	"the run moves": func(l *living) {
		l.run.Status = pick(l, api.RunSubmitted, api.RunPending, api.RunRunning, api.RunDone, api.RunFailed)
		l.changed()
	},
	"it says why": func(l *living) {
		l.run.Data.Reason = pick(l, "", api.RunStoppedByUser, api.RunServerError)
		l.changed()
	},
	"it gets a fleet":        func(l *living) { l.run.Data.FleetID, l.run.Data.FleetName = "f", pick(l, "a", "b"); l.changed() },
	"it is deployed anew":    func(l *living) { l.run.Data.Deployment++; l.changed() },
	"its name is taken over": func(l *living) { l.run.Deleted = true },
	"it waits": func(l *living) {
		l.wait = &api.RunWaiting{Position: 1 + l.IntN(3), Reason: pick(l, "<no> host", "quota"), Since: api.At(l.now)}
	},
	"it waits no longer": func(l *living) { l.wait = nil },
	"another attempt": func(l *living) {
		j := Job{ID: fmt.Sprint("j", l.Uint64()), Version: 1, Replica: l.IntN(2), Attempt: len(l.jobs), Status: api.JobSubmitted, SubmittedAt: l.now}
		j.Data.Spec.JobName = "a & b"
		l.jobs = append(l.jobs, j)
	},
	"an attempt is gone": func(l *living) {
		if n := len(l.jobs); n > 0 {
			l.jobs = l.jobs[:n-1]
		}
	},
	"a job moves": func(l *living) {
		l.job(func(j *Job) { j.Status = pick(l, api.JobProvisioning, api.JobPulling, api.JobRunning, api.JobFailed) })
	},
	"a job is placed": func(l *living) {
		l.job(func(j *Job) { j.Data.Provisioning = &api.JobProvisioningData{Price: pick(l, 0, 1.5)} })
	},
	"a job ends": func(l *living) {
		l.job(func(j *Job) { j.Status, j.Data.FinishedAt, j.Data.Exit = api.JobDone, l.now, new(int) })
	},
	"a job gives up": func(l *living) {
		l.job(func(j *Job) { j.Data.Reason, j.Data.Message = api.JobNoCapacity, pick(l, "", "x") })
	},
	"a host tells of a job": func(l *living) {
		if len(l.jobs) > 0 {
			l.jobs[l.IntN(len(l.jobs))].Observed = &agentapi.Task{IdleSeconds: l.Int64N(3), Pull: &agentapi.PullProgress{Downloaded: l.Int64N(3), TotalFinal: l.IntN(2) == 0}}
		}
	},
	"somebody asks otherwise": func(l *living) { l.form.jobs, l.form.last = !l.form.jobs, l.IntN(3)-1 },
	"a user is renamed":       func(l *living) { l.of.user = pick(l, "u", "v") },
}

func pick[T any](l *living, of ...T) T { return of[l.IntN(len(of))] }

func (l *living) changed() { l.run.Version++ }

func (l *living) job(change func(*Job)) {
	if len(l.jobs) > 0 {
		j := &l.jobs[l.IntN(len(l.jobs))]
		change(j)
		j.Version++
	}
}

// What a list shows of a run is, over all its life, what it would show without a memory.
func TestListedAsRendered(t *testing.T) {
	for seed := range uint64(200) {
		l := &living{Rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0), form: form{run: "r", jobs: true, last: -1}, of: names{"p", "u"}}
		l.run = Run{ID: "r", Version: 1, Name: "r", Status: api.RunSubmitted, SubmittedAt: l.now}
		c := config.Task{}
		c.Schedule = pick(l, nil, &config.Schedule{Cron: []string{"*/7 * * * *"}})
		l.run.Data.Spec.Configuration.Task = &c
		if l.IntN(3) == 0 {
			l.run.Data.Spec.Configuration = config.AnyRun{DevEnvironment: &config.DevEnvironment{}}
		}
		texts, names := newTexts(), make([]string, 0, len(steps))
		for name := range steps {
			names = append(names, name)
		}
		for range 100 {
			name := pick(l, names...)
			steps[name](l)
			got, err := texts.of(l.now, l.form, l.run, l.jobs, l.of, l.wait)
			if err != nil {
				t.Fatal(err)
			}
			var limit *int
			if l.form.last >= 0 {
				limit = &l.form.last
			}
			v := render(l.now, l.run, l.jobs, l.of, l.wait != nil, false, limit)
			v.Waiting = l.wait
			want, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if got := got.Bytes(); string(got) != string(want) {
				t.Fatalf("seed %d, when %s:\n%s\nwant\n%s", seed, name, got, want)
			}
		}
	}
}

// A page of runs that nothing happens to is read and put together, not encoded.
func BenchmarkListed(b *testing.B) {
	texts, now := newTexts(), time.Unix(1e9, 0)
	runs := make([]Run, 100)
	for n := range runs {
		runs[n] = Run{ID: fmt.Sprint("r", n), Version: 3, Status: api.RunDone, SubmittedAt: now}
		runs[n].Data.Spec.Configuration.Task = &config.Task{}
	}
	jobs := []Job{{ID: "j", Version: 5, Status: api.JobDone}}
	b.ReportAllocs()
	for b.Loop() {
		for n := range runs {
			if _, err := texts.of(now, form{run: runs[n].ID, jobs: true, last: 1}, runs[n], jobs, names{"p", "u"}, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}
