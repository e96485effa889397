package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jobspec"
)

func serviceWith(change func(*config.Service)) api.RunSpec {
	image := "image"
	sv := &config.Service{StripPrefix: true, Port: config.PortMapping{ContainerPort: 80}, Commands: []string{"serve"}, RunCommon: config.RunCommon{Image: &image}}
	change(sv)
	return api.RunSpec{Configuration: config.AnyRun{Service: sv}}
}

func fixed(n int) func(*config.Service) {
	return func(sv *config.Service) { sv.Replicas = &config.IntRange{Min: &n, Max: &n} }
}

func ranged(least, most int) func(*config.Service) {
	return func(sv *config.Service) {
		sv.Replicas = &config.IntRange{Min: &least, Max: &most}
		sv.Scaling = scaled(least, most).Scaling
	}
}

// serviceJobs reads jobs such as "0 serving, 1 failed: executor_error, 1.1 submitted old": the
// replica and the attempt, the state, and that it is of the deployment before.
func serviceJobs(t *testing.T, spec api.RunSpec, text string) []Job {
	t.Helper()
	var list []Job
	for part := range strings.SplitSeq(text, ", ") {
		if part == "" {
			continue
		}
		j := Job{Data: JobData{Deployment: 1, FinishedAt: start}}
		part, reason, _ := strings.Cut(part, ": ")
		fields := strings.Fields(part)
		number, attempt, _ := strings.Cut(fields[0], ".")
		if _, err := fmt.Sscan(number, &j.Replica); err != nil {
			t.Fatal(err)
		}
		if attempt != "" {
			if _, err := fmt.Sscan(attempt, &j.Attempt); err != nil {
				t.Fatal(err)
			}
		}
		specs, err := jobspec.Images{}.Replica(spec, "svc", jobspec.OnlyGroup, j.Replica)
		if err != nil {
			t.Fatal(err)
		}
		j.ID, j.Data.Spec = part, specs[0]
		for _, word := range fields[1:] {
			switch word {
			case "old":
				j.Data.Deployment, j.Data.Spec.ImageName = 0, "another"
			case "same": // as before, but counted to the deployment before
				j.Data.Deployment = 0
			case "retried":
				j.Data.Spec.Retry = &api.Retry{OnEvents: []string{"error", "no-capacity"}, Duration: 3600}
				j.Data.Provisioning = &api.JobProvisioningData{}
			case "served":
				j.Data.Ready = true
			case "serving":
				j.Status, j.Data.Ready = api.JobRunning, true
			default:
				j.Status = api.JobStatus(word)
			}
		}
		j.Data.Reason = api.JobTerminationReason(reason)
		list = append(list, j)
	}
	return list
}

