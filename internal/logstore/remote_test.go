package logstore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/logstore"
	"dstack/internal/logstore/logstoretest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

var memoryLimits = logstore.Limits{
	Records: 1000, BatchBytes: 1 << 20, RecordBytes: 64 << 10, Growth: logstore.MaxTextGrowth, Overhead: 26,
	Span: 24 * time.Hour, Precision: time.Millisecond, Linger: time.Second,
}

func clear(t *testing.T, db *store.DB) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for _, table := range []string{"log_chunk", "log_batch", "log_shipment", "log_stream"} {
			if _, err := tx.ExecContext(t.Context(), "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRemote runs the suite with all output at the service, and with all of it still here.
func TestRemote(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		t.Run("there", func(t *testing.T) {
			logstoretest.Run(t, func(t *testing.T) logstore.Store {
				clear(t, db)
				return logstoretest.NewDrained(t, db, logstoretest.Service{Sink: &logstoretest.Memory{Limit: memoryLimits}})
			})
		})
		t.Run("here", func(t *testing.T) {
			logstoretest.Run(t, func(t *testing.T) logstore.Store {
				clear(t, db)
				return remote(t, db, &logstoretest.Memory{Limit: memoryLimits}, nil)
			})
		})
	})
}

func place(context.Context, store.Querier, string) (project, run string, err error) {
	return "main", "run", nil
}

