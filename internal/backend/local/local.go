// Package local is the backend that runs jobs on the server's own machine, so that a first
// run needs no account anywhere. Its one kind of instance is an agent of ours, started as
// a process that outlives the server.
package local

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/offer"
)

//go:embed local.md
var doc string

// Name is the backend's name in YAML and on the wire.
const Name = "local"

// Config has no settings.
type Config struct{}

// Type is all that the rest of the program knows about the backend. agents are the
// binaries to run.
func Type(agents *agentbin.Source) backend.Type {
	return backend.Define(Name, doc, func(_ context.Context, _ Config, d backend.Deps) (backend.Backend, error) {
		return &local{dir: d.Dir, agents: agents, starts: &singleflight.Group{}}, nil
	})
}

type local struct {
	dir    string
	agents *agentbin.Source
	starts *singleflight.Group // by folder: an agent is started once, however many ask
}

// meta is what a started agent is known by.
type meta struct {
	Token   string            `json:"token"`
	Name    string            `json:"name"`
	Tags    map[string]string `json:"tags"`
	Created time.Time         `json:"created"`
}

func (m meta) mark() backend.Mark {
	return backend.Mark{IntentID: m.Tags[backend.TagIntent], Name: m.Name}
}

// startTimeout is how long an agent may take until it answers.
const startTimeout = 20 * time.Second

// Offers is this machine.
func (l *local) Offers(ctx context.Context, _ offer.Query) ([]offer.Offer, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("ask for the memory: %w", err)
	}
	var fs unix.Statfs_t
	disk := 0
	if unix.Statfs("/", &fs) == nil {
		disk = int(int64(fs.Bavail) * fs.Bsize >> 20)
	}
	arch := "x86"
	if goruntime.GOARCH == "arm64" {
		arch = "arm"
	}
	return []offer.Offer{{
		Backend: Name, Region: Name, Instance: Runs(ctx), Availability: offer.Available,
		Resources: offer.Resources{CPUs: goruntime.NumCPU(), MemoryMiB: int(info.Totalram * uint64(info.Unit) >> 20), DiskMiB: disk, Arch: arch},
	}}, nil
}

// Settle is 0: what this machine lists is what there is.
func (l *local) Settle() time.Duration { return 0 }

// home is an agent's folder: short, since a socket's path is bounded.
func (l *local) home(token string) string {
	return filepath.Join(l.dir, token[:min(8, len(token))])
}

// Create starts an agent. The folder is the record: asking again finds it.
func (l *local) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	if err := ctx.Err(); err != nil {
		return backend.Instance{}, err
	}
	if req.Offer.Region != Name {
		return backend.Instance{}, &backend.InvalidError{Path: "offer.region", Msg: "this machine is in no region but " + Name}
	}
	home := l.home(req.Token)
	if _, err := metaOf(home, backend.Ref{Region: Name, ID: req.Token}); errors.Is(err, backend.ErrNotFound) {
		if err := l.startable(home); err != nil {
			return backend.Instance{}, err
		}
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return backend.Instance{}, fmt.Errorf("make the local agent's folder: %w", err)
	}
	if err := record(home, meta{req.Token, req.Name, req.Tags, time.Now()}); err != nil {
		return backend.Instance{}, fmt.Errorf("record the local agent: %w", err)
	}
	if err := l.start(ctx, home); err != nil {
		return backend.Instance{}, err
	}
	return l.Describe(ctx, backend.Ref{Region: Name, ID: req.Token})
}

// maxSocket is how long the path of a socket may be, in bytes, without the zero behind it.
const maxSocket = 107

// startable says why no agent could ever be started in a folder, nil when one may be. It is asked before
// the folder is recorded, which counts as running.
func (l *local) startable(home string) error {
	path, err := filepath.Abs(socket(home)) // as the agent does
	if err != nil {
		return fmt.Errorf("find the local agent's folder: %w", err)
	}
	if len(path) > maxSocket {
		return &backend.InvalidError{Msg: fmt.Sprintf("the path of the local agent's socket would be %s, which is longer than %d bytes: give the server a shorter DSTACK_SERVER_DIR", path, maxSocket)}
	}
	if _, err := l.agents.Get(goruntime.GOARCH); err != nil {
		return &backend.InvalidError{Msg: err.Error()}
	}
	return nil
}

// start makes sure that the agent of a folder runs and answers. It is one start for all
// that ask at once, which goes on when one of them gives up.
func (l *local) start(ctx context.Context, home string) error {
	_, err, _ := l.starts.Do(home, func() (any, error) {
		return nil, l.startAgent(context.WithoutCancel(ctx), home)
	})
	return err
}

