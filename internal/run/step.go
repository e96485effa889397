package run

import (
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
)

const (
	// provisionTimeout is how long a job may wait for its instance's agent (lifecycle 9.4).
	provisionTimeout = 10 * time.Minute
	// goneGrace is how long the end of a job on a host that cannot be reached is waited for:
	// the host is cleaned up when it is back.
	goneGrace = 30 * time.Second
)

// Effect is something to do outside the database, after the decision is stored.
type Effect int

// The effects of a JobDecision. Each may be repeated.
const (
	Place  Effect = iota + 1 // find and claim an instance
	Send                     // give the task to the host's agent
	Stop                     // ask the agent to end the task
	Forget                   // delete the ended task from the host
)

// JobSnapshot is all that StepJob looks at.
type JobSnapshot struct {
	Job      Job
	Instance *instance.Instance // nil before placement
	// Reachable says that the instance's agent can be called now.
	Reachable bool
	// Inactivity is the limit of a dev environment in seconds, 0: none.
	Inactivity int64
}

// JobDecision is what should happen to a job now.
type JobDecision struct {
	Job     Job
	Changed bool
	Effects []Effect
	Events  []string
	Release bool // give the instance's blocks back in the same transaction
	Again   time.Time
}

// StepJob decides what should happen to one job attempt now. It reads nothing but its
// arguments.
func StepJob(now time.Time, s JobSnapshot) JobDecision {
	d := JobDecision{Job: s.Job}
	switch s.Job.Status {
	case api.JobSubmitted:
		d.Effects = []Effect{Place}
	case api.JobProvisioning:
		d.provisioning(now, s)
	case api.JobPulling, api.JobRunning:
		d.onHost(now, s)
	case api.JobTerminating:
		d.terminating(now, s)
	}
	return d
}

func (d *JobDecision) provisioning(now time.Time, s JobSnapshot) {
	if d.lost(now, s) {
		return
	}
	deadline := s.Job.Data.PlacedAt.Add(provisionTimeout)
	switch {
	case s.Reachable && s.Instance.Data.Provisioning != nil && s.Instance.Status != api.InstancePending:
		if d.Job.Data.Provisioning == nil || s.Job.Data.Provisioning.Hostname == nil {
			d.Job.Data.Provisioning = s.Instance.Data.Provisioning
			d.Changed = true
		}
		if !d.Job.Data.Sent { // recorded before it is done
			d.Job.Data.Sent = true
			d.Changed = true
		}
		d.Effects = append(d.Effects, Send)
		d.Again = now.Add(10 * time.Second)
	case !now.Before(deadline):
		age := int(now.Sub(s.Job.SubmittedAt).Seconds())
		d.end(now, api.JobWaitingRunnerLimitExceeded, fmt.Sprintf("Runner did not become available within %ds. Job submission age: %ds)", int(provisionTimeout.Seconds()), age))
	default:
		d.Again = deadline
	}
}

// onHost follows what the agent says about the task.
func (d *JobDecision) onHost(now time.Time, s JobSnapshot) {
	t := s.Job.Observed
	if t == nil || t.State != agentapi.Terminated {
		if d.lost(now, s) {
			return
		}
	}
	if t == nil {
		return
	}
	d.runtime(t, s)
	switch {
	case t.State == agentapi.Terminated:
		d.ended(now, t)
	case t.Started && s.Job.Status == api.JobPulling && len(t.Ports) > 0:
		d.to(api.JobRunning)
	case s.Job.Status == api.JobRunning && s.Inactivity > 0 && t.IdleSeconds >= s.Inactivity:
		d.end(now, api.JobInactivityDurationExceeded, fmt.Sprintf("The job was inactive for %d seconds, exceeding the inactivity_duration of %d seconds", t.IdleSeconds, s.Inactivity))
	}
}

// runtime takes over what became known in the container.
func (d *JobDecision) runtime(t *agentapi.Task, s JobSnapshot) {
	r := d.Job.Data.Runtime
	if r == nil {
		return
	}
	c := *r
	if t.Username != "" {
		c.Username, c.WorkingDir = &t.Username, &t.WorkingDir
	}
	if len(t.Ports) > 0 && c.Ports == nil {
		c.Ports = t.Ports
		if c.NetworkMode == api.NetworkHost && t.Ports[agentapi.RunnerSSHPort] == agentapi.RunnerSSHPort {
			c.Ports = map[int]int{}
		}
		if p := d.Job.Data.Provisioning; p != nil && !p.Dockerized {
			port := t.Ports[agentapi.RunnerSSHPort]
			jpd := *p
			jpd.SSHPort = &port
			d.Job.Data.Provisioning = &jpd
		}
		d.Changed = true
	}
	if (r.Username == nil) != (c.Username == nil) {
		d.Changed = true
	}
	d.Job.Data.Runtime = &c
}

