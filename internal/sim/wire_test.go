package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/host"
)

// wire is one process's way to hosts. It implements host.Transport.
type wire struct{ p *process }

// dialTimeout is how long the real transport waits for an answer.
const dialTimeout = 10 * time.Second

func unreachable(addr string) error {
	return &host.OnboardError{Code: host.CodeUnreachable, Message: addr + " does not answer"}
}

// reach finds the machine that answers at an address now.
func (x *wire) reach(ctx context.Context, addr string) (*agent, error) {
	delay(ctx, 20*time.Millisecond+x.p.w.step(addr))
	if ctx.Err() != nil || !x.p.alive() {
		return nil, errDead
	}
	h := x.p.w.at(addr)
	x.p.mu.Lock()
	cut := x.p.cutOff
	x.p.mu.Unlock()
	if h != nil && !cut {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if h.open(ctx.Done()) {
			return h, nil
		}
		return nil, unreachable(addr)
	}
	delay(ctx, dialTimeout)
	return nil, unreachable(addr)
}

func delay(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// Open implements host.Transport.
func (x *wire) Open(ctx context.Context, t host.Target) (*agentapi.Client, string, func(), error) {
	h, err := x.reach(ctx, t.Endpoint.Addr)
	if err != nil {
		return nil, "", nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.installed && t.Bare && x.p.w.hosts[h.name] == h:
		return nil, "", nil, &host.OnboardError{Code: host.CodeAuth, Message: h.name + " refuses the key"}
	case !h.installed && !t.Bare:
		return nil, "", nil, errNoAgent
	case t.Endpoint.HostKey != "" && t.Endpoint.HostKey != h.key:
		return nil, "", nil, &host.OnboardError{Code: host.CodeHostKey, Message: "the host key changed"}
	}
	l := &link{p: x.p, h: h, down: h.down, done: make(chan struct{})}
	x.p.w.addLink(x.p, l.close)
	return agentapi.NewClientOver(l), h.key, l.close, nil
}

// Onboard implements host.Transport.
func (x *wire) Onboard(ctx context.Context, r host.OnboardRequest) (host.Onboarded, error) {
	if err := x.p.effect("before Onboard " + r.Endpoint.Addr); err != nil {
		return host.Onboarded{}, err
	}
	h, err := x.reach(ctx, r.Endpoint.Addr)
	if err != nil {
		return host.Onboarded{}, err
	}
	h.mu.Lock()
	known, key := h.installed, h.key
	h.mu.Unlock()
	if info := h.info(); known && r.Taken != nil {
		if err := r.Taken(ctx, info.InstanceKey, info.BootID); err != nil {
			return host.Onboarded{}, err
		}
	}
	delay(ctx, 2*time.Second) // others may come meanwhile
	h.mu.Lock()
	h.installed = true
	h.mu.Unlock()
	if err := x.p.effect("after Onboard " + r.Endpoint.Addr); err != nil {
		return host.Onboarded{}, err
	}
	return host.Onboarded{Info: h.info(), HostKey: key}, nil
}

// Settle implements host.Transport.
func (x *wire) Settle(ctx context.Context, t host.Target) error {
	if err := x.p.effect("before Settle " + t.Endpoint.Addr); err != nil {
		return err
	}
	h, err := x.reach(ctx, t.Endpoint.Addr)
	if err != nil {
		return err
	}
	delay(ctx, 2*time.Second)
	h.mu.Lock()
	h.installed = true
	h.mu.Unlock()
	return x.p.effect("after Settle " + t.Endpoint.Addr)
}

// Uninstall implements host.Transport.
func (x *wire) Uninstall(ctx context.Context, r host.UninstallRequest) error {
	if err := x.p.effect("before Uninstall " + r.Endpoint.Addr); err != nil {
		return err
	}
	h, err := x.reach(ctx, r.Endpoint.Addr)
	if err != nil {
		return err
	}
	h.uninstall()
	return x.p.effect("after Uninstall " + r.Endpoint.Addr)
}

// link is one connection from a process to an agent: a RoundTripper.
type link struct {
	p      *process
	h      *agent
	down   <-chan struct{} // the host's, when the connection was made
	done   chan struct{}   // closed by us
	once   sync.Once
	mu     sync.Mutex
	stream *stream
}

func (l *link) close() { l.once.Do(func() { close(l.done) }) }

var (
	errBroken  = errors.New("connection reset by peer")
	errNoAgent = errors.New("no agent on the host")
)

// pass waits until a packet can pass.
func (l *link) pass(ctx context.Context) error {
	delay(ctx, 5*time.Millisecond+l.p.w.step(l.h.name))
	select {
	case <-l.done:
		return errBroken
	case <-l.down:
		return errBroken
	default:
	}
	if !l.h.isOpen() {
		ended, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			select {
			case <-l.done:
			case <-l.down:
			case <-ended.Done():
			}
			stop()
		}()
		if !l.h.open(ended.Done()) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errBroken
		}
	}
	if !l.p.alive() {
		return errDead
	}
	return nil
}

