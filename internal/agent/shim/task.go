package shim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// task is one task with its lock. Its state is stored before the step that it announces.
type task struct {
	shim      *Shim
	spec      agentapi.TaskSpec
	known     time.Time // since when this agent knows of it
	lost      error     // why the spec could not be read; what was stored beside it has to do
	gpusKnown bool      // that state says which GPUs the task holds

	storing sync.Mutex // held while state goes to disk, so that the newest is the last
	mu      sync.Mutex
	state   agentapi.Task
	version int64 // grows with every change of state
	acked   acked
	boot    string             // id of the host's boot in which its container was started; "" when it is not known
	cancel  context.CancelFunc // of preparing and pulling
	ending  *agentapi.Terminate
	asking  bool                // for the runner's ports
	stopBy  time.Time           // when the grace of ending is over
	stop    *agentapi.Terminate // what somebody sees to who ends a running task
	over    *outcome            // how it has ended, before what it held is given back
	left    bool                // its container may run though it is over, and keeps its accelerators
	ended   chan struct{}       // closed once Terminated

	laid    chan struct{} // closed once its folder is laid out, or that has failed
	refused error         // why it has failed, once laid is closed
}

// stored is what a task's state file holds. Ending is there since a request to end must
// not be forgotten once it is answered, Over since the container that would say it is being removed, the rest since a
// task whose spec is lost cannot be followed without.
type stored struct {
	agentapi.Task
	Ending       *agentapi.Terminate `json:"ending,omitempty"`
	Over         *outcome            `json:"over,omitempty"`
	HostUser     string              `json:"host_user,omitempty"`
	LogQuotaHour int64               `json:"log_quota_hour,omitempty"`
	Boot         string              `json:"boot,omitempty"`
}

// outcome is how a task has ended.
type outcome struct {
	Reason     string `json:"reason"`
	Message    string `json:"message,omitempty"`
	ExitStatus *int   `json:"exit_status,omitempty"`
}

func (s *Shim) newTask(spec agentapi.TaskSpec) *task {
	return &task{shim: s, spec: spec, known: time.Now(), gpusKnown: true, ended: make(chan struct{}), laid: make(chan struct{}), state: agentapi.Task{
		ID: spec.ID, Name: spec.Name, State: agentapi.Pending, CreatedAt: time.Now().UnixMicro(), ServerAccess: spec.Job.ServerAccess,
	}}
}

// loadTask reads what is known of an earlier agent's task; os.ErrNotExist when it was never accepted, or is over. Whatever
// else is wrong with its files, there may be a container, with a job in it and GPUs that nobody else may get.
func (s *Shim) loadTask(id string) (*task, error) {
	dir := s.taskDir(id)
	spec, lost := readSpec(dir, id)
	t := s.newTask(spec)
	t.lost = lost
	close(t.laid)
	saved := stored{Task: t.state}
	err := readJSON(filepath.Join(dir, stateFile), &saved)
	if err == nil && saved.ID != id {
		err = fmt.Errorf("read %s: it is that of task %q", filepath.Join(dir, stateFile), saved.ID)
	}
	if errors.Is(lost, os.ErrNotExist) && (err != nil || !begun(saved.State)) {
		return nil, lost
	}
	switch {
	case err == nil:
		t.state, t.ending, t.over = saved.Task, saved.Ending, saved.Over
		if lost != nil {
			t.spec.Name, t.spec.HostUser, t.spec.Job.LogQuotaHour = saved.Name, saved.HostUser, saved.LogQuotaHour
		}
	case !errors.Is(err, os.ErrNotExist):
		// The machine lost power while it was written, or its disk is that of another. The job must not run twice.
		t.ending, t.gpusKnown = damaged(err), false
	case lost != nil:
		t.ending, t.gpusKnown = damaged(lost), false
	}
	_ = readJSON(filepath.Join(dir, acksFile), &t.acked) // absent: the server gets everything again
	t.boot = saved.Boot
	_, _ = t.refresh() // what cannot be read yet is when its end is looked for
	t.acked = t.acked.possible(t.state)
	if t.state.State == agentapi.Terminated {
		close(t.ended)
	}
	return t, nil
}

