package run

import (
	"slices"
	"sort"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/jobspec"
)

// RunSnapshot is all that StepRun looks at.
type RunSnapshot struct {
	Run  Run
	Jobs []Job // every attempt, by replica, number and attempt
	Load Load  // of a service that scales
	// Images are what jobs would get if they began now.
	Images jobspec.Images
}

// RunDecision is what should happen to a run now.
type RunDecision struct {
	Run     Run
	Changed bool
	Ends    []JobEnd
	New     []NewJob
	Origin  string   // what the events of New call them: "retry", "new submission"
	Relabel []Job    // count to the present deployment: it changes nothing for them
	Drop    []string // rows of attempts that tell nothing any more
	Events  []string
	Again   time.Time
}

// JobEnd asks a job to end.
type JobEnd struct {
	Job    Job
	Reason api.JobTerminationReason
	Msg    string
}

// NewJob is an attempt to be started.
type NewJob struct {
	Replica, Num, Attempt int
	Group                 string // of replicas
	// WaitFrom is when the time began that the attempt may wait for capacity.
	WaitFrom time.Time
	// BuyFrom is when it may have new instances, the zero value for at once.
	BuyFrom time.Time
}

// StepRun decides what should happen to a run (lifecycle 8). It reads nothing but its
// arguments.
func StepRun(now time.Time, s RunSnapshot) RunDecision {
	d := RunDecision{Run: s.Run}
	switch {
	case s.Run.Status == api.RunTerminating:
		d.terminating(now, latestOf(s.Jobs))
	case s.Run.Status.Finished():
	case s.Run.Deleted: // by hand: nobody sees it, so nobody could stop it
		d.end(api.RunServerError)
	case s.Run.Data.Damage != "": // what it is to be is not known
	case s.Run.Status == api.RunPending && !s.goesOn():
		d.pending(now, s)
	case s.Run.Data.Spec.Configuration.Service != nil:
		d.serve(now, s)
	default:
		d.active(now, s)
	}
	d.tidy(now, s)
	return d
}

// goesOn says that a run has jobs which have not ended and are not about to. One that waits has none, unless somebody
// edited its row: then its jobs say what it does.
func (s *RunSnapshot) goesOn() bool {
	return slices.ContainsFunc(latestOf(s.Jobs), func(j Job) bool { return !j.Finished() && j.Status != api.JobTerminating })
}

// attemptsKept bounds the attempts that are remembered of a service's replica, or of a job with a schedule: one that is
// scaled, or started every five minutes, for months has thousands, and each look at the run reads them all.
const attemptsKept = 20

const (
	// droppedAtOnce bounds the attempts of a job that are dropped at a time, of which older servers have kept all:
	// the rest goes with the next ones.
	droppedAtOnce = 50
	// droppedTogether is from how many attempts of a run on only one of each job is dropped: they are deleted in one
	// transaction, before the run's next cycle begins.
	droppedTogether = 1000
)

// tidy drops the oldest attempts of jobs that get another one.
func (d *RunDecision) tidy(now time.Time, s RunSnapshot) {
	if len(d.New) == 0 || s.Run.Data.Spec.Configuration.Service == nil && s.Run.Data.Spec.Merged().Schedule == nil {
		return
	}
	dropped := map[string]bool{}
	for _, id := range d.Drop {
		dropped[id] = true
	}
	for _, n := range d.New {
		var ended []*Job
		all := attemptsOf(s.Jobs, n.Replica, n.Num)
		for i := range all {
			if all[i].Finished() {
				ended = append(ended, &all[i])
			}
		}
		most := droppedAtOnce
		if len(d.Drop) >= droppedTogether {
			most = 1
		}
		for _, old := range ended[:min(max(0, len(ended)-attemptsKept+1), most)] {
			if !dropped[old.ID] {
				d.Drop = append(d.Drop, old.ID)
				d.Run.Data.PastCost += old.cost(now)
			}
		}
	}
}

