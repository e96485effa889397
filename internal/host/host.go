// Package host is the server's way to machines: one SSH connection per host that carries
// the agent's API, its event stream and port forwards; the push of the agent; and the
// onboarding and removal of hosts of the user.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
)

// Endpoint is one SSH server.
type Endpoint struct {
	Addr string // host name or address
	Port int
	User string
	Keys []ssh.Signer
	// HostKey is the pinned key, a line of authorized_keys; "" accepts the first contact.
	HostKey string
}

func (e Endpoint) String() string { return fmt.Sprintf("%s@%s:%d", e.User, e.Addr, e.Port) }

// Target is a host to stay connected to.
type Target struct {
	ID       string
	Endpoint Endpoint
	Jump     *Endpoint
	// Local is the socket of an agent on the server's own machine: no SSH.
	Local string
	Home  string // of the agent, "" for the default
	// Bare says that the machine came without an agent, as those of clouds do: it is put there
	// when SSH answers.
	Bare bool
	// New says that no agent of a bare machine has been met yet: until then its address is only what the cloud says,
	// which may be that of a host in use.
	New bool
	// Key is that of the agent which was met, "" when that is not known.
	Key string
	// Moved says that the machine may be elsewhere than where it was met: there it has that agent.
	Moved bool
	// Forgotten says that the pinned host key is lost: calls accept a first contact as well.
	Forgotten bool
}

func (t Target) home() string {
	if t.Home == "" {
		return agentapi.DefaultHome
	}
	return t.Home
}

// Sink hears from the hosts. Calls for one host come one after the other.
type Sink interface {
	// Pinned is told the host key of a first contact.
	Pinned(id, hostKey string)
	// Taken says why a bare machine cannot be the host of an agent that answers at its address, of a key and in a boot;
	// "" when it can. Nothing has been changed there yet.
	Taken(ctx context.Context, id, key, bootID string) (why string, err error)
	// Connected comes before the events of a connection.
	Connected(ctx context.Context, id string, info agentapi.HostInfo, tasks []agentapi.Task)
	Disconnected(id string, err error)
	// Handle stores events, which are such that they can be: see [agentapi.Event.Check]. They are
	// acknowledged when it returns nil or a *agentapi.DroppedError, and with a *agentapi.HeldError those of other
	// tasks. The rest is told again.
	Handle(ctx context.Context, id string, events []agentapi.Event) error
}

// Transport is a way to hosts.
type Transport interface {
	// Open connects to a host's agent and returns the host key that was seen; it refuses a
	// host with another key than the target's. The caller closes the connection.
	Open(ctx context.Context, t Target) (client *agentapi.Client, hostKey string, closeAll func(), err error)
	Onboard(ctx context.Context, r OnboardRequest) (Onboarded, error)
	// Settle puts the agent onto a bare machine, on which none answers. It may be repeated.
	Settle(ctx context.Context, t Target) error
	Uninstall(ctx context.Context, r UninstallRequest) error
}

// Config is what NewPool needs; fields are required unless marked optional.
type Config struct {
	Sink   Sink
	Agents *agentbin.Source
	Log    *slog.Logger
	// Transport replaces SSH and the push of the agent; optional.
	Transport Transport
	// Wish is what is wanted of the hosts' streams besides what each carries; optional.
	Wish agentapi.Wish
	// ConnectTimeout is how long a host may take to accept a connection, 0: 10 s.
	ConnectTimeout time.Duration
	// Silence is for how long a host may say nothing, not even that it lives, until its connection
	// counts as lost, 0: 45 s.
	Silence time.Duration
}

// Pool keeps connections to hosts. It is safe for concurrent use.
type Pool struct {
	Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pushes chan struct{} // bounds parallel uploads
	gate   gate

	mu         sync.Mutex
	hosts      map[string]*conn
	watched    int   // so far
	visits     lines // to hosts that another replica follows
	containers lines
}

// maxPushes bounds uploads of the agent at a time.
const maxPushes = 8

