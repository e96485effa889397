package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// serve answers a client's requests with h over connections in memory.
func serve(t testing.TB, h http.Handler) *Client {
	t.Helper()
	conns := make(chan net.Conn)
	ctx, cancel := context.WithCancel(context.Background())
	l := &pipes{conns: conns, done: ctx.Done()}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	c := NewClient(func(ctx context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		select {
		case conns <- far:
			return near, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	t.Cleanup(func() {
		c.Close()
		cancel()
		srv.Close()
	})
	return c
}

type pipes struct {
	conns chan net.Conn
	done  <-chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		code       string
		words      string
	}{
		{"a refusal", `{"code":"missing_blob","message":"abc"}`, 409, CodeMissingBlob, "abc"},
		{"not JSON", "<html>", 502, "", "502 Bad Gateway"},
		{"nothing", "", 500, "", "500 Internal Server Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			_, err := client.Put(t.Context(), TaskSpec{ID: "x"})
			var e *StatusError
			if !errors.As(err, &e) || e.Status != c.status || e.Err.Code != c.code || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Calls that want no answer leave their connection to the next: to a host each costs a round trip.
func TestConnectionsAreUsedAgain(t *testing.T) {
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "{}\n")
	}))
	var dials atomic.Int32
	transport := client.http.Transport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, addr)
	}
	for range 3 {
		for name, call := range map[string]func() error{
			"Ack":     func() error { return client.Ack(t.Context(), Ack{Seq: 7}) },
			"Delete":  func() error { return client.Delete(t.Context(), "x") },
			"PutBlob": func() error { return client.PutBlob(t.Context(), "x", strings.NewReader("code")) },
		} {
			if err := call(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections for nine calls", n)
	}
}

func TestEvents(t *testing.T) {
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.RequestURI(); got != "/v1/events?after=7" {
			t.Errorf("asked for %s", got)
		}
		_, _ = io.WriteString(w, `{"kind":"heartbeat"}`+"\n"+`{"seq":8,"kind":"log","task_id":"t","log":{"source":"job","offset":3,"data":"AAEC/w=="}}`+"\n"+`{"seq":9,"kind":"later","unknown":{"a":1}}`+"\n")
	}))
	var got []Event
	err := client.Events(t.Context(), 7, Wish{}, func(e Event) error { got = append(got, e); return nil })
	if !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end of the stream", err)
	}
	want := []Event{{Kind: HeartbeatEvent}, {Seq: 8, Kind: LogEvent, TaskID: "t", Log: &LogData{Source: JobLog, Offset: 3, Data: []byte{0, 1, 2, 255}}}, {Seq: 9, Kind: "later"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Event{}, "Size")); diff != "" {
		t.Error(diff)
	}
}

// A stream that says nothing is dead, whatever the connection believes.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-release:
			}
		}))
		begin := time.Now()
		err := client.Events(t.Context(), 0, Wish{}, func(Event) error { return nil })
		if took := time.Since(begin); err == nil || took != 3*HeartbeatEvery {
			t.Errorf("%v after %v", err, took)
		}
		close(release)
		synctest.Wait()
	})
}

// An agent that takes no more of an upload is given up, one that is slow is not.
func TestStalledUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stall, release := false, make(chan struct{})
		client := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if stall {
				<-release
				return
			}
			part := make([]byte, 64<<10)
			for {
				time.Sleep(uploadPatience / 2)
				if _, err := io.ReadFull(r.Body, part); err != nil {
					return
				}
			}
		}))
		blob := make([]byte, 1<<20)
		if err := client.PutBlob(t.Context(), "x", bytes.NewReader(blob)); err != nil {
			t.Errorf("a slow agent: %v", err)
		}
		stall = true
		begin := time.Now()
		err := client.PutBlob(t.Context(), "x", bytes.NewReader(blob))
		if took := time.Since(begin); !errors.Is(err, errStalled) || took != uploadPatience {
			t.Errorf("%v after %v", err, took)
		}
		close(release)
		synctest.Wait()
	})
}

// Lines that cannot be read, or are too long, hold up nothing; one without end fills no memory.
func TestUnreadableEvents(t *testing.T) {
	long := strings.Repeat("x", MaxEvent)
	body := "<html>\n" + `{"seq":4,"kind":7}` + "\n" + `{"seq":5,"kind":"log","log":{"source":"job","data":"` + long + `"}}` + "\n" +
		`{"seq":6,"kind":"log","task_id":"t"}` + "\n" + `{"seq":7,"kind":"lo`
	client := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	var got []Event
	if err := client.Events(t.Context(), 0, Wish{}, func(e Event) error { got = append(got, e); return nil }); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end of the stream", err)
	}
	want := []Event{{Kind: UnreadableEvent}, {Kind: UnreadableEvent, Seq: 4}, {Kind: UnreadableEvent}, {Seq: 6, Kind: LogEvent, TaskID: "t"}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Event{}, "Size")); diff != "" {
		t.Error(diff)
	}
}

// An answer of gigabytes is not read to its end, and a line of gigabytes not kept.
func TestEndlessAnswers(t *testing.T) {
	const gigabyte = 1 << 30
	part := bytes.Repeat([]byte("x"), 1<<20)
	endless := func(begin string) *Client {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, begin)
			for range gigabyte / len(part) {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		}))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := endless(`[{"id":"`).Tasks(t.Context()); err == nil {
		t.Error("a list without end is taken")
	}
	if err := endless(`{"seq":1,"task_id":"`).Events(t.Context(), 0, Wish{}, func(Event) error { return nil }); err == nil {
		t.Error("a stream without events goes on")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
		t.Errorf("%d MiB were allocated", took>>20)
	}
}

// Whatever an agent sends, the client neither fails hard nor makes up log data.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"seq":1,"kind":"log","task_id":"t","log":{"source":"job","offset":0,"data":"aGk="}}` + "\n"))
	f.Add([]byte("{\"seq\":-1}\n\n{\"kind\":7}\nnull\n"))
	f.Add([]byte(`{"task":{"ports":{"x":1}}}` + "\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		client := NewClient(func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				buf := make([]byte, 4096)
				if _, err := far.Read(buf); err != nil {
					return
				}
				_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
				_, _ = far.Write(body)
			}()
			return near, nil
		})
		defer client.Close()
		err := client.Events(t.Context(), 0, Wish{}, func(e Event) error {
			again, err := json.Marshal(e)
			if err != nil {
				t.Fatalf("an event that cannot be written: %v", err)
			}
			var same Event
			if err := json.Unmarshal(again, &same); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
			return nil
		})
		if err == nil {
			t.Fatal("the stream ended without a word")
		}
	})
}
