package host

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// visitIdle is how long a connection of [Pool.Visit] stays open unused.
const visitIdle = time.Minute

// visits are connections to hosts that another replica follows, for single calls.
type visits struct {
	mu   sync.Mutex
	byID map[string]*visit
}

// visit is one of them. Whoever has its turn may connect and touch the fields, so that
// callers share one connection; others wait for it as long as their context allows.
type visit struct {
	turn   chan struct{} // holds a token while nobody has it
	client *agentapi.Client
	close  func()
	idle   *time.Timer
}

// Watched says that this pool keeps a connection to a host, or tries to.
func (p *Pool) Watched(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hosts[id] != nil
}

// Visit returns the client of a host that this pool does not watch: it connects when there
// is no connection, and closes that when it was not used for a minute. The host key must
// be known.
func (p *Pool) Visit(ctx context.Context, t Target) (*agentapi.Client, error) {
	p.visits.mu.Lock()
	if p.visits.byID == nil {
		p.visits.byID = map[string]*visit{}
	}
	v := p.visits.byID[t.ID]
	if v == nil {
		v = &visit{turn: make(chan struct{}, 1)}
		v.turn <- struct{}{}
		p.visits.byID[t.ID] = v
	}
	p.visits.mu.Unlock()

	select {
	case <-v.turn:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { v.turn <- struct{}{} }()
	if v.client != nil {
		v.idle.Reset(visitIdle)
		return v.client, nil
	}
	if t.Local == "" && t.Endpoint.HostKey == "" {
		return nil, ErrNotConnected
	}
	client, end, err := p.call(ctx, t)
	if err != nil {
		return nil, err
	}
	v.client, v.close = client, end
	v.idle = time.AfterFunc(visitIdle, func() { p.leave(t.ID) })
	return client, nil
}

// call opens a connection for calls.
func (p *Pool) call(ctx context.Context, t Target) (*agentapi.Client, func(), error) {
	if p.Transport != nil {
		client, _, end, err := p.Transport.Open(ctx, t)
		return client, end, err
	}
	if t.Local != "" {
		client := agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", t.Local)
		})
		return client, client.Close, nil
	}
	s, _, err := connect(ctx, t.Endpoint, t.Jump)
	if err != nil {
		return nil, nil, err
	}
	client := agentapi.NewClient(socketDialer(s, t.home(), t.Endpoint.User))
	go p.leaveWhenClosed(t.ID, s)
	return client, func() {
		client.Close()
		s.Close()
	}, nil
}

// leaveWhenClosed forgets a connection that the other side has ended; it ends with the
// connection.
func (p *Pool) leaveWhenClosed(id string, s *ssh.Client) {
	_ = s.Wait()
	p.leave(id)
}

// leave closes a host's connection for calls.
func (p *Pool) leave(id string) {
	p.visits.mu.Lock()
	v := p.visits.byID[id]
	delete(p.visits.byID, id)
	p.visits.mu.Unlock()
	if v == nil {
		return
	}
	<-v.turn
	defer func() { v.turn <- struct{}{} }()
	if v.client != nil {
		v.idle.Stop()
		v.close()
	}
}
