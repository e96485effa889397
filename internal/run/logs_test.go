package run

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/logstore"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestStreamLogsHearsNothing follows the log of a job of whose output and end another replica tells, and this one,
// cut off from the database meanwhile, does not hear.
func TestStreamLogsHearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.SQLite(t)
		write := func(text string) {
			t.Helper()
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), text)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		write(`INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data) VALUES ('job-1', 'run-1', 'p', 0, 0, 0, 'running', 1, 0, '{}')`)
		there := logstore.NewDB(db) // as the other replica has it
		logs, err := logstore.New(logstore.Config{Store: there, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s := &Service{Config: Config{DB: db, Logs: logs, Log: slog.New(slog.DiscardHandler)}, watch: newWatchers()}
		text, ended := "", make(chan error, 1)
		heard, lives := time.Now(), 0
		go func() {
			ended <- s.StreamLogs(t.Context(), project.Scope{Project: project.Project{ID: "p"}}, api.StreamLogsRequest{JobSubmissionID: "job-1", Follow: true}, func(c api.LogChunk) error {
				text += string(c.Data)
				return nil
			}, func() error {
				if silent := time.Since(heard); silent > streamLook {
					t.Errorf("nothing was heard of the stream for %v", silent)
				}
				heard = time.Now()
				lives++
				return nil
			})
		}()
		time.Sleep(time.Minute)
		if want := int(time.Minute/streamLook) + 1; lives < want-1 || lives > want {
			t.Errorf("the stream was heard of %d times in a minute, want %d", lives, want)
		}
		if _, err := there.Append(t.Context(), "job-1", logstore.Job, logstore.Chunk{At: time.Now(), Data: []byte("bye")}); err != nil {
			t.Fatal(err)
		}
		write(`UPDATE job SET status = 'done', version = version + 1`)
		select {
		case err := <-ended:
			if err != nil || text != "bye" {
				t.Errorf("%q, %v; want bye", text, err)
			}
		case <-time.After(2 * streamLook):
			t.Error("the stream does not end")
		}
	})
}