// ErrNotConnected says that a host cannot be called now.
var ErrNotConnected = errors.New("host: not connected")

// NewPool returns an empty pool.
func NewPool(c Config) *Pool {
	p := &Pool{Config: c, hosts: map[string]*conn{}, pushes: make(chan struct{}, maxPushes), gate: newGate(maxHandshakes, cmp.Or(c.ConnectTimeout, dialTimeout))}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// SetSink says who hears from the hosts, before the first Watch.
func (p *Pool) SetSink(s Sink) { p.Sink = s }

// Close ends all connections and waits for them.
func (p *Pool) Close() {
	p.cancel()
	p.wg.Wait()
}

// Watch connects to a host and stays connected until Forget. A target that is watched
// already keeps its connection.
func (p *Pool) Watch(t Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts[t.ID] != nil || p.ctx.Err() != nil {
		return
	}
	p.watched++
	c := &conn{pool: p, target: t, place: t.place(), num: p.watched}
	c.ctx, c.cancel = context.WithCancel(p.ctx)
	p.hosts[t.ID] = c
	p.wg.Go(c.run)
}

// Forget ends the connection to a host.
func (p *Pool) Forget(id string) {
	p.mu.Lock()
	c := p.hosts[id]
	delete(p.hosts, id)
	p.mu.Unlock()
	if c != nil {
		c.cancel()
	}
}

// Client returns the client of a connected host, ErrNotConnected otherwise.
func (p *Pool) Client(id string) (*agentapi.Client, error) {
	p.mu.Lock()
	c := p.hosts[id]
	p.mu.Unlock()
	if c == nil {
		return nil, ErrNotConnected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, c.err)
	}
	return c.client, nil
}

// conn is the connection to one host.
type conn struct {
	pool   *Pool
	target Target
	place  string // where the host is said to be, "" where no other can be
	num    int    // of those that were watched
	ctx    context.Context
	cancel context.CancelFunc
	met    atomic.Bool // the agent has answered, and is the target's

	// Of run alone.
	silence silence
	seen    string // the host key of the present connection
	odd     oddities
	told    string // what went wrong last, as it was logged
	toldAt  time.Time

	mu     sync.Mutex
	ssh    *ssh.Client
	client *agentapi.Client
	err    error // why there is no client
}

const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 15 * time.Second
	// bootRetry is for machines that were never met: somebody waits for them to boot.
	bootRetry = 5 * time.Second
	// tellAgain spaces reports that say the same of one host.
	tellAgain = 10 * time.Minute
)

// run connects again and again until the host is forgotten.
func (c *conn) run() {
	delay := firstRetry
	for attempt := 1; c.ctx.Err() == nil; attempt++ {
		start := time.Now()
		err := c.session()
		if c.ctx.Err() != nil {
			return
		}
		c.pool.Sink.Disconnected(c.target.ID, err)
		c.tell("the connection to a host ended", err)
		if time.Since(start) > time.Minute {
			delay = firstRetry
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(jitter(delay, c.target.ID, attempt)):
		}
		most := maxRetry
		if c.target.Bare && !c.met.Load() {
			most = bootRetry
		}
		delay = min(2*delay, most)
	}
}

// tell logs what went wrong, unless it has just been said.
func (c *conn) tell(what string, err error) {
	if text := err.Error(); text != c.told || time.Since(c.toldAt) > tellAgain {
		c.told, c.toldAt = text, time.Now()
		c.pool.Log.Info(what, "host", c.target.ID, "err", err)
	}
}

