package sshd

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
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
