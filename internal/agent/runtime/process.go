package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
)

// Process runs jobs as plain processes of the agent's user: no image, no isolation. A
// process is known again after a restart by its id and start time.
type Process struct {
	dir  string // holds a folder per task, and in it the job's directory
	self string // agent binary

	noting  sync.Mutex // held while members go to disk
	members map[string][]pid

	signal func(num int, s syscall.Signal) error

	readFile func(path string) ([]byte, error) // of /proc, which may hang
	reading  sync.Mutex
	hung     map[pid]<-chan struct{} // reads that hang, by process; closed once they end
}

// NewProcess runs jobs with the agent binary self, whose directories are dir/<task>/job.
func NewProcess(dir, self string) *Process {
	return &Process{dir: dir, self: self, members: map[string][]pid{}, signal: syscall.Kill, readFile: os.ReadFile, hung: map[pid]<-chan struct{}{}}
}

// Name is "process".
func (p *Process) Name() string { return "process" }

// Version is the kernel's.
func (p *Process) Version(context.Context) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("ask for the kernel's version: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// Pull has nothing to do: there are no images.
func (p *Process) Pull(context.Context, Container, func(agentapi.PullProgress)) error { return nil }

const pidFile = "runner.pid"

// JobDir is the name of a job's own directory in that of its task.
const JobDir = "job"

// Start starts a runner that outlives the agent.
func (p *Process) Start(_ context.Context, c Container) error {
	proc, _, err := p.find(c.ID)
	runs := false
	if err == nil {
		runs, err = alive(proc)
	}
	if runs {
		return nil
	}
	var ok bool
	if err == nil {
		proc, ok, err = p.running(c.Dir)
	}
	if err != nil {
		return fmt.Errorf("start a process for task %s: %w", c.ID, err)
	}
	if ok { // started before a crash, not yet written down
		return remember(c.Dir, proc.num)
	}
	log, err := os.OpenFile(filepath.Join(c.Dir, "container.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start a process for task %s: %w", c.ID, err)
	}
	defer log.Close()
	cmd := exec.Command(p.self, "runner", "--dir", c.Dir, "--blobs", c.Blobs, "--process", "--listen", "127.0.0.1", "--ssh-port", "0", "--http-port", "0")
	cmd.Stdout, cmd.Stderr = log, log
	// An agent that was started in a job's terminal has the job's id, and ofJob would take the runner for that job's.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, jobIDVar) })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a process for task %s: %w", c.ID, err)
	}
	if err := remember(c.Dir, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return fmt.Errorf("start a process for task %s: %w", c.ID, err)
	}
	go func() { _ = cmd.Wait() }() // so that it does not stay a zombie while we live
	return nil
}

// remember writes down which process is the runner of a task directory.
func remember(dir string, num int) error {
	started, err := startTime(num)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, pidFile), fmt.Appendf(nil, "%d %s\n", num, started), 0o600)
}

// running looks for a runner on a task directory by its command line.
func (p *Process) running(dir string) (proc pid, ok bool, err error) {
	all, err := ps()
	if err != nil {
		return pid{}, false, err
	}
	found, _, err := p.contain(all, "cmdline", "\x00runner\x00--dir\x00"+dir+"\x00") // one that hangs in a driver is none
	if len(found) == 0 {
		return pid{}, false, err
	}
	return found[0], true, nil
}

// find reads the id of a task's runner.
func (p *Process) find(id string) (proc pid, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(p.dir, id, JobDir, pidFile))
	if short(err) {
		return pid{}, false, err
	}
	n, start, ok := strings.Cut(strings.TrimSpace(string(data)), " ")
	num, err := strconv.Atoi(n)
	if !ok || err != nil {
		return pid{}, false, nil
	}
	return pid{num, start}, true, nil
}

// runner is find, also for a runner that was started and whose agent was killed before it wrote that down.
func (p *Process) runner(id string) (proc pid, ok bool, err error) {
	if proc, ok, err = p.find(id); ok || err != nil {
		return proc, ok, err
	}
	dir := filepath.Join(p.dir, id, JobDir)
	if proc, ok, err = p.running(dir); ok {
		_ = remember(dir, proc.num) // or it is found again
	}
	return proc, ok, err
}