// ended takes over the end that the host reports. Unknown reasons count as failures.
func (d *JobDecision) ended(now time.Time, t *agentapi.Task) {
	reason := api.JobTerminationReason(t.Reason)
	switch t.Reason {
	case agentapi.DoneByRunner, agentapi.ExecutorError, agentapi.CreatingContainerError, agentapi.ContainerExitedWithError, agentapi.MaxDurationExceeded,
		agentapi.LogQuotaExceeded, agentapi.TerminatedByUser, agentapi.TerminatedByServer, agentapi.InactivityExceeded, agentapi.PortsBindingFailed, "aborted_by_user", "scaled_down":
	default:
		reason = api.JobExecutorError
	}
	d.Job.Data.Exit = t.ExitStatus
	d.end(now, reason, t.Message)
}

// lost ends a job whose instance is gone for certain. An instance that cannot be reached
// is no proof of anything.
func (d *JobDecision) lost(now time.Time, s JobSnapshot) bool {
	switch {
	case s.Instance == nil || s.Instance.Deleted && s.Instance.Status == api.InstanceTerminated:
		d.end(now, api.JobInstanceUnreachable, "The instance does not exist any more")
	case s.Instance.Live():
		return false
	case s.Instance.Data.Reason == api.InstanceNoOffers:
		d.end(now, api.JobNoCapacity, s.Instance.Data.Message)
	case s.Job.Status == api.JobProvisioning:
		d.end(now, api.JobWaitingInstanceLimitExceeded, "Instance is terminated")
	default:
		d.end(now, api.JobInstanceUnreachable, "Instance is terminated")
	}
	return true
}

func (d *JobDecision) terminating(now time.Time, s JobSnapshot) {
	t := s.Job.Observed
	onHost := s.Job.InstanceID != "" && s.Job.Data.Sent && s.Instance != nil && s.Instance.Live()
	switch {
	case !onHost:
		d.finish(now)
	case t != nil && t.State == agentapi.Terminated:
		if d.Job.Data.Exit == nil && t.ExitStatus != nil {
			d.Job.Data.Exit = t.ExitStatus
		}
		if s.Reachable {
			d.Effects = append(d.Effects, Forget) // repeated by the host's clean-up when it fails
		}
		d.finish(now)
	case s.Reachable:
		d.Effects = append(d.Effects, Stop)
		d.Again = now.Add(15 * time.Second)
	case now.Sub(s.Job.Data.StoppingAt) >= goneGrace:
		d.finish(now) // the agent is told to drop the task when the host is back
	default:
		d.Again = s.Job.Data.StoppingAt.Add(goneGrace)
	}
}

// end begins the end of the attempt.
func (d *JobDecision) end(now time.Time, reason api.JobTerminationReason, msg string) {
	d.Job.Data.Reason, d.Job.Data.Message = reason, msg
	d.Job.Data.StoppingAt = now
	d.to(api.JobTerminating)
	d.Again = now
}

// finish ends the attempt for good.
func (d *JobDecision) finish(now time.Time) {
	status := api.JobFailed
	if d.Job.Data.Reason != "" {
		status = d.Job.Data.Reason.Status()
	}
	d.Release = d.Job.InstanceID != ""
	d.Job.Data.FinishedAt = now
	d.to(status)
}

func (d *JobDecision) to(status api.JobStatus) {
	if d.Job.Status == status {
		return
	}
	d.Events = append(d.Events, jobEvent(d.Job.Status, status, d.Job.Data))
	d.Job.Status = status
	d.Changed = true
}

// RunDecision is what should happen to a run now.
type RunDecision struct {
	Run     Run
	Changed bool
	// End asks the jobs that still live to end for this reason.
	End    api.JobTerminationReason
	EndMsg string
	Retry  bool // start new attempts of the failed jobs
	Start  bool // start the jobs of a scheduled run
	Events []string
	Again  time.Time
}

// StepRun decides what should happen to a run, given the latest attempt of each of its
// jobs. It reads nothing but its arguments.
func StepRun(now time.Time, r Run, latest []Job) RunDecision {
	d := RunDecision{Run: r}
	switch {
	case r.Status == api.RunTerminating:
		d.terminating(latest)
	case r.Status == api.RunPending && len(latest) == 0:
		if now.Before(r.Data.NextAt) {
			d.Again = r.Data.NextAt
			return d
		}
		d.Start = true
		d.to(api.RunSubmitted)
	case r.Status.Finished():
	default:
		d.active(now, latest)
	}
	return d
}