// begun says that a task in a state has been accepted, so that its spec was on disk, and has not been over, after
// which the spec goes first when it is erased.
func begun(state agentapi.State) bool {
	switch state {
	case agentapi.Preparing, agentapi.Pulling, agentapi.Creating, agentapi.Running:
		return true
	}
	return false
}

// readSpec reads the spec of the task in a folder. What it returns beside an error has only the id.
func readSpec(dir, id string) (agentapi.TaskSpec, error) {
	var spec agentapi.TaskSpec
	err := readJSON(filepath.Join(dir, taskFile), &spec)
	if err == nil && spec.ID != id {
		err = fmt.Errorf("read %s: it is that of task %q", filepath.Join(dir, taskFile), spec.ID)
	}
	if err != nil {
		return agentapi.TaskSpec{ID: id}, err
	}
	return spec, nil
}

// damaged ends a task of which too little is known.
func damaged(why error) *agentapi.Terminate {
	return &agentapi.Terminate{Reason: agentapi.ExecutorError, Message: "the agent's record of the task is damaged: " + why.Error()}
}

func (t *task) dir() string { return t.shim.taskDir(t.spec.ID) }

// jobDir is the directory that the job may write to: see [runner.OpenShared].
func (t *task) jobDir() string { return t.shim.jobDir(t.spec.ID) }

func (t *task) snapshot() (agentapi.Task, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state, t.version
}

// set changes the state, stores it and tells the streams. A terminated task stays as it is.
func (t *task) set(change func(*agentapi.Task)) {
	t.mu.Lock()
	if t.state.State == agentapi.Terminated {
		t.mu.Unlock()
		return
	}
	change(&t.state)
	t.version++
	t.mu.Unlock()
	t.store()
	t.shim.wake()
}

func (t *task) store() {
	t.storing.Lock()
	defer t.storing.Unlock()
	t.mu.Lock()
	saved := stored{t.state, t.ending, t.over, t.spec.HostUser, t.spec.Job.LogQuotaHour, t.boot}
	t.mu.Unlock()
	if err := writeJSON(filepath.Join(t.dir(), stateFile), saved, 0o600); err != nil {
		t.shim.Log.Error("store a task's state", "task", t.spec.ID, "err", err)
	}
}

// storeAcks writes down what the server has stored.
func (t *task) storeAcks() error {
	t.storing.Lock()
	defer t.storing.Unlock()
	t.mu.Lock()
	acks := t.acked
	t.mu.Unlock()
	return writeJSON(filepath.Join(t.dir(), acksFile), acks, 0o600)
}

