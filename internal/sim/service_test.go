package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
	"dstack/internal/host"
)

// Services: replicas that answer, users who ask, and the way between them.

// servicePort is where every service of a world listens.
const servicePort = 8000

func (w *world) planServices(rnd *rand.Rand, add plan) {
	if rnd.IntN(3) > 0 {
		return
	}
	const name = "service"
	s := script{Serves: true, Ready: seconds(rnd, 0, 30), Pull: seconds(rnd, 0, 20), Run: 24 * time.Hour, Stop: seconds(rnd, 0, 10), Fails: choose(rnd, 0, 0, 1)}
	c := object{
		"type": "service", "port": servicePort, "commands": []string{"serve"}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil},
		"retry": object{"on_events": retryEvents, "duration": "4h"},
	}
	least := 1 + rnd.IntN(2)
	c["replicas"] = least
	if rnd.IntN(2) == 0 {
		c["replicas"] = fmt.Sprintf("%d..%d", least, least+1+rnd.IntN(2))
		c["scaling"] = object{"metric": "rps", "target": 0.05, "window": "30s", "scale_up_delay": "10s", "scale_down_delay": "1m"}
	}
	if rnd.IntN(2) == 0 {
		c["probes"] = []object{{"type": "http", "url": "/", "interval": "10s", "timeout": "5s", "ready_after": 1 + rnd.IntN(2)}}
	}
	apply := func(c object) func() { return w.again(func() int { return w.applyService(name, c, s) }) }
	add(0, time.Minute, apply(c))
	if rnd.IntN(2) == 0 { // a rollout
		changed := maps.Clone(c)
		changed["commands"] = []string{"serve", "better"}
		add(2*time.Minute, chaosFor, apply(changed))
	}
	if rnd.IntN(6) == 0 {
		add(2*time.Minute, chaosFor, w.again(func() int { return w.stopRun(name, false) }))
	}
	for range rnd.IntN(60) {
		add(time.Minute, chaosFor, func() { w.requests.Go(func() { w.request(name) }) })
	}
}

// applyService applies a service and remembers how many replicas it must have when nobody asks.
func (w *world) applyService(name string, c object, s script) int {
	status := w.applyRun(name, c, s)
	w.mu.Lock()
	defer w.mu.Unlock()
	if status == http.StatusOK {
		var least int
		fmt.Sscan(fmt.Sprint(c["replicas"]), &least) // "1..2" begins with it
		w.replicas[name] = least
	}
	return status
}

// request asks a service as a user does.
func (w *world) request(name string) {
	p := w.current()
	if p == nil || !p.alive() {
		return
	}
	r := httptest.NewRequest(http.MethodGet, "/proxy/services/main/"+name+"/", nil)
	r.Header.Set("Authorization", "Bearer "+adminToken)
	a := httptest.NewRecorder()
	p.server.Handler().ServeHTTP(a, r)
	if !p.alive() {
		return
	}
	w.count(fmt.Sprintf("request of a service: %d", a.Code))
	switch {
	case a.Code == http.StatusOK && a.Body.String() != name:
		w.checks.violate("I13", fmt.Sprintf("a request for %s was answered by %q", name, a.Body))
	case a.Code == http.StatusInternalServerError:
		w.checks.violate("I0", fmt.Sprintf("a request for %s: %s", name, a.Body))
	}
	w.checks.event()
}

