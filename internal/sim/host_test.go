package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend/fake"
)

// agent is a machine with its agent: it keeps tasks over restarts of the agent, ends them
// when it restarts itself, and is gone with its machine. Like the real agent it derives its
// events from what it keeps.
type agent struct {
	w    *world
	name string // address or machine id, for traces
	ip   string // by which other hosts reach it

	mu        sync.Mutex
	key       string // host key
	boot      int
	off       atomic.Bool   // gone for good
	gone      chan struct{} // closed then
	installed bool          // installed
	seq       int64
	tasks     map[string]*task
	order     []string      // of tasks, by arrival
	count     int           // of tasks, ever
	changed   chan struct{} // closed when there is something to tell
	down      chan struct{} // closed when the machine restarts or is gone
	cutTill   time.Time     // no packet passes before
	lag       time.Duration // of events
	skew      time.Duration // of the host's clock; it does not change
	kill      time.Duration // that it takes to end a task which is not asked
	most      int           // tasks that ran at a time, ever
	gpus      int           // that its driver lists
	made      int           // GPUs that a machine of a cloud was made with
	older     bool          // its agent is of the version before, see TestOlderAgent
}

// task is a job on a host.
type task struct {
	h       *agent
	num     int // of the host's tasks
	spec    agentapi.TaskSpec
	script  script
	stop    chan struct{} // closed when its end is asked for
	ending  *agentapi.Terminate
	state   agentapi.Task
	version int64
	log     []byte
	acked   int64     // of the log
	ready   time.Time // of a service
}

func newHost(w *world, name string, num int, installed bool) *agent {
	return &agent{w: w, name: name, ip: fmt.Sprintf("10.9.%d.%d", num>>8&255, num&255), key: "ssh-ed25519 " + name, boot: 1, installed: installed,
		tasks: map[string]*task{}, changed: make(chan struct{}), down: make(chan struct{}), gone: make(chan struct{}), skew: skewOf(w.seed, name)}
}

// skewOf is by how much a host's clock is wrong: up to six hours for one host in three. It is
// drawn apart from everything else, so that seeds keep their worlds.
func skewOf(seed uint64, name string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte("clock of " + name)) // a hash takes everything
	rnd := rand.New(rand.NewPCG(seed, h.Sum64()))
	if rnd.IntN(3) > 0 {
		return 0
	}
	return seconds(rnd, -6*3600, 6*3600)
}

// clock is what the host believes the time is, in microseconds.
func (h *agent) clock() int64 { return time.Now().Add(h.skew).UnixMicro() }

// tell wakes the streams. It wants the mutex held.
func (h *agent) tell() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *agent) info() agentapi.HostInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	info := agentapi.HostInfo{
		Protocol: agentapi.Version, Version: "sim", BootID: fmt.Sprint(h.name, "/", h.boot), InstanceKey: h.key, Runtime: "docker", Arch: "x86",
		Hostname: h.name, CPUs: 16, Memory: 128 << 30, DiskSize: 1000 << 30, Addresses: []string{h.ip + "/16"}, DefaultAddress: h.ip + "/16",
		UnixMicros: h.clock(), GPUVendor: "none", GPUs: []agentapi.GPU{}, Warnings: []string{},
	}
	for n := range h.gpus {
		info.GPUVendor = "nvidia"
		info.GPUs = append(info.GPUs, agentapi.GPU{ID: fmt.Sprint("GPU-", n), Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559})
	}
	return info
}

// lists changes how many GPUs the host's driver lists. The agent tells by ending its streams.
func (h *agent) lists(gpus int) {
	h.mu.Lock()
	h.gpus = gpus
	h.mu.Unlock()
	h.dropLinks()
}

func (h *agent) list() []agentapi.Task {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []agentapi.Task{}
	for _, id := range h.order {
		list = append(list, h.tasks[id].state)
	}
	return list
}

// logOf is what a task has written.
func (h *agent) logOf(id string) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.tasks[id]
	if !ok {
		return nil, false
	}
	return slices.Clone(t.log), true
}

// put starts a task, once.
func (h *agent) put(spec agentapi.TaskSpec) agentapi.Task {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.tasks[spec.ID]; t != nil {
		return t.state
	}
	h.count++
	running := 1
	for _, other := range h.tasks {
		if other.state.State != agentapi.Terminated {
			running++
		}
	}
	h.most = max(h.most, running)
	t := &task{h: h, num: h.count, spec: spec, stop: make(chan struct{}), script: h.w.scriptOf(spec)}
	t.state = agentapi.Task{ID: spec.ID, Name: spec.Name, State: agentapi.Pending, CreatedAt: h.clock()}
	h.tasks[spec.ID] = t
	h.order = append(h.order, spec.ID)
	h.w.checks.arrived(t)
	if spec.GPUs < 0 && h.gpus < h.made { // all there are
		t.finish(agentapi.ExecutorError, fmt.Sprintf("the job has %d GPUs of %d", h.gpus, h.made), nil)
	}
	h.tell()
	go t.live()
	return t.state
}

