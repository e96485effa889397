package logstoretest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/engine"
	"dstack/internal/httpfault"
	"dstack/internal/logstore"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A Service is a log service under test and its sink.
type Service struct {
	Sink logstore.Sink
	// Inject makes the next writes fail.
	Inject func(...httpfault.Fault)
	// Held are the records that the service holds of a stream, in the order of time, as it would
	// show them to people.
	Held func(path string) []string
	// WriteOnly says that nothing can be read back.
	WriteOnly bool
	// Doubles says that the service can keep a batch twice whose acknowledgement was lost; readers
	// see it once.
	Doubles bool
}

// RunSink runs the suite of a store over a sink, with all output read back from the service, and
// what is asked of sinks beyond that; open returns an empty service.
func RunSink(t *testing.T, open func(t *testing.T) Service) {
	if !open(t).WriteOnly {
		t.Run("Store", func(t *testing.T) {
			Run(t, func(t *testing.T) logstore.Store { return NewDrained(t, storetest.Open(t, storetest.Path(t)), open(t)) })
		})
	}
	for _, fault := range httpfault.All {
		t.Run("Fault/"+string(fault), func(t *testing.T) { faults(t, open(t), fault) })
	}
	t.Run("PeopleReadLines", func(t *testing.T) { people(t, open(t)) })
	t.Run("MuchAtOnce", func(t *testing.T) { much(t, open(t)) })
	t.Run("OldAndFutureTimes", func(t *testing.T) { strangeTimes(t, open(t)) })
}

// Drained is a Remote whose output is at the service, and not in the database any more, before
// each read.
type Drained struct {
	*logstore.Remote
	t *testing.T
}

