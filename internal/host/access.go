package host

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"dstack/internal/agentapi"
)

// Listen takes the connections that a job of a watched host opens to the server: see
// [agentapi.JobSpec.ServerAccess]. The server asks for each of them, so that hosts need no way
// to it. Accept fails when ctx has ended, as that of a connection to the host does, and when the
// job has.
func (p *Pool) Listen(ctx context.Context, hostID, taskID string) net.Listener {
	l := &calls{task: taskID, room: make(chan struct{}, agentapi.MaxCalls), client: func() (*agentapi.Client, error) { return p.Client(hostID) }}
	l.ctx, l.cancel = context.WithCancel(ctx)
	return l
}

// calls are a job's connections to the server.
type calls struct {
	task   string
	client func() (*agentapi.Client, error)
	room   chan struct{} // holds a token for each connection that is open
	ctx    context.Context
	cancel context.CancelFunc
}

// Accept waits for the next connection.
func (l *calls) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
	delay := firstRetry
	for attempt := 1; ; attempt++ {
		c, err := l.wait()
		switch {
		case err == nil:
			return withDeadlines(c, l.Addr(), func() { <-l.room }), nil
		case l.ctx.Err() != nil:
			return nil, net.ErrClosed
		case agentapi.IsCode(err, agentapi.CodeConflict), agentapi.IsCode(err, agentapi.CodeNotFound):
			l.cancel()
			return nil, err
		}
		select { // the job may be starting
		case <-time.After(jitter(delay, l.task, attempt)):
		case <-l.ctx.Done():
			return nil, net.ErrClosed
		}
		delay = min(2*delay, maxRetry)
	}
}

func (l *calls) wait() (io.ReadWriteCloser, error) {
	client, err := l.client()
	if err != nil {
		return nil, err
	}
	return client.Accept(l.ctx, l.task)
}

// Close ends Accept; connections go on.
func (l *calls) Close() error {
	l.cancel()
	return nil
}

// Addr names the job.
func (l *calls) Addr() net.Addr { return callAddr("job " + l.task) }

// callAddr is the address of a job that calls.
type callAddr string

func (a callAddr) Network() string { return "call" }
func (a callAddr) String() string  { return string(a) }

// withDeadlines makes a connection, as servers need it, of a stream that cannot be read with a
// deadline. done is called once both are closed.
func withDeadlines(stream io.ReadWriteCloser, from net.Addr, done func()) net.Conn {
	near, far := net.Pipe()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(far, stream) // until either is closed
		far.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(stream, far) // the same
		stream.Close()
		far.Close()
	})
	go func() {
		both.Wait()
		done()
	}()
	return call{near, from}
}

// call is a connection that says which job it is of.
type call struct {
	net.Conn
	from net.Addr
}

func (c call) RemoteAddr() net.Addr { return c.from }