// erase removes the task's files, first that without which it was never accepted: jobs leave many files, and
// an agent that is started again on some of them would take the task for one that has not begun.
func (t *task) erase() error {
	t.storing.Lock()
	defer t.storing.Unlock()
	if err := os.Remove(filepath.Join(t.dir(), taskFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(t.dir())
}

// refresh takes over what the runner wrote: its state and the sizes of the logs. The error is about the state.
func (t *task) refresh() (runner.State, error) {
	size := func(name string) int64 {
		st, err := os.Lstat(filepath.Join(t.jobDir(), name))
		if err != nil || !st.Mode().IsRegular() {
			return 0
		}
		return min(st.Size(), maxCount)
	}
	rs, err := t.readState()
	job, own := size(runner.JobLogFile), size(runner.OwnLogFile)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.JobLog, t.state.RunnerLog = min(job, t.logLimit()), min(own, maxOwnLog)
	if err != nil {
		return rs, err
	}
	before := t.state
	if rs.Phase != runner.Setup {
		t.state.Started = true
		t.state.Username, t.state.WorkingDir = rs.Username, rs.WorkingDir
	}
	t.state.IdleSeconds = rs.IdleSeconds
	if t.state.Started != before.Started || t.state.IdleSeconds != before.IdleSeconds {
		t.version++
	}
	return rs, nil
}

// readState reads what the runner tells of its job.
func (t *task) readState() (runner.State, error) {
	var rs runner.State
	f, err := t.shim.OpenLog(t.jobDir(), runner.StateFile)
	if err != nil {
		return rs, err
	}
	defer f.Close()
	err = runner.DecodeShared(f, runner.StateFile, &rs)
	return sensible(rs), err
}

// lastState is refresh for a task whose runner has ended. A state that the host cannot give is tried again, as the
// job's logs are: without it nobody knows how the job did.
func (t *task) lastState(ctx context.Context) (runner.State, error) {
	for begin := time.Now(); ; {
		rs, err := t.refresh()
		if !hostFault(err) {
			return rs, err
		}
		if time.Since(begin) >= logPatience {
			t.shim.Log.Error("how a job ended cannot be read", "task", t.spec.ID, "err", err)
			return rs, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return rs, ctx.Err()
		}
	}
}

// maxOwnLog bounds what is told of a runner's own log, in bytes.
const maxOwnLog = 16 << 20

// logLimit is how much a task may have printed by now, in bytes. The runner keeps to the quota; but whoever
// is root in the container can write to the log as well, or make it long without any bytes in it, and all
// of it would go to the server.
func (t *task) logLimit() int64 {
	quota := t.spec.Job.LogQuotaHour
	if quota <= 0 || quota > maxCount/maxHours {
		return maxCount
	}
	age := max(time.Since(t.known), time.Since(time.UnixMicro(t.state.CreatedAt)), 0) // the clock may have been set back
	return quota * min(int64(age/time.Hour)+2, maxHours)                              // those that have begun, by the runner's count and by ours
}

// maxHours is more than any job runs.
const maxHours = 1 << 16

// start takes a new task through its steps. When the agent ends meanwhile, the next one
// goes on.
func (t *task) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.cancel = cancel
	t.mu.Unlock()
	reason, msg := t.launch(ctx)
	if r, m := t.stopped(); r != "" { // what somebody asked for counts more than what failed then
		reason, msg = r, m
	} else if t.shim.ctx.Err() != nil {
		return
	}
	if reason != "" {
		t.finish(reason, msg, nil)
		return
	}
	var asked *agentapi.Terminate // since the look above; who asks once it runs has the runner told
	t.set(func(v *agentapi.Task) {
		if asked = t.ending; asked == nil {
			v.State = agentapi.Running
		}
	})
	if asked != nil {
		t.finish(asked.Reason, asked.Message, nil)
		return
	}
	t.follow(t.shim.ctx)
}

// launch does everything up to the running container. It returns why it could not.
func (t *task) launch(ctx context.Context) (reason, msg string) {
	s := t.shim
	if r, m := t.stopped(); r != "" {
		return r, m
	}
	t.set(func(v *agentapi.Task) { v.State = agentapi.Preparing })
	gpus, err := t.acquire(ctx)
	if err != nil {
		return agentapi.ExecutorError, err.Error()
	}
	ids := make([]string, len(gpus))
	for i, g := range gpus {
		ids[i] = g.ID
	}
	t.set(func(v *agentapi.Task) { v.GPUs = ids })
	if err := s.hostKeys.add(t.spec.HostUser, t.spec.ID, t.spec.HostKeys); err != nil {
		return agentapi.ExecutorError, "authorize the user's keys on the host: " + err.Error()
	}
	c := runtime.Container{ID: t.spec.ID, Name: t.spec.Name, Dir: t.jobDir(), Blobs: s.blobsDir(t.spec.ID), Spec: t.spec, GPUs: gpus, Vendor: s.gpuVendor()}
	if c.Spec.Mounts, err = prepareMounts(t.spec.Mounts); err != nil {
		return agentapi.ExecutorError, "prepareInstanceMountPoints error: " + err.Error()
	}
	t.set(func(v *agentapi.Task) { v.State = agentapi.Pulling })
	var last time.Time
	err = t.patiently(ctx, func() error {
		return s.Runtime.Pull(ctx, c, func(p agentapi.PullProgress) {
			if time.Since(last) > 300*time.Millisecond {
				last = time.Now()
				t.set(func(v *agentapi.Task) { v.Pull = &p })
			}
		})
	})
	if err != nil {
		return agentapi.CreatingContainerError, "pullImage error: " + err.Error()
	}
	t.set(func(v *agentapi.Task) { v.State, t.boot = agentapi.Creating, s.BootID() })
	if r, m := t.stopped(); r != "" {
		return r, m
	}
	err = t.patiently(ctx, func() error {
		if t.begun() { // started, though the engine could not say so any more: what was done twice would be its job
			return nil
		}
		return s.Runtime.Start(ctx, c)
	})
	if err != nil {
		if len(gpus) > 0 {
			s.look(ctx) // before others get them: one may have fallen off
		}
		return agentapi.CreatingContainerError, "createContainer error: " + err.Error()
	}
	return "", ""
}

// stopped says that somebody asked for the end meanwhile.
func (t *task) stopped() (reason, msg string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending == nil {
		return "", ""
	}
	return t.ending.Reason, t.ending.Message
}

// prepareMounts makes missing directories that everybody may write to (host-agents 1.14),
// and leaves optional mounts out whose source is missing.
func prepareMounts(mounts []agentapi.Mount) ([]agentapi.Mount, error) {
	var usable []agentapi.Mount
	for _, m := range mounts {
		_, err := os.Stat(m.Source)
		switch {
		case err == nil:
		case m.Optional:
			continue
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		default:
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return nil, err
			}
			if err := os.Chmod(m.Source, 0o777); err != nil {
				return nil, err
			}
		}
		usable = append(usable, m)
	}
	return usable, nil
}