// servicesWhole is I13 when all is calm: a service has the replicas that it shall have, of its
// last deployment, unless there is no place for them.
func servicesWhole(s *state) (bad []string) {
	running, waiting, stale := map[string]int{}, map[string]bool{}, map[string]bool{}
	for _, g := range s.latest() {
		for _, j := range g {
			switch {
			case j.status == "running":
				running[j.run]++
			case j.status == "submitted", j.reason == "failed_to_start_due_to_no_capacity": // and is tried again
				waiting[j.run] = true
			}
			stale[j.run] = stale[j.run] || !j.finished() && j.deployment != s.runs[j.run].deployment
		}
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, r := range s.runs {
		want, ok := s.w.replicas[r.name]
		if !ok || r.status != "running" || waiting[r.id] {
			continue
		}
		if running[r.id] != want {
			bad = append(bad, fmt.Sprintf("service %s has %d replicas, not %d", r.name, running[r.id], want))
		}
		if stale[r.id] {
			bad = append(bad, fmt.Sprintf("service %s has replicas of an earlier deployment", r.name))
		}
	}
	return bad
}

// Forward implements host.Forwarder: a connection to what listens on a host, a task's SSH server
// or a service.
func (x *wire) Forward(ctx context.Context, t host.Target, port int) (net.Conn, error) {
	h, err := x.reach(ctx, t.Endpoint.Addr)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.Endpoint.HostKey != "" && t.Endpoint.HostKey != h.key {
		return nil, &host.OnboardError{Code: host.CodeHostKey, Message: "the host key changed"}
	}
	for _, id := range h.order {
		t := h.tasks[id]
		if t.state.State != agentapi.Running || !t.state.Started {
			continue
		}
		switch network := t.spec.Network; {
		case port == t.state.Ports[agentapi.RunnerSSHPort]:
			return x.connect(h, t, t.login), nil
		case network == "host" && port == servicePort && t.script.Serves:
			return x.connect(h, t, t.serve), nil
		}
	}
	return nil, errRefused
}

var errRefused = errors.New("connection refused")

// connect leads to a task until either end, or what lies between, is gone.
func (x *wire) connect(h *agent, t *task, answer func(net.Conn)) net.Conn {
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	down := h.down
	go func() {
		defer close(done)
		answer(theirs)
	}()
	go func() {
		select {
		case <-down:
		case <-t.stop:
		case <-x.p.ended:
		case <-done:
		}
		theirs.Close()
	}()
	x.p.w.addLink(x.p, func() { theirs.Close() })
	return ours
}

// serve answers requests with the name of the run.
func (t *task) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // the connection is over when it fails, and the answer fails too
		time.Sleep(20*time.Millisecond + t.h.w.step("answer "+t.spec.ID))
		if !t.h.open(t.stop) {
			return
		}
		res := http.Response{
			StatusCode: http.StatusServiceUnavailable, ProtoMajor: 1, ProtoMinor: 1,
			ContentLength: int64(len(t.spec.Job.RunName)), Body: io.NopCloser(strings.NewReader(t.spec.Job.RunName)),
		}
		if time.Now().After(t.ready) {
			res.StatusCode = http.StatusOK
		}
		if res.Write(c) != nil {
			return
		}
	}
}

// login is the SSH server of a task whose network is its own: it leads to the service.
func (t *task) login(c net.Conn) {
	out := &outbox{Conn: c, wait: make(chan []byte, 64), over: make(chan struct{})}
	defer close(out.over)
	go out.send()
	conn, channels, requests, err := ssh.NewServerConn(out, t.h.w.sshd)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for open := range channels {
		if !t.script.Serves {
			_ = open.Reject(ssh.ConnectionFailed, "connection refused")
			continue
		}
		ch, reqs, err := open.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		go func() {
			defer ch.Close()
			t.serve(channel{ch, c})
		}()
	}
}

// outbox is a connection whose writes do not wait for the other side to read: in SSH both sides
// write first, which [net.Pipe] does not allow.
type outbox struct {
	net.Conn
	wait chan []byte
	over chan struct{} // closed when nobody sends any more
}

func (o *outbox) Write(p []byte) (int, error) {
	select {
	case o.wait <- slices.Clone(p):
		return len(p), nil
	case <-o.over:
		return 0, net.ErrClosed
	}
}

// send writes what waits.
func (o *outbox) send() {
	for {
		select {
		case p := <-o.wait:
			if _, err := o.Conn.Write(p); err != nil {
				o.Conn.Close()
			}
		case <-o.over:
			return
		}
	}
}

// channel is an SSH channel as a connection.
type channel struct {
	ssh.Channel
	net.Conn
}

func (c channel) Read(p []byte) (int, error)  { return c.Channel.Read(p) }
func (c channel) Write(p []byte) (int, error) { return c.Channel.Write(p) }
func (c channel) Close() error                { return c.Channel.Close() }
