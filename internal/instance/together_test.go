package instance

import (
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Two servers that choose a place in a cluster at the same time choose one: on PostgreSQL the second
// looks, chooses and commits while the first has chosen and not committed; the first looks again.
func TestClusterHasOnePlace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		places := []api.InstanceOffer{{Backend: "aws", Region: "eu"}, {Backend: "gcp", Region: "us"}}
		member := func(num int) Instance {
			return Instance{ID: []string{"i0", "i1"}[num], ProjectID: "p", FleetID: "f", Num: num, Name: "i", Status: api.InstancePending, Data: Data{Cluster: true, Remote: &RemoteHost{}}}
		}
		waiting := member(1)
		if err := db.Write(ctx, func(tx *store.Tx) error { return insert(ctx, tx, &waiting) }); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		provision := func() { // gives the instance that waits a place
			second <- db.Write(ctx, func(tx *store.Tx) error {
				inst, err := Get(ctx, tx, waiting.ID)
				if err != nil {
					return err
				}
				if ok, err := together(ctx, tx, inst, places[1]); err != nil || !ok {
					return err
				}
				inst.Data.Offer = &places[1]
				return update(ctx, tx, &inst)
			})
		}
		begun := false
		err := db.Write(ctx, func(tx *store.Tx) error { // another appears with a place
			inst := member(0)
			ok, err := together(ctx, tx, inst, places[0])
			if err != nil {
				return err
			}
			if ok {
				inst.Data.Offer = &places[0]
			}
			if err := insert(ctx, tx, &inst); err != nil {
				return err
			}
			if begun {
				return nil
			}
			begun = true
			go provision()
			if db.Engine() == store.Postgres {
				err = <-second
				second <- err
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		all, err := OfFleets(ctx, db.Read(), "f")
		if err != nil {
			t.Fatal(err)
		}
		var chosen []api.InstanceOffer
		for _, i := range all {
			if i.Data.Offer != nil {
				chosen = append(chosen, *i.Data.Offer)
			}
		}
		if len(all) != 2 || len(chosen) != 1 {
			t.Errorf("%d instances are in %v, want two, of which one has a place", len(all), chosen)
		}
	})
}
