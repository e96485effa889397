package run

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
)

// jobs are the first attempts of the nodes of one replica.
func jobs(statuses ...api.JobStatus) []Job {
	list := make([]Job, len(statuses))
	for i, status := range statuses {
		list[i] = Job{Num: i, Status: status, Data: JobData{FinishedAt: start}}
		switch status {
		case api.JobFailed:
			list[i].Data.Reason = api.JobContainerExitedWithError
		case api.JobDone:
			list[i].Data.Reason = api.JobDoneByRunner
		case api.JobTerminated:
			list[i].Data.Reason = api.JobTerminatedByUser
		}
	}
	return list
}

// retrying gives jobs a policy of an hour, and the failed ones a reason.
func retrying(list []Job, reason api.JobTerminationReason, events ...string) []Job {
	for i := range list {
		if list[i].Status == api.JobFailed {
			list[i].Data.Reason = reason
		}
		list[i].Data.Spec.Retry = &api.Retry{OnEvents: events, Duration: 3600}
	}
	return list
}

// hadInstance marks jobs as having had one.
func hadInstance(list []Job) []Job {
	for i := range list {
		list[i].Data.Provisioning = &api.JobProvisioningData{}
	}
	return list
}

func taskWith(change func(*config.Task)) api.RunSpec {
	one := 1
	task := &config.Task{Nodes: &one}
	change(task)
	return api.RunSpec{Configuration: config.AnyRun{Task: task}}
}

