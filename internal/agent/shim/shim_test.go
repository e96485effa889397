package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// engine is a container runtime in memory. It lives on when the agent is started again.
type engine struct {
	mu     sync.Mutex
	boxes  map[string]*box
	starts map[string]int
	// gate, if not nil, is asked before each call returns; it may block or fail.
	gate func(ctx context.Context, call, id string) error
}

type box struct {
	running bool
	gpus    []string // nil for one that does not say
	awaited bool     // somebody waits for its end
	exit    runtime.Exit
	ended   chan struct{}
}

func newEngine() *engine { return &engine{boxes: map[string]*box{}, starts: map[string]int{}} }

func (e *engine) pass(ctx context.Context, call, id string) error {
	e.mu.Lock()
	gate := e.gate
	e.mu.Unlock()
	if gate == nil {
		return nil
	}
	return gate(ctx, call, id)
}

func (e *engine) setGate(gate func(ctx context.Context, call, id string) error) {
	e.mu.Lock()
	e.gate = gate
	e.mu.Unlock()
}

func (e *engine) Name() string { return "docker" }

func (e *engine) Version(context.Context) (string, error) { return "1", nil }

func (e *engine) Pull(ctx context.Context, c runtime.Container, progress func(agentapi.PullProgress)) error {
	progress(agentapi.PullProgress{Downloaded: 1, Total: 2})
	return e.pass(ctx, "pull", c.ID)
}

func (e *engine) Start(ctx context.Context, c runtime.Container) error {
	if err := e.pass(ctx, "create", c.ID); err != nil {
		return err
	}
	e.mu.Lock()
	b := e.boxes[c.ID]
	if b == nil {
		b = &box{ended: make(chan struct{}), gpus: []string{}}
		for _, g := range c.GPUs {
			b.gpus = append(b.gpus, g.ID)
		}
		e.boxes[c.ID] = b
	}
	if !b.running {
		b.running = true
		e.starts[c.ID]++
	}
	e.mu.Unlock()
	return e.pass(ctx, "start", c.ID)
}

func (e *engine) Ports(ctx context.Context, id string) (map[int]int, error) {
	if err := e.pass(ctx, "ports", id); err != nil {
		return nil, err
	}
	return map[int]int{agentapi.RunnerSSHPort: 32768}, nil
}

func (e *engine) box(id string) *box {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.boxes[id]
}

