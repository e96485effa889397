package sshd

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestEnd ends a server before it serves, which a job that is over within milliseconds does, and while it
// does. It has to return either way, since the job's container waits for it.
func TestEnd(t *testing.T) {
	for name, run := range map[string]func(*Server, net.Listener) error{
		"before it serves": func(s *Server, l net.Listener) error {
			s.close(l)
			_ = s.srv.Serve(l) // as Serve goes on when it was not told in time
			return nil
		},
		"while it serves": func(s *Server, l net.Listener) error {
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				synctest.Wait()
				cancel()
			}()
			return s.Serve(ctx, l)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(Config{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { // who goes on accepting is a deadlock here
				if err := run(s, &silent{closed: make(chan struct{})}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Who connects and does not log in is not kept.
func TestLoginGrace(t *testing.T) {
	s, err := New(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		l := &visited{silent: silent{closed: make(chan struct{})}, by: make(chan net.Conn, 1)}
		l.by <- far
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { _ = s.Serve(ctx, l) }() // until the end of ctx
		began, ended := time.Now(), make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, near)
			close(ended)
		}()
		select {
		case <-ended:
			if took := time.Since(began); took != loginGrace {
				t.Errorf("it ended after %v", took)
			}
		case <-time.After(time.Hour):
			t.Error("a connection is kept on which nobody logs in")
		}
	})
}

// visited is a listener that somebody connects to once.
type visited struct {
	silent
	by chan net.Conn
}

func (l *visited) Accept() (net.Conn, error) {
	select {
	case c := <-l.by:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// silent is a listener that nobody connects to.
type silent struct {
	net.Listener
	once   sync.Once
	closed chan struct{}
}

func (l *silent) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *silent) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
