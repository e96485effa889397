package instance

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// What is remembered is as good as what would be read.
func TestKnownInstancesAreAsStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, s := t.Context(), &Service{Config: Config{DB: db}, known: newKnown()}
		write := func(fn func(tx *store.Tx) error) {
			t.Helper()
			if err := db.Write(ctx, fn); err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string) {
			t.Helper()
			want, err := OfFleets(ctx, db.Read(), "f0", "f1")
			if err != nil {
				t.Fatal(err)
			}
			known, err := s.InFleets(ctx, db.Read(), "f0", "f1", "none")
			if err != nil {
				t.Fatal(err)
			}
			var got []Instance
			for _, id := range []string{"f0", "f1", "none"} {
				for _, i := range known[id] {
					got = append(got, *i)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-stored +known):\n%s", what, diff)
			}
		}
		all := make([]Instance, 5)
		write(func(tx *store.Tx) error {
			for n := range all {
				all[n] = Instance{ID: fmt.Sprint("i", n), ProjectID: "p", FleetID: fmt.Sprint("f", n%2), Num: n, Name: "i", Status: api.InstanceIdle, Blocks: 2, CreatedAt: time.UnixMicro(1).UTC(), Data: Data{Remote: &RemoteHost{}}}
				if err := insert(ctx, tx, &all[n]); err != nil {
					return err
				}
			}
			return nil
		})
		check("new")
		check("again")
		write(func(tx *store.Tx) error {
			all[1].Status = api.InstanceBusy
			if err := assign(ctx, tx, &all[1], Assignment{JobID: "j", Blocks: 1}, "r"); err != nil {
				return err
			}
			return s.update(ctx, tx, &all[1])
		})
		check("assigned")
		write(func(tx *store.Tx) error {
			all[2].Deleted = true
			return s.update(ctx, tx, &all[2])
		})
		check("deleted")
		write(func(tx *store.Tx) error { // by somebody else
			_, err := tx.ExecContext(ctx, `UPDATE instance SET unreachable = TRUE, version = version + 1 WHERE id = 'i0'`)
			return err
		})
		check("changed by another")
		write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `UPDATE instance SET fleet_id = 'f1', num = 7, version = version + 1 WHERE id = 'i0'`)
			return err
		})
		check("moved by another")
		write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM instance WHERE id = 'i0'`)
			return err
		})
		check("deleted by another")
		write(func(tx *store.Tx) error {
			all[4].Status = api.InstanceTerminating
			return s.update(ctx, tx, &all[4])
		})
		check("changed")
		write(func(tx *store.Tx) error {
			return insert(ctx, tx, &Instance{ID: "i9", ProjectID: "p", FleetID: "f1", Num: 2, Name: "i", Status: api.InstanceIdle, CreatedAt: time.UnixMicro(2).UTC()})
		})
		check("one more")
		if db.Engine() == store.SQLite { // somebody makes the counts what no trigger can add to
			write(func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, `UPDATE fleet_changes SET changes = 9e999`)
				return err
			})
			check("counted no more")
		}
		write(func(tx *store.Tx) error {
			all[4].Status = api.InstanceIdle
			return s.update(ctx, tx, &all[4])
		})
		check("changed, however that is counted")
		undone := errors.New("undone")
		err := db.Write(ctx, func(tx *store.Tx) error {
			all[3].Deleted = true
			return errors.Join(s.update(ctx, tx, &all[3]), undone)
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
		check("undone")
		if list, err := s.InFleets(ctx, db.Read()); err != nil || len(list) != 0 {
			t.Errorf("of no fleet: %v, %v", list, err)
		}
	})
}