// NewDrained opens one.
func NewDrained(t *testing.T, db *store.DB, s Service) *Drained {
	t.Helper()
	r, err := logstore.NewRemote(logstore.RemoteConfig{
		DB: db, Sink: s.Sink, Wake: func(string) {}, Log: slog.New(slog.DiscardHandler),
		Place: func(context.Context, store.Querier, string) (string, string, error) { return "main", "run", nil },
		Keep:  1, Settle: 1, Linger: 1, Timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Drained{r, t}
}

// Pass is one pass over a job's streams; again: there is more to do.
func (d *Drained) Pass(jobID string) (again bool, err error) {
	at, err := d.Kind().Reconcile(d.t.Context(), engine.Item{ID: jobID, Fence: engine.Fence{Shard: engine.Shard(jobID)}, Attempt: 1})
	return !at.IsZero(), err
}

// passes bounds the passes until all is at the service.
const passes = 200

// Drain makes passes until all is at the service. It returns how many failed.
func (d *Drained) Drain(jobID string) (failed int) {
	d.t.Helper()
	var last error
	for range passes {
		again, err := d.Pass(jobID)
		if err != nil {
			failed++
			last = err
		} else if !again {
			return failed
		}
	}
	d.t.Fatalf("still not at the service after %d passes, the last error is %v", passes, last)
	return failed
}

// Poll implements [logstore.Store].
func (d *Drained) Poll(ctx context.Context, q logstore.Query) (logstore.Page, error) {
	if len(q.JobID) == len(job) {
		d.Drain(q.JobID)
	}
	return d.Remote.Poll(ctx, q)
}

const path = "main/run/" + job + "/job"

// check compares what is at the service, and what can be read, with lines.
func check(t *testing.T, d *Drained, s Service, want []string, once bool) {
	t.Helper()
	held := s.Held(path)
	if !once {
		held = slices.Compact(held)
	}
	if strings.Join(held, "") != strings.Join(want, "") {
		t.Errorf("the service holds %q, want %q", held, want)
	}
	text, p := poll(t, d, logstore.Query{Limit: 1000})
	if s.WriteOnly {
		if text != "" || p.Next != "" {
			t.Errorf("read back %q, next %q, want nothing", text, p.Next)
		}
	} else if all := strings.Join(want, ""); text != all {
		t.Errorf("read back %q, want %q", text, all)
	}
}

// faults has writes fail in one way, the second of three: nothing is lost and nothing doubled.
func faults(t *testing.T, s Service, fault httpfault.Fault) {
	d := NewDrained(t, storetest.Open(t, storetest.Path(t)), s)
	if fault == httpfault.Hang {
		d.Timeout = 100 * time.Millisecond
	}
	now := time.Now()
	add(t, d, 0, now, "one\n")
	d.Drain(job)
	add(t, d, 4, now.Add(time.Second), "two\n")
	s.Inject(fault)
	if _, err := d.Pass(job); err == nil {
		t.Error("no error")
	}
	size := add(t, d, 8, now.Add(2*time.Second), "three\n") // goes on meanwhile
	if size != 14 {
		t.Errorf("size %d", size)
	}
	d.Timeout = 5 * time.Second
	d.Drain(job)
	unknown := fault == httpfault.Lost || fault == httpfault.Late
	check(t, d, s, []string{"one\n", "two\n", "three\n"}, !s.Doubles || !unknown)
}

// people looks at the service as people do: lines are lines, and what is no text stays readable.
func people(t *testing.T, s Service) {
	d := NewDrained(t, storetest.Open(t, storetest.Path(t)), s)
	size := add(t, d, 0, time.Now(), "grüße \u4e16\r\n")
	size = add(t, d, size, time.Now().Add(time.Second), "{\"a\": 1}\n")
	add(t, d, size, time.Now().Add(2*time.Second), "  spaces and tabs\t \n")
	d.Drain(job)
	want := []string{"grüße \u4e16\r\n", "{\"a\": 1}\n", "  spaces and tabs\t \n"}
	if held := s.Held(path); strings.Join(held, "") != strings.Join(want, "") {
		t.Errorf("the service holds %q, want %q", held, want)
	}
}

// much sends more than a batch and more than a record can have.
func much(t *testing.T, s Service) {
	d := NewDrained(t, storetest.Open(t, storetest.Path(t)), s)
	var all strings.Builder
	var chunks []logstore.Chunk
	put := func(text string) {
		chunks = append(chunks, logstore.Chunk{Offset: int64(all.Len()), At: time.Now(), Data: []byte(text)})
		all.WriteString(text)
	}
	for i := range 3000 {
		put(fmt.Sprintf("line %d\n", i))
	}
	for range 5 {
		put(strings.Repeat("\xff\x00", 128<<10)) // which is three times as long as text
	}
	if _, err := d.Append(t.Context(), job, logstore.Job, chunks...); err != nil {
		t.Fatal(err)
	}
	if failed := d.Drain(job); failed > 0 {
		t.Errorf("%d passes failed", failed)
	}
	if s.WriteOnly {
		return
	}
	var got strings.Builder
	for q := (logstore.Query{Limit: 1000}); ; {
		text, p := poll(t, d, q)
		got.WriteString(text)
		if q.Token = p.Next; q.Token == "" {
			break
		}
	}
	if got.String() != all.String() {
		t.Errorf("%d bytes came back, want %d the same", got.Len(), all.Len())
	}
}

// strangeTimes sends what hosts with wrong clocks write: services refuse the far past and future.
func strangeTimes(t *testing.T, s Service) {
	d := NewDrained(t, storetest.Open(t, storetest.Path(t)), s)
	size := add(t, d, 0, time.Date(1970, 1, 1, 0, 0, 1, 0, time.UTC), "a\n")
	size = add(t, d, size, time.Now(), "b\n")
	size = add(t, d, size, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), "c\n")
	add(t, d, size, time.Now(), "d\n")
	d.Drain(job)
	if held := strings.Join(s.Held(path), ""); held != "a\nb\nc\nd\n" {
		t.Errorf("the service holds %q", held)
	}
	if text, _ := poll(t, d, logstore.Query{Limit: 10}); !s.WriteOnly && text != "a\nb\nc\nd\n" {
		t.Errorf("read back %q", text)
	}
}

// Memory is a sink in memory that a test can look into and break.
type Memory struct {
	Limit logstore.Limits
	// Fault is asked before each write; its error fails it, before or after the effect.
	Fault   func() (err error, after bool)
	Streams map[string][]logstore.Record
	Reads   int
}

// Name implements [logstore.Sink].
func (*Memory) Name() string { return "memory" }

// Limits implements [logstore.Sink].
func (m *Memory) Limits() logstore.Limits { return m.Limit }

// Check implements [logstore.Sink].
func (*Memory) Check(context.Context) error { return nil }

// Write implements [logstore.Sink].
func (m *Memory) Write(_ context.Context, s logstore.Stream, records []logstore.Record) error {
	var err error
	var after bool
	if m.Fault != nil {
		err, after = m.Fault()
	}
	if err == nil || after {
		if m.Streams == nil {
			m.Streams = map[string][]logstore.Record{}
		}
		m.Streams[s.Path()] = append(m.Streams[s.Path()], records...)
	}
	return err
}

// Read implements [logstore.Sink].
func (m *Memory) Read(_ context.Context, s logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	m.Reads++
	if len(want) == 0 {
		return nil, errors.New("asked for nothing")
	}
	return m.Streams[s.Path()], nil
}

// Delete implements [logstore.Sink].
func (m *Memory) Delete(_ context.Context, s logstore.Stream) error {
	delete(m.Streams, s.Path())
	return nil
}