// RoundTrip implements http.RoundTripper.
func (l *link) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	if err := l.pass(r.Context()); err != nil {
		return nil, err
	}
	if !l.h.hasAgent() {
		return nil, errNoAgent
	}
	if r.URL.Path == "/v1/events" {
		s := &stream{link: l, ctx: r.Context(), known: map[string]*cursor{}}
		l.mu.Lock()
		l.stream = s
		l.mu.Unlock()
		return &http.Response{StatusCode: http.StatusOK, Body: s, Request: r}, nil
	}
	command := r.Method != http.MethodGet && r.Method != http.MethodHead && r.URL.Path != "/v1/events/ack"
	fault := l.p.w.netFault(l.h, r.Method+" "+r.URL.Path)
	if fault == "request lost" {
		return nil, errBroken
	}
	what := fmt.Sprintf("%s %s at %s", r.Method, r.URL.Path, l.h.name)
	if command {
		if err := l.p.effect("before " + what); err != nil {
			return nil, err
		}
	}
	status, out := l.serve(r, body)
	if command {
		if err := l.p.effect("after " + what); err != nil {
			return nil, err
		}
	}
	if fault == "reply lost" {
		return nil, errBroken
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(bytes.NewReader(out)), Request: r}, nil
}

// serve is the agent's API.
func (l *link) serve(r *http.Request, body []byte) (int, []byte) {
	refuse := func(status int, code, msg string) (int, []byte) {
		data, _ := json.Marshal(agentapi.Error{Code: code, Message: msg}) // two strings
		return status, data
	}
	answer := func(v any) (int, []byte) {
		data, err := json.Marshal(v)
		if err != nil {
			return refuse(http.StatusInternalServerError, "", err.Error())
		}
		return http.StatusOK, data
	}
	id, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/tasks/"), "/")
	switch {
	case r.URL.Path == "/v1/host":
		return answer(l.h.info())
	case r.URL.Path == "/v1/tasks":
		return answer(l.h.list())
	case r.URL.Path == "/v1/events/ack":
		var a agentapi.Ack
		if err := json.Unmarshal(body, &a); err != nil {
			return refuse(http.StatusBadRequest, agentapi.CodeInvalid, err.Error())
		}
		l.ack(a)
		return answer(struct{}{})
	case r.Method == http.MethodPut:
		var spec agentapi.TaskSpec
		if err := json.Unmarshal(body, &spec); err != nil {
			return refuse(http.StatusBadRequest, agentapi.CodeInvalid, err.Error())
		}
		return answer(l.h.put(spec))
	case rest == "terminate":
		var how agentapi.Terminate
		if err := json.Unmarshal(body, &how); err != nil {
			return refuse(http.StatusBadRequest, agentapi.CodeInvalid, err.Error())
		}
		l.p.w.checks.terminating(l.p, l.h, id, how)
		t, ok := l.h.terminate(id, how)
		if !ok {
			return refuse(http.StatusNotFound, agentapi.CodeNotFound, "no such task")
		}
		return answer(t)
	case r.Method == http.MethodDelete:
		switch known, busy := l.h.forget(id); {
		case busy:
			return refuse(http.StatusConflict, agentapi.CodeConflict, "the task has not ended")
		case !known:
			return refuse(http.StatusNotFound, agentapi.CodeNotFound, "no such task")
		}
		return answer(struct{}{})
	case rest == "logs":
		data, ok := l.h.logOf(id)
		from, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
		if !ok || err != nil || from > int64(len(data)) {
			return refuse(http.StatusNotFound, agentapi.CodeNotFound, "no such task")
		}
		return http.StatusOK, data[from:]
	}
	return refuse(http.StatusNotFound, agentapi.CodeNotFound, "no such path")
}

// cursor is how far a stream has told of a task.
type cursor struct {
	version int64
	log     int64
}

// position is what an acknowledgement of an event means.
type position struct {
	seq    int64
	task   string
	offset int64 // end of the log data, 0 for other events
}