type pid struct {
	num   int
	start string // in clock ticks since boot: tells a process from a later one of the same id
}

func startTime(num int) (string, error) {
	p, err := processOf(num)
	return p.start, err
}

func alive(p pid) (bool, error) {
	start, err := startTime(p.num)
	if short(err) {
		return false, err
	}
	return err == nil && start == p.start, nil
}

// Ports is empty: the runner listens on the host itself.
func (p *Process) Ports(context.Context, string) (map[int]int, error) { return nil, nil }

// Wait returns when the runner is gone.
func (p *Process) Wait(ctx context.Context, id string) (Exit, error) {
	proc, ok, err := p.runner(id)
	for ; err != nil; proc, ok, err = p.runner(id) {
		if perr := pause(ctx); perr != nil {
			return Exit{}, perr
		}
	}
	if !ok {
		return Exit{}, ErrNotFound
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(id, proc, done) })
	err = ended(ctx, proc)
	close(done)
	watching.Wait()
	if err != nil {
		return Exit{}, err
	}
	tail, _ := os.ReadFile(filepath.Join(p.dir, id, JobDir, "container.log")) // only for people
	return Exit{Code: -1, Tail: lastLines(string(tail), 5)}, nil
}

// pause is the time between two looks.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(500 * time.Millisecond):
		return nil
	}
}

// ended returns when a process has ended. Linux since 5.10 says so; older ones are asked.
func ended(ctx context.Context, p pid) error {
	fd, err := unix.PidfdOpen(p.num, unix.PIDFD_NONBLOCK)
	if err != nil {
		for {
			if lives, err := alive(p); !lives && err == nil {
				return nil
			}
			if err := pause(ctx); err != nil {
				return err
			}
		}
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer func() {
		if stop() {
			f.Close()
		}
	}()
	conn, err := f.SyscallConn()
	for err == nil {
		var unknown error
		err = conn.Read(func(uintptr) (over bool) {
			var lives bool
			lives, unknown = alive(p)
			return !lives
		})
		if unknown == nil {
			break
		}
		_ = pause(ctx) // the next read ends with it
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Kill ends the runner and every process of the job.
func (p *Process) Kill(_ context.Context, id string) error {
	proc, ok, err := p.runner(id)
	var members []pid
	if err == nil {
		members, _, err = p.ofJob(id, proc) // before the first is killed: those that hang then are not found any more
	}
	if err != nil {
		return fmt.Errorf("find the processes of task %s: %w", id, err)
	}
	for _, m := range append([]pid{proc}, members...) {
		lives, merr := alive(m)
		if lives {
			_ = p.signal(m.num, syscall.SIGKILL)
		}
		err = errors.Join(err, merr)
	}
	if err == nil && !ok {
		return ErrNotFound
	}
	return err
}

// lives says that a runner or processes of its job live, or that nobody knows.
func (p *Process) lives(id string, runner pid) bool {
	if lives, err := alive(runner); lives || err != nil {
		return true
	}
	members, unsure, err := p.ofJob(id, runner)
	return err != nil || unsure || len(members) > 0
}

// removePatience is how long Remove waits for processes that were killed to be gone.
const removePatience = 5 * time.Second

// Remove ends what still runs and waits until it is gone.
func (p *Process) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait *= 2 { // each look reads all of /proc
		if err := p.Kill(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		proc, _, err := p.find(id)
		if err == nil && !p.lives(id, proc) {
			_ = os.RemoveAll(filepath.Join(p.dir, id, JobDir, pidFile)) // or it goes with the task's folder
			p.forget(id)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes of task %s do not end: %w", id, ctx.Err())
		case <-time.After(min(wait, time.Second)):
		}
	}
}

// List finds the tasks whose runner was started. One runs also without its runner while a process of its job lives: it
// may hang in the driver of a GPU, where nothing ends it, and has the GPU then.
func (p *Process) List(context.Context) ([]Found, error) {
	entries, err := os.ReadDir(p.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	var list []Found
	for _, e := range entries {
		if proc, ok, err := p.find(e.Name()); ok || err != nil { // what cannot be read may run
			list = append(list, Found{ID: e.Name(), Running: err != nil || p.lives(e.Name(), proc)})
		}
	}
	return list, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
