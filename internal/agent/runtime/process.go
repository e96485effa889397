package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

	readFile func(path string) ([]byte, error) // of /proc, which may hang
	reading  sync.Mutex
	hung     map[pid]<-chan struct{} // reads that hang, by process; closed once they end
}

// NewProcess runs jobs with the agent binary self, whose directories are dir/<task>/job.
func NewProcess(dir, self string) *Process {
	return &Process{dir: dir, self: self, members: map[string][]pid{}, readFile: os.ReadFile, hung: map[pid]<-chan struct{}{}}
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
	if proc, ok := p.find(c.ID); ok && alive(proc) {
		return nil
	}
	if num, ok := p.running(c.Dir); ok { // started before a crash, not yet written down
		return remember(c.Dir, num)
	}
	log, err := os.OpenFile(filepath.Join(c.Dir, "container.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start a process for task %s: %w", c.ID, err)
	}
	defer log.Close()
	cmd := exec.Command(p.self, "runner", "--dir", c.Dir, "--blobs", c.Blobs, "--process", "--listen", "127.0.0.1", "--ssh-port", "0", "--http-port", "0")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = os.Environ()
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
func (p *Process) running(dir string) (int, bool) {
	found, _ := p.contain(ps(), "cmdline", "\x00runner\x00--dir\x00"+dir+"\x00") // one that hangs in a driver is none
	if len(found) == 0 {
		return 0, false
	}
	return found[0].num, true
}

// find reads the id of a task's runner.
func (p *Process) find(id string) (pid, bool) {
	data, err := os.ReadFile(filepath.Join(p.dir, id, JobDir, pidFile))
	if err != nil {
		return pid{}, false
	}
	n, start, ok := strings.Cut(strings.TrimSpace(string(data)), " ")
	num, err := strconv.Atoi(n)
	return pid{num, start}, ok && err == nil
}

// runner is find, also for a runner that was started and whose agent was killed before it wrote that down.
func (p *Process) runner(id string) (pid, bool) {
	if proc, ok := p.find(id); ok {
		return proc, true
	}
	dir := filepath.Join(p.dir, id, JobDir)
	if num, ok := p.running(dir); !ok || remember(dir, num) != nil {
		return pid{}, false
	}
	return p.find(id)
}

type pid struct {
	num   int
	start string // in clock ticks since boot: tells a process from a later one of the same id
}

func startTime(num int) (string, error) {
	p, err := processOf(num)
	return p.start, err
}

func alive(p pid) bool {
	start, err := startTime(p.num)
	return err == nil && start == p.start
}

// Ports is empty: the runner listens on the host itself.
func (p *Process) Ports(context.Context, string) (map[int]int, error) { return nil, nil }

// Wait returns when the runner is gone.
func (p *Process) Wait(ctx context.Context, id string) (Exit, error) {
	proc, ok := p.runner(id)
	if !ok {
		return Exit{}, ErrNotFound
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { p.watch(id, proc, done) })
	err := ended(ctx, proc)
	close(done)
	watching.Wait()
	if err != nil {
		return Exit{}, err
	}
	tail, _ := os.ReadFile(filepath.Join(p.dir, id, JobDir, "container.log")) // only for people
	return Exit{Code: -1, Tail: lastLines(string(tail), 5)}, nil
}

// ended returns when a process has ended. Linux since 5.10 says so; older ones are asked.
func ended(ctx context.Context, p pid) error {
	fd, err := unix.PidfdOpen(p.num, unix.PIDFD_NONBLOCK)
	if err != nil {
		for alive(p) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(500 * time.Millisecond):
			}
		}
		return nil
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer func() {
		if stop() {
			f.Close()
		}
	}()
	conn, err := f.SyscallConn()
	if err == nil {
		err = conn.Read(func(uintptr) bool { return !alive(p) })
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Kill ends the runner and every process of the job.
func (p *Process) Kill(_ context.Context, id string) error {
	proc, ok := p.runner(id)
	members, _ := p.ofJob(id, proc) // before the first is killed: those that hang then are not found any more
	if ok && alive(proc) {
		_ = syscall.Kill(proc.num, syscall.SIGKILL)
	}
	for _, m := range members {
		if alive(m) {
			_ = syscall.Kill(m.num, syscall.SIGKILL)
		}
	}
	if !ok {
		return ErrNotFound
	}
	return nil
}

// lives says that processes of a job live, or that nobody knows.
func (p *Process) lives(id string, runner pid) bool {
	members, unsure := p.ofJob(id, runner)
	return unsure || len(members) > 0
}

// removePatience is how long Remove waits for processes that were killed to be gone.
const removePatience = 5 * time.Second

// Remove ends what still runs and waits until it is gone.
func (p *Process) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	for {
		if err := p.Kill(ctx, id); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		proc, ok := p.find(id)
		if !(ok && alive(proc)) && !p.lives(id, proc) {
			_ = os.RemoveAll(filepath.Join(p.dir, id, JobDir, pidFile)) // or it goes with the task's folder
			p.forget(id)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes of task %s do not end: %w", id, ctx.Err())
		case <-time.After(5 * time.Millisecond):
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
		if proc, ok := p.find(e.Name()); ok {
			list = append(list, Found{ID: e.Name(), Running: alive(proc) || p.lives(e.Name(), proc)})
		}
	}
	return list, nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