func TestServe(t *testing.T) {
	for _, tt := range []struct {
		name     string
		service  func(*config.Service)
		jobs     string
		run      api.RunStatus // until now; running
		desired  map[string]int
		requests int
		now      time.Duration // after start
		status   api.RunStatus
		reason   api.RunTerminationReason
		ends     string // replicas that are scaled down
		fresh    string // new attempts
		relabel  string
		again    time.Duration // after start, 0: none
	}{
		{name: "as many as asked for", service: fixed(2), jobs: "0 serving, 1 serving", status: api.RunRunning},
		{name: "one takes requests", service: fixed(2), jobs: "0 serving, 1 submitted", status: api.RunRunning},
		{name: "none is there yet", service: fixed(2), jobs: "0 pulling, 1 submitted", run: api.RunSubmitted, status: api.RunProvisioning},
		{name: "one is added", service: fixed(3), jobs: "0 serving, 1 serving", status: api.RunRunning, fresh: "2.0"},
		{name: "one is taken away: the last", service: fixed(1), jobs: "0 serving, 1 serving", status: api.RunRunning, ends: "1"},
		{name: "one that does not take requests yet goes first", service: fixed(1), jobs: "0 pulling, 1 serving", status: api.RunRunning, ends: "0"},
		{name: "numbers that were given up are used again", service: fixed(2), jobs: "0 terminated: scaled_down, 1 serving", status: api.RunRunning, fresh: "0.1"},
		{name: "but not before their end", service: fixed(2), jobs: "0 terminating: scaled_down, 1 serving", status: api.RunRunning, fresh: "2.0"},

		{name: "a failure ends the service", service: fixed(2), jobs: "0 serving, 1 failed served: container_exited_with_error", status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "unless it may be tried again: at once when it has served", service: fixed(2), jobs: "0 serving, 1 failed served retried: container_exited_with_error", status: api.RunRunning, fresh: "1.1"},
		{name: "when it has ended", service: fixed(2), jobs: "0 serving, 1 terminating served retried: container_exited_with_error", status: api.RunRunning},
		{name: "later when it has not", service: fixed(2), jobs: "0 serving, 1 failed served retried: container_exited_with_error, 1.1 failed retried: container_exited_with_error",
			now: 14 * time.Second, status: api.RunRunning, again: 15 * time.Second},
		{name: "then", service: fixed(2), jobs: "0 serving, 1 failed served retried: container_exited_with_error, 1.1 failed retried: container_exited_with_error",
			now: 15 * time.Second, status: api.RunRunning, fresh: "1.2"},
		{name: "all failed: the whole waits", service: fixed(2), jobs: "0 failed served retried: container_exited_with_error, 1 failed served retried: container_exited_with_error", status: api.RunPending, again: -1},
		{name: "an attempt to grow that fails leaves the others", service: fixed(2), jobs: "0 serving, 1 failed: failed_to_start_due_to_no_capacity", now: time.Second, status: api.RunRunning, again: 15 * time.Second},
		{name: "and is repeated", service: fixed(2), jobs: "0 serving, 1 failed: failed_to_start_due_to_no_capacity", now: 15 * time.Second, status: api.RunRunning, fresh: "1.1"},
		{name: "at the beginning it is the service's failure", service: fixed(2), jobs: "0 pulling, 1 failed: failed_to_start_due_to_no_capacity", status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "all have ended well", service: fixed(1), jobs: "0 done: done_by_runner", status: api.RunTerminating, reason: api.RunAllJobsDone},
		{name: "one has ended well: another takes its place", service: fixed(2), jobs: "0 serving, 1 done served: done_by_runner", status: api.RunRunning, fresh: "1.1"},
		{name: "but not at once when it never worked", service: fixed(2), jobs: "0 serving, 1 done: done_by_runner", status: api.RunRunning, now: time.Second, again: 15 * time.Second},

		{name: "scales up", service: ranged(1, 3), jobs: "0 serving", requests: 150, now: time.Hour, status: api.RunRunning, fresh: "1.0 2.0", again: time.Hour + scaleAgain},
		{name: "scales down", service: ranged(1, 3), jobs: "0 serving, 1 serving, 2 serving", desired: map[string]int{"0": 3}, now: time.Hour, status: api.RunRunning, ends: "1 2"},
		{name: "looks again while it may shrink", service: ranged(1, 3), jobs: "0 serving, 1 serving, 2 serving", desired: map[string]int{"0": 3}, now: time.Minute, status: api.RunRunning, again: time.Minute + scaleAgain},
		{name: "rests at its least number", service: ranged(1, 3), jobs: "0 serving", now: time.Hour, status: api.RunRunning},
		{name: "scales to zero", service: ranged(0, 3), jobs: "0 serving", desired: map[string]int{"0": 1}, now: time.Hour, status: api.RunRunning, ends: "0"},
		{name: "waits for requests", service: ranged(0, 3), jobs: "0 terminating served: scaled_down", desired: map[string]int{"0": 0}, now: time.Hour, status: api.RunPending, again: -1},
		{name: "still waits", service: ranged(0, 3), jobs: "0 terminated served: scaled_down", run: api.RunPending, desired: map[string]int{"0": 0}, now: time.Hour, status: api.RunPending},
		{name: "begins with none", service: ranged(0, 3), run: api.RunSubmitted, status: api.RunPending, again: -1},
		{name: "is asked for", service: ranged(0, 3), jobs: "0 terminated served: scaled_down", run: api.RunPending, desired: map[string]int{"0": 0}, requests: 1, now: time.Hour,
			status: api.RunSubmitted, fresh: "0.1", again: time.Hour + scaleAgain},

		{name: "a change that changes no replica", service: fixed(2), jobs: "0 serving same, 1 serving same", status: api.RunRunning, relabel: "0 1"},
		{name: "a rollout adds one", service: fixed(2), jobs: "0 serving old, 1 serving old", status: api.RunRunning, fresh: "2.0"},
		{name: "and waits for it", service: fixed(2), jobs: "0 serving old, 1 serving old, 2 running", status: api.RunRunning},
		{name: "then takes one away", service: fixed(2), jobs: "0 serving old, 1 serving old, 2 serving", status: api.RunRunning, ends: "1"},
		{name: "then adds the next", service: fixed(2), jobs: "0 serving old, 1 terminating served old: scaled_down, 2 serving", status: api.RunRunning, fresh: "3.0"},
		{name: "until all are new", service: fixed(2), jobs: "0 serving old, 1 terminated served old: scaled_down, 2 serving, 3 serving", status: api.RunRunning, ends: "0"},
		{name: "one that does not take requests is no loss", service: fixed(2), jobs: "0 serving old, 1 pulling old", status: api.RunRunning, ends: "1", fresh: "2.0"},
		{name: "a new one that fails leaves the old ones", service: fixed(1), jobs: "0 serving old, 1 failed: container_exited_with_error", now: time.Second, status: api.RunRunning, again: 15 * time.Second},
		{name: "an old one that fails meanwhile is replaced", service: fixed(2), jobs: "0 serving, 1 failed served old: container_exited_with_error", status: api.RunRunning, fresh: "1.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := serviceWith(tt.service)
			r := Run{Name: "svc", Status: tt.run, SubmittedAt: start, Data: Data{Spec: spec, Deployment: 1, Desired: tt.desired}}
			if r.Status == "" {
				r.Status = api.RunRunning
			}
			s := RunSnapshot{Run: r, Jobs: serviceJobs(t, spec, tt.jobs), Load: Load{Requests: map[time.Duration]int{time.Minute: tt.requests}}}
			d := StepRun(start.Add(tt.now), s)
			if d.Run.Status != tt.status || d.Run.Data.Reason != tt.reason {
				t.Errorf("status %s %s, want %s %s", d.Run.Status, d.Run.Data.Reason, tt.status, tt.reason)
			}
			var ends, fresh, relabel []string
			for _, e := range d.Ends {
				ends = append(ends, fmt.Sprint(e.Job.Replica))
				if e.Reason != api.JobScaledDown {
					t.Errorf("replica %d ends with %s", e.Job.Replica, e.Reason)
				}
			}
			for _, n := range d.New {
				fresh = append(fresh, fmt.Sprintf("%d.%d", n.Replica, n.Attempt))
			}
			for _, j := range d.Relabel {
				relabel = append(relabel, fmt.Sprint(j.Replica))
			}
			for what, pair := range map[string][2]string{
				"scaled down": {tt.ends, strings.Join(ends, " ")}, "new": {tt.fresh, strings.Join(fresh, " ")}, "relabelled": {tt.relabel, strings.Join(relabel, " ")},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %q, want %q", what, pair[1], pair[0])
				}
			}
			again := tt.again
			if tt.status == api.RunTerminating {
				again = -1
			}
			switch {
			case again == 0 && !d.Again.IsZero():
				t.Errorf("looks again at %v, want never", d.Again.Sub(start))
			case again > 0 && !d.Again.Equal(start.Add(again)):
				t.Errorf("looks again at %v, want %v", d.Again.Sub(start), again)
			}
		})
	}
}

