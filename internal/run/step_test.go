package run

import (
	"slices"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func ptr[T any](v T) *T { return &v }

// placed is a job on a live, reachable instance.
func placed(status api.JobStatus) JobSnapshot {
	return JobSnapshot{
		Job: Job{
			ID: "j", Status: status, InstanceID: "i", SubmittedAt: start,
			Data: JobData{PlacedAt: start, StoppingAt: start, Sent: status != api.JobProvisioning, Runtime: &api.JobRuntimeData{}, Provisioning: &api.JobProvisioningData{Dockerized: true}},
		},
		Instance:  &instance.Instance{ID: "i", Status: api.InstanceBusy, Data: instance.Data{Provisioning: &api.JobProvisioningData{Hostname: ptr("192.0.2.1")}}},
		Reachable: true,
	}
}

func job(s JobSnapshot, change func(*JobSnapshot)) JobSnapshot {
	change(&s)
	return s
}

func reported(task agentapi.Task) func(*JobSnapshot) {
	return func(s *JobSnapshot) { s.Job.Observed = &task }
}

func unreachable(s *JobSnapshot) { s.Reachable = false }

func gone(s *JobSnapshot) {
	s.Reachable = false
	s.Instance.Status, s.Instance.Deleted = api.InstanceTerminated, true
}

func TestStepJob(t *testing.T) {
	exited := func(reason string, code *int) func(*JobSnapshot) {
		return reported(agentapi.Task{State: agentapi.Terminated, Reason: reason, ExitStatus: code})
	}
	for _, c := range []struct {
		name    string
		s       JobSnapshot
		now     time.Duration
		status  api.JobStatus
		reason  api.JobTerminationReason
		effects []Effect
		release bool
		again   time.Duration // after start; 0: only when woken
	}{
		{name: "a submitted job is placed", s: JobSnapshot{Job: Job{Status: api.JobSubmitted}}, status: api.JobSubmitted, effects: []Effect{Place}},
		{name: "a placed job is sent and that is recorded before", s: placed(api.JobProvisioning), status: api.JobProvisioning, effects: []Effect{Send}, again: 10 * time.Second},
		{name: "a job waits for its machine", s: job(placed(api.JobProvisioning), unreachable), status: api.JobProvisioning, again: provisionTimeout},
		{name: "a machine that never comes", s: job(placed(api.JobProvisioning), unreachable), now: provisionTimeout,
			status: api.JobTerminating, reason: api.JobWaitingRunnerLimitExceeded, again: provisionTimeout},
		{name: "a machine that no cloud has", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Instance.Status, s.Instance.Data.Reason = api.InstanceTerminated, api.InstanceNoOffers
		}), now: time.Second, status: api.JobTerminating, reason: api.JobNoCapacity, again: time.Second},
		{name: "pulling with nothing heard", s: placed(api.JobPulling), status: api.JobPulling},
		{name: "started with its ports known", s: job(placed(api.JobPulling), reported(agentapi.Task{State: agentapi.Running, Started: true, Ports: map[int]int{10022: 32768}})), status: api.JobRunning},
		{name: "started, ports not known yet", s: job(placed(api.JobPulling), reported(agentapi.Task{State: agentapi.Running, Started: true})), status: api.JobPulling},
		{name: "a host that cannot be reached proves nothing", s: job(placed(api.JobRunning), unreachable), now: 1000 * time.Hour, status: api.JobRunning},
		{name: "an instance that is gone ends its job", s: job(placed(api.JobRunning), gone), now: time.Second, status: api.JobTerminating, reason: api.JobInstanceUnreachable, again: time.Second},
		{name: "an end that was reported counts also after the instance is gone", s: job(job(placed(api.JobRunning), gone), exited(agentapi.DoneByRunner, ptr(0))), now: time.Second,
			status: api.JobTerminating, reason: api.JobDoneByRunner, again: time.Second},
		{name: "exit code 0", s: job(placed(api.JobRunning), exited(agentapi.DoneByRunner, ptr(0))), now: time.Second, status: api.JobTerminating, reason: api.JobDoneByRunner, again: time.Second},
		{name: "exit code 7", s: job(placed(api.JobRunning), exited(agentapi.ContainerExitedWithError, ptr(7))), now: time.Second, status: api.JobTerminating, reason: api.JobContainerExitedWithError, again: time.Second},
		{name: "a reason nobody knows is an error", s: job(placed(api.JobRunning), exited("hacked", nil)), now: time.Second, status: api.JobTerminating, reason: api.JobExecutorError, again: time.Second},
		{name: "a dev environment nobody uses", s: job(placed(api.JobRunning), func(s *JobSnapshot) {
			s.Inactivity = 60
			s.Job.Observed = &agentapi.Task{State: agentapi.Running, IdleSeconds: 60}
		}), now: time.Second, status: api.JobTerminating, reason: api.JobInactivityDurationExceeded, again: time.Second},
		{name: "a dev environment in use", s: job(placed(api.JobRunning), func(s *JobSnapshot) {
			s.Inactivity = 60
			s.Job.Observed = &agentapi.Task{State: agentapi.Running, IdleSeconds: 59}
		}), status: api.JobRunning},
		{name: "the host is asked to stop", s: job(placed(api.JobTerminating), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			status: api.JobTerminating, reason: api.JobTerminatedByUser, effects: []Effect{Stop}, again: 15 * time.Second},
		{name: "the job has stopped", s: job(job(placed(api.JobTerminating), exited(agentapi.TerminatedByUser, nil)), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			status: api.JobTerminated, reason: api.JobTerminatedByUser, effects: []Effect{Forget}, release: true},
		{name: "an unreachable host is waited for", s: job(job(placed(api.JobTerminating), unreachable), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			status: api.JobTerminating, reason: api.JobTerminatedByUser, again: goneGrace},
		{name: "not for ever", s: job(job(placed(api.JobTerminating), unreachable), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }), now: goneGrace,
			status: api.JobTerminated, reason: api.JobTerminatedByUser, release: true},
		{name: "a job that was never sent just ends", s: job(placed(api.JobTerminating), func(s *JobSnapshot) {
			s.Job.Data.Sent, s.Job.Data.Reason = false, api.JobTerminatedByUser
		}), status: api.JobTerminated, reason: api.JobTerminatedByUser, release: true},
		{name: "a job without an instance releases none", s: JobSnapshot{Job: Job{Status: api.JobTerminating, Data: JobData{Reason: api.JobAbortedByUser}}}, status: api.JobAborted, reason: api.JobAbortedByUser},
		{name: "what has ended stays", s: job(placed(api.JobDone), gone), status: api.JobDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := StepJob(at(c.now), c.s)
			if d.Job.Status != c.status || d.Job.Data.Reason != c.reason {
				t.Errorf("%s (%s), want %s (%s)", d.Job.Status, d.Job.Data.Reason, c.status, c.reason)
			}
			if !slices.Equal(d.Effects, c.effects) {
				t.Errorf("effects %v, want %v", d.Effects, c.effects)
			}
			if d.Release != c.release {
				t.Errorf("release = %v, want %v", d.Release, c.release)
			}
			want := time.Time{}
			if c.again != 0 {
				want = at(c.again)
			}
			if !d.Again.Equal(want) {
				t.Errorf("again at %v, want %v", d.Again, want)
			}
			if slices.Contains(d.Effects, Send) && !(d.Job.Data.Sent && d.Changed) {
				t.Error("the task is sent before that is recorded")
			}
			if d.Job.Status.Finished() && !c.s.Job.Finished() && d.Job.Data.FinishedAt.IsZero() {
				t.Error("no time of the end")
			}
		})
	}
}

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