func remote(t *testing.T, db *store.DB, sink logstore.Sink, wake func(string)) *logstore.Remote {
	t.Helper()
	if wake == nil {
		wake = func(string) {}
	}
	r, err := logstore.NewRemote(logstore.RemoteConfig{DB: db, Sink: sink, Wake: wake, Log: slog.New(slog.DiscardHandler), Place: place})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRemoteInTheEngine has the engine ship, in virtual time, to a service that fails now and then.
func TestRemoteInTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, storetest.Path(t))
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "me", Bus: &enginetest.Bus{}})
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		sink := &logstoretest.Memory{Limit: memoryLimits, Fault: func() (error, bool) {
			switch calls++; calls % 4 {
			case 1:
				return errors.New("connection reset"), true
			case 2:
				return errors.New("connection reset"), false
			case 3:
				return logstore.ErrNotDone, false
			default:
				return nil, false
			}
		}}
		r := remote(t, db, sink, func(id string) { e.Wake(logstore.Kind, id) })
		e.Register(r.Kind())
		enginetest.Start(t, e)
		var want strings.Builder
		for range 50 {
			at := int64(want.Len())
			want.WriteString("0123456789\n")
			if _, err := r.Append(t.Context(), job, logstore.Job, logstore.Chunk{Offset: at, At: time.Now(), Data: []byte("0123456789\n")}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) // virtual
		}
		time.Sleep(10 * time.Minute)
		var held bytes.Buffer
		for _, rec := range sink.Streams["main/run/"+job+"/job"] {
			held.Write(rec.Data)
		}
		if held.String() != want.String() {
			t.Errorf("the service holds %d bytes, want the %d that were written", held.Len(), want.Len())
		}
		var chunks int
		if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM log_chunk`).Scan(&chunks); err != nil || chunks != 0 {
			t.Errorf("%d chunks are in the database still, %v", chunks, err)
		}
		reads := sink.Reads
		for _, token := range []string{"", "110", "220"} {
			if p, err := r.Poll(t.Context(), logstore.Query{JobID: job, Source: logstore.Job, Token: token, Limit: 10}); err != nil || len(p.Events) != 10 {
				t.Errorf("from %q: %d events, %v", token, len(p.Events), err)
			}
		}
		if batches := calls / 4; sink.Reads-reads > batches {
			t.Errorf("%d reads for the pages of %d batches", sink.Reads-reads, batches)
		}
	})
}

// TestRemoteIsBounded has a service that takes nothing: output is refused when too much waits,
// and what is stored can be read all the time.
func TestRemoteIsBounded(t *testing.T) {
	db := storetest.Open(t, storetest.Path(t))
	r := remote(t, db, &logstoretest.Memory{Limit: memoryLimits, Fault: func() (error, bool) { return logstore.ErrNotDone, false }}, nil)
	part := bytes.Repeat([]byte("x"), 1<<20)
	var size int64
	for {
		n, err := r.Append(t.Context(), job, logstore.Job, logstore.Chunk{Offset: size, At: time.Now(), Data: part})
		if busy, ok := errors.AsType[*logstore.BusyError](err); ok {
			if size != 16<<20 || busy.Service != "memory" {
				t.Errorf("%v with %d bytes", err, size)
			}
			break
		}
		if size = n; err != nil || size > 100<<20 {
			t.Fatalf("Append = %d, %v", size, err)
		}
	}
	if _, err := r.Append(t.Context(), job, logstore.Runner, logstore.Chunk{At: time.Now(), Data: part}); err != nil {
		t.Errorf("another stream: %v", err)
	}
	if p, err := r.Poll(t.Context(), logstore.Query{JobID: job, Source: logstore.Job, Limit: 1, Descending: true}); err != nil || len(p.Events) != 1 {
		t.Errorf("Poll = %d events, %v", len(p.Events), err)
	}
}

// TestRemoteKeepsWhatWasHere: streams from before there was a service stay in the database.
func TestRemoteKeepsWhatWasHere(t *testing.T) {
	db := storetest.Open(t, storetest.Path(t))
	old := logstore.Chunk{At: time.Now(), Data: []byte("old ")}
	if _, err := logstore.NewDB(db).Append(t.Context(), job, logstore.Job, old); err != nil {
		t.Fatal(err)
	}
	sink := &logstoretest.Memory{Limit: memoryLimits}
	d := logstoretest.NewDrained(t, db, logstoretest.Service{Sink: sink})
	if _, err := d.Append(t.Context(), job, logstore.Job, logstore.Chunk{Offset: 4, At: time.Now(), Data: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	p, err := d.Poll(t.Context(), logstore.Query{JobID: job, Source: logstore.Job, Limit: 10})
	if err != nil || len(p.Events) != 2 || len(sink.Streams) != 0 {
		t.Errorf("%d events, %v; the service has %v", len(p.Events), err, sink.Streams)
	}
}

type failing struct {
	*logstoretest.Memory
	err error
}

func (f *failing) Read(context.Context, logstore.Stream, []logstore.Record) ([]logstore.Record, error) {
	return nil, f.err
}

func TestRemoteReadErrors(t *testing.T) {
	quota := &logstore.ReadError{Text: "too many", Err: errors.New("429")}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"nobody answers": {errors.New("connection refused"), "Failed to poll logs from log storage"},
		"its own words":  {quota, "too many"},
		"write only":     {logstore.ErrWriteOnly, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sink := &failing{&logstoretest.Memory{Limit: memoryLimits}, c.err}
			d := logstoretest.NewDrained(t, storetest.Open(t, storetest.Path(t)), logstoretest.Service{Sink: sink})
			if _, err := d.Append(t.Context(), job, logstore.Job, logstore.Chunk{At: time.Now(), Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
			p, err := d.Poll(t.Context(), logstore.Query{JobID: job, Source: logstore.Job, Limit: 10})
			got, ok := errors.AsType[*logstore.ReadError](err)
			if c.want != "" && (!ok || got.Text != c.want) {
				t.Errorf("Poll = %v, want %s", err, c.want)
			}
			if c.want == "" && (err != nil || len(p.Events) != 0 || p.Next != "" || p.Cursor != "1") {
				t.Errorf("Poll = %+v, %v, want an empty page", p, err)
			}
		})
	}
}

func TestRemoteIsFenced(t *testing.T) {
	db := storetest.Open(t, storetest.Path(t))
	sink := &logstoretest.Memory{Limit: memoryLimits}
	r := remote(t, db, sink, nil)
	r.Linger = 1
	if _, err := r.Append(t.Context(), job, logstore.Job, logstore.Chunk{At: time.Now(), Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	_, err := r.Kind().Reconcile(t.Context(), engine.Item{ID: job, Fence: engine.Fence{Shard: engine.Shard(job), Epoch: 7}, Attempt: 1})
	if !errors.Is(err, engine.ErrFenced) || len(sink.Streams) != 0 {
		t.Errorf("a pass of a replica that lost the shard: %v, sent %v", err, sink.Streams)
	}
}
