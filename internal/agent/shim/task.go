package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// task is one task with its lock. Its state is stored before the step that it announces.
type task struct {
	shim *Shim
	spec agentapi.TaskSpec

	storing sync.Mutex // held while state goes to disk, so that the newest is the last
	mu      sync.Mutex
	state   agentapi.Task
	version int64 // grows with every change of state
	acked   acked
	cancel  context.CancelFunc // of preparing and pulling
	ending  *agentapi.Terminate
	ended   chan struct{} // closed once Terminated
}

func (s *Shim) newTask(spec agentapi.TaskSpec) *task {
	return &task{shim: s, spec: spec, ended: make(chan struct{}), state: agentapi.Task{
		ID: spec.ID, Name: spec.Name, State: agentapi.Pending, CreatedAt: time.Now().UnixMicro(),
	}}
}

func (s *Shim) loadTask(id string) (*task, error) {
	dir := s.taskDir(id)
	var spec agentapi.TaskSpec
	if err := readJSON(filepath.Join(dir, taskFile), &spec); err != nil {
		return nil, err
	}
	t := s.newTask(spec)
	if err := readJSON(filepath.Join(dir, stateFile), &t.state); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	_ = readJSON(filepath.Join(dir, acksFile), &t.acked) // absent: the server gets everything again
	t.refresh()
	if t.state.State == agentapi.Terminated {
		close(t.ended)
	}
	return t, nil
}

func (t *task) dir() string { return t.shim.taskDir(t.spec.ID) }

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
	state, _ := t.snapshot()
	if err := writeJSON(filepath.Join(t.dir(), stateFile), state, 0o600); err != nil {
		t.shim.Log.Error("store a task's state", "task", t.spec.ID, "err", err)
	}
}

