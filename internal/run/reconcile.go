package run

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/instance"
	"dstack/internal/metrics"
	"dstack/internal/store"
)

func (s *Service) reconcileJob(ctx context.Context, it engine.Item) (time.Time, error) {
	snap, err := s.loadJob(ctx, it.ID)
	switch {
	case errors.Is(err, store.ErrNotFound) && snap.Job.ID != "":
		return time.Time{}, s.orphaned(ctx, it, snap.Job)
	case errors.Is(err, store.ErrNotFound):
		return time.Time{}, s.tidy(ctx, it)
	case err != nil:
		return time.Time{}, err
	case snap.Job.Finished():
		return time.Time{}, s.tidy(ctx, it)
	case snap.Job.Data.Damage != "":
		s.Log.Error("the stored record of a job cannot be read", "job", snap.Job.ID, "run", snap.Job.RunID, "err", snap.Job.Data.Damage)
	}
	d := settleJob(time.Now(), snap)
	if d.Changed {
		if err := s.commitJob(ctx, it, &d); err != nil {
			return time.Time{}, err
		}
	}
	if d.Probe {
		s.Engine.Schedule(ProbeKind, it.ID, time.Now())
	}
	again := d.Again
	snap.Job = d.Job
	for _, e := range d.Effects {
		at, err := s.act(ctx, it, e, snap)
		if err != nil {
			return time.Time{}, err
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return again, nil
}

// settleJob takes steps until something has to be done outside of the database or nothing
// changes any more, as one decision: each transaction is one in a line.
func settleJob(now time.Time, s JobSnapshot) JobDecision {
	d := StepJob(now, s)
	for d.Effects == nil && d.Job.Status != s.Job.Status {
		s.Job = d.Job
		next := StepJob(now, s)
		if !next.Changed && next.Effects == nil {
			break
		}
		next.Changed, next.Events = true, append(d.Events, next.Events...)
		d = next
	}
	return d
}

func (s *Service) loadJob(ctx context.Context, id string) (JobSnapshot, error) {
	q := s.DB.Read()
	j, err := s.rows.job(ctx, q, id)
	if err != nil {
		return JobSnapshot{}, err
	}
	snap := JobSnapshot{Job: j, LostAfter: s.LostAfter}
	if j.InstanceID != "" {
		inst, err := s.Instances.Get(ctx, q, j.InstanceID)
		if err == nil {
			snap.Instance = &inst
		} else if !errors.Is(err, store.ErrNotFound) {
			return JobSnapshot{}, err
		}
		snap.Reachable = snap.Instance != nil && snap.Instance.Data.Damage == "" && s.Hosts.Reachable(snap.Instance)
	}
	switch j.Status {
	case api.JobRunning:
		return snap, s.loadRunning(ctx, q, &snap)
	case api.JobTerminating:
		snap.Serving = s.Serving(j.ID)
	case api.JobProvisioning:
		if snap.Instance != nil && snap.Instance.Data.Problem != "" {
			s.Engine.Tell(watchTopic, j.RunID) // see booting: the job itself does not change
		}
		if j.Data.Spec.JobsPerReplica > 1 {
			return snap, s.loadPeers(ctx, q, &snap)
		}
		if j.Data.Spec.ServicePort != nil {
			return snap, s.loadLack(ctx, q, &snap)
		}
	}
	return snap, nil
}

// loadRunning adds what the policies of a running job look at.
func (s *Service) loadRunning(ctx context.Context, q store.Querier, snap *JobSnapshot) error {
	r, err := s.rows.run(ctx, q, snap.Job.RunID)
	if err != nil {
		return err
	}
	if dev := r.Data.Spec.Configuration.DevEnvironment; dev != nil && dev.InactivityDuration != nil {
		snap.Inactivity = int64(*dev.InactivityDuration)
	}
	if p := snap.Job.Data.Spec.UtilizationPolicy; p != nil {
		window := agentapi.Seconds(int64(p.TimeWindow))
		begin := time.Now().Add(-window)
		points, err := s.Metrics.Points(ctx, q, snap.Job.ID, metrics.Range{From: begin}, maxSamples)
		if err != nil {
			return err
		}
		snap.Idle = underused(points, begin, p.MinGPUUtilization)
	}
	return nil
}

// maxSamples bounds the samples of a utilization window: a day of one every 10 s.
const maxSamples = 8640

// underused says that for some GPU every sample (newest first) since the begin of a window
// is below the minimum, and that there are samples from its begin on (lifecycle 16.5).
func underused(points []metrics.Point, begin time.Time, least int) bool {
	if len(points) == 0 || points[len(points)-1].At.Sub(begin) > time.Minute {
		return false
	}
	for gpu := range points[0].GPUs {
		idle := true
		for _, p := range points {
			idle = idle && gpu < len(p.GPUs) && p.GPUs[gpu].UtilPercent < least
		}
		if idle {
			return true
		}
	}
	return false
}

// loadPeers adds the other nodes of the job's replica.
func (s *Service) loadPeers(ctx context.Context, q store.Querier, snap *JobSnapshot) error {
	r, err := s.rows.run(ctx, q, snap.Job.RunID)
	if err != nil {
		return err
	}
	if o := r.Data.Spec.Merged().StartupOrder; o != nil {
		snap.Order = *o
	}
	peers, instances, err := s.nodes(ctx, q, snap.Job)
	if err != nil {
		return err
	}
	for _, j := range peers {
		if j.ID == snap.Job.ID {
			continue
		}
		p := Peer{Num: j.Num, Status: j.Status}
		if inst := instances[j.InstanceID]; inst != nil {
			p.Ready = s.Hosts.Reachable(inst) && inst.Data.Provisioning != nil && inst.Status != api.InstancePending
		}
		snap.Peers = append(snap.Peers, p)
	}
	return nil
}

// nodes are the latest attempts of a job's replica by number, with their instances by id.
func (s *Service) nodes(ctx context.Context, q store.Querier, of Job) ([]Job, map[string]*instance.Instance, error) {
	all, err := s.rows.jobsOf(ctx, q, of.RunID)
	if err != nil {
		return nil, nil, err
	}
	var peers []Job
	var ids []string
	for _, j := range latestOf(all[of.RunID]) {
		if j.Replica == of.Replica {
			peers = append(peers, j)
			if j.InstanceID != "" {
				ids = append(ids, j.InstanceID)
			}
		}
	}
	list, err := instance.ByID(ctx, q, ids)
	byID := map[string]*instance.Instance{}
	for _, inst := range list {
		byID[inst.ID] = inst
	}
	return peers, byID, err
}

// commitJob stores a decision and what the host answered meanwhile, on which it rests.
func (s *Service) commitJob(ctx context.Context, it engine.Item, d *JobDecision, said ...agentapi.Task) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		j := d.Job
		j.Data.ProcessedAt = time.Now()
		if err := s.rows.updateJob(ctx, tx, &j); err != nil {
			return err
		}
		for _, t := range said {
			last, err := s.see(ctx, tx, j.InstanceID, t)
			if err != nil {
				return err
			}
			if !last { // more is known than the decision rests on
				tx.OnCommit(func() { s.Engine.Wake(JobKind, j.ID) })
			}
		}
		if d.Release {
			if err := s.release(ctx, tx, j); err != nil {
				return err
			}
		}
		for _, text := range d.Events {
			if err := s.recordJob(ctx, tx, j, text); err != nil {
				return err
			}
		}
		tx.OnCommit(func() {
			d.Job = j
			s.changed(j.RunID)
		})
		return s.wakePeers(ctx, tx, j)
	})
}