func (h *agent) terminate(id string, how agentapi.Terminate) (agentapi.Task, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tasks[id]
	if t == nil {
		return agentapi.Task{}, false
	}
	if t.state.State != agentapi.Terminated && (t.ending == nil || how.Grace < t.ending.Grace) {
		if t.ending == nil {
			close(t.stop)
		}
		t.ending = &how
		if how.Grace == 0 && h.kill == 0 {
			t.finish(how.Reason, how.Message, nil)
		}
	}
	return t.state, true
}

// forget deletes a task; busy says that it has not ended.
func (h *agent) forget(id string) (known, busy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tasks[id]
	if t == nil || t.state.State != agentapi.Terminated {
		return t != nil, t != nil
	}
	h.w.checks.forgotten(t)
	delete(h.tasks, id)
	h.order = slices.DeleteFunc(h.order, func(s string) bool { return s == id })
	return true, false
}

// cut lets no packet pass for a while.
func (h *agent) cut(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cutTill = time.Now().Add(d)
	h.w.checks.cut(h, h.cutTill)
	h.tell()
}

// open waits until packets pass, or returns false when done is closed before.
func (h *agent) open(done <-chan struct{}) bool {
	for {
		h.mu.Lock()
		wait, changed := time.Until(h.cutTill), h.changed
		h.mu.Unlock()
		if wait <= 0 {
			return true
		}
		select {
		case <-time.After(wait):
		case <-changed: // it may be over sooner
		case <-done:
			return false
		}
	}
}

// hasAgent says that somebody has put the agent onto the machine.
func (h *agent) hasAgent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.installed
}

func (h *agent) isOff() bool { return h.off.Load() }

// reboot ends all tasks and connections. The machine is back after a while.
func (h *agent) reboot(d time.Duration) {
	h.mu.Lock()
	if h.off.Load() {
		h.mu.Unlock()
		return
	}
	h.boot++
	h.cutTill = time.Now().Add(d)
	h.w.checks.cut(h, h.cutTill)
	for _, id := range h.order {
		if t := h.tasks[id]; t.state.State != agentapi.Terminated {
			t.finish(agentapi.ContainerExitedWithError, "the machine restarted", nil)
		}
	}
	close(h.down)
	h.down = make(chan struct{})
	h.tell()
	h.mu.Unlock()
}

// die ends the machine.
func (h *agent) die() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off.Load() {
		return
	}
	h.off.Store(true)
	close(h.gone)
	close(h.down)
	h.tell()
}

// dropLinks breaks the connections, as a restart of the agent does.
func (h *agent) dropLinks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off.Load() {
		return
	}
	close(h.down)
	h.down = make(chan struct{})
	for _, id := range h.order {
		t := h.tasks[id]
		if t.state.State != agentapi.Terminated {
			t.version++ // the new agent tells all again
		}
	}
	h.tell()
}

// uninstall takes the agent off, with its tasks.
func (h *agent) uninstall() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range h.order {
		if t := h.tasks[id]; t.state.State != agentapi.Terminated {
			t.finish(agentapi.TerminatedByServer, "the agent was taken off", nil)
		}
		h.w.checks.forgotten(h.tasks[id])
	}
	h.tasks, h.order, h.installed = map[string]*task{}, nil, false
	h.tell()
}

// live takes a task through its life.
func (t *task) live() {
	s := t.script
	if !t.awaitGPUs() {
		return
	}
	for _, step := range []struct {
		state agentapi.State
		lasts time.Duration
	}{{agentapi.Preparing, 50 * time.Millisecond}, {agentapi.Pulling, s.Pull}, {agentapi.Creating, 200 * time.Millisecond}, {agentapi.Running, 100 * time.Millisecond}} {
		if !t.set(func(v *agentapi.Task) { v.State = step.state }) {
			return
		}
		if !t.sleep(step.lasts) {
			t.stopped(0)
			return
		}
	}
	if !t.set(func(v *agentapi.Task) {
		v.Started, v.Username, v.WorkingDir = true, "root", "/workflow"
		v.Ports = map[int]int{agentapi.RunnerSSHPort: agentapi.RunnerSSHPort}
		if t.spec.Network != "host" {
			v.Ports[agentapi.RunnerSSHPort] = 20_000 + t.num
		}
		t.ready = time.Now().Add(s.Ready)
	}) {
		return
	}
	end := time.Now().Add(s.Run)
	if m := time.Duration(t.spec.Job.MaxDuration) * time.Second; m > 0 && m < s.Run {
		end = time.Now().Add(m)
	}
	for n := range s.Lines {
		if !t.sleep(min(s.Run/time.Duration(s.Lines+1), time.Until(end))) {
			t.stopped(s.Stop)
			return
		}
		t.print(fmt.Sprintf("%s line %d at %s\n", t.spec.Name, n, time.Now().Format(time.RFC3339Nano)))
	}
	if !t.sleep(time.Until(end)) {
		t.stopped(s.Stop)
		return
	}
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	switch exit := s.Exit; {
	case t.spec.Job.MaxDuration > 0 && time.Duration(t.spec.Job.MaxDuration)*time.Second < s.Run:
		t.finish(agentapi.MaxDurationExceeded, "", nil)
	case exit == 0:
		t.finish(agentapi.DoneByRunner, "", &exit)
	default:
		t.finish(agentapi.ContainerExitedWithError, "", &exit)
	}
}

