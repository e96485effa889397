package host_test

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/host"
	"dstack/internal/host/hosttest"
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

// acked says that all events up to a number are acknowledged.
func acked(h *hosttest.Host, seq int64) func() bool {
	return func() bool {
		is, _ := h.Agent.Acked()
		return is == seq
	}
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
	w.until("the last is acknowledged", acked(h, 25))
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

// What the sink dropped is acknowledged, what it failed to store is told again over the same connection; that
// is logged, once.
func TestEventsThatTheSinkDrops(t *testing.T) {
	w, log := logged(t)
	h := w.host()
	ours(h)
	w.sink.fail = &agentapi.DroppedError{Count: 1, Why: errors.New("behind the end")}
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Agent.Emit(event(1))
	w.until("it is acknowledged", acked(h, 1))
	w.sink.see(func() { w.sink.fail = errors.New("disk full") })
	for range 3 {
		h.Agent.Emit(event(2))
		streams := h.Agent.Streams()
		w.until("another stream is opened", func() bool { return h.Agent.Streams() > streams })
	}
	if !acked(h, 1)() {
		t.Error("what failed was acknowledged")
	}
	if _, err := w.pool.Client("h"); err != nil {
		t.Errorf("the host is not to be reached: %v", err)
	}
	w.sink.see(func() {
		if len(w.sink.lost) > 0 {
			t.Errorf("the connection ended: %q", w.sink.lost)
		}
		w.sink.fail = nil
	})
	h.Agent.Emit(event(2))
	w.until("it is acknowledged in the end", acked(h, 2))
	if n := log.count("behind the end"); n != 1 {
		t.Errorf("what was dropped is logged %d times", n)
	}
	if n := log.count("disk full"); n != 1 {
		t.Errorf("what could not be stored is logged %d times", n)
	}
}

// What cannot be stored of one task holds up no other, and is told again by the next stream.
func TestEventsThatTheSinkHolds(t *testing.T) {
	const other = "0a2a8a3c-0000-4000-8000-000000000002"
	w := newWorld(t)
	h := w.host()
	ours(h)
	w.sink.fail = &agentapi.HeldError{Tasks: []string{taskID}, Why: errors.New("its log cannot be written")}
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	streams := h.Agent.Streams()
	h.Agent.Emit(event(1))
	w.until("it is acknowledged, but for the task", func() bool {
		seq, except := h.Agent.Acked()
		return seq == 1 && slices.Equal(except, []string{taskID})
	})
	w.sink.see(func() { w.sink.fail = nil })
	w.until("another stream tells it again", func() bool { return h.Agent.Streams() > streams })
	h.Agent.Emit(event(2))
	e := event(3)
	e.TaskID = other
	h.Agent.Emit(e)
	w.until("the rest is acknowledged", acked(h, 3))
	if _, except := h.Agent.Acked(); except != nil {
		t.Errorf("%q is still held", except)
	}
	w.sink.see(func() {
		if len(w.sink.lost) > 0 || len(w.sink.events) != 2 {
			t.Errorf("%d events are stored, want 2; the connection ended %q", len(w.sink.events), w.sink.lost)
		}
	})
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