// refresh takes over what the runner wrote: its state and the sizes of the logs.
func (t *task) refresh() (runner.State, bool) {
	size := func(name string) int64 {
		st, err := os.Stat(filepath.Join(t.dir(), name))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	rs, err := runner.ReadState(t.dir())
	job, own := size(runner.JobLogFile), size(runner.OwnLogFile)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.JobLog, t.state.RunnerLog = job, own
	if err != nil {
		return rs, false
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
	return rs, true
}

// start takes a new task through its steps.
func (t *task) start(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.cancel = cancel
	t.mu.Unlock()
	if reason, msg := t.launch(ctx); reason != "" {
		t.finish(reason, msg, nil)
		return
	}
	t.follow(t.shim.ctx)
}

// launch does everything up to the running container. It returns why it could not.
func (t *task) launch(ctx context.Context) (reason, msg string) {
	s := t.shim
	t.set(func(v *agentapi.Task) { v.State = agentapi.Preparing })
	gpus, err := s.gpus.Acquire(t.spec.ID, t.spec.GPUs)
	if err != nil {
		return agentapi.ExecutorError, err.Error()
	}
	t.set(func(v *agentapi.Task) {
		for _, g := range gpus {
			v.GPUs = append(v.GPUs, g.ID)
		}
	})
	if err := s.hostKeys.add(t.spec.HostUser, t.spec.ID, t.spec.HostKeys); err != nil {
		return agentapi.ExecutorError, "authorize the user's keys on the host: " + err.Error()
	}
	for i, m := range t.spec.Mounts {
		if err := prepareMount(m); err != nil {
			if m.Optional {
				t.spec.Mounts[i].Source = ""
				continue
			}
			return agentapi.ExecutorError, "prepareInstanceMountPoints error: " + err.Error()
		}
	}
	c := t.container()
	c.GPUs = gpus
	t.set(func(v *agentapi.Task) { v.State = agentapi.Pulling })
	var last time.Time
	err = s.Runtime.Pull(ctx, c, func(p agentapi.PullProgress) {
		if time.Since(last) > 300*time.Millisecond {
			last = time.Now()
			t.set(func(v *agentapi.Task) { v.Pull = &p })
		}
	})
	if r, m := t.stopped(); r != "" {
		return r, m
	}
	if err != nil {
		return agentapi.CreatingContainerError, "pullImage error: " + err.Error()
	}
	t.set(func(v *agentapi.Task) { v.State = agentapi.Creating })
	if err := s.Runtime.Start(ctx, c); err != nil {
		if r, m := t.stopped(); r != "" {
			return r, m
		}
		return agentapi.CreatingContainerError, "createContainer error: " + err.Error()
	}
	t.set(func(v *agentapi.Task) { v.State = agentapi.Running })
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

func (t *task) container() runtime.Container {
	spec := t.spec
	spec.Mounts = nil
	for _, m := range t.spec.Mounts {
		if m.Source != "" {
			spec.Mounts = append(spec.Mounts, m)
		}
	}
	return runtime.Container{ID: t.spec.ID, Name: t.spec.Name, Dir: t.dir(), Spec: spec, Vendor: t.shim.host.GPUVendor}
}

// prepareMount makes a missing directory that everybody may write to (host-agents 1.14).
func prepareMount(m agentapi.Mount) error {
	if _, err := os.Stat(m.Source); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if m.Optional {
		return os.ErrNotExist
	}
	if err := os.MkdirAll(m.Source, 0o755); err != nil {
		return err
	}
	return os.Chmod(m.Source, 0o777)
}

// resume goes on with a task of an earlier agent.
func (t *task) resume(ctx context.Context) {
	state, _ := t.snapshot()
	if state.State == agentapi.Running || t.exists(ctx) {
		t.set(func(v *agentapi.Task) { v.State = agentapi.Running })
		if err := t.shim.hostKeys.add(t.spec.HostUser, t.spec.ID, t.spec.HostKeys); err != nil {
			t.shim.Log.Warn("authorize a user's keys", "task", t.spec.ID, "err", err)
		}
		t.follow(ctx)
		return
	}
	t.shim.gpus.Release(t.spec.ID)
	t.start(ctx)
}

func (t *task) exists(ctx context.Context) bool {
	found, err := t.shim.Runtime.List(ctx)
	if err != nil {
		return false
	}
	for _, f := range found {
		if f.ID == t.spec.ID {
			return true
		}
	}
	return false
}

// follow waits for the end of a running container.
func (t *task) follow(ctx context.Context) {
	if rs, ok := t.refresh(); ok {
		t.setPorts(ctx, rs)
	}
	exit, err := t.shim.Runtime.Wait(ctx, t.spec.ID)
	if ctx.Err() != nil {
		return // the next agent goes on
	}
	rs, ok := t.refresh()
	reason, msg := t.stopped()
	switch {
	case ok && rs.Phase == runner.Finished:
		t.finish(rs.Reason, rs.Message, rs.ExitStatus)
	case reason != "":
		t.finish(reason, msg, nil)
	case errors.Is(err, runtime.ErrNotFound):
		t.finish(agentapi.ContainerExitedWithError, "the container is gone", nil)
	case err != nil:
		t.finish(agentapi.ExecutorError, err.Error(), nil)
	default:
		code := exit.Code
		t.finish(agentapi.ContainerExitedWithError, exit.Tail, &code)
	}
}

// setPorts learns how the runner's ports are reached on the host.
func (t *task) setPorts(ctx context.Context, rs runner.State) {
	state, _ := t.snapshot()
	if rs.SSHPort == 0 || state.Ports != nil || state.State != agentapi.Running {
		return
	}
	ports, err := t.shim.Runtime.Ports(ctx, t.spec.ID)
	if err != nil {
		return // the next change of the runner's state tries again
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), time.Minute)
	defer cancel()
	if err := s.Runtime.Remove(ctx, t.spec.ID); err != nil {
		s.Log.Warn("remove a container", "task", t.spec.ID, "err", err) // Delete and the next start try again
	}
	if err := s.hostKeys.remove(t.spec.HostUser, t.spec.ID); err != nil {
		s.Log.Warn("remove a user's keys", "task", t.spec.ID, "err", err)
	}
	s.gpus.Release(t.spec.ID)
	t.refresh()
	t.set(func(v *agentapi.Task) {
		v.State, v.Reason, v.Message, v.ExitStatus = agentapi.Terminated, reason, msg, exit
		v.FinishedAt = time.Now().UnixMicro()
	})
	close(t.ended)
}

// terminate asks for the end. It returns at once; the state follows on the stream.
func (t *task) terminate(req agentapi.Terminate) {
	t.mu.Lock()
	state := t.state.State
	if t.ending == nil || req.Grace < t.ending.Grace {
		if t.ending != nil { // the first reason stays
			req.Reason, req.Message = t.ending.Reason, t.ending.Message
		}
		t.ending = &req
	}
	cancel := t.cancel
	t.mu.Unlock()
	switch state {
	case agentapi.Terminated:
	case agentapi.Running:
		t.shim.wg.Go(func() { t.stop(req) })
	default:
		if cancel != nil {
			cancel()
		}
	}
}

// stop tells the runner, and kills the container when it does not obey.
func (t *task) stop(req agentapi.Terminate) {
	ctx, cancel := context.WithTimeout(t.shim.ctx, time.Duration(req.Grace)*time.Second+10*time.Second)
	defer cancel()
	if req.Grace > 0 && t.tell(ctx, req) == nil {
		select {
		case <-t.ended:
			return
		case <-ctx.Done():
		}
	}
	if t.shim.ctx.Err() != nil {
		return
	}
	kctx, kcancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer kcancel()
	if err := t.shim.Runtime.Kill(kctx, t.spec.ID); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		t.shim.Log.Error("kill a container", "task", t.spec.ID, "err", err)
	}
}

// tell posts to the runner's control socket.
func (t *task) tell(ctx context.Context, req agentapi.Terminate) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, done, err := runner.ShortPath(filepath.Join(t.dir(), runner.ControlFile))
		if err != nil {
			return nil, err
		}
		defer done()
		return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", short)
	}}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runner/stop", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return fmt.Errorf("tell the runner: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("tell the runner: %s", resp.Status)
	}
	return nil
}
