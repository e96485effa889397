package host_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/host"
	"dstack/internal/host/hosttest"
)

func TestPool(t *testing.T) {
	for name, refuses := range map[string]bool{"by a forwarded socket": false, "by a command": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			h.NoStreamlocal = refuses
			ours(h)
			target := host.Target{ID: "h", Endpoint: w.endpoint(h)}
			w.pool.Watch(target)
			w.pool.Watch(target)
			w.until("the host is connected", func() bool { return w.sink.connected == 1 })
			for n := range int64(500) {
				h.Agent.Emit(event(n + 1))
			}
			w.until("all events are handled", func() bool { return len(w.sink.events) == 500 })
			w.until("the last is acknowledged", acked(h, 500))
			w.sink.see(func() {
				for i, e := range w.sink.events {
					if e.Seq != int64(i+1) {
						t.Fatalf("event %d at place %d", e.Seq, i)
					}
				}
				if diff := cmp.Diff([]string{h.Key()}, w.sink.pinned); diff != "" {
					t.Errorf("pinned: %s", diff)
				}
			})
			client, err := w.pool.Client("h")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Host(t.Context()); err != nil {
				t.Error(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if c, err := l.Accept(); err == nil {
					_, _ = c.Write([]byte("hi"))
					c.Close()
				}
			}()
			c, err := w.pool.Forward(t.Context(), target, l.Addr().(*net.TCPAddr).Port)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2)
			if _, err := c.Read(buf); err != nil || string(buf) != "hi" {
				t.Errorf("%q %v", buf, err)
			}
			c.Close()
			w.pool.Forget("h")
			if _, err := w.pool.Client("h"); !errors.Is(err, host.ErrNotConnected) {
				t.Errorf("after Forget: %v", err)
			}
		})
	}
}

// TestForward connects to ports of a host that another replica follows, and of the containers
// there: the host of the test stands for the container's SSH server as well.
func TestForward(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // until the client has gone
				c.Close()
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	target := host.Target{ID: "h", Endpoint: w.endpoint(h)}
	if _, err := w.pool.Forward(t.Context(), target, port); !errors.Is(err, host.ErrNotConnected) {
		t.Errorf("a host whose key is not known: %v", err)
	}
	target.Endpoint.HostKey = h.Key()
	inside := host.Container{ID: "job", Host: target, Port: target.Endpoint.Port, User: "root", Key: w.user}
	for name, dial := range map[string]func(port int) (net.Conn, error){
		"host":      func(port int) (net.Conn, error) { return w.pool.Forward(t.Context(), target, port) },
		"container": func(port int) (net.Conn, error) { return w.pool.ForwardInto(t.Context(), inside, port) },
	} {
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				c, err := dial(port)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				defer c.Close()
				buf := make([]byte, 2)
				if _, err := c.Write([]byte("hi")); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hi" {
					t.Errorf("%s: %q %v", name, buf, err)
				}
			})
		}
		group.Wait()
		if _, err := dial(1); err == nil {
			t.Errorf("%s: a port where nobody listens is connected", name)
		}
	}
}

// A host that comes back is connected again, unless it is another one now.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Down()
	w.until("the loss is told", func() bool { return len(w.sink.lost) > 0 })
	h.Up(w.user.PublicKey(), false)
	w.until("the host is connected again", func() bool { return w.sink.connected == 2 })
	h.Down()
	h.Up(w.user.PublicKey(), true)
	w.until("the changed key is told", func() bool { return strings.Contains(w.sink.lost[len(w.sink.lost)-1], "host key") })
	w.sink.see(func() {
		if w.sink.connected != 2 || len(w.sink.pinned) != 1 {
			t.Errorf("connected %d times, pinned %d keys", w.sink.connected, len(w.sink.pinned))
		}
	})
	if _, err := w.pool.Client("h"); !errors.Is(err, host.ErrNotConnected) || !strings.Contains(err.Error(), "host key") {
		t.Errorf("%v", err)
	}
}

