package run

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
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
		Instance:  &instance.Instance{ID: "i", Status: api.InstanceBusy, Data: instance.Data{Host: &agentapi.HostInfo{}, Provisioning: &api.JobProvisioningData{Hostname: ptr("192.0.2.1")}}},
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

// lostAt makes the instance tell since when it cannot be reached.
func lostAt(d time.Duration) func(*JobSnapshot) {
	return func(s *JobSnapshot) {
		s.Reachable = false
		s.Instance.Unreachable, s.Instance.Data.LostAt = true, at(d)
	}
}

// lacking has a job need so many GPUs on an instance that lacks one since nine minutes after it came up.
func lacking(needs int) func(*JobSnapshot) {
	return func(s *JobSnapshot) {
		s.Job.Data.Spec.Requirements.Resources.GPU = &config.GPU{Count: config.Between(needs, -1)}
		s.Instance.Data.LostGPUs, s.Instance.Data.ReadyAt, s.Instance.Data.LackAt = 1, start, at(9*time.Minute)
	}
}

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
		{name: "a submitted job waits for its queue", s: JobSnapshot{Job: Job{Status: api.JobSubmitted}}, status: api.JobSubmitted},
		{name: "a node waits for the others' addresses", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Peers = []Peer{{Num: 1, Status: api.JobProvisioning, Ready: true}, {Num: 2, Status: api.JobProvisioning}}
		}), status: api.JobProvisioning, again: 10 * time.Minute},
		{name: "nodes start together", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Peers = []Peer{{Num: 1, Status: api.JobProvisioning, Ready: true}, {Num: 2, Status: api.JobPulling}}
		}), status: api.JobProvisioning, effects: []Effect{Send}, again: 10 * time.Second},
		{name: "a replica waits for another's address", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Lack = &Lack{Name: "groups[0].replicas[0].IP_ADDRESS"} }),
			now: 20 * time.Minute, status: api.JobProvisioning, again: 30 * time.Minute},
		{name: "however long it has waited for its place", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Lack, s.Job.Data.PlacedAt = &Lack{}, at(time.Hour) }),
			now: time.Hour + time.Minute, status: api.JobProvisioning, again: 90 * time.Minute},
		{name: "half an hour", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Lack = &Lack{} }), now: 30 * time.Minute,
			status: api.JobTerminating, reason: api.JobTerminatedByServer, again: 30 * time.Minute},
		{name: "not for a router that has ended", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Lack = &Lack{Never: true} }), now: time.Minute,
			status: api.JobTerminating, reason: api.JobTerminatedByServer, again: time.Minute},
		{name: "not for ever", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Peers = []Peer{{Num: 1, Status: api.JobProvisioning}} }), now: 10 * time.Minute,
			status: api.JobTerminating, reason: api.JobWaitingRunnerLimitExceeded, again: 10 * time.Minute},
		{name: "workers wait for the master", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Job.Num, s.Order, s.Peers = 1, "master-first", []Peer{{Num: 0, Status: api.JobPulling}, {Num: 2, Status: api.JobProvisioning, Ready: true}}
		}), status: api.JobProvisioning},
		{name: "however long that pulls its image", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Job.Num, s.Order, s.Peers = 1, "master-first", []Peer{{Num: 0, Status: api.JobPulling}}
		}), now: 15 * time.Minute, status: api.JobProvisioning},
		{name: "and follow it", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Job.Num, s.Order, s.Peers = 1, "master-first", []Peer{{Num: 0, Status: api.JobRunning}, {Num: 2, Status: api.JobProvisioning, Ready: true}}
		}), status: api.JobProvisioning, effects: []Effect{Send}, again: 10 * time.Second},
		{name: "the master waits for its workers", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Order, s.Peers = "workers-first", []Peer{{Num: 1, Status: api.JobRunning}, {Num: 2, Status: api.JobPulling}}
		}), status: api.JobProvisioning},
		{name: "a GPU that is hardly used", s: job(placed(api.JobRunning), func(s *JobSnapshot) {
			s.Idle, s.Job.Observed = true, &agentapi.Task{State: agentapi.Running}
			s.Job.Data.Spec.UtilizationPolicy = &config.UtilizationPolicy{MinGPUUtilization: 10, TimeWindow: 300}
		}), now: time.Second, status: api.JobTerminating, reason: api.JobUtilizationPolicy, again: time.Second},
		{name: "a placed job is sent and that is recorded before", s: placed(api.JobProvisioning), status: api.JobProvisioning, effects: []Effect{Send}, again: 10 * time.Second},
		{name: "a host that takes no task is tried again", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Job.Data.ProcessedAt, s.Failed = start, 100 }),
			now: sendFor - time.Second, status: api.JobProvisioning, effects: []Effect{Send}, again: sendFor + 9*time.Second},
		{name: "also by a server that was away meanwhile", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Job.Data.ProcessedAt = start }),
			now: time.Hour, status: api.JobProvisioning, effects: []Effect{Send}, again: time.Hour + 10*time.Second},
		{name: "but not for ever", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Job.Data.ProcessedAt, s.Failed, s.Problem = start, sendTries, "no such blob" }),
			now: sendFor, status: api.JobTerminating, reason: api.JobWaitingRunnerLimitExceeded, again: sendFor},
		{name: "a job waits for its machine", s: job(placed(api.JobProvisioning), unreachable), status: api.JobProvisioning, again: 10 * time.Minute},
		{name: "and for what it is like", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) { s.Instance.Data.Host = nil }), status: api.JobProvisioning, again: 10 * time.Minute},
		{name: "and for its GPUs, whose driver may be late", s: job(placed(api.JobProvisioning), lacking(1)),
			now: 10 * time.Minute, status: api.JobProvisioning, again: 9*time.Minute + gpuLimit},
		{name: "but pays for it without them only for a while", s: job(placed(api.JobProvisioning), lacking(1)),
			now: 9*time.Minute + gpuLimit, status: api.JobTerminating, reason: api.JobWaitingRunnerLimitExceeded, again: 9*time.Minute + gpuLimit},
		{name: "one that can do without does not wait", s: job(placed(api.JobProvisioning), lacking(0)),
			now: 10 * time.Minute, status: api.JobProvisioning, effects: []Effect{Send}, again: 10*time.Minute + 10*time.Second},
		{name: "nor does one of which another node lacks them look only at its end", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Peers = []Peer{{Num: 1, Status: api.JobProvisioning, Lack: "other: 0 of 8 GPUs are there", Until: at(14 * time.Minute)}}
		}), now: 10 * time.Minute, status: api.JobProvisioning, again: 10*time.Minute + lookForPeers},
		{name: "one that may be there already is followed", s: job(job(placed(api.JobProvisioning), lacking(1)), func(s *JobSnapshot) { s.Job.Data.Sent = true }),
			now: 10 * time.Minute, status: api.JobProvisioning, effects: []Effect{Send}, again: 10*time.Minute + 10*time.Second},
		{name: "a machine that never comes", s: job(placed(api.JobProvisioning), unreachable), now: 10 * time.Minute,
			status: api.JobTerminating, reason: api.JobWaitingRunnerLimitExceeded, again: 10 * time.Minute},
		{name: "a machine that came up while the server was away is tried first", s: job(job(placed(api.JobProvisioning), unreachable), func(s *JobSnapshot) { s.Began = at(time.Hour) }), now: time.Hour,
			status: api.JobProvisioning, again: time.Hour + tryFor},
		{name: "one that is still asked for has not come late", s: job(job(placed(api.JobProvisioning), unreachable), func(s *JobSnapshot) { s.Instance.Status = api.InstancePending }),
			now: 20 * time.Minute, status: api.JobProvisioning, again: askLimit},
		{name: "and boots from then on", s: job(job(placed(api.JobProvisioning), unreachable), func(s *JobSnapshot) { s.Instance.Data.StartedAt = at(20 * time.Minute) }),
			now: 20 * time.Minute, status: api.JobProvisioning, again: 30 * time.Minute},
		{name: "for which the other nodes wait", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Peers = []Peer{{Num: 1, Status: api.JobProvisioning, Until: at(30 * time.Minute)}}
		}), now: 20 * time.Minute, status: api.JobProvisioning, again: 30 * time.Minute},
		{name: "a spot instance that was taken back", s: job(placed(api.JobRunning), func(s *JobSnapshot) {
			s.Job.Data.Provisioning.InstanceType.Resources.Spot = true
			gone(s)
		}), now: time.Second, status: api.JobTerminating, reason: api.JobInterruptedByNoCapacity, again: time.Second},
		{name: "a machine that no cloud has", s: job(placed(api.JobProvisioning), func(s *JobSnapshot) {
			s.Instance.Status, s.Instance.Data.Reason = api.InstanceTerminated, api.InstanceNoOffers
		}), now: time.Second, status: api.JobTerminating, reason: api.JobNoCapacity, again: time.Second},
		{name: "pulling with nothing heard", s: placed(api.JobPulling), status: api.JobPulling},
		{name: "started with its ports known", s: job(placed(api.JobPulling), reported(agentapi.Task{State: agentapi.Running, Started: true, Ports: map[int]int{10022: 32768}})), status: api.JobRunning},
		{name: "started, ports not known yet", s: job(placed(api.JobPulling), reported(agentapi.Task{State: agentapi.Running, Started: true})), status: api.JobPulling},
		{name: "a host that cannot be reached proves nothing", s: job(placed(api.JobRunning), unreachable), now: 1000 * time.Hour, status: api.JobRunning},
		{name: "unless the operator says for how long to believe in it", s: job(job(placed(api.JobRunning), unreachable), func(s *JobSnapshot) {
			s.LostAfter, s.Instance.Data.LostAt = time.Minute, start
		}), now: 59 * time.Second, status: api.JobRunning, again: time.Minute},
		{name: "and no longer", s: job(job(placed(api.JobRunning), unreachable), func(s *JobSnapshot) {
			s.LostAfter, s.Instance.Data.LostAt = time.Minute, start
		}), now: time.Minute, status: api.JobTerminating, reason: api.JobInstanceUnreachable, again: time.Minute},
		{name: "but not by a server that was away itself and has not tried it yet", s: job(job(placed(api.JobRunning), lostAt(0)), func(s *JobSnapshot) {
			s.LostAfter, s.Began = time.Minute, at(time.Hour)
		}), now: time.Hour, status: api.JobRunning, again: time.Hour + time.Minute},
		{name: "which it does for no longer than for others", s: job(job(placed(api.JobRunning), lostAt(0)), func(s *JobSnapshot) {
			s.LostAfter, s.Began = 10*time.Minute, at(time.Hour)
		}), now: time.Hour, status: api.JobRunning, again: time.Hour + tryFor},
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
		{name: "an unreachable host is waited for", s: job(job(placed(api.JobTerminating), lostAt(0)), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			status: api.JobTerminating, reason: api.JobTerminatedByUser, again: goneGrace},
		{name: "not for ever", s: job(job(placed(api.JobTerminating), lostAt(0)), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }), now: goneGrace,
			status: api.JobTerminated, reason: api.JobTerminatedByUser, release: true},
		{name: "one that is lost while the job takes its time is waited for as long", s: job(job(placed(api.JobTerminating), lostAt(2*time.Minute)), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			now: 2*time.Minute + 15*time.Second, status: api.JobTerminating, reason: api.JobTerminatedByUser, again: 2*time.Minute + goneGrace},
		{name: "one that does not answer for a moment is no lost one", s: job(job(placed(api.JobTerminating), unreachable), func(s *JobSnapshot) { s.Job.Data.Reason = api.JobTerminatedByUser }),
			now: 2 * time.Minute, status: api.JobTerminating, reason: api.JobTerminatedByUser, again: jobspec.DefaultStop*time.Second + goneGrace},
		{name: "though nobody waits for what an abort ends", s: job(job(placed(api.JobTerminating), unreachable), func(s *JobSnapshot) { s.Job.Data.Reason, s.Job.Data.Abort = api.JobAbortedByUser, true }),
			now: goneGrace, status: api.JobAborted, reason: api.JobAbortedByUser, release: true},
		{name: "a server that has just begun has lost nobody", s: job(job(placed(api.JobTerminating), lostAt(0)), func(s *JobSnapshot) {
			s.Job.Data.Reason, s.Began = api.JobTerminatedByUser, at(time.Hour)
		}), now: time.Hour, status: api.JobTerminating, reason: api.JobTerminatedByUser, again: time.Hour + goneGrace},
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

// Why a host takes no task is stored and told once, whatever it says later, and the host is not tried for ever.
func TestStepJobUnsent(t *testing.T) {
	s := placed(api.JobProvisioning)
	s.Job.Data.Sent, s.Job.Data.ProcessedAt = true, start
	var events []string
	for s.Failed = 1; s.Failed <= 60; s.Failed++ {
		now := at(time.Duration(s.Failed) * time.Minute)
		s.Problem = fmt.Sprintf("write .upload-%d: no space left on device", s.Failed)
		d := StepJob(now, s)
		events = append(events, d.Events...)
		if d.Changed {
			d.Job.Data.ProcessedAt = now // as the commit has it
		}
		s.Job = d.Job
		if s.Job.Status != api.JobProvisioning {
			break
		}
		if !slices.Equal(d.Effects, []Effect{Send}) {
			t.Errorf("after %d failures: %+v", s.Failed, d)
		}
	}
	if s.Job.Status != api.JobTerminating || s.Failed != 31 || !strings.Contains(s.Job.Data.Message, "no space left") {
		t.Errorf("after %d minutes: %s, %q", s.Failed, s.Job.Status, s.Job.Data.Message)
	}
	if len(events) != 2 || !strings.Contains(events[0], "write .upload-1: no space left on device") {
		t.Errorf("events: %q", events)
	}
}