// town is a service with its replicas in virtual time: they take half a minute to be ready, five
// seconds to end.
type town struct {
	t    *testing.T
	now  time.Time
	run  Run
	jobs []Job
	seen map[string]time.Time // when a job came into its status
	rps  float64
	past []float64 // requests of each second
	each func()
}

const readyAfter = 30 * time.Second

func newTown(t *testing.T, change func(*config.Service)) *town {
	spec := serviceWith(change)
	w := &town{t: t, now: start, seen: map[string]time.Time{}, run: Run{Name: "svc", Status: api.RunSubmitted, SubmittedAt: start, Data: Data{Spec: spec}}}
	for replica := range jobspec.Groups(spec.Configuration)[0].Min {
		w.add(NewJob{Replica: replica})
	}
	return w
}

func (w *town) add(n NewJob) {
	specs, err := jobspec.Images{}.Replica(w.run.Data.Spec, "svc", jobspec.OnlyGroup, n.Replica)
	if err != nil {
		w.t.Fatal(err)
	}
	j := Job{ID: fmt.Sprintf("%d.%d", n.Replica, n.Attempt), Replica: n.Replica, Attempt: n.Attempt, Status: api.JobSubmitted, SubmittedAt: w.now,
		Data: JobData{Spec: specs[0], Deployment: w.run.Data.Deployment, WaitFrom: n.WaitFrom}}
	w.jobs = append(w.jobs, j)
	slices.SortFunc(w.jobs, func(a, b Job) int {
		if a.Replica != b.Replica {
			return a.Replica - b.Replica
		}
		return a.Attempt - b.Attempt
	})
	w.seen[j.ID] = w.now
}

