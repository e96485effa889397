package instance

import (
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestShare divides the instance of a job: the job keeps what it needs, and who decided over the whole of it
// decides again.
func TestShare(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		freed := 0
		s := &Service{known: newKnown(), Config: Config{DB: db, Freed: func(string) { freed++ }}}
		inst := Instance{ID: "i", ProjectID: "p", FleetID: "f", Name: "f-0", Status: api.InstanceBusy, Blocks: 1,
			Data: Data{Offer: &api.InstanceOffer{}, Split: &Split{Auto: true}, Provisioning: &api.JobProvisioningData{InstanceType: api.InstanceType{Resources: api.Resources{CPUs: 16, Gpus: []api.Gpu{{}, {}, {}, {}, {}, {}, {}, {}}}}}}}
		write := func(f func(tx *store.Tx) error) error { return db.Write(t.Context(), f) }
		claim := func(id string, blocks, of int) error {
			return write(func(tx *store.Tx) error {
				_, err := s.Claim(t.Context(), tx, Claim{InstanceID: "i", JobID: id, RunID: "r", Blocks: blocks, Of: of})
				return err
			})
		}
		share := func(id string, blocks, of int) error {
			return write(func(tx *store.Tx) error { return s.Share(t.Context(), tx, "i", id, blocks, of) })
		}
		err := write(func(tx *store.Tx) error {
			if err := insert(t.Context(), tx, &inst); err != nil {
				return err
			}
			return assign(t.Context(), tx, &inst, Assignment{JobID: "a", Blocks: 1}, "r")
		})
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{"another job": share("b", 2, 8), "another number": share("a", 2, 4)} {
			if !errors.Is(err, store.ErrConflict) {
				t.Errorf("shared for %s: %v", name, err)
			}
		}
		if err := share("a", 2, 8); err != nil || freed != 1 {
			t.Errorf("%v, freed %d times", err, freed)
		}
		if err := share("a", 2, 8); !errors.Is(err, store.ErrConflict) {
			t.Errorf("shared again: %v", err)
		}
		if err := claim("b", 1, 1); !errors.Is(err, store.ErrConflict) {
			t.Errorf("claimed as a whole: %v", err)
		}
		if err := claim("c", 7, 8); !errors.Is(err, store.ErrConflict) {
			t.Errorf("claimed what the job has: %v", err)
		}
		if err := claim("d", 6, 8); err != nil {
			t.Error(err)
		}
		got, err := s.Get(t.Context(), db.Read(), "i")
		if err != nil || got.Blocks != 8 || got.Busy() != 8 || got.Data.Split != nil {
			t.Errorf("%d of %d blocks are busy, to be split: %v, %v; want 8 of 8", got.Busy(), got.Blocks, got.Data.Split, err)
		}
		if err := write(func(tx *store.Tx) error { return unassign(t.Context(), tx, got, "a") }); err != nil {
			t.Fatal(err)
		}
		var held []string
		var until int64
		rows, err := db.Read().QueryContext(t.Context(), `SELECT blocks, of_blocks, created_at, ended_at FROM assignment_ended WHERE job_id = 'a' ORDER BY created_at`)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var blocks, of int
			var from, to int64
			err := rows.Scan(&blocks, &of, &from, &to)
			if held = append(held, fmt.Sprint(blocks, "/", of)); until != 0 && from != until {
				t.Errorf("the job held nothing for %d µs", from-until)
			}
			until = to
			return err
		})
		if want := []string{"1/1", "2/8"}; err != nil || !slices.Equal(held, want) {
			t.Errorf("the job pays for %v, want %v: all of it until it was shared (%v)", held, want, err)
		}
	})
}