// wakePeers looks at the other nodes of a replica, or the other replicas of a service, that may wait
// for this one.
func (s *Service) wakePeers(ctx context.Context, tx *store.Tx, j Job) error {
	replica := j.Replica
	switch {
	case j.Data.Spec.ServicePort != nil:
		r, err := s.rows.run(ctx, tx, j.RunID)
		if err != nil || !needsAddresses(r) {
			return err
		}
		replica = -1
	case j.Data.Spec.JobsPerReplica <= 1:
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT id FROM job WHERE run_id = $1 AND (replica_num = $2 OR $2 < 0) AND status = 'provisioning' AND id <> $3`, j.RunID, replica, j.ID)
	var ids []string
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the jobs that may wait for another: %w", err)
	}
	tx.OnCommit(func() { s.Engine.Wake(JobKind, ids...) })
	return nil
}

// changed tells the run and whoever watches it.
func (s *Service) changed(runID string) {
	s.Engine.Wake(Kind, runID)
	s.Engine.Tell(watchTopic, runID)
}

func (s *Service) release(ctx context.Context, tx *store.Tx, j Job) error {
	inst, err := s.Instances.Release(ctx, tx, j.InstanceID, j.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.recordJob(ctx, tx, j, fmt.Sprintf("Job unassigned from instance. Instance blocks: %d/%d busy", inst.Busy(), max(1, inst.Blocks)), inst.Target())
}

// recordJob records an event of a job, and of what else it is about.
func (s *Service) recordJob(ctx context.Context, tx *store.Tx, j Job, text string, with ...event.Target) error {
	job := event.Target{Type: api.EventTargetJob, ID: j.ID, Name: j.Data.Spec.JobName, ParentID: j.RunID}
	return event.Record(ctx, tx, event.Event{Message: text, ProjectID: j.ProjectID, Targets: append([]event.Target{job}, with...)})
}

func jobEvent(from, to api.JobStatus, data JobData) string {
	text := fmt.Sprintf("Job status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if to == api.JobTerminating && data.Reason != "" {
		text += ". Termination reason: " + strings.ToUpper(string(data.Reason))
		if data.Message != "" {
			text += " (" + data.Message + ")"
		}
	}
	return text
}

func runEvent(from, to api.RunStatus, data Data) string {
	text := fmt.Sprintf("Run status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if to == api.RunTerminating && data.Reason != "" {
		text += ". Termination reason: " + strings.ToUpper(string(data.Reason))
	}
	return text
}

func (s *Service) act(ctx context.Context, it engine.Item, e Effect, snap JobSnapshot) (time.Time, error) {
	j := snap.Job
	client, err := s.Hosts.Client(ctx, j.InstanceID)
	if err != nil {
		return time.Time{}, nil // the instance wakes the job when it is back
	}
	switch e {
	case Send:
		return s.send(ctx, it, client, snap)
	case Stop:
		grace := int64(0)
		if !j.Data.Abort && j.Data.Reason != api.JobAbortedByUser {
			grace = 300
			if j.Data.Spec.StopDuration != nil {
				grace = *j.Data.Spec.StopDuration
			}
		}
		t, err := client.Terminate(ctx, j.ID, agentapi.Terminate{Grace: grace, Reason: string(j.Data.Reason), Message: j.Data.Message})
		if agentapi.IsCode(err, agentapi.CodeNotFound) { // it never arrived
			return time.Time{}, s.observe(ctx, j.InstanceID, agentapi.Task{ID: j.ID, State: agentapi.Terminated})
		}
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, s.Observe(ctx, j.InstanceID, t)
	case Forget:
		if err := client.Delete(ctx, j.ID); err != nil {
			s.Log.Warn("delete a task from its host", "job", j.ID, "err", err) // the clean-up at the next connection does it
		}
	}
	return time.Time{}, nil
}

// send gives the task to the agent. It may be repeated: the agent knows the task by its id.
func (s *Service) send(ctx context.Context, it engine.Item, client *agentapi.Client, snap JobSnapshot) (time.Time, error) {
	j := snap.Job
	spec, err := s.taskSpec(ctx, j)
	if err != nil {
		var bad *specError
		if errors.As(err, &bad) {
			return time.Time{}, s.failJob(ctx, it, j, bad.reason, bad.msg)
		}
		return time.Time{}, err
	}
	if err := s.uploadBlobs(ctx, client, spec); err != nil {
		return time.Time{}, err
	}
	t, err := client.Put(ctx, spec)
	if err != nil {
		if agentapi.IsCode(err, agentapi.CodeInvalid) {
			return time.Time{}, s.failJob(ctx, it, j, api.JobExecutorError, err.Error())
		}
		return time.Time{}, err
	}
	if spec.Job.ServerAccess && !t.ServerAccess { // an older agent, which could not be replaced
		return time.Time{}, s.failJob(ctx, it, j, api.JobTerminatedByServer, noAccess)
	}
	d := JobDecision{Job: j}
	d.to(api.JobPulling)
	if t.State == agentapi.Terminated { // see Observe
		return time.Time{}, s.commitJob(ctx, it, &d)
	}
	snap.Job = d.Job
	snap.Job.Observed = &t
	next := StepJob(time.Now(), snap)
	if next.Job.Status == api.JobPulling || next.Job.Status == api.JobRunning { // one transaction for what comes at once
		next.Events = append(d.Events, next.Events...)
		if err := s.commitJob(ctx, it, &next, t); err != nil {
			return time.Time{}, err
		}
		if next.Probe {
			s.Engine.Schedule(ProbeKind, it.ID, time.Now())
		}
		return next.Again, nil
	}
	if err := s.commitJob(ctx, it, &d); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, s.Observe(ctx, j.InstanceID, t)
}

func (s *Service) failJob(ctx context.Context, it engine.Item, j Job, reason api.JobTerminationReason, msg string) error {
	d := JobDecision{Job: j}
	d.end(time.Now(), reason, msg)
	if err := s.commitJob(ctx, it, &d); err != nil {
		return err
	}
	s.Engine.Wake(JobKind, j.ID)
	return nil
}

func (s *Service) uploadBlobs(ctx context.Context, client *agentapi.Client, spec agentapi.TaskSpec) error {
	sums := []string{}
	if r := spec.Job.Repo; r != nil && r.Blob != "" {
		sums = append(sums, r.Blob)
	}
	for _, f := range spec.Job.Files {
		sums = append(sums, f.Blob)
	}
	for _, sum := range sums {
		has, err := client.HasBlob(ctx, sum)
		if err != nil {
			return err
		}
		if has {
			continue
		}
		r, err := s.Blobs.Open(ctx, sum)
		if err != nil {
			return fmt.Errorf("open blob %s: %w", sum, err)
		}
		err = client.PutBlob(ctx, sum, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) reconcileRun(ctx context.Context, it engine.Item) (time.Time, error) {
	r, err := s.rows.run(ctx, s.DB.Read(), it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if r.Data.Damage != "" {
		s.Log.Error("the stored record of a run cannot be read", "run", r.Name, "id", r.ID, "err", r.Data.Damage)
	}
	jobs, err := s.rows.jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return time.Time{}, err
	}
	snap := RunSnapshot{Run: r, Jobs: jobs[r.ID], Images: s.Images}
	if snap.Load, err = s.load(ctx, r, time.Now()); err != nil {
		return time.Time{}, err
	}
	d := settleRun(time.Now(), snap)
	if d.Changed || d.Ends != nil || d.New != nil || d.Relabel != nil {
		if err := s.commitRun(ctx, it, d, jobs[r.ID]); err != nil {
			return time.Time{}, err
		}
	}
	if d.Run.Status != r.Status && s.Moved != nil {
		s.Moved(ctx, d.Run, r.Status)
	}
	if tellsRouter(d.Run) {
		s.Engine.Schedule(RouterKind, it.ID, time.Now())
	}
	return d.Again, nil
}

// settleRun is StepRun, and one more step when that ends the run: where no job is left, both
// are one transaction.
func settleRun(now time.Time, s RunSnapshot) RunDecision {
	d := StepRun(now, s)
	if d.Run.Status == s.Run.Status || d.Run.Status != api.RunTerminating || d.Ends != nil || d.New != nil || d.Relabel != nil || d.Drop != nil {
		return d
	}
	s.Run = d.Run
	next := StepRun(now, s)
	next.Changed, next.Events = true, append(d.Events, next.Events...)
	if next.Again.IsZero() && next.Run.Status == api.RunTerminating && next.Ends == nil {
		next.Again = d.Again
	}
	return next
}

// latestOf keeps the last attempt of each job.
func latestOf(jobs []Job) []Job {
	var out []Job
	for _, j := range jobs {
		if n := len(out); n > 0 && out[n-1].Replica == j.Replica && out[n-1].Num == j.Num {
			out[n-1] = j
			continue
		}
		out = append(out, j)
	}
	return out
}

func (s *Service) commitRun(ctx context.Context, it engine.Item, d RunDecision, jobs []Job) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		r := d.Run
		r.Data.ProcessedAt = time.Now()
		if r.Status != api.RunSubmitted {
			r.Data.Waiting = nil
		}
		if err := s.rows.updateRun(ctx, tx, &r); err != nil {
			return err
		}
		for _, text := range d.Events {
			if err := s.recordRun(ctx, tx, r, event.Event{Message: text}); err != nil {
				return err
			}
		}
		for _, j := range d.Relabel {
			j.Data.Deployment = r.Data.Deployment
			if err := j.update(ctx, tx); err != nil {
				return err
			}
		}
		for _, e := range d.Ends {
			if err := s.endJob(ctx, tx, e.Job, e.Reason, e.Msg); err != nil {
				return err
			}
		}
		if err := s.renew(ctx, tx, r, d, jobs); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Tell(watchTopic, r.ID) })
		return nil
	})
}

// renew stores the new attempts of a decision and drops the rows that they make useless.
func (s *Service) renew(ctx context.Context, tx *store.Tx, r Run, d RunDecision, jobs []Job) error {
	for _, id := range d.Drop {
		if _, err := tx.ExecContext(ctx, `DELETE FROM job WHERE id = $1`, id); err != nil {
			return fmt.Errorf("drop an old attempt: %w", err)
		}
	}
	if d.New == nil {
		return nil
	}
	if len(jobs) == 0 && d.New[0].Num < 0 {
		return s.startJobs(ctx, tx, r, d.Origin)
	}
	for _, n := range d.New { // from the run's present spec: it may have been updated
		specs, err := s.Images.replicaSpecs(r.Data.Spec, r.Name, n.Group, n.Replica)
		if err != nil {
			return err
		}
		for _, js := range specs {
			if js.JobNum != n.Num {
				continue
			}
			if err := s.newJob(ctx, tx, r, js, n, d.Origin); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) recordRun(ctx context.Context, tx *store.Tx, r Run, e event.Event) error {
	e.ProjectID = r.ProjectID
	e.Targets = []event.Target{{Type: api.EventTargetRun, ID: r.ID, Name: r.Name}}
	return event.Record(ctx, tx, e)
}

// endJob begins the end of an unfinished job, or turns one that is under way into an abort.
func (s *Service) endJob(ctx context.Context, tx *store.Tx, j Job, reason api.JobTerminationReason, msg string) error {
	abort := reason == api.JobAbortedByUser
	if j.Finished() || j.Status == api.JobTerminating && (!abort || j.Data.Abort) {
		return nil
	}
	d := JobDecision{Job: j}
	if j.Status == api.JobTerminating {
		d.Job.Data.Reason = reason
	} else {
		d.end(time.Now(), reason, msg)
	}
	d.Job.Data.Abort = abort
	d.Job.Data.ProcessedAt = time.Now()
	if err := s.rows.updateJob(ctx, tx, &d.Job); err != nil {
		return err
	}
	for _, text := range d.Events {
		if err := s.recordJob(ctx, tx, d.Job, text); err != nil {
			return err
		}
	}
	tx.OnCommit(func() { s.Engine.Wake(JobKind, j.ID) })
	return nil
}

// Observe takes over what a host's agent answers about its tasks. That one has ended is left
// to the event stream, where it comes after the end of the log: known earlier, the job could
// be over, and its task deleted, before its log is here.
func (s *Service) Observe(ctx context.Context, instanceID string, tasks ...agentapi.Task) error {
	return s.observe(ctx, instanceID, slices.DeleteFunc(slices.Clone(tasks), func(t agentapi.Task) bool { return t.State == agentapi.Terminated })...)
}

// Dangling lists the tasks of a host that no job of the instance stands for any more.
func (s *Service) Dangling(ctx context.Context, instanceID string, tasks []agentapi.Task) ([]string, error) {
	var ids []string
	for _, t := range tasks {
		j, err := s.rows.job(ctx, s.DB.Read(), t.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err != nil || j.Finished() || j.InstanceID != instanceID {
			ids = append(ids, t.ID)
		}
	}
	return ids, nil
}

// Reconnected looks at the jobs of an instance whose agent answers again.
func (s *Service) Reconnected(ctx context.Context, instanceID string) {
	jobs, err := instance.JobsOn(ctx, s.DB.Read(), instanceID)
	if err != nil {
		s.Log.Error("look for the jobs of an instance", "instance", instanceID, "err", err)
		return
	}
	s.Engine.Wake(JobKind, jobs...)
}
