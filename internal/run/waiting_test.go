package run

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A run that has not started says that it waits; a service that runs while another replica of it waits says
// that it runs.
func TestStatusOfWhatWaits(t *testing.T) {
	for status, want := range map[api.RunStatus]string{api.RunSubmitted: "retrying", api.RunPending: "retrying", api.RunProvisioning: "provisioning", api.RunRunning: "running"} {
		spec := serviceWith(fixed(2))
		r := Run{Status: status, SubmittedAt: start, Data: Data{Spec: spec}}
		if got := render(start, r, serviceJobs(t, spec, "0 serving, 1 submitted"), names{"p", "u"}, true, false, nil).StatusMessage; got != want {
			t.Errorf("%s is shown as %q, want %q", status, got, want)
		}
	}
}

// Runs that wait stand in the order of their queue: priority, then age; others have no place.
func TestPositions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{Config: Config{DB: db}}
		check := func(want map[string]int) {
			t.Helper()
			got, err := s.positions(t.Context(), "p")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		check(map[string]int{})
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for _, r := range []struct {
				id, project, status, job string
				priority, at             int
			}{
				{"young", "p", "submitted", "submitted", 0, 9},
				{"old", "p", "pending", "submitted", 0, 1},
				{"urgent", "p", "submitted", "submitted", 50, 8},
				{"b", "p", "submitted", "submitted", 0, 5},
				{"a", "p", "submitted", "submitted", 0, 5},
				{"placed", "p", "running", "running", 90, 1},
				{"stopped", "p", "terminating", "submitted", 90, 1},
				{"other", "q", "submitted", "submitted", 90, 1},
			} {
				_, err := tx.ExecContext(t.Context(), `INSERT INTO run (id, project_id, user_id, name, status, priority, repo_id, submitted_at, shard, data) VALUES ($1, $2, 'u', $1, $3, $4, '', $5, 0, '{}')`,
					r.id, r.project, r.status, r.priority, r.at)
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(t.Context(), `INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data) VALUES ($1, $1, $2, 0, 0, 0, $3, $4, 0, '{}')`,
					r.id, r.project, r.job, r.at)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		check(map[string]int{"urgent": 1, "old": 2, "a": 3, "b": 4, "young": 5})
	})
}

// A queue is read once a second for all who look at it.
func TestPositionsAreReadOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c positionCache
		read := map[string]int{}
		var mu sync.Mutex
		look := func(project string, slowly time.Duration) {
			got, err := c.of(t.Context(), project, func(_ context.Context, id string) (map[string]int, error) {
				time.Sleep(slowly)
				mu.Lock()
				defer mu.Unlock()
				read[id]++
				return map[string]int{id: read[id]}, nil
			})
			if err != nil || got[project] == 0 {
				t.Errorf("positions in %s: %v, %v", project, got, err)
			}
		}
		for _, want := range []int{1, 2} {
			var all sync.WaitGroup
			for range 3 {
				for _, project := range []string{"p", "q"} {
					all.Go(func() { look(project, 2*positionsFor) })
				}
			}
			all.Wait()
			if read["p"] != want || read["q"] != want {
				t.Errorf("read %v times, want %d", read, want)
			}
			time.Sleep(positionsFor)
		}
		look("q", 0)
		if _, remembered := c.byID["p"]; remembered {
			t.Error("queues that nobody looks at are remembered")
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		c.byID["q"].at = time.Time{}
		c.byID["q"].reading <- struct{}{}
		if _, err := c.of(ctx, "q", nil); !errors.Is(err, gone) {
			t.Errorf("who does not wait any longer gets %v", err)
		}
	})
}
