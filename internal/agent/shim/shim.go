package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	Home    string // state of this agent
	Runtime runtime.Runtime
	Self    string // the agent's binary
	// SocketUser is the id of the login user who may reach the socket, -1 for the agent's own.
	SocketUser int
	Log        *slog.Logger
	// Detect finds the accelerators, one call at a time; optional: those of this machine.
	Detect func(context.Context) gpu.Found
	// Inotify begins to have files watched; optional: inotify_init1 of the kernel.
	Inotify func(flags int) (fd int, err error)
	// OpenLog opens a log in a job's directory, or its state; optional: [runner.OpenShared].
	OpenLog func(dir, name string) (LogFile, error)
	// BootID tells the host's boots apart; optional: as the kernel does.
	BootID func() string
	// LookupUser finds a login user by name; optional: in this machine's database.
	LookupUser func(name string) (*user.User, error)
	// DCGM is where NVIDIA's programs are to be found; optional.
	DCGM DCGM
}

// LogFile is a log that is read at many places.
type LogFile interface {
	io.ReaderAt
	io.Closer
}

func openLog(dir, name string) (LogFile, error) { return runner.OpenShared(dir, name) }

// Shim is the agent of a host.
type Shim struct {
	Config
	gpus     *gpu.Locks
	hostKeys hostKeys
	dcgm     *dcgmSource

	looking chan struct{} // has a value while somebody looks for accelerators
	looked  time.Time     // when they had

	mu       sync.Mutex
	host     agentapi.HostInfo
	problem  string        // with the accelerators, for people
	mostGPUs int           // that there ever were
	news     chan struct{} // closed when host has changed since it was asked for
	tasks    map[string]*task
	ended    *ended
	changed  chan struct{} // closed and replaced whenever a task or its log changed
	seq      int64
	streams  map[*stream]bool
	wg       sync.WaitGroup
	ctx      context.Context // of the agent's life: tasks run under it
	watcher  *watcher
	stop     context.CancelFunc
}

// ErrRunning says that another agent runs on this home.
var ErrRunning = errors.New("another agent runs here already")

// Run starts the agent and serves until ctx ends. Tasks go on without it.
func Run(ctx context.Context, c Config) error {
	for _, dir := range []string{c.Home, filepath.Join(c.Home, "tasks"), filepath.Join(c.Home, "blobs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the agent's folders: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(c.Home, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	s := &Shim{Config: c, hostKeys: hostKeys{lookup: c.LookupUser}, tasks: map[string]*task{}, ended: newEnded(), looking: make(chan struct{}, 1), news: make(chan struct{}), streams: map[*stream]bool{}, changed: make(chan struct{}), seq: time.Now().UnixMicro()}
	s.ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	if s.Inotify == nil {
		s.Inotify = unix.InotifyInit1
	}
	if s.Detect == nil {
		s.Detect = new(gpu.Detector).Detect
	}
	if s.OpenLog == nil {
		s.OpenLog = openLog
	}
	if s.BootID == nil {
		s.BootID = bootID
	}
	if s.watcher, err = newWatcher(s.Inotify, s.fileChanged); err != nil {
		s.Log.Warn("what tasks do is looked at now and then", "err", err)
	}
	defer s.watcher.close()
	if err := s.describe(s.ctx); err != nil {
		return err
	}
	s.dcgm = newDCGM(c)
	defer s.dcgm.exporter.Close()
	if err := s.recover(s.ctx); err != nil {
		return err
	}
	s.sweepBlobs(time.Now())
	l, err := s.listen()
	if err != nil {
		return err
	}
	s.wg.Go(func() { s.watcher.run() })
	s.wg.Go(func() { s.sample(s.ctx) })
	s.wg.Go(func() { s.sweep(s.ctx) })
	s.wg.Go(func() { s.lookForGPUs(s.ctx) })
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 30 * time.Second, BaseContext: func(net.Listener) context.Context { return s.ctx }}
	context.AfterFunc(s.ctx, func() { srv.Close() })
	s.Log.Info("agent started", "home", c.Home, "runtime", c.Runtime.Name())
	err = srv.Serve(l)
	s.stop()
	s.watcher.close()
	s.wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// lockPatience is how long an agent waits for one that is ending.
const lockPatience = 3 * time.Second

func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the agent's home: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ErrRunning
		case <-time.After(10 * time.Millisecond):
		}
	}
	_ = f.Truncate(0)
	_, _ = f.WriteString(strconv.Itoa(os.Getpid())) // for people
	return func() { f.Close() }, nil
}

