package host

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// lineIdle is how long a shared connection stays open unused.
const lineIdle = time.Minute

// lines are connections that are made when somebody needs one, shared by all who do, and
// closed when nobody did for a while. The zero value is ready to use.
type lines struct {
	mu   sync.Mutex
	byID map[string]*line
}

// line is one of them. Whoever has its turn may connect and touch the fields, so that
// callers share one connection; others wait for it as long as their context allows.
type line struct {
	turn    chan struct{} // holds a token while nobody has it
	open    *opened
	idle    *time.Timer
	streams atomic.Int32 // forwardings that are open
}

// opened is a connection to a machine or into a container; ssh or client may be nil.
type opened struct {
	ssh    *ssh.Client
	client *agentapi.Client
	calls  atomic.Int32 // connections of client: of calls that are under way, or were a moment ago
	close  func()
}

// counted counts the connections that dial makes, until they are closed.
func (o *opened) counted(dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		o.calls.Add(1)
		return &stream{Conn: c, open: &o.calls}, nil
	}
}

// use calls do with the line of an id; connect makes the connection when there is none.
func (l *lines) use(ctx context.Context, id string, connect func(context.Context) (*opened, error), do func(*line) error) error {
	n, err := l.take(ctx, id)
	if err != nil {
		return err
	}
	defer func() { n.turn <- struct{}{} }()
	if n.open == nil {
		o, err := connect(ctx)
		if err != nil {
			l.forget(id, n)
			return err
		}
		n.open = o
		n.idle = time.AfterFunc(lineIdle, func() { l.rest(id, n) })
		if o.ssh != nil {
			go l.leaveWhenClosed(id, n, o.ssh)
		}
	}
	n.idle.Reset(lineIdle)
	return do(n)
}

// take returns the line of an id with its turn.
func (l *lines) take(ctx context.Context, id string) (*line, error) {
	for {
		l.mu.Lock()
		if l.byID == nil {
			l.byID = map[string]*line{}
		}
		n := l.byID[id]
		if n == nil {
			n = &line{turn: make(chan struct{}, 1)}
			n.turn <- struct{}{}
			l.byID[id] = n
		}
		l.mu.Unlock()
		select {
		case <-n.turn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		l.mu.Lock()
		current := l.byID[id] == n
		l.mu.Unlock()
		if current {
			return n, nil
		}
		n.turn <- struct{}{} // it was closed meanwhile
	}
}

// forget drops a line that could not be made or ends, so that nothing is left of it.
func (l *lines) forget(id string, n *line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID[id] == n {
		delete(l.byID, id)
	}
}

// leaveWhenClosed forgets a connection that the other side has ended; it ends with the
// connection.
func (l *lines) leaveWhenClosed(id string, n *line, s *ssh.Client) {
	_ = s.Wait()
	<-n.turn
	defer func() { n.turn <- struct{}{} }()
	l.end(id, n)
}

// rest closes a line that was not used for a while, unless somebody has a stream open on it, or a call.
func (l *lines) rest(id string, n *line) {
	<-n.turn
	defer func() { n.turn <- struct{}{} }()
	if n.open != nil && (n.streams.Load() > 0 || n.open.calls.Load() > 0) {
		n.idle.Reset(lineIdle)
		return
	}
	l.end(id, n)
}

// end closes a line. Whoever calls it has its turn, so that nobody gets the line meanwhile.
func (l *lines) end(id string, n *line) {
	l.forget(id, n)
	if n.open != nil {
		n.idle.Stop()
		n.open.close()
		n.open = nil
	}
}

// stream opens a forwarding on the line of an id. The turn is not held while it is opened: there
// may be many at a time.
func (l *lines) stream(ctx context.Context, id string, connect func(context.Context) (*opened, error), dial func(*ssh.Client) (net.Conn, error)) (net.Conn, error) {
	var n *line
	var client *ssh.Client
	err := l.use(ctx, id, connect, func(taken *line) error {
		n, client = taken, taken.open.ssh
		n.streams.Add(1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c, err := dial(client)
	if err != nil {
		n.streams.Add(-1)
		return nil, err
	}
	return &stream{Conn: c, open: &n.streams}, nil
}

// stream is a forwarding that keeps its line open.
type stream struct {
	net.Conn
	once sync.Once
	open *atomic.Int32 // how many there are
}

// Close ends the forwarding.
func (s *stream) Close() error {
	s.once.Do(func() { s.open.Add(-1) })
	return s.Conn.Close()
}