// stream is the event stream of a link: the body of the response.
type stream struct {
	link  *link
	ctx   context.Context // of the request, as response bodies have
	known map[string]*cursor
	sent  []position
	buf   []byte
}

func (l *link) ack(a agentapi.Ack) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.mu.Lock()
	s := l.stream
	l.mu.Unlock()
	if s == nil {
		return
	}
	if l.h.older {
		a.Except = nil
	}
	for len(s.sent) > 0 && s.sent[0].seq <= a.Seq {
		if t := l.h.tasks[s.sent[0].task]; t != nil && !slices.Contains(a.Except, t.spec.ID) {
			t.acked = max(t.acked, s.sent[0].offset)
		}
		s.sent = s.sent[1:]
	}
}

// Close implements io.Closer.
func (s *stream) Close() error { return nil }

// Read implements io.Reader: it waits for events.
func (s *stream) Read(p []byte) (int, error) {
	l := s.link
	for len(s.buf) == 0 {
		if err := l.pass(s.ctx); err != nil {
			return 0, err
		}
		l.h.mu.Lock()
		lag, changed := l.h.lag, l.h.changed
		l.h.mu.Unlock()
		if lag > 0 {
			delay(s.ctx, lag)
		}
		s.collect()
		if len(s.buf) > 0 {
			break
		}
		select {
		case <-changed:
		case <-time.After(agentapi.HeartbeatEvery):
			if l.h.isOpen() {
				s.encode(agentapi.Event{Kind: agentapi.HeartbeatEvent, Micros: l.h.clock()})
			}
		case <-l.down:
			return 0, errBroken
		case <-l.done:
			return 0, errBroken
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
	}
	n := copy(p, s.buf)
	s.buf = s.buf[n:]
	return n, nil
}

func (h *agent) isOpen() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !time.Now().Before(h.cutTill) && !h.off.Load()
}

// collect encodes what the server does not know: log data before the state that ends a task.
func (s *stream) collect() {
	h := s.link.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off.Load() || time.Now().Before(h.cutTill) {
		return
	}
	if h.w.lies(h) {
		s.lie()
	}
	for _, id := range h.order {
		t := h.tasks[id]
		c := s.known[id]
		if c == nil {
			c = &cursor{version: -1, log: t.acked}
			s.known[id] = c
		}
		again := h.w.duplicates(h)
		if from := c.log; from < int64(len(t.log)) || again && from > 0 {
			if again {
				from = max(0, from-20)
			}
			s.send(agentapi.Event{Kind: agentapi.LogEvent, TaskID: id, Log: &agentapi.LogData{Source: agentapi.JobLog, Offset: from, Data: t.log[from:]}}, int64(len(t.log)))
			c.log = int64(len(t.log))
		}
		if t.version != c.version || again {
			c.version = t.version
			state := t.state
			s.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: id, Task: &state}, 0)
		}
	}
}

// lie tells of tasks that are none of this host's business, and what nobody understands.
func (s *stream) lie() {
	for _, id := range s.link.h.w.checks.elsewhere(s.link.h) {
		done := 0
		s.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: id, Task: &agentapi.Task{
			ID: id, State: agentapi.Terminated, Reason: agentapi.DoneByRunner, ExitStatus: &done,
		}}, 0)
	}
	s.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: "no-such-task", Task: &agentapi.Task{ID: "no-such-task", State: "exploded"}}, 0)
	s.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: "a\x00b", Task: &agentapi.Task{ID: "a\x00b", State: agentapi.Running}}, 0)
	for _, id := range s.link.h.order { // of its own tasks it says what cannot be
		s.send(agentapi.Event{Kind: agentapi.LogEvent, TaskID: id, Log: &agentapi.LogData{Source: agentapi.JobLog, Offset: 1 << 59, Data: []byte("lie")}}, 0)
		s.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: id, Task: &agentapi.Task{ID: id, State: "exploded"}}, 0)
	}
	s.send(agentapi.Event{Kind: "gossip"}, 0)
}

func (s *stream) send(e agentapi.Event, offset int64) {
	s.link.h.seq++
	e.Seq, e.Micros = s.link.h.seq, s.link.h.clock()
	s.sent = append(s.sent, position{e.Seq, e.TaskID, offset})
	s.encode(e)
}

func (s *stream) encode(e agentapi.Event) {
	data, _ := json.Marshal(e) // our own types
	s.buf = append(append(s.buf, data...), '\n')
}