func (l *local) startAgent(ctx context.Context, home string) error {
	binary, sum, err := l.binary()
	if err != nil {
		return err
	}
	if info, err := ask(ctx, home); err == nil {
		if info.Hash == sum {
			return nil
		}
		if err := stop(ctx, home); err != nil { // of an older build; its tasks go on with the next
			return err
		}
	}
	log, err := os.OpenFile(filepath.Join(home, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start the local agent: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "shim", "--home", home, "--runtime", "auto")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the local agent: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // so that it does not stay a zombie while we live
		close(ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !answers(ctx, home) {
		select {
		case <-ended:
			unlock, free := lock(home)
			if unlock(); free {
				return fmt.Errorf("the local agent has ended at once; its log is %s", log.Name())
			}
			ended = nil // for another one, which may answer soon
		case <-ctx.Done():
			return fmt.Errorf("the local agent does not start; its log is %s", log.Name())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// lock takes the place of a folder's agent, as the agent itself does: it is free while none runs. The
// place is given back with unlock.
func lock(home string) (unlock func(), free bool) {
	f, err := os.Open(filepath.Join(home, "lock"))
	if err != nil {
		return func() {}, errors.Is(err, os.ErrNotExist) // none has got so far
	}
	return func() { f.Close() }, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

// stop ends the agent of a folder, not its tasks.
func stop(ctx context.Context, home string) error {
	c := client(home)
	defer c.Close()
	if err := c.Shutdown(ctx); err != nil {
		return err
	}
	for answers(ctx, home) && ctx.Err() == nil {
		<-time.After(5 * time.Millisecond)
	}
	return ctx.Err()
}

// binary unpacks the agent once per build. It returns its path and hash.
func (l *local) binary() (path, sum string, err error) {
	b, err := l.agents.Get(goruntime.GOARCH)
	if err != nil {
		return "", "", err
	}
	path = filepath.Join(l.dir, "bin", "dstack-agent-"+b.SHA256[:12])
	if _, err := os.Stat(path); err == nil {
		return path, b.SHA256, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", "", fmt.Errorf("unpack the agent: %w", err)
	}
	data, err := b.Open()
	if err != nil {
		return "", "", err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".agent-*")
	if err != nil {
		return "", "", fmt.Errorf("unpack the agent: %w", err)
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = io.Copy(f, data)
	if err = errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		return "", "", fmt.Errorf("unpack the agent: %w", err)
	}
	return path, b.SHA256, os.Rename(f.Name(), path)
}

func socket(home string) string { return filepath.Join(home, agentapi.SocketName) }

func client(home string) *agentapi.Client {
	return agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket(home))
	})
}

func ask(ctx context.Context, home string) (agentapi.HostInfo, error) {
	c := client(home)
	defer c.Close()
	return c.Host(ctx)
}

func answers(ctx context.Context, home string) bool {
	_, err := ask(ctx, home)
	return err == nil
}

// Describe restarts an agent that was lost with a reboot, and replaces one of another build.
func (l *local) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	home := l.home(ref.ID)
	m, err := metaOf(home, ref)
	if err != nil {
		return backend.Instance{}, err
	}
	if err := l.start(ctx, home); err != nil {
		return backend.Instance{}, err
	}
	return instance(m, home), nil
}

func instance(m meta, home string) backend.Instance {
	return backend.Instance{Mark: m.mark(), Ref: backend.Ref{Region: Name, ID: m.Token}, State: backend.StateRunning, Hostname: "127.0.0.1", InternalIP: "127.0.0.1",
		Username: "root", Socket: socket(home), CreatedAt: m.Created}
}

// metaOf reads the record of one agent: a folder's name is only the beginning of its token.
func metaOf(home string, ref backend.Ref) (meta, error) {
	m, err := readMeta(home)
	if err == nil && m.Token != ref.ID {
		return meta{}, backend.ErrNotFound
	}
	return m, err
}

// record writes what an agent is for, unless that is written. It is there as a whole or not at all,
// also when several ask at once, the server is killed or power is lost: an agent whose record cannot be
// read could not be ended.
func record(home string, m meta) error {
	path := filepath.Join(home, "meta.json")
	if info, err := os.Stat(path); err == nil && info.Size() > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(home, ".meta-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	if err := errors.Join(json.NewEncoder(f).Encode(m), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func readMeta(home string) (meta, error) {
	var m meta
	data, err := os.ReadFile(filepath.Join(home, "meta.json"))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 { // power was lost before it was written
		return m, backend.ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read the local agent's record: %w", err)
	}
	return m, nil
}

// Terminate ends all tasks, the agent, and removes its folder. An agent that is dead is
// started once more: it alone knows what its tasks have left. Where it cannot be and has none, nothing
// is left.
func (l *local) Terminate(ctx context.Context, ref backend.Ref) error {
	home := l.home(ref.ID)
	if _, err := metaOf(home, ref); err != nil {
		return err
	}
	if err := l.start(ctx, home); err != nil {
		return discard(home, err)
	}
	c := client(home)
	defer c.Close()
	tasks, err := c.Tasks(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if _, err := c.Terminate(ctx, t.ID, agentapi.Terminate{Reason: agentapi.TerminatedByServer}); err != nil {
			return err
		}
	}
	for _, t := range tasks {
		for c.Delete(ctx, t.ID) != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if err := stop(ctx, home); err != nil {
		return err
	}
	return os.RemoveAll(home)
}

// discard removes the folder of an agent that could not be started, which is why, unless one runs or has
// had tasks.
func discard(home string, why error) error {
	unlock, free := lock(home)
	defer unlock()
	tasks, err := os.ReadDir(filepath.Join(home, "tasks"))
	if !free || len(tasks) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
		return why
	}
	return os.RemoveAll(home)
}

// List finds the agents that this server started.
func (l *local) List(_ context.Context, serverID string) ([]backend.Owned, error) {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, os.ErrNotExist) || serverID == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list local agents: %w", err)
	}
	var owned []backend.Owned
	unread := &backend.UnreadError{Hidden: true}
	for _, e := range entries {
		home := filepath.Join(l.dir, e.Name())
		m, err := readMeta(home)
		if errors.Is(err, backend.ErrNotFound) {
			continue
		}
		if err != nil {
			unread.Rows = append(unread.Rows, fmt.Sprintf("folder %q: %v", e.Name(), err))
			continue
		}
		if m.Tags[backend.TagServer] != serverID {
			continue
		}
		owned = append(owned, backend.Owned{Kind: backend.InstanceResource, Ref: backend.Ref{Region: Name, ID: m.Token}, Mark: m.mark(), State: backend.StateRunning, CreatedAt: m.Created})
	}
	if len(unread.Rows) > 0 {
		return owned, unread
	}
	return owned, nil
}
