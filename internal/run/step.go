package run

import (
	"fmt"
	"slices"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/scheduler"
)

const (
	// goneGrace is how long the end of a job on a host that cannot be reached is waited for, since the
	// host was lost: it is cleaned up when it is back.
	goneGrace = 30 * time.Second
	// tryFor is for how long a server that has begun to work tries to reach the hosts of jobs before it
	// gives jobs up for them, or as long as a host may be away at most: it may have been away itself. It is
	// longer than instances are tried, whose end ends their jobs and says why.
	tryFor = instance.TryFor + time.Minute
	// gpuLimit is how long a job waits for GPUs of an instance that is up, at its price: drivers take a minute or
	// two.
	gpuLimit = 5 * time.Minute
	// lookForPeers is how often a job looks whether other nodes have their GPUs.
	lookForPeers = 15 * time.Second
	// drainFor is how long a replica that is not wanted any more gets to answer what it was asked
	// before everybody knew, at least.
	drainFor = 5 * time.Second
	// sendFor and sendTries are for how long, and how often in a row, a host's agent or the server itself may
	// fail to take a task before the job is given up: its machine costs money meanwhile.
	sendFor   = 30 * time.Minute
	sendTries = 10
	// utilizationEvery spaces the looks at a job's GPU utilization.
	utilizationEvery = 30 * time.Second
	// askLimit is how long the offers for a job's instance may take, of which some providers refuse each after
	// minutes. There are 25 at most, and the instance ends after the last.
	askLimit = time.Hour
)

// Effect is something to do outside the database, after the decision is stored.
type Effect int

// The effects of a JobDecision. Each may be repeated.
const (
	Send   Effect = iota + 1 // give the task to the host's agent
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
	// Idle says that the utilization policy's window has passed without enough use of a GPU;
	// read only for running jobs that have such a policy.
	Idle bool
	// LostAfter is how long a host may be unreachable before its jobs count as lost, 0: for
	// ever, since nothing proves that they do not run.
	LostAfter time.Duration
	// Began is when this server began to look at jobs.
	Began time.Time
	// Serving says that requests which came through this server are under way there.
	Serving bool
	// Peers are the other jobs of the replica, for a provisioning job of several nodes.
	Peers []Peer
	// Order is the run's startup order.
	Order string
	// Lack is the address of another replica that a provisioning job waits for, nil for none.
	Lack *Lack
	// Failed counts the looks at the job in a row that failed, when the last one could not give it to its
	// host, and Problem is why.
	Failed  int
	Problem string
}

// Peer is another node of a job's replica.
type Peer struct {
	Num    int
	Status api.JobStatus
	Ready  bool      // its instance answers and its address is known, and lacks nothing
	Lack   string    // which GPUs its instance lacks, "" for none
	Until  time.Time // by when it has to be ready
}

// bootBy is by when a job's machine has to answer: from when it was there it may boot, and before that one
// offer after the other may be asked for.
func bootBy(j Job, inst instance.Instance) time.Time {
	switch {
	case inst.Status == api.InstancePending:
		return j.Data.PlacedAt.Add(askLimit)
	case lacksGPUs(j, &inst):
		return later(j.Data.PlacedAt, inst.Data.LackAt).Add(gpuLimit)
	}
	return later(j.Data.PlacedAt, inst.Data.StartedAt).Add(instance.BootTimeout(inst))
}

// lacksGPUs says that a job which has yet to be sent needs GPUs, and its instance has not all of those that it was made
// with. On a machine that was just made their driver may come up after the agent; a container that began before would
// never see them.
func lacksGPUs(j Job, inst *instance.Instance) bool {
	return inst.Data.LostGPUs > 0 && !j.Data.Sent && needsGPUs(j)
}

// needsGPUs says that a job cannot do without accelerators.
func needsGPUs(j Job) bool {
	gpu := j.Data.Spec.Requirements.Resources.GPU
	return gpu != nil && gpu.Count.Min != nil && *gpu.Count.Min > 0
}

// JobDecision is what should happen to a job now.
type JobDecision struct {
	Job     Job
	Changed bool
	Effects []Effect
	Events  []string
	Release bool  // give the instance's blocks back in the same transaction
	Share   share // of the instance, for all of it that the job held, in the same transaction; zero for all
	Probe   bool  // it is to be found out how a replica of a service is
	Again   time.Time
}

