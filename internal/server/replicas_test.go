package server

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"dstack/internal/logstore"
	"dstack/internal/store/storetest"
)

// working opens a server on a shared database and lets it work until the test ends.
func working(t *testing.T, url string) *Server {
	t.Helper()
	s, err := New(context.Background(), Config{Dir: t.TempDir(), NoFile: true, DBURL: url, Token: adminToken, Log: newServer(t).Log})
	if err != nil {
		t.Fatal(err)
	}
	work(t, s)
	return s
}

// work lets a server work until the test ends.
func work(t *testing.T, s *Server) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Work(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// TestReplicasShareBackends saves, changes and deletes a backend on one server of two.
func TestReplicasShareBackends(t *testing.T) {
	url := storetest.PostgresURL(t)
	a, b := working(t, url), working(t, url)
	meet(t, a, b)
	meet(t, b, a)
	var tidied atomic.Bool
	stub := lambdaStub(t, &tidied)
	a.clouds.endpoints["lambda"], b.clouds.endpoints["lambda"] = stub, stub
	project := mainID(t, a)
	body := func(more string) map[string]any {
		c := map[string]any{"type": "lambda", "creds": map[string]any{"type": "api_key", "api_key": "good"}}
		if more != "" {
			c["regions"] = []string{more}
		}
		return c
	}
	post := func(s *Server, what string, body any) {
		t.Helper()
		if got := s.call(t, http.MethodPost, "/api/project/main/backends/"+what, adminToken, body); got.Status != 200 {
			t.Fatalf("%s: %d %s", what, got.Status, got.Body)
		}
	}
	post(a, "create", body(""))
	until(t, "the other server has the backend", func() bool { return b.clouds.has(project, "lambda") })
	post(b, "update", body("us-east-1"))
	until(t, "the first server has the change of the other", func() bool {
		c, _ := a.clouds.settings(project, "lambda")
		return c["regions"] != nil
	})
	post(a, "delete", map[string]any{"backends_names": []string{"lambda"}})
	until(t, "the other server gives the backend up", func() bool { return !b.clouds.has(project, "lambda") })
}

const sharedJob = "0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c11"

// meet stores output on a until b is told. It stores the same again and again, since there
// is no other sign that b listens; repeated bytes are dropped.
func meet(t *testing.T, a, b *Server) {
	t.Helper()
	news, stop := b.logs.Watch(sharedJob)
	defer stop()
	until(t, "the other server is told of output", func() bool {
		if _, err := a.logs.Append(t.Context(), sharedJob, logstore.Job, logstore.Chunk{Data: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-news:
			return true
		default:
			return false
		}
	})
}

// TestReplicasShareLogs reads on one server what the other has stored.
func TestReplicasShareLogs(t *testing.T) {
	url := storetest.PostgresURL(t)
	a, b := working(t, url), working(t, url)
	meet(t, a, b)
	page, err := b.logs.Poll(t.Context(), logstore.Query{JobID: sharedJob, Source: logstore.Job, Limit: 10})
	if err != nil || len(page.Events) != 1 || string(page.Events[0].Data) != "hello" {
		t.Errorf("the other server has %d events, %v", len(page.Events), err)
	}
}