func (d *RunDecision) active(now time.Time, latest []Job) {
	counts := map[api.JobStatus]int{}
	var failed *Job
	for i := range latest {
		j := &latest[i]
		counts[j.Status]++
		if j.Finished() && j.Status != api.JobDone && failed == nil {
			failed = j
		}
	}
	switch {
	case failed != nil && d.Run.canRetry(now, latest):
		if now.Before(d.Run.Data.RetryAt) {
			d.to(api.RunPending)
			d.Again = d.Run.Data.RetryAt
			return
		}
		d.Retry = true
		d.to(api.RunSubmitted)
	case failed != nil:
		d.End, d.EndMsg = api.JobTerminatedByServer, "Another job of the run failed"
		d.end(endReason(*failed))
	case counts[api.JobDone] == len(latest) && len(latest) > 0:
		d.end(api.RunAllJobsDone)
	case counts[api.JobRunning]+counts[api.JobTerminating]+counts[api.JobDone] > 0:
		if counts[api.JobTerminating] < len(latest) || d.Run.Status == api.RunRunning {
			d.to(api.RunRunning)
		}
	case counts[api.JobProvisioning]+counts[api.JobPulling] > 0:
		d.to(api.RunProvisioning)
	default:
		d.to(api.RunSubmitted)
	}
}

func endReason(failed Job) api.RunTerminationReason {
	switch failed.Data.Reason {
	case api.JobTerminatedByUser:
		return api.RunStoppedByUser
	case api.JobAbortedByUser:
		return api.RunAbortedByUser
	}
	return api.RunJobFailed
}

func (d *RunDecision) terminating(latest []Job) {
	for _, j := range latest {
		if !j.Finished() {
			switch d.Run.Data.Reason {
			case api.RunAbortedByUser:
				d.End = api.JobAbortedByUser
			case api.RunStoppedByUser:
				d.End = api.JobTerminatedByUser
			default:
				d.End = api.JobTerminatedByServer
			}
			return
		}
	}
	status := d.Run.Data.Reason.Status()
	for _, j := range latest {
		// A run whose jobs all ended by themselves for a reason that is no failure is not
		// failed: max_duration, inactivity.
		if d.Run.Data.Reason == api.RunJobFailed && j.Status == api.JobTerminated && j.Data.Reason != api.JobTerminatedByServer {
			status = api.RunTerminated
		}
	}
	d.to(status)
}

func (d *RunDecision) end(reason api.RunTerminationReason) {
	d.Run.Data.Reason = reason
	d.to(api.RunTerminating)
}

func (d *RunDecision) to(status api.RunStatus) {
	if d.Run.Status == status {
		return
	}
	d.Events = append(d.Events, runEvent(d.Run.Status, status, d.Run.Data))
	d.Run.Status = status
	d.Changed = true
	if status == api.RunTerminating {
		d.Again = time.Unix(0, 1) // at once
	}
}

// canRetry says that the failures are of a kind that is tried again, and that there is
// time left.
func (r *Run) canRetry(now time.Time, latest []Job) bool {
	for _, j := range latest {
		if !j.Finished() || j.Status == api.JobDone {
			continue
		}
		retry := j.Data.Spec.Retry
		if retry == nil {
			return false
		}
		event := retryEvent(j)
		ok := false
		for _, e := range retry.OnEvents {
			ok = ok || e == event
		}
		if !ok || now.Sub(r.SubmittedAt) > time.Duration(retry.Duration)*time.Second && event == "no-capacity" {
			return false
		}
		if event != "no-capacity" && now.Sub(j.Data.FinishedAt) > time.Duration(retry.Duration)*time.Second {
			return false
		}
	}
	return true
}

func retryEvent(j Job) string {
	switch j.Data.Reason {
	case api.JobNoCapacity:
		return "no-capacity"
	case api.JobInterruptedByNoCapacity, api.JobInstanceUnreachable:
		return "interruption"
	case api.JobTerminatedByUser, api.JobAbortedByUser, api.JobScaledDown:
		return ""
	}
	return "error"
}

// backoff spaces attempts: 15 s, doubling to 10 minutes.
func backoff(attempt int) time.Duration {
	d := 15 * time.Second
	for range attempt {
		if d *= 2; d >= 10*time.Minute {
			return 10 * time.Minute
		}
	}
	return d
}
