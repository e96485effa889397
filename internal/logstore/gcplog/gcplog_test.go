package gcplog_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"dstack/internal/gcpclient"
	"dstack/internal/logstore"
	"dstack/internal/logstore/gcplog"
	"dstack/internal/logstore/gcplog/gcplogtest"
	"dstack/internal/logstore/logstoretest"
)

func config(srv *gcplogtest.Server) gcplog.Config {
	return gcplog.Config{Project: gcplogtest.Project, Config: gcpclient.Config{Endpoint: srv.URL, Backoff: time.Millisecond,
		Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcplogtest.Token})}}
}

func open(t *testing.T, c gcplog.Config) *gcplog.Sink {
	t.Helper()
	s, err := gcplog.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSink(t *testing.T) {
	logstoretest.RunSink(t, func(t *testing.T) logstoretest.Service {
		srv := gcplogtest.New(t)
		return logstoretest.Service{Sink: open(t, config(srv)), Inject: srv.Inject, Held: srv.Messages}
	})
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*gcplog.Config)
		want     string
		settings bool
	}{
		"another project": {func(c *gcplog.Config) { c.Project = "other" }, "PERMISSION_DENIED", true},
		"unknown token":   {func(c *gcplog.Config) { c.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "x"}) }, "UNAUTHENTICATED", true},
		"nobody answers":  {func(c *gcplog.Config) { c.Endpoint = "http://127.0.0.1:1" }, "connection refused", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(gcplogtest.New(t))
			c.change(&cfg)
			if err := open(t, cfg).Check(t.Context()); err == nil || errors.Is(err, logstore.ErrSettings) != c.settings || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check = %v, want %s", err, c.want)
			}
		})
	}
	if err := open(t, config(gcplogtest.New(t))).Check(t.Context()); err != nil {
		t.Errorf("Check = %v", err)
	}
}

// TestQuota: readers are told what to do when the service has had enough of reads.
func TestQuota(t *testing.T) {
	srv := gcplogtest.New(t)
	s := open(t, config(srv))
	st := logstore.Stream{Project: "main", Run: "run", JobID: "j", Source: logstore.Job, ID: "i"}
	records := []logstore.Record{{At: time.Now().UTC().Truncate(time.Microsecond), Size: 1, Data: []byte("x")}}
	if err := s.Write(t.Context(), st, records); err != nil {
		t.Fatal(err)
	}
	srv.Exhaust(1)
	if got, err := s.Read(t.Context(), st, records); err != nil || len(got) != 1 {
		t.Errorf("Read = %v, %v", got, err)
	}
	_, err := s.Read(t.Context(), st, records)
	if e, ok := errors.AsType[*logstore.ReadError](err); !ok || !strings.HasPrefix(e.Text, "GCP Logging read request limit exceeded.") {
		t.Errorf("Read = %v", err)
	}
}

func TestURL(t *testing.T) {
	s := open(t, config(gcplogtest.New(t)))
	got := s.URL(logstore.Stream{Project: "main", Run: "run-1", JobID: "j", Source: logstore.Runner})
	want := "https://console.cloud.google.com/logs/query;query=logName=%22projects%2Fmy-project%2Flogs%2Fdstack-run-logs%22%0Alabels.stream=%22main-run-1-j-runner%22?project=my-project"
	if got != want {
		t.Errorf("URL = %s, want %s", got, want)
	}
}