func (e *engine) Wait(ctx context.Context, id string) (runtime.Exit, error) {
	e.mu.Lock()
	b := e.boxes[id]
	if b != nil {
		b.awaited = true
	}
	e.mu.Unlock()
	if b == nil {
		return runtime.Exit{}, runtime.ErrNotFound
	}
	select {
	case <-b.ended:
		return b.exit, nil
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

func (e *engine) end(id string, exit runtime.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b := e.boxes[id]; b != nil && b.running {
		b.running, b.exit = false, exit
		close(b.ended)
	}
}

func (e *engine) Kill(ctx context.Context, id string) error {
	if err := e.pass(ctx, "kill", id); err != nil {
		return err
	}
	if e.box(id) == nil {
		return runtime.ErrNotFound
	}
	e.end(id, runtime.Exit{Code: 137})
	return nil
}

func (e *engine) Remove(ctx context.Context, id string) error {
	if err := e.pass(ctx, "remove", id); err != nil {
		return err
	}
	e.end(id, runtime.Exit{Code: 137})
	e.mu.Lock()
	delete(e.boxes, id)
	e.mu.Unlock()
	return nil
}

func (e *engine) List(ctx context.Context) ([]runtime.Found, error) {
	if err := e.pass(ctx, "list", ""); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []runtime.Found
	for id, b := range e.boxes {
		list = append(list, runtime.Found{ID: id, Running: b.running, GPUs: b.gpus})
	}
	return list, nil
}

// agent is a running agent with a client.
type agent struct {
	*agentapi.Client
	t      *testing.T
	home   string
	engine *engine
	cancel context.CancelFunc
	done   chan error
}

func newHome(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func run(t *testing.T, home string, e *engine, change ...func(*Config)) *agent {
	t.Helper()
	a := &agent{t: t, home: home, engine: e, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	a.Client = agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(home, agentapi.SocketName))
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Home: home, Runtime: e, Self: self, SocketUser: -1, Log: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&c)
	}
	go func() { a.done <- Run(ctx, c) }()
	t.Cleanup(a.stop)
	a.until("the agent answers", func() bool { _, err := a.Host(ctx); return err == nil })
	return a
}

// stop ends the agent as a signal does.
func (a *agent) stop() {
	a.cancel()
	a.Close()
	select {
	case err := <-a.done:
		if err != nil {
			a.t.Error(err)
		}
		a.done <- nil
	case <-time.After(20 * time.Second):
		a.t.Error("the agent does not end")
	}
}

// crash starts another agent on what a machine that lost power now would have on disk.
// The containers are as they are.
func (a *agent) crash() *agent {
	a.t.Helper()
	home := newHome(a.t)
	for _, dir := range []string{"tasks", "blobs"} {
		if err := os.CopyFS(filepath.Join(home, dir), os.DirFS(filepath.Join(a.home, dir))); err != nil {
			a.t.Fatal(err)
		}
	}
	a.engine.setGate(nil)
	return run(a.t, home, a.engine)
}

// until polls what the agent does on its own.
func (a *agent) until(what string, ok func() bool) {
	a.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			a.t.Fatalf("not in time: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func spec() agentapi.TaskSpec {
	id := uuid.NewString()
	return agentapi.TaskSpec{ID: id, Name: "task-0-0", Image: "x:1", Network: "bridge", Job: agentapi.JobSpec{JobID: id, Command: []string{"true"}}}
}

func (a *agent) put(s agentapi.TaskSpec) agentapi.Task {
	a.t.Helper()
	v, err := a.Put(a.t.Context(), s)
	if err != nil {
		a.t.Fatal(err)
	}
	return v
}

func (a *agent) get(id string) agentapi.Task {
	a.t.Helper()
	list, err := a.Tasks(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	for _, v := range list {
		if v.ID == id {
			return v
		}
	}
	return agentapi.Task{}
}

func (a *agent) reaches(id string, state agentapi.State) agentapi.Task {
	a.t.Helper()
	a.until(fmt.Sprintf("the task is %s", state), func() bool { return a.get(id).State == state })
	return a.get(id)
}

func (a *agent) terminate(id string, req agentapi.Terminate) {
	a.t.Helper()
	if _, err := a.Terminate(a.t.Context(), id, req); err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) dir(id string) string { return filepath.Join(a.home, "tasks", id) }

// job is the part of a task's folder that its container sees.
func (a *agent) job(id string) string { return filepath.Join(a.dir(id), runtime.JobDir) }

// print does what a runner does with its job's output.
func (a *agent) print(id, text string) {
	a.t.Helper()
	f, err := os.OpenFile(filepath.Join(a.job(id), runner.JobLogFile), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		a.t.Fatal(err)
	}
}

// tell does what a runner does when its state changes.
func (a *agent) tell(id string, s runner.State) {
	a.t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := runner.WriteFile(filepath.Join(a.job(id), runner.StateFile), data, 0o644); err != nil {
		a.t.Fatal(err)
	}
}

// finish ends a job the way its runner would.
func (a *agent) finish(id string, code int) {
	a.t.Helper()
	a.tell(id, runner.State{Version: 9, Phase: runner.Finished, Reason: agentapi.DoneByRunner, ExitStatus: &code})
	a.engine.end(id, runtime.Exit{})
}

func TestTask(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := spec()
	if v := a.put(s); v.ID != s.ID || v.Name != s.Name {
		t.Errorf("%+v", v)
	}
	if v := a.reaches(s.ID, agentapi.Running); v.Started || v.Ports != nil || v.FinishedAt != 0 {
		t.Errorf("running: %+v", v)
	}
	a.tell(s.ID, runner.State{Version: 1, Phase: runner.Running, Username: "root", WorkingDir: "/w", SSHPort: agentapi.RunnerSSHPort, HTTPPort: agentapi.RunnerHTTPPort})
	a.until("the runner's state arrives", func() bool { v := a.get(s.ID); return v.Started && v.Ports != nil })
	if v := a.get(s.ID); v.Username != "root" || v.WorkingDir != "/w" || v.Ports[agentapi.RunnerSSHPort] != 32768 {
		t.Errorf("started: %+v", v)
	}
	if err := a.Delete(t.Context(), s.ID); !agentapi.IsCode(err, agentapi.CodeConflict) {
		t.Errorf("deleting a running task: %v", err)
	}
	a.print(s.ID, "hello\n")
	a.finish(s.ID, 3)
	v := a.reaches(s.ID, agentapi.Terminated)
	if v.Reason != agentapi.DoneByRunner || v.ExitStatus == nil || *v.ExitStatus != 3 || v.JobLog != 6 || v.FinishedAt == 0 {
		t.Errorf("terminated: %+v", v)
	}
	if a.engine.box(s.ID) != nil {
		t.Error("the container is left")
	}
	a.terminate(s.ID, agentapi.Terminate{Reason: agentapi.TerminatedByUser})
	if v := a.put(s); v.Reason != agentapi.DoneByRunner || a.engine.starts[s.ID] != 1 {
		t.Errorf("asked again for a task that has ended: %+v", v)
	}
	for range 2 {
		if err := a.Delete(t.Context(), s.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := os.Stat(a.dir(s.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the task's folder: %v", err)
	}
}

// However a container ends without its runner's word, the task does.
func TestContainerEnds(t *testing.T) {
	code := func(n int) *int { return &n }
	ends := func(exit runtime.Exit) func(*engine, string) { return func(e *engine, id string) { e.end(id, exit) } }
	for name, c := range map[string]struct {
		end    func(*engine, string)
		want   string
		status *int
	}{
		"by itself":        {ends(runtime.Exit{Code: 2, Tail: "last words"}), "last words", code(2)},
		"without a word":   {ends(runtime.Exit{Code: 2}), "the container ended with exit code 2, and its job has not said how it did", code(2)},
		"by a signal":      {ends(runtime.Exit{Code: 139}), "the container was ended by signal 11 (SIGSEGV)", code(139)},
		"written down":     {ends(runtime.Exit{}), "the container ended with exit code 0, and its job has not said how it did", nil},
		"runner failed":    {ends(runtime.Exit{Code: runner.NoCode}), "the job's runner failed and nobody knows how the job did", nil},
		"nobody knows how": {ends(runtime.Exit{Code: -1}), "the job's runner ended and nobody knows how", nil},
		"removed": {
			func(e *engine, id string) { _ = e.Remove(context.Background(), id) },
			"the container was ended by signal 9 (SIGKILL), which is usually a lack of memory", code(137),
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := run(t, newHome(t), newEngine())
			s := spec()
			a.put(s)
			a.until("the agent waits for its end", func() bool {
				a.engine.mu.Lock()
				defer a.engine.mu.Unlock()
				b := a.engine.boxes[s.ID]
				return b != nil && b.awaited
			})
			c.end(a.engine, s.ID)
			if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.ContainerExitedWithError || v.Message != c.want || !reflect.DeepEqual(v.ExitStatus, c.status) {
				t.Errorf("%+v", v)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		spec func(*agentapi.TaskSpec)
		call string
		want agentapi.Task
	}{
		"pull":   {call: "pull", want: agentapi.Task{Reason: agentapi.CreatingContainerError, Message: "pullImage error: no"}},
		"create": {call: "create", want: agentapi.Task{Reason: agentapi.CreatingContainerError, Message: "createContainer error: no"}},
		"keys":   {spec: func(s *agentapi.TaskSpec) { s.HostUser, s.HostKeys = "nobody-here", []string{"ssh-ed25519 AAAA"} }, want: agentapi.Task{Reason: agentapi.ExecutorError, Message: "authorize the user's keys on the host: user: unknown user nobody-here"}},
		"mounts": {spec: func(s *agentapi.TaskSpec) { s.Mounts = []agentapi.Mount{{Source: "/proc/none/x", Target: "/x"}} }, want: agentapi.Task{Reason: agentapi.ExecutorError, Message: "prepareInstanceMountPoints error: mkdir /proc/none: no such file or directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			e.gate = func(_ context.Context, call, _ string) error {
				if call == c.call {
					return errors.New("no")
				}
				return nil
			}
			a := run(t, newHome(t), e)
			s := spec()
			if c.spec != nil {
				c.spec(&s)
			}
			a.put(s)
			if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != c.want.Reason || v.Message != c.want.Message {
				t.Errorf("%q, %q", v.Reason, v.Message)
			}
		})
	}
}

// steps are the moments between which a task's state is on disk.
var steps = []string{"pull", "create", "start"}

// rooted is an engine whose folder cannot be had, since it hangs.
type rooted struct{ *engine }

func (rooted) Root(ctx context.Context) string {
	<-ctx.Done()
	return ""
}

// While the engine hangs, the host answers and what tasks print is told.
func TestHangingEngine(t *testing.T) {
	e := newEngine()
	a := run(t, newHome(t), e, func(c *Config) { c.Runtime = rooted{e} })
	s, other := a.running(), a.running()
	heard := a.listen()
	heard.until("the tasks are told", func() bool { return len(heard.heard()) > 1 })
	reached, _ := blockAt(e, "ports")
	a.tell(other.ID, runner.State{Version: 1, Phase: runner.Running, SSHPort: agentapi.RunnerSSHPort, HTTPPort: agentapi.RunnerHTTPPort})
	<-reached
	a.print(s.ID, "one\n")
	printed := time.Now()
	heard.until("the line arrives", func() bool { text, _ := heard.log(s.ID); return text == "one\n" })
	if took := time.Since(printed); took > 5*time.Second {
		t.Errorf("the line arrives after %v", took)
	}
}

// A task that is being deleted is none any more from the first file on, so that an agent which ends meanwhile is
// not followed by one that starts it anew.
func TestDeleteBeginsWithTheTask(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	a.finish(s.ID, 0)
	a.reaches(s.ID, agentapi.Terminated)
	for i := range 64 { // folders have an order of their own
		if err := os.WriteFile(filepath.Join(a.dir(s.ID), fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, a.dir(s.ID), unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	report := make([]byte, 4096)
	n, err := f.Read(report)
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(string(report[unix.SizeofInotifyEvent:n]), "\x00")
	if name != taskFile {
		t.Errorf("%s is removed first", name)
	}
}

func TestOneAgentPerHome(t *testing.T) {
	t.Parallel() // the second one waits for the first to end
	a := run(t, newHome(t), newEngine())
	err := Run(t.Context(), Config{Home: a.home, Runtime: a.engine, SocketUser: -1, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrRunning) {
		t.Errorf("%v", err)
	}
	if _, err := a.Host(t.Context()); err != nil {
		t.Errorf("the first agent: %v", err)
	}
}

func TestConcurrentPuts(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := spec()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := a.Put(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a.reaches(s.ID, agentapi.Running)
	if n := a.engine.starts[s.ID]; n != 1 {
		t.Errorf("started %d times", n)
	}
}

// Who asks for a task that is being stored gets no answer before it is, and none that is better than what became
// of it.
func TestPutWhileStored(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := spec()
	pipe := filepath.Join(a.job(s.ID), runner.JobLogFile)
	if err := os.MkdirAll(filepath.Join(a.job(s.ID), runner.OwnLogFile), 0o755); err != nil { // where a file is to be
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil { // opening it takes until somebody writes
		t.Fatal(err)
	}
	answers := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := a.Put(t.Context(), s)
			answers <- err
		}()
	}
	select {
	case err := <-answers:
		t.Errorf("answered before the task is stored: %v", err)
		answers <- err
	case <-time.After(300 * time.Millisecond):
	}
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	for range 2 {
		if err := <-answers; err == nil {
			t.Error("a task that could not be stored was accepted")
		}
	}
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
}

// Whoever is root in a container can put anything into the task directory. The agent is
// root on the host: it follows no link from there, waits for no pipe, and goes on.
func TestHostileContainer(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	secret := filepath.Join(a.home, "secret")
	if err := os.WriteFile(secret, []byte("secret of the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"link":   func(path string) error { return os.Symlink(secret, path) },
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"folder": func(path string) error { return os.Mkdir(path, 0o777) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		t.Run(name, func(t *testing.T) {
			s := spec()
			a.put(s)
			a.reaches(s.ID, agentapi.Running)
			e := a.listen()
			for _, file := range []string{runner.JobLogFile, runner.OwnLogFile, runner.StateFile, runner.MetricsFile, runner.ControlFile} {
				path := filepath.Join(a.job(s.ID), file)
				_ = os.Remove(path) // some are not there yet
				if err := plant(path); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := a.Logs(t.Context(), s.ID, agentapi.JobLog, 0); err == nil {
				r.Close()
				t.Error("the log was read")
			}
			a.terminate(s.ID, agentapi.Terminate{Grace: 1, Reason: agentapi.TerminatedByUser})
			a.reaches(s.ID, agentapi.Terminated)
			e.until("the end is told", func() bool {
				for _, ev := range e.heard() {
					if ev.TaskID == s.ID && ev.Task != nil && ev.Task.State == agentapi.Terminated {
						return true
					}
				}
				return false
			})
			if text, _ := e.log(s.ID); text != "" {
				t.Errorf("told %q", text)
			}
			if err := a.Delete(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
	if data, err := os.ReadFile(secret); err != nil || string(data) != "secret of the host\n" {
		t.Errorf("%q %v", data, err)
	}
}