// awaitGPUs waits for those that the task is to have, as agents do; false when it has ended.
func (t *task) awaitGPUs() bool {
	const pause, patience = 5 * time.Second, 5 * time.Minute
	for waited := time.Duration(0); ; waited += pause {
		t.h.mu.Lock()
		has := t.h.gpus
		if t.spec.GPUs > has && waited >= patience {
			t.finish(agentapi.ExecutorError, fmt.Sprintf("no capacity: %d GPUs requested, %d available", t.spec.GPUs, has), nil)
		}
		over := t.state.State == agentapi.Terminated
		t.h.mu.Unlock()
		if over || t.spec.GPUs <= has {
			return !over
		}
		if !t.sleep(pause) {
			t.stopped(0)
			return false
		}
	}
}

// sleep waits; false when the task is asked to end, or has ended, or its machine is gone.
func (t *task) sleep(d time.Duration) bool {
	if d <= 0 {
		d = time.Microsecond
	}
	select {
	case <-time.After(d):
		return true
	case <-t.stop:
		return false
	case <-t.h.gone:
		return false
	}
}

// stopped ends a task as asked, after the time that the job takes for it.
func (t *task) stopped(takes time.Duration) {
	t.h.mu.Lock()
	if t.ending == nil { // the machine is gone
		t.h.mu.Unlock()
		return
	}
	how, kill := *t.ending, t.h.kill
	t.h.mu.Unlock()
	if how.Grace == 0 && kill > 0 {
		time.Sleep(kill)
	}
	if takes = min(takes, time.Duration(how.Grace)*time.Second); takes > 0 {
		time.Sleep(takes)
		t.print("interrupted\n")
	}
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	t.finish(t.ending.Reason, t.ending.Message, nil)
}

// set changes the state; false when the task has ended.
func (t *task) set(change func(*agentapi.Task)) bool {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if t.state.State == agentapi.Terminated || t.h.off.Load() {
		return false
	}
	change(&t.state)
	t.version++
	t.h.tell()
	return true
}

func (t *task) print(line string) {
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	if t.state.State == agentapi.Terminated || t.h.off.Load() {
		return
	}
	t.log = append(t.log, line...)
	t.state.JobLog = int64(len(t.log))
	t.h.w.checks.printed(t.spec.ID, t.log)
	t.h.tell()
}

// finish ends the task. It wants the host's mutex held.
func (t *task) finish(reason, msg string, exit *int) {
	if t.state.State == agentapi.Terminated || t.h.off.Load() {
		return
	}
	t.state.State, t.state.Reason, t.state.Message, t.state.ExitStatus = agentapi.Terminated, reason, msg, exit
	t.state.FinishedAt = t.h.clock()
	t.version++
	t.h.w.checks.finished(t)
	if t.ending == nil {
		t.ending = &agentapi.Terminate{Reason: reason}
		close(t.stop)
	}
	t.h.tell()
}

// late delays the events from now on.
func (h *agent) late(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lag = d
}

// withHost runs fn in a world whose user has one host, which has yet to be added. prepare changes the host before
// the server starts; nil for nothing.
func withHost(t *testing.T, tp template, prepare func(h *agent), fn func(t *testing.T, w *world, h *agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers()})
		}
		h := newHost(w, "host0.example", 1, false)
		if prepare != nil {
			prepare(h)
		}
		w.hosts[h.name] = h
		w.start()
		defer w.end()
		fn(t, w, h)
	})
}

// sshFleet is the configuration of a fleet of hosts of the user.
func (w *world) sshFleet(hosts ...string) object {
	return object{"ssh_config": object{"user": "root", "ssh_key": w.keys, "hosts": hosts}}
}