// attemptsOf are those of one job among all of a run, which are by replica, number and attempt.
func attemptsOf(all []Job, replica, num int) []Job {
	from := sort.Search(len(all), func(i int) bool {
		return all[i].Replica > replica || all[i].Replica == replica && all[i].Num >= num
	})
	to := from
	for to < len(all) && all[to].Replica == replica && all[to].Num == num {
		to++
	}
	return all[from:to]
}

// resubmitAfter spaces whole resubmissions of a run (lifecycle 8.2); the last repeats.
var resubmitAfter = [...]time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute}

// pending waits for the schedule or for the back-off and starts new attempts. A task that providers
// have refused waits in the queue instead, since an instance that exists may become free and others may
// have what it needs; what it must not do is to ask again where it was refused, nor to pay again and
// again for the nodes of a cluster of which another one is refused.
func (d *RunDecision) pending(now time.Time, s RunSnapshot) {
	at, buyFrom := s.Run.Data.NextAt, time.Time{}
	latest := latestOf(s.Jobs)
	if n := s.Run.Data.Resubmissions; n > 0 {
		var last time.Time
		for _, j := range latest {
			if !j.Finished() {
				return // it is still ending and wakes the run
			}
			if j.Data.FinishedAt.After(last) {
				last = j.Data.FinishedAt
			}
		}
		at = last.Add(resubmitAfter[min(n, len(resubmitAfter))-1])
		if s.Run.Data.Spec.Configuration.Service == nil && slices.ContainsFunc(latest, notGiven) {
			at, buyFrom = last, at
		}
	}
	if now.Before(at) {
		d.Again = at
		return
	}
	if s.Run.Data.Spec.Configuration.Service != nil {
		if s.Run.Data.Resubmissions == 0 && !s.Run.Data.NextAt.IsZero() && s.Run.Data.TriggeredAt.Before(s.Run.Data.NextAt) {
			d.Run.Data.TriggeredAt, s.Run.Data.TriggeredAt = now, now
		}
		d.revive(now, s)
		return
	}
	if s.Run.Data.Resubmissions == 0 {
		d.Run.Data.TriggeredAt = now
	}
	d.Origin = "new submission"
	if len(latest) == 0 { // the first cycle of a schedule; the shell knows how many jobs there are
		d.New = []NewJob{{Num: -1, WaitFrom: now}}
	}
	for _, j := range latest {
		d.again(s, j)
	}
	for i := range d.New {
		d.New[i].BuyFrom = buyFrom
	}
	d.to(api.RunSubmitted)
}

// notGiven says that no provider gave an attempt the instance that it was to have.
func notGiven(j Job) bool { return j.Data.Reason == api.JobNoCapacity }

// again starts the next attempt of a job and drops what older ones without capacity left.
func (d *RunDecision) again(s RunSnapshot, j Job) {
	d.New = append(d.New, NewJob{Replica: j.Replica, Num: j.Num, Attempt: j.Attempt + 1, WaitFrom: d.Run.waitFrom(s.Jobs, j), Group: j.Data.Spec.ReplicaGroup})
	all := attemptsOf(s.Jobs, j.Replica, j.Num)
	for i := range all {
		if old := &all[i]; old.Attempt < j.Attempt && old.Data.Reason == api.JobNoCapacity && old.Data.Provisioning == nil {
			d.Drop = append(d.Drop, old.ID)
		}
	}
}

// lastPlaced is the newest attempt of a job that had an instance.
func lastPlaced(all []Job, of Job) *Job {
	var last *Job
	all = attemptsOf(all, of.Replica, of.Num)
	for i := range all {
		if j := &all[i]; j.Data.Provisioning != nil {
			last = j
		}
	}
	return last
}

// waitFrom is since when the attempt after one has waited for capacity: those after each other that had none
// wait together, but what was in an earlier cycle does not count.
func (r *Run) waitFrom(all []Job, j Job) time.Time {
	from := r.begun()
	if p := lastPlaced(all, j); p != nil && p.Data.FinishedAt.After(from) {
		from = p.Data.FinishedAt
	}
	if j.Data.WaitFrom.After(from) {
		from = j.Data.WaitFrom
	}
	return from
}

// begun is when the run's present cycle began.
func (r *Run) begun() time.Time {
	if !r.Data.TriggeredAt.IsZero() {
		return r.Data.TriggeredAt
	}
	return r.SubmittedAt
}

