package run

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/instance"
	"dstack/internal/logstore"
	"dstack/internal/metrics"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

const (
	honestJob = "23a2c7a0-6c88-48ee-8028-b9ad9f6f5c24"
	lyingJob  = "d27130f5-ef7b-41b5-8180-200bc215bacf"
)

// oneHost answers for logs of all jobs with one text, or a status.
type oneHost struct {
	text   string
	status int
	asked  int
}

func (h *oneHost) Reachable(*instance.Instance) bool { return true }

func (h *oneHost) Client(context.Context, string) (*agentapi.Client, error) {
	return agentapi.NewClientOver(h), nil
}

func (h *oneHost) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked++
	return &http.Response{StatusCode: h.status, Body: io.NopCloser(strings.NewReader(h.text)), Request: r}, nil
}

// liar is a service whose host has two jobs.
func liar(t *testing.T, db *store.DB, h *oneHost) *Service {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for _, id := range []string{honestJob, lyingJob} {
			_, err := tx.ExecContext(t.Context(), `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, shard, data)
VALUES ($1, $1, 'p', 0, 0, 0, 'running', 'i', 1, 0, '{}')`, id)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	logs, err := logstore.New(logstore.Config{Store: logstore.NewDB(db), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	samples, err := metrics.New(metrics.Config{DB: db, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return &Service{Config: Config{DB: db, Logs: logs, Metrics: samples, Hosts: h, Log: log}}
}

func output(job string, offset int64, text string) agentapi.Event {
	return agentapi.Event{Kind: agentapi.LogEvent, TaskID: job, Micros: time.Now().UnixMicro(),
		Log: &agentapi.LogData{Source: logstore.Job, Offset: offset, Data: []byte(text)}}
}

func (s *Service) size(t *testing.T, job string) int64 {
	t.Helper()
	n, err := s.Logs.Size(t.Context(), job, logstore.Job)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Output behind the end of the host's own log is dropped for good; what comes with it is stored.
func TestHandleLies(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := liar(t, db, &oneHost{text: "0123456789"[5:], status: 200})
		err := s.Handle(t.Context(), "i", []agentapi.Event{
			output(honestJob, 0, "hello"), output(lyingJob, 0, "01234"),
			output(lyingJob, 1<<59, "lie"), output(lyingJob, 1<<58, "lie"),
			output(lyingJob, 10, "abc"), output(honestJob, 5, " world"),
			{Kind: agentapi.MetricsEvent, TaskID: honestJob, Micros: time.Now().UnixMicro(), Metrics: &agentapi.Metrics{CPUMicros: 1 << 60}},
		})
		dropped, ok := err.(*agentapi.DroppedError)
		if !ok || dropped.Count != 2 {
			t.Errorf("Handle = %v, want two dropped", err)
		}
		if honest, lying := s.size(t, honestJob), s.size(t, lyingJob); honest != 11 || lying != 13 {
			t.Errorf("the logs have %d and %d bytes, want 11 and 13", honest, lying)
		}
	})
}

// A value that the database refuses ends nothing but itself.
func TestHandleWhatCannotBeStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := liar(t, db, &oneHost{})
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO setting (name, value) VALUES ($1, 'x')`, "a\x00b")
			return err
		})
		if refused := err != nil; refused != store.BadValue(err) {
			t.Errorf("a NUL: %v, which is no bad value", err)
		}
		if err := s.Handle(t.Context(), "i", []agentapi.Event{output(honestJob, 0, "a\x00b")}); err != nil {
			t.Errorf("output may have NULs: %v", err)
		}
	})
}

// A host whose log cannot be read is asked some times, and then holds up nothing any more.
func TestHandleLogThatCannotBeRead(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		h := &oneHost{status: 500, text: `{"message":"input/output error"}`}
		s := liar(t, db, h)
		events := []agentapi.Event{output(lyingJob, 5, "abc"), output(honestJob, 0, "hello")}
		for n := 1; n < maxFetches; n++ {
			if err := s.Handle(t.Context(), "i", events); err == nil || !strings.Contains(err.Error(), "input/output error") {
				t.Fatalf("attempt %d: %v", n, err)
			}
			if got := s.size(t, honestJob); got != 5 {
				t.Errorf("the other job's log has %d bytes", got)
			}
			time.Sleep(fetchFor / (maxFetches - 1))
		}
		err := s.Handle(t.Context(), "i", events)
		if dropped, ok := errors.AsType[*agentapi.DroppedError](err); !ok || dropped.Count != 1 || h.asked != maxFetches {
			t.Errorf("at last %v, after %d attempts", err, h.asked)
		}
		if len(s.fetches.failed) != 0 {
			t.Error("it is remembered for ever")
		}
	})
}

// The end of a job is not stored before what its host has of its log and we have not, as after a restore of the
// database, while that may be had, and not for ever.
func TestHandleEndBeforeItsLog(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		h := &oneHost{status: 500, text: `{"message":"input/output error"}`}
		s := liar(t, db, h)
		end := agentapi.Task{ID: lyingJob, State: agentapi.Terminated, JobLog: 10}
		events := []agentapi.Event{output(lyingJob, 0, "01234"), {Kind: agentapi.TaskEvent, TaskID: lyingJob, Task: &end}, output(honestJob, 0, "hello")}
		held, ok := s.Handle(t.Context(), "i", events).(*agentapi.HeldError)
		if !ok || !slices.Equal(held.Tasks, []string{lyingJob}) {
			t.Errorf("held: %v, want the job of which five bytes are missing", held)
		}
		if j, err := getJob(t.Context(), db.Read(), lyingJob); err != nil || j.Observed != nil {
			t.Errorf("the end is stored: %v, %v", j.Observed, err)
		}
		h.status, h.text = 200, "56789"
		if !s.completed(t.Context(), "i", end, &agentapi.HeldError{}) || s.size(t, lyingJob) != 10 {
			t.Errorf("the log has %d bytes in the end, want 10", s.size(t, lyingJob))
		}
		h.status = 500
		end = agentapi.Task{ID: honestJob, JobLog: 10} // of which the host cannot give the rest
		for began := time.Now(); !s.completed(t.Context(), "i", end, &agentapi.HeldError{}); time.Sleep(time.Second) {
			if time.Since(began) > fetchFor {
				t.Fatal("the end waits for ever")
			}
		}
		if len(s.fetches.failed) != 0 {
			t.Error("it is remembered for ever")
		}
	})
}