func TestStepRun(t *testing.T) {
	because := func(r api.RunTerminationReason) Data { return Data{Reason: r} }
	masterDone := "master-done"
	hourly := taskWith(func(c *config.Task) { c.Schedule = &config.Schedule{Cron: []string{"0 * * * *"}} })
	for _, c := range []struct {
		name   string
		run    Run
		jobs   []Job
		now    time.Duration
		status api.RunStatus
		reason api.RunTerminationReason
		ends   api.JobTerminationReason // of the jobs that still live
		fresh  int                      // new attempts
		again  time.Duration            // after start, 0: any
	}{
		{name: "submitted", run: Run{Status: api.RunSubmitted}, jobs: jobs(api.JobSubmitted), status: api.RunSubmitted},
		{name: "provisioning", run: Run{Status: api.RunSubmitted}, jobs: jobs(api.JobProvisioning), status: api.RunProvisioning},
		{name: "pulling", run: Run{Status: api.RunSubmitted}, jobs: jobs(api.JobPulling), status: api.RunProvisioning},
		{name: "one of two runs", run: Run{Status: api.RunProvisioning}, jobs: jobs(api.JobPulling, api.JobRunning), status: api.RunRunning},
		{name: "one of two is done", run: Run{Status: api.RunRunning}, jobs: jobs(api.JobDone, api.JobRunning), status: api.RunRunning},
		{name: "all done", run: Run{Status: api.RunRunning}, jobs: jobs(api.JobDone, api.JobDone), status: api.RunTerminating, reason: api.RunAllJobsDone},
		{name: "a failure ends the run", run: Run{Status: api.RunRunning}, jobs: jobs(api.JobFailed, api.JobRunning), status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "so does a job that exceeded its duration", run: Run{Status: api.RunRunning}, jobs: func() []Job {
			j := jobs(api.JobTerminated)
			j[0].Data.Reason = api.JobMaxDurationExceeded
			return j
		}(), status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "the master's end is the run's where asked for", run: Run{Status: api.RunRunning, Data: Data{Spec: taskWith(func(c *config.Task) { c.StopCriteria = &masterDone })}},
			jobs: jobs(api.JobDone, api.JobRunning), status: api.RunTerminating, reason: api.RunAllJobsDone},
		{name: "a failure that is tried again sends the run back", run: Run{Status: api.RunRunning, SubmittedAt: start}, now: time.Minute,
			jobs: hadInstance(retrying(jobs(api.JobFailed, api.JobRunning), api.JobContainerExitedWithError, "error")), status: api.RunPending, ends: api.JobTerminatedByServer},
		{name: "another kind of failure does not", run: Run{Status: api.RunRunning, SubmittedAt: start}, now: time.Minute,
			jobs: hadInstance(retrying(jobs(api.JobFailed), api.JobContainerExitedWithError, "no-capacity")), status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "a spot instance taken back is an interruption", run: Run{Status: api.RunRunning, SubmittedAt: start}, now: time.Minute,
			jobs: hadInstance(retrying(jobs(api.JobFailed), api.JobInterruptedByNoCapacity, "interruption")), status: api.RunPending},
		{name: "another lost instance is an error", run: Run{Status: api.RunRunning, SubmittedAt: start}, now: time.Minute,
			jobs: hadInstance(retrying(jobs(api.JobFailed), api.JobInstanceUnreachable, "interruption")), status: api.RunTerminating, reason: api.RunJobFailed},
		{name: "errors are tried again for the time that was asked for", run: Run{Status: api.RunRunning, SubmittedAt: start}, now: time.Hour,
			jobs: hadInstance(retrying(jobs(api.JobFailed), api.JobContainerExitedWithError, "error")), status: api.RunTerminating, reason: api.RunRetryLimitExceeded},
		{name: "capacity is waited for as long as was asked for", run: Run{Status: api.RunSubmitted, SubmittedAt: start}, now: time.Hour - 1,
			jobs: retrying(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity"), status: api.RunPending},
		{name: "and no longer", run: Run{Status: api.RunSubmitted, SubmittedAt: start}, now: time.Hour,
			jobs: retrying(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity"), status: api.RunTerminating, reason: api.RunRetryLimitExceeded},
		{name: "a run that was sent back waits", run: Run{Status: api.RunPending, Data: Data{Resubmissions: 2}}, now: 29 * time.Second,
			jobs: jobs(api.JobFailed, api.JobTerminated), status: api.RunPending, again: 30 * time.Second},
		{name: "for all of its jobs to end", run: Run{Status: api.RunPending, Data: Data{Resubmissions: 1}}, now: time.Hour,
			jobs: jobs(api.JobFailed, api.JobTerminating), status: api.RunPending},
		{name: "and starts all of them anew", run: Run{Status: api.RunPending, Data: Data{Resubmissions: 1}}, now: 15 * time.Second,
			jobs: jobs(api.JobFailed, api.JobTerminated), status: api.RunSubmitted, fresh: 2},
		{name: "a stop reaches the jobs", run: Run{Status: api.RunTerminating, Data: because(api.RunStoppedByUser)}, jobs: jobs(api.JobRunning, api.JobDone),
			status: api.RunTerminating, reason: api.RunStoppedByUser, ends: api.JobTerminatedByUser},
		{name: "an abort too", run: Run{Status: api.RunTerminating, Data: because(api.RunAbortedByUser)}, jobs: jobs(api.JobRunning),
			status: api.RunTerminating, reason: api.RunAbortedByUser, ends: api.JobAbortedByUser},
		{name: "what the master leaves is done", run: Run{Status: api.RunTerminating, Data: because(api.RunAllJobsDone)}, jobs: jobs(api.JobDone, api.JobRunning),
			status: api.RunTerminating, reason: api.RunAllJobsDone, ends: api.JobDoneByRunner},
		{name: "stopped", run: Run{Status: api.RunTerminating, Data: because(api.RunStoppedByUser)}, jobs: jobs(api.JobTerminated), status: api.RunTerminated, reason: api.RunStoppedByUser},
		{name: "done", run: Run{Status: api.RunTerminating, Data: because(api.RunAllJobsDone)}, jobs: jobs(api.JobDone), status: api.RunDone, reason: api.RunAllJobsDone},
		{name: "failed", run: Run{Status: api.RunTerminating, Data: because(api.RunJobFailed)}, jobs: jobs(api.JobFailed), status: api.RunFailed, reason: api.RunJobFailed},
		{name: "a schedule that is not due", run: Run{Status: api.RunPending, Data: Data{NextAt: at(time.Hour)}}, status: api.RunPending, again: time.Hour},
		{name: "a schedule that is due", run: Run{Status: api.RunPending, Data: Data{NextAt: start}}, now: time.Second, status: api.RunSubmitted, fresh: 1},
		{name: "a cycle that ends waits for the next", run: Run{Status: api.RunTerminating, Data: Data{Spec: hourly, Reason: api.RunJobFailed}}, jobs: jobs(api.JobFailed),
			status: api.RunPending, again: 55*time.Minute + 55*time.Second},
		{name: "a stop ends the schedule too", run: Run{Status: api.RunTerminating, Data: Data{Spec: hourly, Reason: api.RunStoppedByUser}}, jobs: jobs(api.JobTerminated),
			status: api.RunTerminated, reason: api.RunStoppedByUser},
		{name: "what is said to wait although its jobs go on does not", run: Run{Status: api.RunPending}, jobs: jobs(api.JobRunning, api.JobDone), status: api.RunRunning},
		{name: "what is deleted although it goes on ends", run: Run{Status: api.RunRunning, Deleted: true}, jobs: jobs(api.JobRunning), status: api.RunTerminating, reason: api.RunServerError},
		{name: "for good", run: Run{Status: api.RunTerminating, Deleted: true, Data: Data{Spec: hourly, Reason: api.RunServerError}}, jobs: jobs(api.JobTerminated),
			status: api.RunFailed, reason: api.RunServerError},
		{name: "what has ended stays", run: Run{Status: api.RunDone}, jobs: jobs(api.JobFailed), status: api.RunDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.run.Data.Spec.Configuration.Task == nil {
				c.run.Data.Spec = taskWith(func(*config.Task) {})
			}
			d := StepRun(at(c.now), RunSnapshot{Run: c.run, Jobs: c.jobs})
			if d.Run.Status != c.status || d.Run.Data.Reason != c.reason {
				t.Errorf("%s (%s), want %s (%s)", d.Run.Status, d.Run.Data.Reason, c.status, c.reason)
			}
			living := 0
			for _, j := range c.jobs {
				if !j.Finished() && j.Status != api.JobTerminating && c.ends != "" {
					living++
				}
			}
			if len(d.Ends) != living {
				t.Errorf("%d jobs are ended, want %d", len(d.Ends), living)
			}
			for _, e := range d.Ends {
				if e.Reason != c.ends {
					t.Errorf("a job ends as %q, want %q", e.Reason, c.ends)
				}
			}
			if len(d.New) != c.fresh {
				t.Errorf("%d new attempts, want %d", len(d.New), c.fresh)
			}
			if c.again != 0 && !d.Again.Equal(at(c.again)) {
				t.Errorf("again at %v, want %v", d.Again, at(c.again))
			}
			if moved := d.Run.Status != c.run.Status; moved && (!d.Changed || len(d.Events) == 0) {
				t.Error("a change of the status is neither stored nor told")
			}
		})
	}
}

// A user who stops a run while a cycle of its schedule ends wants no further cycles.
func TestEndsBy(t *testing.T) {
	hourly := taskWith(func(c *config.Task) { c.Schedule = &config.Schedule{Cron: []string{"0 * * * *"}} })
	once := taskWith(func(*config.Task) {})
	const stop, abort = api.RunStoppedByUser, api.RunAbortedByUser
	for _, tt := range []struct {
		name   string
		spec   api.RunSpec
		status api.RunStatus
		was    api.RunTerminationReason
		reason api.RunTerminationReason
		want   bool
	}{
		{"one that runs", once, api.RunRunning, "", stop, true},
		{"one that waits for its time", hourly, api.RunPending, "", stop, true},
		{"one that ends", once, api.RunTerminating, api.RunAllJobsDone, stop, false},
		{"is aborted", once, api.RunTerminating, api.RunAllJobsDone, abort, true},
		{"a cycle that ends", hourly, api.RunTerminating, api.RunAllJobsDone, stop, true},
		{"or has failed", hourly, api.RunTerminating, api.RunJobFailed, stop, true},
		{"twice", hourly, api.RunTerminating, stop, stop, false},
		{"stopped, then aborted", hourly, api.RunTerminating, stop, abort, true},
		{"aborted, then stopped", hourly, api.RunTerminating, abort, stop, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Run{Status: tt.status, Data: Data{Spec: tt.spec, Reason: tt.was}}
			if got := r.endsBy(tt.reason); got != tt.want {
				t.Fatalf("%v, want %v", got, tt.want)
			}
			if !tt.want {
				return
			}
			d := RunDecision{Run: r}
			d.end(tt.reason)
			if d := StepRun(start, RunSnapshot{Run: d.Run, Jobs: jobs(api.JobDone)}); d.Run.Status != api.RunTerminated {
				t.Errorf("the run is %s then, want terminated", d.Run.Status)
			}
		})
	}
}

// Attempts count on, and those without capacity that nobody asks about any more go.
func TestStepRunCountsAttempts(t *testing.T) {
	failed := func(attempt int) Job {
		j := retrying(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity")[0]
		j.Attempt, j.ID = attempt, string(rune('a'+attempt))
		return j
	}
	placed := failed(1)
	placed.Data.Provisioning = &api.JobProvisioningData{}
	placed.Data.FinishedAt = at(time.Minute)
	r := Run{Status: api.RunPending, SubmittedAt: start, Data: Data{Resubmissions: 1, Spec: taskWith(func(*config.Task) {})}}
	d := StepRun(at(time.Hour), RunSnapshot{Run: r, Jobs: []Job{failed(0), placed, failed(2), failed(3)}})
	if len(d.New) != 1 || d.New[0].Attempt != 4 || !d.New[0].WaitFrom.Equal(at(time.Minute)) {
		t.Errorf("new attempts %+v, want attempt 4, waiting since the end of the placed one", d.New)
	}
	if len(d.Drop) != 2 || d.Drop[0] != "a" || d.Drop[1] != "c" {
		t.Errorf("dropped %v, want a and c: the placed one and the latest stay", d.Drop)
	}
}

// Each cycle of a schedule has all the time that its policy gives it to wait for capacity, however long ago the
// cycle before had a machine.
func TestStepRunWaitsInEachCycle(t *testing.T) {
	const day = 24 * time.Hour
	spec := taskWith(func(c *config.Task) { c.Schedule = &config.Schedule{Cron: []string{"4 3 * * *"}} })
	yesterday := hadInstance(retrying(jobs(api.JobDone), "", "no-capacity"))[0]
	r := Run{Status: api.RunPending, SubmittedAt: start, Data: Data{Spec: spec, NextAt: at(day), TriggeredAt: start}}
	d := StepRun(at(day), RunSnapshot{Run: r, Jobs: []Job{yesterday}})
	if len(d.New) != 1 || !d.New[0].WaitFrom.Equal(at(day)) {
		t.Fatalf("new attempts %+v, want one that has waited since the cycle began", d.New)
	}
	refused := retrying(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity")[0]
	refused.Attempt, refused.Data.WaitFrom = 1, d.New[0].WaitFrom
	for wait, want := range map[time.Duration]api.RunStatus{time.Hour - 1: api.RunPending, time.Hour: api.RunTerminating} {
		if d := StepRun(at(day+wait), RunSnapshot{Run: d.Run, Jobs: []Job{yesterday, refused}}); d.Run.Status != want {
			t.Errorf("after %v without capacity the run is %s (%s), want %s", wait, d.Run.Status, d.Run.Data.Reason, want)
		}
	}
	service := serviceWith(fixed(1))
	service.Configuration.Service.Schedule = &config.Schedule{Cron: []string{"4 3 * * *"}}
	r.Data.Spec, r.Data.Deployment = service, 1
	failed := serviceJobs(t, service, "0 failed retried: container_exited_with_error")
	if d := StepRun(at(day), RunSnapshot{Run: r, Jobs: failed}); len(d.New) != 1 || !d.New[0].WaitFrom.Equal(at(day)) {
		t.Errorf("new replicas %+v, want one that has waited since the cycle began", d.New)
	}
}

// A run that providers refuse asks them less and less often, until it has run, but may have an
// instance that exists all the time. That its machines are asked for is no success.
func TestStepRunBacksOff(t *testing.T) {
	r := Run{Status: api.RunSubmitted, SubmittedAt: start, Data: Data{Spec: taskWith(func(*config.Task) {})}}
	for n, want := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		r = StepRun(start, RunSnapshot{Run: r, Jobs: jobs(api.JobProvisioning)}).Run
		refused := retrying(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity")
		if r = StepRun(start, RunSnapshot{Run: r, Jobs: refused}).Run; r.Status != api.RunPending {
			t.Fatalf("%s after a refusal", r.Status)
		}
		d := StepRun(start, RunSnapshot{Run: r, Jobs: refused})
		if d.Run.Status != api.RunSubmitted || len(d.New) != 1 || !d.New[0].BuyFrom.Equal(at(want)) {
			t.Errorf("after %d refusals: %s, new %+v, want an attempt that may buy after %v", n+1, d.Run.Status, d.New, want)
		}
		r = d.Run
	}
	r = StepRun(start, RunSnapshot{Run: r, Jobs: jobs(api.JobRunning)}).Run
	r = StepRun(start, RunSnapshot{Run: r, Jobs: hadInstance(retrying(jobs(api.JobFailed), api.JobInterruptedByNoCapacity, "interruption"))}).Run
	if r.Data.Resubmissions != 1 {
		t.Errorf("%d resubmissions in a row after it has run", r.Data.Resubmissions)
	}
}

// Of a replica that comes and goes, the last attempts are kept, and what the others have cost.
func TestStepRunForgetsAttempts(t *testing.T) {
	spec := serviceWith(ranged(1, 2))
	var all []Job
	for i := range attemptsKept + 5 {
		j := serviceJobs(t, spec, fmt.Sprintf("0.%d failed: scaled_down", i))[0]
		j.Data.Deployment = 0
		j.SubmittedAt, j.Data.FinishedAt = start, at(time.Hour)
		j.Data.Provisioning = &api.JobProvisioningData{Price: 2}
		all = append(all, j)
	}
	r := Run{Status: api.RunRunning, SubmittedAt: start, Data: Data{Spec: spec}}
	other := serviceJobs(t, spec, "1 serving")[0]
	other.Data.Deployment = 0
	d := StepRun(at(48*time.Hour), RunSnapshot{Run: r, Jobs: append(all, other), Load: Load{Requests: map[time.Duration]int{time.Minute: 1_000_000}}})
	if len(d.New) != 1 || d.New[0].Replica != 0 || d.New[0].Attempt != attemptsKept+5 {
		t.Fatalf("new attempts %+v, want the next one of replica 0", d.New)
	}
	want := []string{all[0].ID, all[1].ID, all[2].ID, all[3].ID, all[4].ID, all[5].ID}
	if !slices.Equal(d.Drop, want) || d.Run.Data.PastCost != 12 {
		t.Errorf("dropped %q, cost %v, want %q, 12", d.Drop, d.Run.Data.PastCost, want)
	}
}

// So it is with a task that has a schedule, of which older servers have kept all attempts: not all of those go at once.
func TestStepRunForgetsCycles(t *testing.T) {
	for _, c := range []struct {
		schedule     bool
		ended, drops int
	}{{true, attemptsKept - 1, 0}, {true, attemptsKept + 1, 2}, {true, 1000, droppedAtOnce}, {false, 1000, 0}} {
		spec := taskWith(func(task *config.Task) {
			if c.schedule {
				task.Schedule = &config.Schedule{Cron: []string{"*/5 * * * *"}}
			}
		})
		var all []Job
		for num := range 2 {
			for i := range c.ended {
				all = append(all, Job{ID: fmt.Sprint(num, ".", i), Num: num, Attempt: i, Status: api.JobDone, SubmittedAt: start,
					Data: JobData{FinishedAt: at(time.Hour), Provisioning: &api.JobProvisioningData{Price: 2}}})
			}
		}
		r := Run{Status: api.RunPending, SubmittedAt: start, Data: Data{Spec: spec, NextAt: at(2 * time.Hour)}}
		d := StepRun(at(2*time.Hour), RunSnapshot{Run: r, Jobs: all})
		if len(d.New) != 2 || d.New[1].Num != 1 || d.New[1].Attempt != c.ended {
			t.Fatalf("new attempts %+v, want the next one of both nodes", d.New)
		}
		if len(d.Drop) != 2*c.drops || d.Run.Data.PastCost != float64(4*c.drops) || c.drops > 0 && (d.Drop[0] != "0.0" || d.Drop[2*c.drops-1] != fmt.Sprint("1.", c.drops-1)) {
			t.Errorf("%d attempts with a schedule (%v): dropped %q, cost %v, want the first %d of both nodes", c.ended, c.schedule, d.Drop, d.Run.Data.PastCost, c.drops)
		}
	}
}

// Nor do all of a large gang go at once: the first nodes tidy up, and of each other one goes as much as comes.
func TestStepRunForgetsCyclesOfMany(t *testing.T) {
	const nodes, ended = 200, attemptsKept + droppedAtOnce + 5
	spec := taskWith(func(task *config.Task) { task.Schedule = &config.Schedule{Cron: []string{"*/5 * * * *"}} })
	var all []Job
	for num := range nodes {
		for i := range ended {
			all = append(all, Job{ID: fmt.Sprint(num, ".", i), Num: num, Attempt: i, Status: api.JobDone, SubmittedAt: start, Data: JobData{FinishedAt: at(time.Hour)}})
		}
	}
	d := StepRun(at(2*time.Hour), RunSnapshot{Run: Run{Status: api.RunPending, SubmittedAt: start, Data: Data{Spec: spec, NextAt: at(2 * time.Hour)}}, Jobs: all})
	if len(d.New) != nodes {
		t.Fatalf("%d new attempts, want one of each node", len(d.New))
	}
	if want := droppedTogether + nodes - droppedTogether/droppedAtOnce; len(d.Drop) != want || !slices.Contains(d.Drop, fmt.Sprint(nodes-1, ".0")) {
		t.Errorf("%d attempts are dropped, want %d, one of the last node among them", len(d.Drop), want)
	}
}

// BenchmarkStepRunCycle is the next cycle of a gang of 1,000 nodes, of which each has all the attempts that are kept.
func BenchmarkStepRunCycle(b *testing.B) {
	spec := taskWith(func(task *config.Task) { task.Schedule = &config.Schedule{Cron: []string{"*/5 * * * *"}} })
	var all []Job
	for num := range 1000 {
		for i := range attemptsKept {
			all = append(all, Job{ID: fmt.Sprint(num, ".", i), Num: num, Attempt: i, Status: api.JobDone, SubmittedAt: start, Data: JobData{FinishedAt: at(time.Hour)}})
		}
	}
	s := RunSnapshot{Run: Run{Status: api.RunPending, SubmittedAt: start, Data: Data{Spec: spec, NextAt: at(2 * time.Hour)}}, Jobs: all}
	for b.Loop() {
		StepRun(at(2*time.Hour), s)
	}
}

// A lost node is replaced alone where the policy says so and the master lives.
func TestStepRunReplacesNodes(t *testing.T) {
	world := func(scope string, statuses ...api.JobStatus) RunSnapshot {
		list := hadInstance(retrying(jobs(statuses...), api.JobInterruptedByNoCapacity, "interruption"))
		for i := range list {
			list[i].Data.Spec.Retry.Scope = scope
		}
		return RunSnapshot{Run: Run{Status: api.RunRunning, SubmittedAt: start, Data: Data{Spec: taskWith(func(*config.Task) {})}}, Jobs: list}
	}
	const lost, ok = api.JobFailed, api.JobRunning
	again := world(api.RetryNode, ok, ok, lost)
	again.Jobs[2].Attempt = 1
	for _, c := range []struct {
		name   string
		s      RunSnapshot
		now    time.Duration
		status api.RunStatus
		fresh  int
		ends   int
		again  time.Duration
	}{
		{"alone", world(api.RetryNode, ok, ok, lost), time.Second, api.RunRunning, 1, 0, 0},
		{"not by default", world("", ok, ok, lost), time.Second, api.RunPending, 0, 2, 0},
		{"not the master", world(api.RetryNode, lost, ok, ok), time.Second, api.RunPending, 0, 2, 0},
		{"not when nobody is left", world(api.RetryNode, api.JobDone, lost, lost), time.Second, api.RunPending, 0, 0, 0},
		{"the second time after a while", again, time.Second, api.RunRunning, 0, 0, 30 * time.Second},
		{"and then", again, 30 * time.Second, api.RunRunning, 1, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := StepRun(at(c.now), c.s)
			if d.Run.Status != c.status || len(d.New) != c.fresh || len(d.Ends) != c.ends {
				t.Errorf("%s, %d new, %d ended; want %s, %d, %d", d.Run.Status, len(d.New), len(d.Ends), c.status, c.fresh, c.ends)
			}
			if c.again != 0 && !d.Again.Equal(at(c.again)) {
				t.Errorf("again at %v, want %v", d.Again, at(c.again))
			}
		})
	}
}