// session is one connection from its beginning to its end.
func (c *conn) session() error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if err := c.alone(false); err != nil {
		c.set(nil, nil, err)
		return err
	}
	client, closeAll, err := c.open(ctx)
	if err != nil {
		c.silence.since = time.Time{}
		c.set(nil, nil, err)
		return err
	}
	defer closeAll()
	info, err := client.Host(ctx)
	if err != nil {
		var started bool
		if started, err = c.revive(ctx, err); started {
			info, err = client.Host(ctx)
		}
	}
	if err == nil {
		c.silence = silence{}
		err = c.admit(ctx, client, info)
	}
	if err == nil {
		c.met.Store(true)
		c.pin(c.seen)
		err = c.upgrade(ctx, client, info)
	}
	if err == nil { // the agent of our own build may know better
		err = nonsense(info)
	}
	if err != nil {
		c.set(nil, nil, err)
		return err
	}
	tasks, err := client.Tasks(ctx)
	if err != nil {
		c.set(nil, nil, err)
		return err
	}
	c.mu.Lock()
	c.client = client
	c.mu.Unlock()
	c.pool.Sink.Connected(ctx, c.target.ID, info, c.sensible(tasks))
	err = c.follow(ctx, client)
	c.set(nil, nil, err)
	return err
}

func (c *conn) set(s *ssh.Client, client *agentapi.Client, err error) {
	c.mu.Lock()
	c.ssh, c.client, c.err = s, client, err
	c.mu.Unlock()
}

// open connects to the agent's socket.
func (c *conn) open(ctx context.Context) (*agentapi.Client, func(), error) {
	if t := c.pool.Transport; t != nil {
		client, key, closeAll, err := t.Open(ctx, c.target)
		c.seen = key
		return client, closeAll, err
	}
	if c.target.Local != "" {
		client := agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.target.Local)
		})
		return client, client.Close, nil
	}
	s, seen, err := c.pool.gate.open(ctx, c.target.Endpoint, c.target.Jump)
	if err != nil {
		return nil, nil, err
	}
	c.seen = seen.Host
	if j := c.target.Jump; j != nil && j.HostKey == "" { // for as long as we run
		pinned := *j
		pinned.HostKey = seen.Jump
		c.target.Jump = &pinned
	}
	c.mu.Lock()
	c.ssh = s
	c.mu.Unlock()
	client := agentapi.NewClient(socketDialer(s, c.target.home(), c.target.Endpoint.User))
	stop := context.AfterFunc(ctx, func() { s.Close() })
	return client, func() {
		stop()
		client.Close()
		s.Close()
	}, nil
}

// pin remembers the host key of a first contact.
func (c *conn) pin(key string) {
	if c.target.Endpoint.HostKey == "" && key != "" {
		c.target.Endpoint.HostKey = key
		c.pool.Sink.Pinned(c.target.ID, key)
	}
}

// upgrade replaces an agent of another build. Containers go on meanwhile. Where that is not possible the
// one there stays, since jobs matter more than its age.
func (c *conn) upgrade(ctx context.Context, client *agentapi.Client, info agentapi.HostInfo) error {
	if c.target.Local != "" || c.pool.Transport != nil {
		return nil
	}
	arch := "amd64"
	if info.Arch == "arm" {
		arch = "arm64"
	}
	bin, err := c.pool.Agents.Get(arch)
	if err != nil || bin.SHA256 == info.Hash {
		return nil // without a binary of our own the one there has to do
	}
	c.pool.Log.Info("the agent of a host is replaced", "host", c.target.ID, "from", info.Version)
	s := c.sshClient()
	if err := c.pool.push(ctx, s, c.target.Endpoint.User, bin); err != nil {
		if ctx.Err() != nil {
			return err
		}
		c.stays(err) // a full disk, for example
		return nil
	}
	if _, err := installAgent(ctx, s, c.target.Endpoint.User, c.target.home(), nil, ""); err != nil {
		if _, gone := client.Host(ctx); gone != nil {
			return err
		}
		c.stays(err) // refused before anything was changed, as while Docker is away
		return nil
	}
	return errors.New("the agent was replaced; connecting to the new one")
}

func (c *conn) stays(why error) {
	c.pool.Log.Warn("the agent of a host cannot be replaced and stays", "host", c.target.ID, "err", why)
}