// StepJob decides what should happen to one job attempt now. It reads nothing but its
// arguments.
func StepJob(now time.Time, s JobSnapshot) JobDecision {
	d := JobDecision{Job: s.Job}
	switch s.Job.Status {
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
	if d.lost(now, s) || s.Job.Data.Damage != "" { // what to send is not known
		return
	}
	deadline := later(bootBy(s.Job, *s.Instance), s.Began.Add(tryFor))
	d.made(s.Instance)
	switch {
	// What the host is like has to be known: a task depends on it.
	case s.Reachable && s.Instance.Data.Host != nil && s.Instance.Data.Provisioning != nil && s.Instance.Status != api.InstancePending &&
		!lacksGPUs(s.Job, s.Instance):
		if p := d.Job.Data.Provisioning; p == nil || p.Hostname == nil {
			d.on(s.Instance, *s.Instance.Data.Provisioning)
		}
		if s.Lack != nil {
			d.lacks(now, s)
			return
		}
		if s.lacksNodes() {
			for _, p := range s.Peers {
				if !p.Ready {
					deadline = later(deadline, p.Until)
				}
			}
			d.Again = deadline
			switch soon := now.Add(lookForPeers); {
			case !now.Before(deadline):
				d.late(now, s)
			case s.lackOf() != "" && soon.Before(deadline): // nobody wakes this job when it is over
				d.Again = soon
			}
			return
		}
		if s.follows() {
			return // for as long as the others take to start, and they wake it
		}
		if s.Failed >= sendTries && now.Sub(s.Job.Data.ProcessedAt) >= sendFor {
			d.end(now, api.JobWaitingRunnerLimitExceeded, "The job could not be given to its host. "+s.Problem)
			return
		}
		if !d.Job.Data.Sent { // recorded before it is done
			d.share(s.Instance)
			d.Job.Data.Sent = true
			d.Changed = true
		}
		// The first reason is enough: they may differ each time, as by the name of a file, and a commit begins the time anew
		// for which the host is tried.
		if s.Problem != "" && d.Job.Data.Unsent == "" {
			d.Job.Data.Unsent = s.Problem
			d.Events = append(d.Events, "The job could not be given to its host yet, it is tried again. "+s.Problem)
			d.Changed = true
		}
		d.Effects = append(d.Effects, Send)
		d.Again = now.Add(10 * time.Second)
	case !now.Before(deadline):
		d.late(now, s)
	default:
		d.Again = deadline
	}
}

// made notes what a job's machine is and costs as soon as it is there: it is paid from then on. Its
// address counts when it has answered.
func (d *JobDecision) made(inst *instance.Instance) {
	is, has := inst.Data.Provisioning, d.Job.Data.Provisioning
	if inst.Status != api.InstanceProvisioning || is == nil || has != nil && (has.Hostname != nil || has.Price == is.Price) {
		return
	}
	jpd := *is
	jpd.Hostname, jpd.InternalIP, jpd.SSHPort = nil, nil, nil
	d.on(inst, jpd)
}

// moved notes where a job's machine answers when that is elsewhere than before: clients go there.
func (d *JobDecision) moved(s JobSnapshot) {
	has := d.Job.Data.Provisioning
	if s.Instance == nil || !s.Reachable || has == nil || has.Hostname == nil {
		return
	}
	is := s.Instance.Data.Provisioning
	if is == nil || is.Hostname == nil || *is.Hostname == *has.Hostname {
		return
	}
	if s.Instance.SSH() || is.InstanceID != has.InstanceID { // another one, says an edited row: what the job has tells the truth
		return
	}
	jpd := *has
	jpd.Hostname, jpd.InternalIP = is.Hostname, is.InternalIP
	if jpd.Dockerized { // else it is the job's own
		jpd.SSHPort = is.SSHPort
	}
	d.Job.Data.Provisioning, d.Changed = &jpd, true
}

// on notes the machine that was made for a job: of the offers that were tried, it is the last.
func (d *JobDecision) on(inst *instance.Instance, jpd api.JobProvisioningData) {
	d.Job.Data.Provisioning, d.Changed = &jpd, true
	if rt := d.Job.Data.Runtime; rt != nil && inst.Data.Offer != nil {
		c, o := *rt, *inst.Data.Offer
		c.Offer = &o
		d.Job.Data.Runtime = &c
	}
}

// A share is so many parts of an instance.
type share struct{ blocks, of int }

// share leaves to others what a job does not need of the instance that was made for it, as it would get no more
// of one that is there already. Nodes of a cluster keep whole ones.
func (d *JobDecision) share(inst *instance.Instance) {
	parts, rt := inst.Parts(), d.Job.Data.Runtime
	if parts < 2 || rt == nil || rt.Offer == nil || d.Job.Data.Spec.JobsPerReplica > 1 {
		return
	}
	whole := inst.Data.Provisioning.InstanceType
	for n := 1; n < parts; n++ {
		o := *rt.Offer
		o.Instance, o.Blocks, o.TotalBlocks = whole, n, parts
		o.Instance.Resources = scheduler.Share(whole.Resources, n, parts)
		if scheduler.Fits(api.Requirements{Resources: d.Job.Data.Spec.Requirements.Resources}, config.ProfileParams{}, o) == "" {
			c := *rt
			c.Offer = &o
			limit(&c, o.Instance.Resources)
			d.Job.Data.Runtime, d.Share = &c, share{n, parts}
			return
		}
	}
}

// lacks lets a job wait for the address of another replica, whose commits wake it.
func (d *JobDecision) lacks(now time.Time, s JobSnapshot) {
	deadline := s.Job.Data.PlacedAt.Add(addressWait)
	switch {
	case s.Lack.Never:
		d.end(now, api.JobTerminatedByServer, "Router replica is in a terminal state; cannot provision worker without a running router.")
	case !now.Before(deadline):
		d.end(now, api.JobTerminatedByServer, s.Lack.late())
	default:
		d.Again = deadline
	}
}

// late ends a job whose machines did not come in time.
func (d *JobDecision) late(now time.Time, s JobSnapshot) {
	if lack := s.lackOf(); lack != "" {
		d.end(now, api.JobWaitingRunnerLimitExceeded, lack)
		return
	}
	age, limit := int(now.Sub(s.Job.SubmittedAt).Seconds()), int(instance.BootTimeout(*s.Instance).Seconds())
	msg := fmt.Sprintf("Runner did not become available within %ds. Job submission age: %ds)", limit, age)
	if p := s.Instance.Data.Problem; p != "" {
		msg += ". " + p
	}
	d.end(now, api.JobWaitingRunnerLimitExceeded, msg)
}

// lackOf says which GPUs a job waits for, of its own instance or of another node's, "" for none.
func (s *JobSnapshot) lackOf() string {
	if lacksGPUs(s.Job, s.Instance) {
		return s.Instance.Name + ": " + s.Instance.Lack()
	}
	for _, p := range s.Peers {
		if p.Lack != "" {
			return p.Lack
		}
	}
	return ""
}

// lacksNodes says that the address of another node of the replica is not known yet: the nodes start
// together (lifecycle 9.4).
func (s *JobSnapshot) lacksNodes() bool {
	return slices.ContainsFunc(s.Peers, func(p Peer) bool {
		return p.Status == api.JobSubmitted || p.Status == api.JobProvisioning && !p.Ready
	})
}

// follows says that nodes start before this one which have not started yet, as the startup order has it.
func (s *JobSnapshot) follows() bool {
	return slices.ContainsFunc(s.Peers, func(p Peer) bool {
		first := s.Order == "master-first" && s.Job.Num != 0 && p.Num == 0 || s.Order == "workers-first" && s.Job.Num == 0
		return first && (p.Status == api.JobProvisioning || p.Status == api.JobPulling)
	})
}

// onHost follows what the agent says about the task.
func (d *JobDecision) onHost(now time.Time, s JobSnapshot) {
	t := s.Job.Observed
	if t == nil || t.State != agentapi.Terminated {
		if d.lost(now, s) || d.unreachable(now, s) {
			return
		}
	}
	if t == nil {
		return
	}
	d.runtime(t, s)
	d.moved(s)
	switch {
	case t.State == agentapi.Terminated:
		d.ended(now, t)
	case t.Started && s.Job.Status == api.JobPulling && len(t.Ports) > 0:
		d.to(api.JobRunning)
	case s.Job.Status == api.JobRunning && s.Inactivity > 0 && t.IdleSeconds >= s.Inactivity:
		d.end(now, api.JobInactivityDurationExceeded, fmt.Sprintf("The job was inactive for %d seconds, exceeding the inactivity_duration of %d seconds", t.IdleSeconds, s.Inactivity))
	case s.Job.Status == api.JobRunning && s.Idle:
		p := s.Job.Data.Spec.UtilizationPolicy
		d.end(now, api.JobUtilizationPolicy, fmt.Sprintf("The job GPU utilization below %d%% for %d seconds", p.MinGPUUtilization, int64(p.TimeWindow)))
	}
	if d.Job.Status == api.JobRunning && s.Job.Data.Spec.ServicePort != nil {
		d.readiness()
	}
	if d.Job.Status == api.JobRunning && s.Job.Data.Spec.UtilizationPolicy != nil {
		d.Again = now.Add(utilizationEvery)
	}
}

// readiness takes requests for a replica of a service as soon as its probes have succeeded; that
// they fail later changes nothing (lifecycle 15.3).
func (d *JobDecision) readiness() {
	if d.Probe = d.Job.Data.probed(); d.Job.Data.Ready || !d.Job.Data.well() {
		return
	}
	d.Job.Data.Ready = true
	d.Events = append(d.Events, "Service replica ready to receive requests")
	d.Changed = true
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
	case s.Instance == nil:
		d.end(now, d.lostReason(), "The instance does not exist any more")
	case s.Instance.Live():
		return false
	case s.Instance.Data.Reason == api.InstanceNoOffers:
		d.end(now, api.JobNoCapacity, s.Instance.Data.Message)
	case s.Job.Status == api.JobProvisioning:
		d.end(now, api.JobWaitingInstanceLimitExceeded, "Instance is terminated")
	default:
		d.end(now, d.lostReason(), "Instance is terminated")
	}
	return true
}

