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
	return answering(key, func(ch ssh.NewChannel) { _ = ch.Reject(ssh.Prohibited, "") })
}

// answering is sshd with an answer of its own to each channel that is opened.
func answering(key ssh.Signer, answer func(ssh.NewChannel)) func(context.Context) (net.Conn, error) {
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
				answer(ch)
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

// unheard is a connection to somebody who does not listen any more.
type unheard struct {
	net.Conn
	silent chan struct{}
}

func (u unheard) Write(b []byte) (int, error) {
	select {
	case <-u.silent:
		return len(b), nil
	default:
		return u.Conn.Write(b)
	}
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

// A host that lets the server in and then answers nothing holds nobody for longer than they have time:
// there are only so many who look after hosts.
func TestCommandOnASilentHost(t *testing.T) {
	key := signer(t)
	synctest.Test(t, func(t *testing.T) {
		g := newGate(1, dialTimeout)
		c, _, err := g.handshake(t.Context(), Endpoint{Addr: "h", Port: 22, User: "root", Keys: []ssh.Signer{key}}, answering(key, func(ssh.NewChannel) {}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		const limit = 20 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		began, done := time.Now(), make(chan error, 1)
		go func() {
			_, _, err := run(ctx, c, "true", nil)
			done <- err
		}()
		select {
		case err := <-done:
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != limit {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		case <-time.After(time.Hour):
			t.Error("it is waited for without end")
		}
	})
}

// A host that opens a forwarding and then moves nothing, nor closes it when it is asked to, holds
// nobody either who wants to log in behind it.
func TestLogInBehindASilentHost(t *testing.T) {
	key := signer(t)
	e := Endpoint{Addr: "h", Port: 22, User: "root", Keys: []ssh.Signer{key}}
	for name, logIn := range map[string]func(context.Context, gate, *ssh.Client) error{
		"to a host": func(ctx context.Context, g gate, via *ssh.Client) error {
			_, _, err := g.through(ctx, via, e)
			return err
		},
		"to a container": func(ctx context.Context, g gate, via *ssh.Client) error {
			_, _, err := g.handshake(ctx, e, func(ctx context.Context) (net.Conn, error) { return dialLoopback(ctx, via, 22) })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate(1, dialTimeout)
				silent := make(chan struct{})
				dial := answering(key, func(ch ssh.NewChannel) {
					if _, reqs, err := ch.Accept(); err == nil {
						close(silent)
						go ssh.DiscardRequests(reqs)
					}
				})
				via, _, err := g.handshake(t.Context(), e, func(ctx context.Context) (net.Conn, error) {
					c, err := dial(ctx)
					return unheard{c, silent}, err
				})
				if err != nil {
					t.Fatal(err)
				}
				defer via.Close()
				began, done := time.Now(), make(chan error, 1)
				go func() { done <- logIn(t.Context(), g, via) }()
				select {
				case err := <-done:
					if refused, ok := errors.AsType[*OnboardError](err); !ok || refused.Code != CodeUnreachable || time.Since(began) != dialTimeout {
						t.Errorf("%v after %v", err, time.Since(began))
					}
				case <-time.After(time.Hour):
					t.Error("it is waited for without end")
				}
			})
		})
	}
}
