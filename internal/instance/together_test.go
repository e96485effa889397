package instance

import (
	"fmt"
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
				inst.Backend, inst.Data.Offer = string(places[1].Backend), &places[1]
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
				inst.Backend, inst.Data.Offer = string(places[0].Backend), &places[0]
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

// The first instance of a cluster is the live one with the lowest number that the asking one follows.
func TestFirstOfCluster(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		at := func(num int, status api.InstanceStatus, offer *api.InstanceOffer) Instance {
			i := Instance{ID: fmt.Sprint("i", num), ProjectID: "p", FleetID: "f", Num: num, Name: "i", Status: status, Data: Data{Cluster: true, Remote: &RemoteHost{}, Offer: offer}}
			if offer != nil {
				i.Backend = string(offer.Backend)
			}
			return i
		}
		eu := &api.InstanceOffer{Backend: "aws", Region: "eu"}
		damaged := at(4, api.InstanceBusy, eu)
		damaged.Data = Data{}
		all := []Instance{at(1, api.InstanceTerminating, eu), at(2, api.InstancePending, nil), at(3, api.InstancePending, nil), damaged, at(5, api.InstanceIdle, eu)}
		err := db.Write(ctx, func(tx *store.Tx) error {
			for n := range all {
				if err := insert(ctx, tx, &all[n]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for num, want := range map[int]string{0: "i5", 2: "i5", 3: "i2", 5: "i2", 6: "i2"} {
			first, err := firstOf(ctx, db.Read(), at(num, api.InstancePending, nil))
			if err != nil || first == nil || first.ID != want {
				t.Errorf("for number %d it is %+v, %v; want %s", num, first, err, want)
			}
		}
		if first, err := firstOf(ctx, db.Read(), Instance{ID: "x", FleetID: "other"}); first != nil || err != nil {
			t.Errorf("in an empty fleet it is %+v, %v", first, err)
		}
	})
}