// pass lets a time go by, second by second.
func (w *town) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(time.Second) {
		w.past = append(w.past, w.rps)
		w.step()
		for i := range w.jobs {
			j, age := &w.jobs[i], w.now.Sub(w.seen[w.jobs[i].ID])
			switch {
			case j.Status == api.JobSubmitted && age >= time.Second:
				w.to(j, api.JobRunning)
			case j.Status == api.JobRunning && age >= readyAfter:
				j.Data.Ready = true
			case j.Status == api.JobTerminating && age >= 5*time.Second:
				j.Data.FinishedAt = w.now
				w.to(j, api.JobTerminated)
			}
		}
		if w.each != nil {
			w.each()
		}
	}
}

func (w *town) to(j *Job, status api.JobStatus) {
	j.Status = status
	w.seen[j.ID] = w.now
}

func (w *town) step() {
	requests := 0.0
	for _, n := range w.past[max(0, len(w.past)-60):] {
		requests += n
	}
	d := StepRun(w.now, RunSnapshot{Run: w.run, Jobs: w.jobs, Load: Load{Requests: map[time.Duration]int{time.Minute: int(requests)}, Since: start}})
	w.run = d.Run
	for _, e := range d.Ends {
		i := slices.IndexFunc(w.jobs, func(j Job) bool { return j.ID == e.Job.ID })
		w.jobs[i].Data.Reason, w.jobs[i].Data.StoppingAt = e.Reason, w.now
		w.to(&w.jobs[i], api.JobTerminating)
	}
	for _, r := range d.Relabel {
		w.jobs[slices.IndexFunc(w.jobs, func(j Job) bool { return j.ID == r.ID })].Data.Deployment = w.run.Data.Deployment
	}
	for _, n := range d.New {
		w.add(n)
	}
}

// count is how many replicas live and how many take requests.
func (w *town) count() (live, serve int) {
	for _, j := range latestOf(w.jobs) {
		if !j.Finished() && j.Status != api.JobTerminating {
			live++
			if j.Status == api.JobRunning && j.Data.Ready {
				serve++
			}
		}
	}
	return live, serve
}

