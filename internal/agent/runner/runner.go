package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/sshd"
	"dstack/internal/agentapi"
)

// Config is what Main needs.
type Config struct {
	Dir string // task directory
	// Blobs holds the uploads, each under its hash.
	Blobs string
	// Listen is the address on which SSH and the log websocket answer; "" means all for SSH.
	Listen string
	// SSHPort and HTTPPort are preferred; when taken, free ones are used and reported.
	SSHPort  int
	HTTPPort int
	// Container says that the file system is the job's own. Without it nothing outside Dir
	// and the job's own folders is written.
	Container bool
	Log       *slog.Logger
}

type runner struct {
	Config
	spec agentapi.JobSpec
	home string // of the runner's own files
	acct account

	mu    sync.Mutex
	state State

	output *output
	stop   chan stopRequest
	ssh    *sshd.Server
	access *access // of the job to the server
	callAt string  // the socket for that, as the job knows it
}

type stopRequest struct {
	Grace   int64  `json:"grace"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// NoCode is the exit code of a runner that has failed and has no code of its job to hand on.
const NoCode = 125

// Main runs the job of a task directory to its end and returns the exit code of the
// process: 0 whenever the job's fate is written down, otherwise the job's own if it has one, or [NoCode].
func Main(ctx context.Context, c Config) int {
	if signal.Ignored(unix.SIGHUP) {
		// What nohup has our starter ignore would be ignored by all that the job starts, and would go on when its
		// terminal is closed. A signal that is handled is none of theirs.
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	own, err := os.OpenFile(filepath.Join(c.Dir, OwnLogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.Log.Error("open the runner's log", "err", err)
		return NoCode
	}
	defer own.Close()
	c.Log = slog.New(slog.NewTextHandler(own, nil))
	r := &runner{Config: c, stop: make(chan stopRequest, 1), access: newAccess(), state: State{Phase: Setup}}
	if err := r.load(); err != nil {
		c.Log.Error("start", "err", err)
		return NoCode
	}
	if err := unlockMemory(); err != nil {
		c.Log.Info("locked memory stays limited", "err", err) // only some containers may lift it
	}
	if r.output, err = openOutput(c.Dir, r.spec.LogQuotaHour); err != nil {
		c.Log.Error("open the job's log", "err", err)
		return NoCode
	}
	closeServers, err := r.serve(ctx)
	if err != nil {
		c.Log.Error("serve", "err", err)
		return NoCode
	}
	defer closeServers()
	end := r.run(ctx)
	if err := r.output.Close(); err != nil {
		c.Log.Error("close the job's log", "err", err)
	}
	ended := func(s *State) { s.Reason, s.Message, s.ExitStatus = end.reason, end.message, end.exit }
	if r.spec.Linger > 0 && (end.reason == agentapi.DoneByRunner || end.reason == agentapi.ContainerExitedWithError) {
		r.update(ended) // whatever happens to us meanwhile
		r.linger(ctx)
	}
	err = patiently(func() error {
		return r.store(func(s *State) {
			ended(s)
			s.Phase = Finished
		})
	})
	r.output.drained(2 * time.Second)
	if err != nil {
		c.Log.Error("store how the job ended", "err", err)
		if end.exit != nil && *end.exit >= 0 {
			return *end.exit // all that is left of it
		}
		return NoCode
	}
	return 0
}

// linger leaves a job that has ended by itself attachable. Published clients read the output
// only here, and attach only after they have seen the job run, which they look at every 5 s.
func (r *runner) linger(ctx context.Context) {
	select {
	case <-r.output.read:
		r.detached(2 * time.Second)
	case <-r.stop:
	case <-time.After(agentapi.Seconds(r.spec.Linger)):
	case <-ctx.Done():
	}
}

// detached waits until nobody is connected, but not long: clients that have read the end close
// their connections, and complain of those that broke.
func (r *runner) detached(limit time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(limit); r.ssh.Active() > 0; {
		select {
		case <-tick.C:
		case <-late:
			return
		}
	}
}

func (r *runner) load() error {
	data, err := os.ReadFile(filepath.Join(r.Dir, SpecFile))
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	if err := json.Unmarshal(data, &r.spec); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	r.home = "/dstack"
	if !r.Container {
		r.home = filepath.Join(r.Dir, "dstack")
	}
	return nil
}

// unlockMemory lets the job lock as much memory as it likes, which RDMA needs.
func unlockMemory() error {
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
}

// update changes the state. What cannot be stored is with the next change.
func (r *runner) update(change func(*State)) {
	if err := r.store(change); err != nil {
		r.Log.Error("store the state", "err", err)
	}
}

// store changes the state and writes it down.
func (r *runner) store(change func(*State)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
	r.state.Version++
	data, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(r.Dir, StateFile), data, 0o644)
}

// serve opens the control socket, the SSH server and the log websocket.
func (r *runner) serve(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	done := func() {
		cancel()
		wg.Wait()
	}
	path := filepath.Join(r.Dir, ControlFile)
	_ = os.Remove(path)
	control, err := listenUnix(path)
	if err != nil {
		cancel()
		return nil, err
	}
	logs, err := listen("127.0.0.1", r.HTTPPort)
	if err != nil {
		control.Close()
		cancel()
		return nil, err
	}
	ssh, err := listen(r.Listen, r.SSHPort)
	if err != nil {
		control.Close()
		logs.Close()
		cancel()
		return nil, err
	}
	r.ssh, err = sshd.New(sshd.Config{
		Keys: r.spec.AuthorizedKeys, ServerKey: r.spec.ServerKey, Log: r.Log, Container: r.Container,
		Env: func() []string { return r.sessionEnv() }, Dir: func() string { return r.current().WorkingDir },
		Moved: map[int]int{agentapi.RunnerHTTPPort: logs.Addr().(*net.TCPAddr).Port},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	// An agent that is started again takes a job without a state for one that has not begun.
	err = patiently(func() error {
		return r.store(func(s *State) {
			s.SSHPort, s.HTTPPort = ssh.Addr().(*net.TCPAddr).Port, logs.Addr().(*net.TCPAddr).Port
		})
	})
	if err != nil {
		cancel()
		return nil, err
	}
	for _, server := range []func(){
		func() { serveHTTP(ctx, control, r.controlHandler()) },
		func() { serveHTTP(ctx, logs, r.logsHandler()) },
		func() {
			if err := r.ssh.Serve(ctx, ssh); err != nil && ctx.Err() == nil {
				r.Log.Error("SSH server", "err", err)
			}
		},
		func() { r.watch(ctx) },
	} {
		wg.Go(server)
	}
	return done, nil
}

func (r *runner) current() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// listenUnix opens a socket whose path may be longer than the kernel allows for one: its
// folder is named by a descriptor.
func listenUnix(path string) (net.Listener, error) {
	short, done, err := ShortPath(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the short name is not valid any more then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return l, nil
}

// ShortPath names a file by a descriptor of its folder, since socket addresses hold about
// a hundred bytes. The name is valid until done is called.
func ShortPath(path string) (short string, done func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}

// listen prefers a port and takes a free one when it is in use.
func listen(host string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", host, err)
	}
	return l, nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	_ = srv.Serve(l) // ends with the context
}

func (r *runner) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, req *http.Request) {
		var s stopRequest
		if err := json.NewDecoder(io.LimitReader(req.Body, 1<<20)).Decode(&s); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case r.stop <- s:
		default: // one is under way
		}
	})
	mux.HandleFunc("POST /accept", r.access.accept)
	return mux
}

// watch samples idleness and metrics.
func (r *runner) watch(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	sampler := newSampler()
	last := time.Now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := r.current()
		if s.Phase != Running || r.ssh.Active() > 0 { // nobody can be there before there is something
			last = time.Now()
		}
		idle := int64(time.Since(last).Seconds())
		if s.Phase == Running && !r.spec.NoIdle && idle/10 != s.IdleSeconds/10 {
			r.update(func(s *State) { s.IdleSeconds = idle })
		}
		if n%2 == 1 && r.Container { // a plain process shares its cgroup with all there is
			if m, ok := sampler.sample(); ok {
				if data, err := json.Marshal(m); err == nil {
					_ = WriteFile(filepath.Join(r.Dir, MetricsFile), data, 0o644) // the next sample tries again
				}
			}
		}
	}
}

// ending is how a job ended.
type ending struct {
	reason  string
	message string
	exit    *int
}