// A host from which nothing comes any more is lost, whatever TCP believes of the connection.
func TestSilentHost(t *testing.T) {
	w := newWorld(t)
	w.pool.Silence = time.Second
	h := w.host()
	ours(h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool // the first connection
	pass := func(to, from net.Conn, cut *atomic.Bool) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if cut.Load() {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for cut := &cut; ; cut = new(atomic.Bool) {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", net.JoinHostPort(h.Addr(), strconv.Itoa(h.Port())))
			if err != nil {
				near.Close()
				continue
			}
			t.Cleanup(func() { near.Close(); far.Close() })
			go pass(near, far, cut)
			go pass(far, near, cut)
		}
	}()
	t.Cleanup(func() { l.Close() })
	e := w.endpoint(h)
	at := l.Addr().(*net.TCPAddr)
	e.Addr, e.Port = at.IP.String(), at.Port
	w.pool.Watch(host.Target{ID: "h", Endpoint: e})
	w.until("the stream is open", func() bool { return h.Agent.Streams() == 1 })
	beat(t, h.Agent, w.pool.Silence/20)
	<-time.After(w.pool.Silence + w.pool.Silence/4)
	w.sink.see(func() {
		if len(w.sink.lost) > 0 {
			t.Fatalf("lost before the host was cut off: %q", w.sink.lost)
		}
	})
	cut.Store(true)
	w.until("the loss is told", func() bool { return len(w.sink.lost) > 0 })
	w.sink.see(func() {
		if want := "the host has been silent for 1s"; w.sink.lost[0] != want {
			t.Errorf("lost: %q, want %q", w.sink.lost[0], want)
		}
	})
	w.until("the host is connected again", func() bool { return w.sink.connected > 1 })
}

// beat has an agent say again and again that it lives, until the test ends.
func beat(t *testing.T, a *hosttest.Agent, every time.Duration) {
	t.Helper()
	alive, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() {
		for alive.Err() == nil {
			a.Emit(agentapi.Event{Kind: agentapi.HeartbeatEvent})
			<-time.After(every)
		}
	}()
}

// A host whose events are not read, since others take long to be stored, is not silent.
func TestSilenceOfTheServer(t *testing.T) {
	w := newWorld(t)
	w.pool.Silence = time.Second
	w.sink.busy = make(chan struct{})
	h := w.host()
	ours(h)
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the stream is open", func() bool { return h.Agent.Streams() == 1 })
	const events = 20
	h.Agent.Emit(event(1))
	w.sink.busy <- struct{}{}
	for n := int64(2); n <= events; n++ {
		h.Agent.Emit(event(n))
	}
	beat(t, h.Agent, w.pool.Silence/10)
	<-time.After(2 * w.pool.Silence)
	close(w.sink.busy)
	w.until("all are acknowledged", func() bool { seq, _ := h.Agent.Acked(); return seq == events })
	w.sink.see(func() {
		if len(w.sink.lost) > 0 || len(w.sink.events) != events {
			t.Errorf("lost: %q, %d events, want %d", w.sink.lost, len(w.sink.events), events)
		}
	})
}

// What could not be stored is not acknowledged, and asked for again.
func TestEventsThatCannotBeStored(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	w.sink.fail = errors.New("disk full")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Agent.Emit(event(1))
	w.until("another stream is opened", func() bool { return h.Agent.Streams() > 1 })
	if !acked(h, 0)() {
		t.Error("it was acknowledged")
	}
	w.sink.see(func() { w.sink.fail = nil })
	h.Agent.Emit(event(1))
	w.until("it is stored", func() bool { return len(w.sink.events) > 0 })
}

// An agent of another build is replaced; its variables stay.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	write(t, h, "env", "kept")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the new agent is installed", func() bool { return h.File("installed") != "" })
	if got := h.File("installed"); strings.Contains(got, "--env-stdin") {
		t.Errorf("installed by %q", got)
	}
	if h.File("agent") != script {
		t.Error("not our agent")
	}
	ours(h)
	w.until("the new agent is connected", func() bool { return w.sink.connected == 1 })
}

// Jobs matter more than the agent's age: one that cannot be replaced stays in use.
func TestUpgradeThatFails(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.Program("cat", "echo 'No space left on device' >&2; exit 1")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the old agent is connected", func() bool { return w.sink.connected == 1 })
	if h.File("agent") != "" {
		t.Error("half an agent was left")
	}
}

// The same when the new one is there and refuses to be installed: the old one runs on.
func TestUpgradeThatIsRefused(t *testing.T) {
	for code, why := range map[string]string{"disk_full": "only 3 MiB are free", "no_docker": "Docker does not answer"} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			write(t, h, "refusal", `{"code":"`+code+`","message":"`+why+`"}`)
			w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
			w.until("the old agent is connected", func() bool { return w.sink.connected == 1 })
			if h.File("installed") == "" {
				t.Error("nobody has tried to replace it")
			}
		})
	}
}
