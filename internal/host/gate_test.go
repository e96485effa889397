package host

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/sshkey"
)

// sshd answers the other end of a connection as the SSH server of a host.
func sshd(key ssh.Signer) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, end := net.Pipe()
		far := &writer{Conn: end, out: make(chan []byte, 64), closed: make(chan struct{})}
		go far.run()
		go func() {
			cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
			cfg.AddHostKey(key)
			c, chans, reqs, err := ssh.NewServerConn(far, cfg)
			if err != nil {
				far.Close()
				return
			}
			go ssh.DiscardRequests(reqs)
			for ch := range chans {
				_ = ch.Reject(ssh.Prohibited, "")
			}
			c.Close()
		}()
		return near, nil
	}
}

// writer writes behind the back of its caller: both ends of SSH begin with writing, and a pipe
// has no room.
type writer struct {
	net.Conn
	out    chan []byte
	once   sync.Once
	closed chan struct{}
}

func (w *writer) run() {
	for {
		select {
		case b := <-w.out:
			if _, err := w.Conn.Write(b); err != nil {
				return
			}
		case <-w.closed:
			return
		}
	}
}

func (w *writer) Write(b []byte) (int, error) {
	select {
	case w.out <- append([]byte(nil), b...):
		return len(b), nil
	case <-w.closed:
		return 0, net.ErrClosed
	}
}

func (w *writer) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	pair, err := sshkey.Generate("host")
	if err != nil {
		t.Fatal(err)
	}
	s, err := sshkey.Signer(pair.Private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Many hosts at once come in one after the other, and none of them too late: who waits for
// the others has all of its own time.
func TestGate(t *testing.T) {
	key := signer(t)
	synctest.Test(t, func(t *testing.T) {
		const hosts, room, slow = 12, 2, 6 * time.Second
		g := newGate(room, dialTimeout)
		began := time.Now()
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for n := range hosts {
			all.Go(func() {
				c, _, err := g.handshake(t.Context(), Endpoint{Addr: "h", Port: 22, User: "root", Keys: []ssh.Signer{key}}, func(ctx context.Context) (net.Conn, error) {
					conn, err := sshd(key)(ctx)
					return &lateConn{Conn: conn, by: slow}, err
				})
				if err != nil {
					t.Errorf("host %d after %v: %v", n, time.Since(began), err)
					return
				}
				defer c.Close()
				mu.Lock()
				defer mu.Unlock()
				order = append(order, n)
			})
			synctest.Wait() // in this order
		}
		all.Wait()
		if took, least := time.Since(began), hosts/room*slow; took < least {
			t.Errorf("all after %v: %d at a time take %v", took, room, least)
		}
		for at, n := range order {
			if n/room != at/room {
				t.Errorf("order %v", order)
				break
			}
		}
	})
}

// lateConn is a connection whose first byte takes a time from when it is asked for.
type lateConn struct {
	net.Conn
	by   time.Duration
	once sync.Once
}

func (c *lateConn) Read(b []byte) (int, error) {
	c.once.Do(func() { time.Sleep(c.by) })
	return c.Conn.Read(b)
}

// A host that is given up while it waits takes nobody's turn, and silent ones give theirs back.
func TestGateIsLeft(t *testing.T) {
	key := signer(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, dialTimeout)
		e := Endpoint{Addr: "h", Port: 22, User: "root", Keys: []ssh.Signer{key}}
		silent := func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				b := make([]byte, 1024)
				for {
					if _, err := far.Read(b); err != nil {
						return
					}
				}
			}()
			return near, nil
		}
		var all sync.WaitGroup
		all.Go(func() {
			_, _, err := g.handshake(t.Context(), e, silent)
			if refused, ok := errors.AsType[*OnboardError](err); !ok || refused.Code != CodeUnreachable {
				t.Errorf("a silent host: %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			if _, _, err := g.handshake(ctx, e, silent); err == nil || time.Since(began) != time.Second {
				t.Errorf("one that is given up: %v after %v", err, time.Since(began))
			}
		})
		synctest.Wait()
		all.Go(func() {
			began := time.Now()
			c, _, err := g.handshake(t.Context(), e, sshd(key))
			if err != nil || time.Since(began) != dialTimeout {
				t.Errorf("behind them: %v after %v", err, time.Since(began))
				return
			}
			c.Close()
		})
		all.Wait()
	})
}

// A host that does not accept a connection is given up in the time that is set for it.
func TestConnectTimeout(t *testing.T) {
	key := signer(t)
	synctest.Test(t, func(t *testing.T) {
		g, began := newGate(1, 3*time.Second), time.Now()
		_, _, err := g.handshake(t.Context(), Endpoint{Addr: "h", Port: 22, User: "root", Keys: []ssh.Signer{key}}, func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		if refused, ok := errors.AsType[*OnboardError](err); !ok || refused.Code != CodeUnreachable || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
