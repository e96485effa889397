package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"

	"dstack/internal/agentapi"
)

// calling are the connections of one job, which a test opens.
type calling struct {
	ctx   context.Context
	conns chan net.Conn
}

// Accept implements [net.Listener].
func (c *calling) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (c *calling) Close() error { return nil }

// Addr implements [net.Listener].
func (c *calling) Addr() net.Addr { return &net.UnixAddr{Name: "a job"} }

// callers is a jobAccess whose listeners a test has in its hands, in the order in which they were asked for.
type callers struct {
	jobAccess
	asked []*calling
}

// newCallers lets those jobs call that are in may, and cannot say it of the job "unknown".
func newCallers(may ...string) *callers {
	c := &callers{}
	c.jobAccess = jobAccess{
		log:  slog.New(slog.DiscardHandler),
		http: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the API") })},
		mayCall: func(_ context.Context, hostID, jobID string) (bool, error) {
			if jobID == "unknown" {
				return false, errors.New("the database is away")
			}
			return hostID == "host" && slices.Contains(may, jobID), nil
		},
		listen: func(ctx context.Context, _, _ string) net.Listener {
			l := &calling{ctx, make(chan net.Conn)}
			c.asked = append(c.asked, l)
			return l
		},
	}
	return c
}

// tell passes a state of a task on, as its host's connection does.
func (c *callers) tell(ctx context.Context, job string, state agentapi.State) {
	c.saw(ctx, "host", agentapi.Task{ID: job, State: state, ServerAccess: true})
	synctest.Wait()
}

// call asks the server over a new connection of the n-th listener.
func (c *callers) call(t *testing.T, n int) string {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	c.asked[n].conns <- far
	go func() { _, _ = io.WriteString(near, "GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n") }()
	resp, err := http.ReadResponse(bufio.NewReader(near), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// Nobody calls who does not run, did not ask for it or may not.
func TestJobAccessRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers("job")
		c.tell(t.Context(), "job", agentapi.Pulling)
		c.tell(t.Context(), "other", agentapi.Running)
		c.tell(t.Context(), "unknown", agentapi.Running)
		c.saw(t.Context(), "host", agentapi.Task{ID: "job", State: agentapi.Running})
		c.saw(t.Context(), "another host", agentapi.Task{ID: "job", State: agentapi.Running, ServerAccess: true})
		c.tell(t.Context(), "job", agentapi.Terminated)
		c.http = nil
		c.tell(t.Context(), "job", agentapi.Running)
		if synctest.Wait(); len(c.asked) > 0 || len(c.open) > 0 {
			t.Errorf("%d listeners, %d open", len(c.asked), len(c.open))
		}
	})
}

// A job calls from its start to its end, and again over the next connection to its host.
func TestJobAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCallers("job", "second")
		first, lose := context.WithCancel(t.Context())
		c.tell(first, "job", agentapi.Running)
		c.tell(first, "job", agentapi.Running) // hosts repeat themselves
		c.tell(first, "second", agentapi.Running)
		if len(c.asked) != 2 || c.call(t, 0) != "the API" || c.call(t, 1) != "the API" {
			t.Fatalf("%d listeners for two jobs", len(c.asked))
		}
		c.tell(first, "second", agentapi.Terminated)
		if c.asked[1].ctx.Err() == nil || c.asked[0].ctx.Err() != nil || len(c.open) != 1 {
			t.Errorf("after the end of one job %d are open", len(c.open))
		}

		lose()
		c.tell(t.Context(), "job", agentapi.Running) // on the next connection
		if len(c.asked) != 3 || c.asked[0].ctx.Err() == nil || c.call(t, 2) != "the API" {
			t.Fatalf("%d listeners after another connection", len(c.asked))
		}
		if c.open["job"] == nil || c.open["job"].ctx != c.asked[2].ctx {
			t.Error("the end of the first connection has taken away the second's")
		}
		c.tell(t.Context(), "job", agentapi.Terminated)
		if len(c.open) > 0 {
			t.Errorf("%d are open after the end of all", len(c.open))
		}
	})
}
