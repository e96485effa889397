package shim

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// TestAcceptCalls passes the server's request on to the runner, and the bytes that follow.
func TestAcceptCalls(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	with, without := spec(), spec()
	with.Job.ServerAccess = true
	for _, s := range []agentapi.TaskSpec{with, without} {
		if v := a.put(s); v.ServerAccess != s.Job.ServerAccess {
			t.Errorf("calls the server: %v", v.ServerAccess)
		}
		a.reaches(s.ID, agentapi.Running)
	}
	if _, err := a.Accept(t.Context(), with.ID); err == nil || agentapi.IsCode(err, agentapi.CodeConflict) {
		t.Errorf("before the runner is there: %v", err)
	}
	short, done, err := runner.ShortPath(filepath.Join(a.job(with.ID), runner.ControlFile))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	l, err := net.Listen("unix", short)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Method + " " + r.URL.Path; got != "POST /accept" {
			t.Errorf("the runner is asked %s", got)
		}
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello server\n", agentapi.Joined)
		line, err := buffered.ReadString('\n')
		fmt.Fprintf(c, "%s", line)
		if err != nil {
			t.Error(err)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })

	c, err := a.Accept(t.Context(), with.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	fmt.Fprintln(c, "hello job")
	for _, want := range []string{"hello server\n", "hello job\n"} {
		if line, err := r.ReadString('\n'); line != want || err != nil {
			t.Errorf("%q, %v, want %q", line, err, want)
		}
	}

	if _, err := a.Accept(t.Context(), without.ID); !agentapi.IsCode(err, agentapi.CodeConflict) {
		t.Errorf("a task that does not call: %v", err)
	}
	if _, err := a.Accept(t.Context(), "nosuch"); !agentapi.IsCode(err, agentapi.CodeNotFound) {
		t.Errorf("no task: %v", err)
	}
	a.finish(with.ID, 0)
	a.reaches(with.ID, agentapi.Terminated)
	if _, err := a.Accept(t.Context(), with.ID); !agentapi.IsCode(err, agentapi.CodeConflict) {
		t.Errorf("a task that has ended: %v", err)
	}
}
