package host

import (
	"context"
	"net"
	"time"

	"dstack/internal/agentapi"
)

// Watched says that this pool keeps a connection to a host, or tries to.
func (p *Pool) Watched(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hosts[id] != nil
}

// Visit returns the client of a host that this pool does not watch, because another replica
// follows it: it connects when there is no connection, and closes that when it was not used
// for a minute or two. The host key must be known, or known to be lost.
func (p *Pool) Visit(ctx context.Context, t Target) (*agentapi.Client, error) {
	var client *agentapi.Client
	err := p.visits.use(ctx, t.ID, func(ctx context.Context) (*opened, error) { return p.call(ctx, t) }, func(n *line) error {
		client = n.open.client
		return nil
	})
	return client, err
}

// call opens a connection for calls.
func (p *Pool) call(ctx context.Context, t Target) (*opened, error) {
	switch {
	case p.Transport != nil:
		client, _, end, err := p.Transport.Open(ctx, t)
		return &opened{client: client, close: end}, err
	case t.Local != "":
		client := agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", t.Local)
		})
		return &opened{client: client, close: client.Close}, nil
	case t.Endpoint.HostKey == "" && !t.Forgotten:
		return nil, ErrNotConnected
	}
	s, _, err := p.gate.open(ctx, t.Endpoint, t.Jump)
	if err != nil {
		return nil, err
	}
	o := &opened{ssh: s}
	o.client = agentapi.NewClient(o.counted(socketDialer(s, t.home(), t.Endpoint.User)))
	o.close = func() {
		o.client.Close()
		s.Close()
	}
	return o, nil
}
