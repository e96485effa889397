package run

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/engine"
	"dstack/internal/logstore"
	"dstack/internal/metrics"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// busyFor is a store that takes no logs of one job.
type busyFor struct {
	logstore.Store
	job string
}

func (b busyFor) Append(ctx context.Context, jobID string, src logstore.Source, chunks ...logstore.Chunk) (int64, error) {
	if jobID == b.job {
		return 0, &logstore.BusyError{Service: "the service"}
	}
	return b.Store.Append(ctx, jobID, src, chunks...)
}

// TestHandleWithABusyLog: a job whose log cannot be stored is held, so that the host tells it again, with its end; what
// else is told of it is stored, and all of others.
func TestHandleWithABusyLog(t *testing.T) {
	db := storetest.Open(t, storetest.Path(t))
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for _, id := range []string{"job-1", "job-2"} {
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
	logs, err := logstore.New(logstore.Config{Store: busyFor{logstore.NewDB(db), "job-1"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	samples, err := metrics.New(metrics.Config{DB: db, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "x"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Config: Config{DB: db, Logs: logs, Engine: nobody, Metrics: samples}}
	event := func(job string, e agentapi.Event) agentapi.Event {
		e.TaskID, e.Micros = job, time.Now().UnixMicro()
		return e
	}
	err = s.Handle(t.Context(), "i", []agentapi.Event{
		event("job-1", agentapi.Event{Log: &agentapi.LogData{Source: logstore.Job, Data: []byte("x")}}),
		event("job-1", agentapi.Event{Task: &agentapi.Task{ID: "job-1", State: agentapi.Running, Started: true}}),
		event("job-1", agentapi.Event{Task: &agentapi.Task{ID: "job-1", State: agentapi.Terminated}}),
		event("job-2", agentapi.Event{Log: &agentapi.LogData{Source: logstore.Job, Data: []byte("y")}}),
	})
	held, ok := err.(*agentapi.HeldError)
	if _, busy := errors.AsType[*logstore.BusyError](err); !ok || !busy || !slices.Equal(held.Tasks, []string{"job-1"}) {
		t.Errorf("Handle = %v, want job-1 held for a *BusyError", err)
	}
	if n, err := logs.Size(t.Context(), "job-2", logstore.Job); n != 1 || err != nil {
		t.Errorf("the other job's log has %d bytes, %v", n, err)
	}
	j, err := getJob(t.Context(), db.Read(), "job-1")
	if err != nil || j.Observed == nil || j.Observed.State != agentapi.Running || !j.Observed.Started {
		t.Errorf("of the job %+v is known, %v; want that it runs, and not its end", j.Observed, err)
	}
}