// TestScalesWithRequests follows a service for hours of changing traffic.
func TestScalesWithRequests(t *testing.T) {
	w := newTown(t, ranged(0, 4))
	type moment struct {
		Live   int
		Status api.RunStatus
	}
	var got []moment
	look := func() {
		live, _ := w.count()
		got = append(got, moment{live, w.run.Status})
	}
	for _, phase := range []struct {
		rps float64
		d   time.Duration
	}{
		{0, time.Minute},       // nobody asks
		{1, 2 * time.Second},   // somebody does: one is started at once
		{1, time.Minute},       // and is ready
		{2.5, 3 * time.Minute}, // more do: not before the delay
		{2.5, 3 * time.Minute}, // then
		{20, 10 * time.Minute}, // no more than may be
		{0, 2 * time.Minute},   // less: not before the delay
		{0, 10 * time.Minute},  // then none
		{1, time.Minute},       // and up again
	} {
		w.rps = phase.rps
		w.pass(phase.d)
		look()
	}
	want := []moment{
		{0, api.RunPending}, {1, api.RunSubmitted}, {1, api.RunRunning}, {1, api.RunRunning}, {3, api.RunRunning},
		{4, api.RunRunning}, {4, api.RunRunning}, {0, api.RunPending}, {1, api.RunRunning},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("replicas after each phase (-want +got):\n%s", diff)
	}
}

// TestRollout changes a service under way: there are never fewer replicas that take requests than
// asked for, and never more than one too many.
func TestRollout(t *testing.T) {
	w := newTown(t, fixed(3))
	w.pass(time.Minute)
	change := func(image string) {
		spec := serviceWith(fixed(3))
		spec.Configuration.Service.Image = &image
		w.run.Data.Spec, w.run.Data.Deployment = spec, w.run.Data.Deployment+1
	}
	w.each = func() {
		if live, serve := w.count(); serve < 3 || live > 4 {
			t.Fatalf("%v after the change %d replicas live and %d take requests", w.now.Sub(start), live, serve)
		}
	}
	for _, image := range []string{"new", "newer"} {
		change(image)
		w.pass(5 * time.Minute)
		for _, j := range latestOf(w.jobs) {
			if !j.Finished() && (j.Data.Spec.ImageName != image || j.Data.Deployment != w.run.Data.Deployment) {
				t.Errorf("replica %d is still of deployment %d", j.Replica, j.Data.Deployment)
			}
		}
	}
	change("first") // two changes in a row
	w.pass(40 * time.Second)
	change("second")
	w.pass(10 * time.Minute)
	if live, serve := w.count(); live != 3 || serve != 3 {
		t.Errorf("%d replicas live and %d take requests", live, serve)
	}
}

// A job is the same one when it is read again, whatever it leaves open: an update that does not concern it keeps it.
func TestJobReadAgainIsTheSame(t *testing.T) {
	for name, yaml := range map[string]string{
		"the image's own command": "image: x",
		"an empty entrypoint":     "image: x\nentrypoint: ''",
		"commands":                "commands: [serve]",
		"much":                    "commands: [serve]\nenv: [A=1]\nprobes: [{type: http, url: /}]\nresources: {gpu: 0}",
	} {
		spec, err := normalised("type: service\nname: svc\nport: 80\n" + yaml)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		specs, err := jobspec.Images{}.Replica(spec, "svc", jobspec.OnlyGroup, 0)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		data, err := json.Marshal(JobData{Spec: specs[0]})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var again JobData
		if err := json.Unmarshal(data, &again); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := again.Intact(); err != nil || again.Damage != "" {
			t.Errorf("%s: %v, %s", name, err, again.Damage)
		}
		if !sameJob(jobspec.Images{}, Run{Name: "svc", Data: Data{Spec: spec}}, Job{Data: again}) {
			t.Errorf("%s: it is another job", name)
		}
	}
}