// unreachable ends a job whose host has not answered for longer than the operator allows.
func (d *JobDecision) unreachable(now time.Time, s JobSnapshot) bool {
	lostAt := s.Instance.Data.LostAt
	if s.LostAfter <= 0 || s.Reachable || lostAt.IsZero() {
		return false
	}
	if at := later(lostAt.Add(s.LostAfter), s.Began.Add(min(tryFor, s.LostAfter))); now.Before(at) {
		d.Again = at
		return false
	}
	d.end(now, d.lostReason(), "Instance is unreachable")
	return true
}

// lostReason is why a job lost its instance: spot instances are taken back by their cloud.
func (d *JobDecision) lostReason() api.JobTerminationReason {
	if p := d.Job.Data.Provisioning; p != nil && p.InstanceType.Resources.Spot {
		return api.JobInterruptedByNoCapacity
	}
	return api.JobInstanceUnreachable
}

func (d *JobDecision) terminating(now time.Time, s JobSnapshot) {
	t := s.Job.Observed
	onHost := s.Job.InstanceID != "" && s.Job.Data.Sent && s.Instance != nil && s.Instance.Live()
	switch {
	case !onHost:
		d.finish(now) // nothing was started, or its machine is gone
	case t != nil && t.State == agentapi.Terminated:
		if d.Job.Data.Exit == nil && t.ExitStatus != nil {
			d.Job.Data.Exit = t.ExitStatus
		}
		if s.Reachable {
			d.Effects = append(d.Effects, Forget) // repeated by the host's clean-up when it fails
		}
		d.finish(now)
	case s.Reachable && d.drains(now, s):
		d.Again = now.Add(time.Second)
	case s.Reachable:
		d.Effects = append(d.Effects, Stop)
		d.Again = now.Add(15 * time.Second)
	case !now.Before(s.waitsUntil()):
		d.finish(now) // the agent is told to drop the task when the host is back
	default:
		d.Again = s.waitsUntil()
	}
}