// resume goes on with a task of an earlier agent: it follows a job that may have begun,
// and takes the steps of others again. One that is over ends as it did.
func (t *task) resume(ctx context.Context) {
	if o := t.over; o != nil {
		t.finish(o.Reason, o.Message, o.ExitStatus)
		return
	}
	state, _ := t.snapshot()
	begun := t.begun() || state.State == agentapi.Running || t.runs(ctx)
	if !begun && t.lost == nil {
		// After a power failure its folder may hold no more than what says that there is a task.
		if err := t.shim.prepare(t.spec); err != nil {
			t.finish(agentapi.ExecutorError, "lay the task's folder out again: "+err.Error(), nil)
			return
		}
		t.shim.watcher.add(t.spec.ID, t.jobDir()) // it may be new
		t.start(ctx)
		return
	}
	if begun {
		t.set(func(v *agentapi.Task) { v.State = agentapi.Running })
	}
	if err := t.shim.hostKeys.add(t.spec.HostUser, t.spec.ID, t.spec.HostKeys); err != nil {
		t.shim.Log.Warn("authorize a user's keys", "task", t.spec.ID, "err", err)
	}
	t.mu.Lock()
	if !begun && t.ending == nil { // nobody knows how to start it
		t.ending = damaged(t.lost)
	}
	if t.ending != nil && t.stop == nil {
		t.stopBy = time.Now().Add(agentapi.Seconds(t.ending.Grace))
		t.pursue(*t.ending)
	}
	t.mu.Unlock()
	t.follow(ctx)
}

// begun says that the task's runner has: its first act is to write its state.
func (t *task) begun() bool {
	_, err := runner.ReadState(t.jobDir())
	return !errors.Is(err, os.ErrNotExist)
}

// runs says that the task's container has been started and has not ended.
func (t *task) runs(ctx context.Context) bool {
	found, err := t.shim.Runtime.List(ctx)
	if err != nil {
		return false // Start finds it
	}
	return slices.ContainsFunc(found, func(f runtime.Found) bool { return f.ID == t.spec.ID && f.Running })
}

// mayRun says that a container runs, or that nobody knows.
func (s *Shim) mayRun(ctx context.Context, id string) bool {
	found, err := s.Runtime.List(ctx)
	return err != nil || slices.ContainsFunc(found, func(f runtime.Found) bool { return f.ID == id && f.Running })
}

// follow waits for the end of a running container.
func (t *task) follow(ctx context.Context) {
	if rs, err := t.refresh(); err == nil {
		t.findPorts(rs)
	}
	exit, err := t.shim.Runtime.Wait(ctx, t.spec.ID)
	rs, unread := t.lastState(ctx)
	if ctx.Err() != nil {
		return // the next agent goes on
	}
	reason, msg := t.stopped()
	switch {
	case unread == nil && (rs.Phase == runner.Finished || rs.Reason != ""): // the runner may have been killed while it lingered
		t.finish(rs.Reason, rs.Message, rs.ExitStatus)
	case reason != "":
		t.finish(reason, msg, nil)
	case errors.Is(err, runtime.ErrNotFound):
		t.finish(agentapi.ContainerExitedWithError, "the container is gone", nil)
	case err != nil:
		t.finish(agentapi.ExecutorError, err.Error(), nil)
	case t.cutOff(exit):
		t.finish(agentapi.ContainerExitedWithError, "the container was ended by a restart of its host", nil)
	default:
		t.finish(agentapi.ContainerExitedWithError, cmp.Or(exit.Tail, exitText(exit.Code)), exitStatus(exit.Code))
	}
}