// replicaState is what the jobs of one replica add up to.
type replicaState struct {
	failed api.RunTerminationReason // "" when nothing failed for good
	retry  []Job                    // jobs that failed in a way that is tried again
	running, provisioning, submitted,
	done int
}

func (d *RunDecision) active(now time.Time, s RunSnapshot) {
	replicas := map[int]*replicaState{}
	byReplica := map[int][]Job{}
	var order []int
	masterDone := false
	for _, j := range latestOf(s.Jobs) {
		r := replicas[j.Replica]
		if r == nil {
			r = &replicaState{}
			replicas[j.Replica] = r
			order = append(order, j.Replica)
		}
		byReplica[j.Replica] = append(byReplica[j.Replica], j)
		r.add(now, s, j)
		masterDone = masterDone || j.Num == 0 && j.Status == api.JobDone
	}
	var sum replicaState
	var retrying []int
	var replaced []Job // nodes that are started anew while the others of their replica go on
	for _, n := range order {
		r := replicas[n]
		switch {
		case r.failed != "":
			if sum.failed != api.RunJobFailed {
				sum.failed = r.failed
			}
		case r.retry != nil && !r.replaceable():
			retrying = append(retrying, n)
		default:
			sum.running += r.running
			sum.provisioning += r.provisioning
			sum.submitted += r.submitted
			sum.done += r.done
			replaced = append(replaced, r.retry...)
		}
	}
	d.next(s, sum, retrying, masterDone)
	if d.Run.Status != api.RunTerminating {
		d.replace(now, s, replaced)
	}
	switch {
	case len(retrying) == 0 || d.Run.Status == api.RunTerminating:
	case d.Run.Status == api.RunPending:
		for _, n := range retrying {
			d.endOthers(byReplica[n])
		}
	default:
		d.Origin = "retry"
		for _, n := range retrying {
			d.endOthers(byReplica[n])
			for _, j := range byReplica[n] {
				d.again(s, j)
			}
		}
	}
}

// replaceable says that the failed nodes of a replica may be replaced alone: the policy asks
// for it, the master lives, and there is somebody to go on.
func (r *replicaState) replaceable() bool {
	for _, j := range r.retry {
		if j.Data.Spec.Retry.Scope != api.RetryNode || j.Num == 0 {
			return false
		}
	}
	return r.running+r.provisioning+r.submitted > 0
}

// replace starts single nodes anew, each with a growing delay.
func (d *RunDecision) replace(now time.Time, s RunSnapshot, failed []Job) {
	for _, j := range failed {
		if !j.Finished() {
			continue // it wakes the run when it is
		}
		at := j.Data.FinishedAt.Add(resubmitAfter[min(j.Attempt, len(resubmitAfter)-1)])
		if j.Attempt == 0 {
			at = j.Data.FinishedAt // a first loss need not wait
		}
		if now.Before(at) {
			if d.Again.IsZero() || at.Before(d.Again) {
				d.Again = at
			}
			continue
		}
		d.Origin = "retry"
		d.again(s, j)
	}
}

// next is the table of lifecycle 8.3: the first line that fits.
func (d *RunDecision) next(s RunSnapshot, sum replicaState, retrying []int, masterDone bool) {
	p := s.Run.Data.Spec.Merged()
	switch {
	case sum.failed != "":
		d.end(sum.failed)
	case p.StopCriteria != nil && *p.StopCriteria == "master-done" && masterDone:
		d.end(api.RunAllJobsDone)
	case sum.running > 0:
		d.to(api.RunRunning)
	case sum.provisioning > 0:
		d.to(api.RunProvisioning)
	case sum.submitted > 0:
		d.to(api.RunSubmitted)
	case sum.done > 0 && len(retrying) == 0:
		d.end(api.RunAllJobsDone)
	default:
		d.to(api.RunPending)
	}
}

// endOthers ends the jobs of a replica that is started anew.
func (d *RunDecision) endOthers(jobs []Job) {
	for _, j := range jobs {
		if !j.Finished() && j.Status != api.JobTerminating {
			d.Ends = append(d.Ends, JobEnd{j, api.JobTerminatedByServer, "Run is to be resubmitted"})
		}
	}
}