// listen opens the socket for root and the login user.
func (s *Shim) listen() (net.Listener, error) {
	path := filepath.Join(s.Home, agentapi.SocketName)
	_ = os.Remove(path) // the lock says that nobody else listens
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the agent's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("open the agent's socket: %w", err)
	}
	if s.SocketUser >= 0 {
		if err := os.Chown(path, s.SocketUser, -1); err != nil {
			return nil, fmt.Errorf("give the agent's socket to its user: %w", err)
		}
	}
	return l, nil
}

// wake tells the event streams that there is news.
func (s *Shim) wake() {
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// recover finds the tasks of an earlier agent and goes on with them. Containers that no
// task remembers are removed.
func (s *Shim) recover(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.Home, "tasks"))
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	var alive []*task
	for _, e := range entries {
		if !agentapi.ValidID(e.Name()) {
			continue
		}
		t, err := s.loadTask(e.Name())
		if err != nil {
			s.Log.Warn("a task that was never accepted, or is over, is dropped", "task", e.Name(), "err", err)
			if err := s.Runtime.Remove(ctx, e.Name()); err != nil { // of a plain process only the folder says that it is there
				s.Log.Warn("remove what is left of a task", "task", e.Name(), "err", err)
				continue
			}
			_ = os.RemoveAll(s.taskDir(e.Name()))
			continue
		}
		if t.lost != nil {
			s.Log.Error("the spec of a task cannot be read", "task", t.spec.ID, "state", t.state.State, "err", t.lost)
		}
		s.tasks[t.spec.ID] = t
		s.watcher.add(t.spec.ID, s.jobDir(t.spec.ID))
		if t.state.State != agentapi.Terminated {
			alive = append(alive, t)
		}
	}
	found, err := s.Runtime.List(ctx)
	if err != nil {
		s.Log.Warn("look for containers", "err", err)
	}
	unclear := s.adopt(alive, found, err == nil)
	if err != nil { // then what is left of others may run; the first sweep that sees it has ended gives its GPUs back
		s.keepFromOthers()
	}
	for _, f := range found { // what could not be removed, until it can
		if !f.Running || s.needs(f.ID) {
			continue
		}
		ids := f.GPUs
		if ids == nil { // of a plain process, or of an older agent
			t := s.tasks[f.ID]
			if t == nil {
				unclear = append(unclear, f.ID)
				continue
			}
			ids = t.state.GPUs
		}
		if err := s.gpus.Adopt(f.ID, ids); err != nil {
			s.Log.Warn("GPUs of a container without a task are held by another", "task", f.ID, "err", err)
		}
	}
	for _, id := range unclear {
		if _, err := s.gpus.Acquire(id, -1); err != nil {
			s.Log.Warn("keep GPUs from others", "task", id, "err", err)
		}
	}
	for _, t := range alive {
		s.wg.Go(func() { t.resume(s.ctx) })
	}
	for _, f := range found {
		if _, ok := s.tasks[f.ID]; !ok {
			s.Log.Warn("a container without a task is removed", "task", f.ID)
			if s.Runtime.Remove(ctx, f.ID) == nil { // otherwise the sweep and the next start try again
				s.gpus.Release(f.ID)
			}
		}
	}
	return nil
}

// keepFromOthers gives tasks that are over what they held, as far as no other task has it by now.
func (s *Shim) keepFromOthers() {
	for id, t := range s.tasks {
		if t.state.State != agentapi.Terminated {
			continue
		}
		for _, g := range t.state.GPUs {
			_ = s.gpus.Adopt(id, []string{g})
		}
	}
}

// adopt gives tasks of an earlier agent their GPUs back, before any of them goes on and takes what is free. Those
// of which nobody knows what their containers have are returned: they are to keep all that is left from others until
// they have ended. all says that there are no other containers than those that were found.
func (s *Shim) adopt(tasks []*task, found []runtime.Found, all bool) (unclear []string) {
	for _, t := range tasks {
		i := slices.IndexFunc(found, func(f runtime.Found) bool { return f.ID == t.spec.ID })
		switch {
		case t.gpusKnown:
		case i >= 0 && found[i].GPUs != nil:
			t.state.GPUs = found[i].GPUs
		case i >= 0 || !all:
			unclear = append(unclear, t.spec.ID)
			continue
		}
		if err := s.gpus.Adopt(t.spec.ID, t.state.GPUs); err != nil {
			s.Log.Warn("GPUs of a task are held by another", "task", t.spec.ID, "err", err)
		}
	}
	return unclear
}
