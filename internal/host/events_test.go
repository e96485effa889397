package host_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/host"
)

// lines are what a server logs.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

// logged is a world whose pool's log can be looked at.
func logged(t *testing.T) (*world, *lines) {
	t.Helper()
	w, l := newWorld(t), &lines{}
	w.pool.Close()
	w.pool = host.NewPool(host.Config{Sink: w.sink, Agents: agentbin.Of(map[string][]byte{"amd64": []byte(script)}), Log: slog.New(slog.NewTextHandler(l, nil))})
	t.Cleanup(w.pool.Close)
	return w, l
}

// Events that make no sense are dropped and acknowledged, counted and logged once per kind; those
// around them are stored.
func TestEventsThatMakeNoSense(t *testing.T) {
	w, log := logged(t)
	h := w.host()
	ours(h)
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	lie := func(seq int64, id string, change func(*agentapi.Event)) {
		e := event(seq)
		e.TaskID = id
		change(&e)
		h.Agent.Emit(e)
	}
	h.Agent.Emit(event(1))
	for n := range int64(20) {
		lie(2+n, "a\x01b", func(*agentapi.Event) {})
	}
	lie(22, taskID, func(e *agentapi.Event) { e.Log.Offset = -5 })
	lie(23, taskID, func(e *agentapi.Event) {
		e.Kind, e.Task = agentapi.TaskEvent, &agentapi.Task{ID: taskID, State: "exploded"}
	})
	h.Agent.Emit(event(24))
	lie(25, "no id", func(*agentapi.Event) {})
	w.until("the honest ones are stored", func() bool { return len(w.sink.events) == 2 })
	w.until("the last is acknowledged", func() bool { return h.Agent.Acked() == 25 })
	for _, what := range []string{agentapi.BadTaskID, agentapi.BadNumber, agentapi.BadState} {
		if n := log.count(`what="` + what + `"`); n != 1 {
			t.Errorf("%q is logged %d times", what, n)
		}
	}
	w.sink.see(func() {
		if len(w.sink.lost) > 0 {
			t.Errorf("the connection ended: %q", w.sink.lost)
		}
	})
}

// A host that says of itself what cannot be is not taken, and people are told why.
func TestHostThatMakesNoSense(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	h.Agent.Set(func(i *agentapi.HostInfo) { i.CPUs = -1 })
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("it is said", func() bool { return len(w.sink.lost) > 0 && strings.Contains(w.sink.lost[0], agentapi.BadNumber) })
	h.Agent.Set(func(i *agentapi.HostInfo) { i.CPUs = 4 })
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
}

// What the sink dropped is acknowledged, what it failed to store is not; why a session ended is
// logged, once.
func TestEventsThatTheSinkDrops(t *testing.T) {
	w, log := logged(t)
	h := w.host()
	ours(h)
	w.sink.fail = &agentapi.DroppedError{Count: 1, Why: errors.New("behind the end")}
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Agent.Emit(event(1))
	w.until("it is acknowledged", func() bool { return h.Agent.Acked() == 1 })
	w.sink.see(func() { w.sink.fail = errors.New("disk full") })
	for range 3 {
		h.Agent.Emit(event(2))
		streams := h.Agent.Streams()
		w.until("another stream is opened", func() bool { return h.Agent.Streams() > streams })
	}
	if h.Agent.Acked() != 1 {
		t.Error("what failed was acknowledged")
	}
	if n := log.count("behind the end"); n != 1 {
		t.Errorf("what was dropped is logged %d times", n)
	}
	if n := log.count("disk full"); n != 1 {
		t.Errorf("why sessions ended is logged %d times", n)
	}
}

// A host that answers commands without end fills no memory, and what it says can be stored.
func TestEndlessOutput(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.Program("uname", `head -c 5000000 /dev/zero`)
	_, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h)})
	refused, ok := errors.AsType[*host.OnboardError](err)
	if !ok || len(refused.Message) > 5000 || strings.Contains(refused.Message, "\x00") {
		t.Errorf("%T of %d bytes", err, len(err.Error()))
	}
}