func (r *replicaState) add(now time.Time, s RunSnapshot, j Job) {
	switch {
	case j.Status == api.JobDone, j.Status == api.JobTerminating && j.Data.Reason == api.JobDoneByRunner:
		r.done++
	case j.Data.Reason == api.JobScaledDown:
	case j.Status == api.JobRunning:
		r.running++
	case j.Status == api.JobProvisioning, j.Status == api.JobPulling:
		r.provisioning++
	case j.Status == api.JobSubmitted:
		r.submitted++
	default:
		r.fail(now, s, j)
	}
}

// fail evaluates the retry policy for a job that failed or is about to.
func (r *replicaState) fail(now time.Time, s RunSnapshot, j Job) {
	retry, event := j.Data.Spec.Retry, retryEvent(j)
	placed := lastPlaced(s.Jobs, j)
	configured := false
	if retry != nil {
		for _, e := range retry.OnEvents {
			configured = configured || e == event
		}
	}
	var from time.Time
	switch {
	case !configured, event == "":
		r.failed = api.RunJobFailed
		return
	case event == "no-capacity" && placed == nil:
		from = s.Run.begun()
	case placed != nil:
		if from = placed.Data.FinishedAt; from.IsZero() { // it is just ending
			from = placed.Data.ProcessedAt
		}
	default:
		r.failed = api.RunJobFailed
		return
	}
	if j.Data.WaitFrom.After(from) { // it was wanted later
		from = j.Data.WaitFrom
	}
	if now.Sub(from) >= agentapi.Seconds(retry.Duration) { // when the queue does not wait any more either
		if r.failed == "" {
			r.failed = api.RunRetryLimitExceeded
		}
		return
	}
	r.retry = append(r.retry, j)
}

// retryEvent is the event of the policy that a job's end counts as (lifecycle 2.2).
func retryEvent(j Job) string {
	switch {
	case j.Data.Reason == api.JobNoCapacity:
		return "no-capacity"
	case j.Data.Reason == api.JobInterruptedByNoCapacity:
		return "interruption"
	case j.Data.Reason == "", j.Data.Reason.Status() == api.JobFailed:
		return "error"
	}
	return ""
}

func (d *RunDecision) terminating(now time.Time, latest []Job) {
	living := false
	for _, j := range latest {
		if j.Finished() {
			continue
		}
		living = true
		d.Ends = append(d.Ends, JobEnd{j, d.Run.Data.Reason.OfJobs(), ""})
	}
	if living {
		return
	}
	reason := d.Run.Data.Reason
	schedule := d.Run.Data.Spec.Merged().Schedule
	if schedule != nil && !d.Run.Deleted && reason != api.RunStoppedByUser && reason != api.RunAbortedByUser {
		d.Run.Data.NextAt = schedule.Next(now)
		d.Run.Data.FleetID, d.Run.Data.FleetName, d.Run.Data.Resubmissions = "", "", 0
		d.to(api.RunPending)
		d.Again = d.Run.Data.NextAt
		return
	}
	d.to(reason.Status())
}

func (d *RunDecision) end(reason api.RunTerminationReason) {
	d.Run.Data.Reason = reason
	d.to(api.RunTerminating)
}

func (d *RunDecision) to(status api.RunStatus) {
	was := d.Run.Status
	if was == status {
		return
	}
	if status != api.RunTerminating && !status.Finished() {
		d.Run.Data.Reason = ""
	}
	d.Run.Status = status
	d.Changed = true
	switch {
	case status == api.RunTerminating:
		d.Again = time.Unix(0, 1) // at once
	case status == api.RunRunning: // not before: that it is provisioning says only that machines are asked for
		d.Run.Data.Resubmissions = 0
	case status == api.RunPending && was != api.RunTerminating:
		d.Run.Data.Resubmissions++
		d.Run.Data.FleetID, d.Run.Data.FleetName = "", ""
		d.Again = time.Unix(0, 1)
	}
	d.Events = append(d.Events, runEvent(was, status, d.Run.Data))
}