func TestStepRun(t *testing.T) {
	retry := func(list []Job, reason api.JobTerminationReason, events ...string) []Job {
		for i := range list {
			if list[i].Status == api.JobFailed {
				list[i].Data.Reason = reason
			}
			list[i].Data.Spec.Retry = &api.Retry{OnEvents: events, Duration: 3600}
		}
		return list
	}
	because := func(r api.RunTerminationReason) Data { return Data{Reason: r} }
	for _, c := range []struct {
		name   string
		run    Run
		latest []Job
		now    time.Duration
		status api.RunStatus
		reason api.RunTerminationReason
		end    api.JobTerminationReason
		retry  bool
		start  bool
	}{
		{name: "submitted", run: Run{Status: api.RunSubmitted}, latest: jobs(api.JobSubmitted), status: api.RunSubmitted},
		{name: "provisioning", run: Run{Status: api.RunSubmitted}, latest: jobs(api.JobProvisioning), status: api.RunProvisioning},
		{name: "pulling", run: Run{Status: api.RunSubmitted}, latest: jobs(api.JobPulling), status: api.RunProvisioning},
		{name: "one of two runs", run: Run{Status: api.RunProvisioning}, latest: jobs(api.JobPulling, api.JobRunning), status: api.RunRunning},
		{name: "one of two is done", run: Run{Status: api.RunRunning}, latest: jobs(api.JobDone, api.JobRunning), status: api.RunRunning},
		{name: "all done", run: Run{Status: api.RunRunning}, latest: jobs(api.JobDone, api.JobDone), status: api.RunTerminating, reason: api.RunAllJobsDone},
		{name: "one failed ends the others", run: Run{Status: api.RunRunning}, latest: jobs(api.JobFailed, api.JobRunning),
			status: api.RunTerminating, reason: api.RunJobFailed, end: api.JobTerminatedByServer},
		{name: "a failure that is tried again", run: Run{Status: api.RunRunning, SubmittedAt: start}, latest: retry(jobs(api.JobFailed), api.JobContainerExitedWithError, "error"), now: time.Minute,
			status: api.RunSubmitted, retry: true},
		{name: "another kind of failure is not", run: Run{Status: api.RunRunning, SubmittedAt: start}, latest: retry(jobs(api.JobFailed), api.JobContainerExitedWithError, "no-capacity"), now: time.Minute,
			status: api.RunTerminating, reason: api.RunJobFailed, end: api.JobTerminatedByServer},
		{name: "a lost instance is an interruption", run: Run{Status: api.RunRunning, SubmittedAt: start}, latest: retry(jobs(api.JobFailed), api.JobInstanceUnreachable, "interruption"), now: time.Minute,
			status: api.RunSubmitted, retry: true},
		{name: "a retry waits for its time", run: Run{Status: api.RunRunning, SubmittedAt: start, Data: Data{RetryAt: at(time.Hour)}}, latest: retry(jobs(api.JobFailed), api.JobContainerExitedWithError, "error"), now: time.Minute,
			status: api.RunPending},
		{name: "capacity is not waited for longer than asked", run: Run{Status: api.RunPending, SubmittedAt: start}, latest: retry(jobs(api.JobFailed), api.JobNoCapacity, "no-capacity"), now: 2 * time.Hour,
			status: api.RunTerminating, reason: api.RunJobFailed, end: api.JobTerminatedByServer},
		{name: "a stop reaches the jobs", run: Run{Status: api.RunTerminating, Data: because(api.RunStoppedByUser)}, latest: jobs(api.JobRunning),
			status: api.RunTerminating, reason: api.RunStoppedByUser, end: api.JobTerminatedByUser},
		{name: "an abort too", run: Run{Status: api.RunTerminating, Data: because(api.RunAbortedByUser)}, latest: jobs(api.JobRunning),
			status: api.RunTerminating, reason: api.RunAbortedByUser, end: api.JobAbortedByUser},
		{name: "stopped", run: Run{Status: api.RunTerminating, Data: because(api.RunStoppedByUser)}, latest: jobs(api.JobTerminated), status: api.RunTerminated, reason: api.RunStoppedByUser},
		{name: "done", run: Run{Status: api.RunTerminating, Data: because(api.RunAllJobsDone)}, latest: jobs(api.JobDone), status: api.RunDone, reason: api.RunAllJobsDone},
		{name: "failed", run: Run{Status: api.RunTerminating, Data: because(api.RunJobFailed)}, latest: jobs(api.JobFailed), status: api.RunFailed, reason: api.RunJobFailed},
		{name: "a schedule that is not due", run: Run{Status: api.RunPending, Data: Data{NextAt: at(time.Hour)}}, status: api.RunPending},
		{name: "a schedule that is due", run: Run{Status: api.RunPending, Data: Data{NextAt: start}}, now: time.Second, status: api.RunSubmitted, start: true},
		{name: "what has ended stays", run: Run{Status: api.RunDone}, latest: jobs(api.JobFailed), status: api.RunDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := StepRun(at(c.now), c.run, c.latest)
			if d.Run.Status != c.status || d.Run.Data.Reason != c.reason {
				t.Errorf("%s (%s), want %s (%s)", d.Run.Status, d.Run.Data.Reason, c.status, c.reason)
			}
			if d.End != c.end || d.Retry != c.retry || d.Start != c.start {
				t.Errorf("end %q, retry %v, start %v; want %q, %v, %v", d.End, d.Retry, d.Start, c.end, c.retry, c.start)
			}
			if moved := d.Run.Status != c.run.Status; moved && (!d.Changed || len(d.Events) == 0) {
				t.Error("a change of the status is neither stored nor told")
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	var got []time.Duration
	for n := range 8 {
		got = append(got, backoff(n))
	}
	want := []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
