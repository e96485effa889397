package run

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/instance"
	"dstack/internal/logstore"
)

// hungHost begins to answer, or does not, and then says nothing.
type hungHost struct {
	begins     bool
	connection <-chan struct{} // closed when it ends
}

func (h hungHost) Reachable(*instance.Instance) bool { return true }

func (h hungHost) Client(context.Context, string) (*agentapi.Client, error) {
	return agentapi.NewClientOver(h), nil
}

func (h hungHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.begins {
		return &http.Response{StatusCode: http.StatusOK, Body: silent(h.connection), Request: r}, nil
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// silent is a body of which nothing comes until the connection ends: over SSH to give up the request frees
// nobody who reads.
type silent <-chan struct{}

func (s silent) Read([]byte) (int, error) {
	<-s
	return 0, io.ErrUnexpectedEOF
}

func (s silent) Close() error { return nil }

// A host that hangs while a log is fetched from it is not waited for for ever: all that it says is waiting.
func TestFetchStalls(t *testing.T) {
	for name, begins := range map[string]bool{"no answer": false, "no log": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				connection, end := context.WithTimeout(t.Context(), 15*time.Minute) // as TCP ends it
				defer end()
				s := &Service{Config: Config{Hosts: hungHost{begins, connection.Done()}}}
				begin := time.Now()
				body, err := s.logOf(t.Context(), "i", logStream{honestJob, logstore.Job})(0)
				if err == nil {
					_, err = io.ReadAll(body)
					body.Close()
				}
				if took := time.Since(begin); err == nil || took != fetchStall {
					t.Errorf("%v after %v, want an error after %v", err, took, fetchStall)
				}
			})
		})
	}
}
