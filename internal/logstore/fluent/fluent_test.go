package fluent_test

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"dstack/internal/httpfault"
	"dstack/internal/logstore"
	"dstack/internal/logstore/fluent"
	"dstack/internal/logstore/fluent/fluenttest"
	"dstack/internal/logstore/logstoretest"
)

func open(t *testing.T, addr string, c fluent.Config) *fluent.Sink {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Host = host
	if c.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	s, err := fluent.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSink(t *testing.T) {
	for name, c := range map[string]struct {
		protocol fluent.Protocol
		search   bool
	}{
		"forward":           {fluent.Forward, true},
		"forward, no reads": {fluent.Forward, false},
		"http":              {fluent.HTTP, true},
		"http, no reads":    {fluent.HTTP, false},
	} {
		t.Run(name, func(t *testing.T) {
			logstoretest.RunSink(t, func(t *testing.T) logstoretest.Service {
				srv := fluenttest.New(t)
				addr, inject := srv.Forward, srv.InjectForward
				if c.protocol == fluent.HTTP {
					addr, inject = srv.HTTP, func(f ...httpfault.Fault) { srv.Inject(f...) }
				}
				config := fluent.Config{Protocol: c.protocol}
				if c.search {
					config.Search = &fluent.Search{URL: srv.Search, APIKey: fluenttest.APIKey}
				}
				return logstoretest.Service{
					Sink: open(t, addr, config), Inject: inject, WriteOnly: !c.search, Doubles: !c.search,
					Held: func(path string) []string {
						var held []string
						for _, r := range srv.Records(path) {
							held = append(held, r.Message)
						}
						return held
					},
				}
			})
		})
	}
}

// TestRecord looks at what Fluent Bit gets.
func TestRecord(t *testing.T) {
	for _, protocol := range []fluent.Protocol{fluent.Forward, fluent.HTTP} {
		srv := fluenttest.New(t)
		addr := srv.Forward
		if protocol == fluent.HTTP {
			addr = srv.HTTP
		}
		at := time.Date(2026, 11, 24, 12, 0, 0, 123_000_000, time.UTC)
		st := logstore.Stream{Project: "main", Run: "run", JobID: "j", Source: logstore.Runner, ID: "i"}
		s := open(t, addr, fluent.Config{Protocol: protocol, TagPrefix: "ml"})
		long := strings.Repeat("x", 300)
		records := []logstore.Record{{Offset: 7, At: at, Data: []byte("hello\n")}, {Offset: 13, At: at.Add(time.Millisecond), Data: []byte(long)}}
		if err := s.Write(t.Context(), st, records); err != nil {
			t.Fatal(err)
		}
		got := srv.Records("main/run/j/runner")
		if len(got) != 2 || got[1].Message != long {
			t.Fatalf("%s: records are %+v", protocol, got)
		}
		want := fluenttest.Record{Tag: "ml.main/run/j/runner", Message: "hello\n", Stream: "main/run/j/runner", ID: "i-00000000000000000007", Stamp: at}
		first := got[0]
		if protocol == fluent.Forward && !first.At.Equal(at) {
			t.Errorf("the event's time is %v", first.At)
		}
		first.At = time.Time{}
		if first != want {
			t.Errorf("%s: the record is %+v, want %+v", protocol, first, want)
		}
	}
}

func TestCheck(t *testing.T) {
	srv := fluenttest.New(t)
	if err := open(t, srv.Forward, fluent.Config{Search: &fluent.Search{URL: srv.Search, APIKey: fluenttest.APIKey, Index: "to-come"}}).Check(t.Context()); err != nil {
		t.Errorf("Check = %v", err)
	}
	if err := open(t, srv.Forward, fluent.Config{Search: &fluent.Search{URL: srv.Search, APIKey: "wrong"}}).Check(t.Context()); !errors.Is(err, logstore.ErrSettings) {
		t.Errorf("Check with a wrong key = %v", err)
	}
	if err := open(t, "127.0.0.1:1", fluent.Config{}).Check(t.Context()); err == nil || errors.Is(err, logstore.ErrSettings) {
		t.Errorf("Check of nobody = %v", err)
	}
}

func TestNew(t *testing.T) {
	for name, c := range map[string]fluent.Config{"no host": {}, "unknown protocol": {Host: "h", Protocol: "udp"}} {
		if _, err := fluent.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
