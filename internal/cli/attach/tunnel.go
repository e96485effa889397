package attach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// connectTimeout bounds one attempt through all hops.
	connectTimeout = 15 * time.Second
	// keepAlive is how often a silent connection is probed, and how long an answer may take.
	keepAlive = 15 * time.Second
	// forwardPatience is how long a local connection waits for a tunnel that is being restored.
	forwardPatience = 10 * time.Second

	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// ErrConnect means that the job could not be reached over SSH.
var ErrConnect = errors.New("can't connect to the remote host")

// Tunnel is an SSH connection through a [Route] that carries forwards, restored when it breaks.
type Tunnel struct {
	Route    Route
	Signer   func(path string) (ssh.Signer, error)                             // reads the key of a hop
	Known    ssh.HostKeyCallback                                               // for verified hops; nil accepts all
	Dial     func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	Forwards []*Forward
	// OnLost, if set, is told when the connection broke or could not be restored yet.
	OnLost func(error)

	mu     sync.Mutex
	client *ssh.Client
	ready  chan struct{} // closed while client is usable
}

// Connect makes up to attempts attempts and returns once the tunnel stands. After that, Run keeps it.
func (t *Tunnel) Connect(ctx context.Context, attempts int) error {
	wait := firstRetry
	for n := 1; ; n++ {
		c, err := t.dial(ctx)
		if err == nil {
			t.set(c)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n == attempts {
			return fmt.Errorf("%w: %w", ErrConnect, err)
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, lastRetry)
	}
}

// Run serves the forwards until ctx ends, and connects again whenever the connection breaks.
// It closes the forwards and returns when all their connections have ended.
func (t *Tunnel) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, f := range t.Forwards {
		for _, l := range f.listeners {
			wg.Go(func() { t.accept(ctx, l, f.Remote) })
		}
	}
	t.keep(ctx)
	Release(t.Forwards)
	wg.Wait()
}

func (t *Tunnel) keep(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		if c := t.current(); c != nil {
			err := watch(ctx, c)
			t.set(nil)
			_ = c.Close() // it is broken or no longer wanted
			if ctx.Err() != nil {
				return
			}
			t.lost(err)
			wait = firstRetry
		}
		c, err := t.dial(ctx)
		if err != nil {
			t.lost(err)
			pause(ctx, wait)
			wait = min(2*wait, lastRetry)
			continue
		}
		t.set(c)
	}
	if c := t.current(); c != nil {
		_ = c.Close() // as above
	}
}

func (t *Tunnel) lost(err error) {
	if t.OnLost != nil && err != nil {
		t.OnLost(err)
	}
}

// watch returns when c is dead or ctx ends.
func watch(ctx context.Context, c *ssh.Client) error {
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }() // ends with c, which our caller closes
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case err := <-gone:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if !alive(c) {
				return errors.New("no answer to a keepalive")
			}
		}
	}
}

func alive(c *ssh.Client) bool {
	answer := make(chan error, 1)
	go func() { // ends with the answer or when c is closed
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		answer <- err
	}()
	select {
	case err := <-answer:
		return err == nil
	case <-time.After(keepAlive):
		return false
	}
}

func (t *Tunnel) accept(ctx context.Context, l net.Listener, remote int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		local, err := l.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { _ = local.Close() }() // both directions have ended
			conn, err := t.DialJob(ctx, remote)
			if err != nil {
				return
			}
			join(ctx, local, conn)
		})
	}
}

// DialJob connects to a port of the job, waiting a little for a tunnel that is being restored.
func (t *Tunnel) DialJob(ctx context.Context, port int) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, forwardPatience, ErrConnect)
	defer cancel()
	for {
		t.mu.Lock()
		c, ready := t.client, t.readyLocked()
		t.mu.Unlock()
		if c != nil {
			return c.DialContext(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (t *Tunnel) current() *ssh.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.client
}

func (t *Tunnel) readyLocked() chan struct{} {
	if t.ready == nil {
		t.ready = make(chan struct{})
	}
	return t.ready
}

func (t *Tunnel) set(c *ssh.Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.client = c
	if c != nil {
		close(t.readyLocked())
		return
	}
	t.ready = make(chan struct{})
}

// dial connects through all hops. Closing the last client closes those beneath it.
func (t *Tunnel) dial(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errors.New("SSH connection timed out"))
	defer cancel()
	dial := t.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var last *ssh.Client
	for _, h := range t.Route {
		next, err := t.hop(ctx, h, dial)
		if err != nil {
			if last != nil {
				_ = last.Close() // the error that counts is err
			}
			return nil, fmt.Errorf("%s: %w", net.JoinHostPort(h.Hostname, strconv.Itoa(h.Port)), err)
		}
		if below := last; below != nil {
			go func() { // ends when next does
				_ = next.Wait()
				_ = below.Close()
			}()
		}
		last = next
		dial = next.DialContext
	}
	return last, nil
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

func (t *Tunnel) hop(ctx context.Context, h Hop, dial dialFunc) (*ssh.Client, error) {
	signer, err := t.Signer(h.Identity)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(h.Hostname, strconv.Itoa(h.Port))
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the handshake
	defer stop()
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User:            h.user(),
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: h.hostKeys(t.Known),
	})
	if err != nil {
		_ = conn.Close() // the error that counts is err
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// join copies both ways until both have ended or ctx does.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		_ = a.Close() // ends the copies
		_ = b.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(a, b) })
	wg.Go(func() { copyHalf(b, a) })
	wg.Wait()
	_ = a.Close() // both directions have ended
	_ = b.Close()
}

// copyHalf copies one direction and passes its end on, so that protocols with half-closed connections work.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite() // the other side sees the end, or is gone already
		return
	}
	_ = dst.Close() // as above
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
