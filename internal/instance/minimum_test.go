package instance

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Two instances that both look spare are decided over one after the other: the second is needed.
func TestMinimumIsKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := &Service{known: newKnown(), Config: Config{DB: db, MinNodes: func(context.Context, string) int { return 1 }}}
		all := make([]Instance, 2)
		err := db.Write(ctx, func(tx *store.Tx) error {
			for n := range all {
				all[n] = Instance{ID: fmt.Sprint("i", n), ProjectID: "p", FleetID: "f", Num: n, Name: "i", Status: api.InstanceIdle, Data: Data{Offer: &api.InstanceOffer{}}}
				if err := insert(ctx, tx, &all[n]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, inst := range all {
			if spare, err := s.spare(ctx, db.Read(), inst); !spare || err != nil {
				t.Fatalf("spare = %v, %v before any is ended", spare, err)
			}
		}
		end := func(inst Instance) error {
			return db.Write(ctx, func(tx *store.Tx) error {
				if err := s.keepMinimum(ctx, tx, inst); err != nil {
					return err
				}
				inst.Status = api.InstanceTerminating
				return s.update(ctx, tx, &inst)
			})
		}
		if err := end(all[0]); err != nil {
			t.Fatal(err)
		}
		if err := end(all[1]); !errors.Is(err, errNeeded) {
			t.Errorf("the end of the last one: %v", err)
		}
	})
}
