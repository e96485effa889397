package host

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"
)

// Forwarder is a [Transport] that can open connections on hosts.
type Forwarder interface {
	// Forward connects to a port of a host's loopback.
	Forward(ctx context.Context, t Target, port int) (net.Conn, error)
}

// Forward connects to a port of a host's loopback: over the connection that the pool keeps, or,
// to a host that another replica follows, over one that closes when it is not used.
func (p *Pool) Forward(ctx context.Context, t Target, port int) (net.Conn, error) {
	switch f, ok := p.Transport.(Forwarder); {
	case ok:
		return f.Forward(ctx, t, port)
	case p.Transport != nil:
		return nil, fmt.Errorf("forward to a host: %w", ErrNotConnected)
	case t.Local != "":
		return loopback(func(addr string) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) }, port)
	}
	p.mu.Lock()
	c := p.hosts[t.ID]
	p.mu.Unlock()
	if c != nil {
		c.mu.Lock()
		s := c.ssh
		c.mu.Unlock()
		if s == nil {
			return nil, ErrNotConnected
		}
		return dialLoopback(ctx, s, port)
	}
	connect := func(ctx context.Context) (*opened, error) { return p.call(ctx, t) }
	return p.visits.stream(ctx, t.ID, connect, func(s *ssh.Client) (net.Conn, error) { return dialLoopback(ctx, s, port) })
}

// Container is where a container's SSH server listens.
type Container struct {
	ID   string // of the job
	Host Target
	Port int // of the host's loopback
	User string
	Key  ssh.Signer
}

// ForwardInto connects to a port of the loopback of a container, which has a network of its
// own. Its connection is shared, and closes when it is not used for a minute.
func (p *Pool) ForwardInto(ctx context.Context, c Container, port int) (net.Conn, error) {
	connect := func(ctx context.Context) (*opened, error) { return p.enter(ctx, c) }
	return p.containers.stream(ctx, c.ID, connect, func(s *ssh.Client) (net.Conn, error) { return dialLoopback(ctx, s, port) })
}

// enter logs in to a container. Its host key is new with each container and is not checked:
// the way there is a port that the host's agent has named.
func (p *Pool) enter(ctx context.Context, c Container) (*opened, error) {
	e := Endpoint{Addr: "127.0.0.1", Port: c.Port, User: c.User, Keys: []ssh.Signer{c.Key}}
	s, _, err := p.gate.handshake(ctx, e, func(ctx context.Context) (net.Conn, error) { return p.Forward(ctx, c.Host, c.Port) })
	if err != nil {
		return nil, err
	}
	return &opened{ssh: s, close: func() { s.Close() }}, nil
}

// dialLoopback connects to a port of the other side's loopback.
func dialLoopback(ctx context.Context, s *ssh.Client, port int) (net.Conn, error) {
	return loopback(func(addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		return openChannel(ctx, s, "direct-tcpip", ssh.Marshal(struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{host, uint32(port), "127.0.0.1", 0}))
	}, port)
}

// loopback dials a port of either loopback address: some programs listen on the newer alone.
func loopback(dial func(addr string) (net.Conn, error), port int) (net.Conn, error) {
	c, err := dial(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		return c, nil
	}
	if c, err := dial(net.JoinHostPort("::1", strconv.Itoa(port))); err == nil {
		return c, nil
	}
	return nil, err
}
