package instance

import (
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
		ctx, s := t.Context(), &Service{}
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
			for name, read := range map[string]func() ([]*Instance, error){
				"project": func() ([]*Instance, error) { return s.OfProject(ctx, db.Read(), "p") },
				"fleets":  func() ([]*Instance, error) { return s.InFleets(ctx, db.Read(), "f0", "f1") },
			} {
				list, err := read()
				if err != nil {
					t.Fatal(err)
				}
				var got []Instance
				for _, i := range list {
					got = append(got, *i)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s, %s (-stored +known):\n%s", what, name, diff)
				}
			}
		}
		all := make([]Instance, 5)
		write(func(tx *store.Tx) error {
			for n := range all {
				all[n] = Instance{ID: fmt.Sprint("i", n), ProjectID: "p", FleetID: fmt.Sprint("f", n%2), Num: n, Name: "i", Status: api.InstanceIdle, Blocks: 2, CreatedAt: time.UnixMicro(1).UTC()}
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
			if err := assign(ctx, tx, &all[1], Assignment{JobID: "j", Blocks: 1}); err != nil {
				return err
			}
			return update(ctx, tx, &all[1])
		})
		check("assigned")
		write(func(tx *store.Tx) error {
			all[2].Deleted = true
			return update(ctx, tx, &all[2])
		})
		check("deleted")
		if list, err := s.InFleets(ctx, db.Read()); err != nil || list != nil {
			t.Errorf("of no fleet: %v, %v", list, err)
		}
	})
}