// waitsUntil is how long the end of a job on a host that cannot be reached is waited for. A host that was
// reached a moment ago most likely is again in another: until its instance says that it is lost, the job
// has the time that it may take for its end.
func (s *JobSnapshot) waitsUntil() time.Time {
	from := later(s.Job.Data.StoppingAt, s.Began)
	if s.Instance.Status == api.InstanceBusy && s.Instance.Data.Damage == "" { // otherwise nobody notes when it was lost
		lost := s.Instance.Data.LostAt
		if lost.IsZero() {
			lost = s.Job.Data.StoppingAt.Add(agentapi.Seconds(s.Job.grace()))
		}
		from = later(from, lost)
	}
	return from.Add(goneGrace)
}

// grace is how long a job that is to end may take for it, in seconds.
func (j *Job) grace() int64 {
	switch limit := j.Data.Spec.StopDuration; {
	case j.Data.Abort, j.Data.Reason == api.JobAbortedByUser:
		return 0
	case limit != nil:
		return *limit
	}
	return jobspec.DefaultStop
}

// drains says that a replica that is not wanted any more, and gets no more requests, is left to
// those that it has.
func (d *JobDecision) drains(now time.Time, s JobSnapshot) bool {
	if !s.Job.Data.Ready || s.Job.Data.Reason != api.JobScaledDown {
		return false
	}
	waited, grace := now.Sub(s.Job.Data.StoppingAt), agentapi.Seconds(s.Job.grace())
	return waited < min(drainFor, grace) || s.Serving && waited < grace
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

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (d *JobDecision) to(status api.JobStatus) {
	if d.Job.Status == status {
		return
	}
	d.Events = append(d.Events, jobEvent(d.Job.Status, status, d.Job.Data))
	d.Job.Status = status
	d.Changed = true
}