// lostCode is what Docker says of a container that it finds dead when it starts, and of whose end nobody has told it.
const lostCode = 255

// cutOff says that a container ended with its host, so that its code is none.
func (t *task) cutOff(exit runtime.Exit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return (exit.Code == lostCode || exit.Code < 0) && t.boot != "" && t.boot != t.shim.BootID()
}

// exitText is how a container ended whose runner has not said how its job did, for people.
func exitText(code int) string {
	switch {
	case code < 0:
		return "the job's runner ended and nobody knows how"
	case code == runner.NoCode:
		return "the job's runner failed and nobody knows how the job did"
	case code > 128 && code < 160: // as shells and engines put a signal
		return "the container was ended by " + runner.SignalText(syscall.Signal(code-128))
	}
	return fmt.Sprintf("the container ended with exit code %d, and its job has not said how it did", code)
}

// exitStatus is the exit code of a job by that of its container, whose runner has not said how the job did; nil when
// it is not known. A runner says 0 also when it has written down how the job ended, which may be another code.
func exitStatus(code int) *int {
	if code <= 0 || code == runner.NoCode {
		return nil
	}
	return &code
}

// portsTimeout bounds the question for a container's ports.
const portsTimeout = 15 * time.Second

// findPorts has the runner's ports found, unless they are known. An engine that hangs must not hold up what
// other tasks print.
func (t *task) findPorts(rs runner.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rs.SSHPort == 0 || rs.HTTPPort == 0 || t.state.Ports != nil || t.state.State != agentapi.Running || t.asking {
		return
	}
	t.asking = true
	t.shim.wg.Go(func() {
		t.setPorts(rs)
		t.mu.Lock()
		t.asking = false
		t.mu.Unlock()
	})
}

// setPorts learns how the runner's ports are reached on the host.
func (t *task) setPorts(rs runner.State) {
	ctx, cancel := context.WithTimeout(t.shim.ctx, portsTimeout)
	defer cancel()
	ports, err := t.shim.Runtime.Ports(ctx, t.spec.ID)
	if err != nil {
		return // the next look tries again
	}
	outside := func(inside int) int {
		if p, ok := ports[inside]; ok {
			return p
		}
		return inside
	}
	t.set(func(v *agentapi.Task) {
		v.Ports = map[int]int{agentapi.RunnerSSHPort: outside(rs.SSHPort)}
		if len(ports) == 0 {
			v.Ports[agentapi.RunnerHTTPPort] = rs.HTTPPort
		}
	})
}

// finish ends a task: the container is removed, everything it held is given back.
func (t *task) finish(reason, msg string, exit *int) {
	s := t.shim
	msg = short(msg, maxText)
	t.mu.Lock()
	t.over = &outcome{reason, msg, exit}
	t.mu.Unlock()
	t.store()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), time.Minute)
	defer cancel()
	left := false
	if err := s.Runtime.Remove(ctx, t.spec.ID); err != nil {
		s.Log.Warn("remove a container", "task", t.spec.ID, "err", err) // Delete and the next start try again
		left = s.mayRun(ctx, t.spec.ID)
	}
	if err := s.hostKeys.remove(t.spec.HostUser, t.spec.ID); err != nil {
		s.Log.Warn("remove a user's keys", "task", t.spec.ID, "err", err) // Delete tries again
	}
	if left { // the sweep gives them back, once it has ended
		t.keepGPUs()
	} else {
		s.gpus.Release(t.spec.ID)
	}
	_, _ = t.refresh() // for the logs
	t.set(func(v *agentapi.Task) {
		v.State, v.Reason, v.Message, v.ExitStatus = agentapi.Terminated, reason, msg, exit
		v.FinishedAt = time.Now().UnixMicro()
	})
	close(t.ended)
}
