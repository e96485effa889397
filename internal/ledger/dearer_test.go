package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/offer"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func TestDearers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		now := time.Now().Truncate(time.Microsecond).UTC()
		ago := func(m int) time.Time { return now.Add(-time.Duration(m) * time.Minute) }
		three := 3.0
		doc := Doc{
			MaxPrice: &three, Priced: true, DeletingAt: ago(5), Outcome: Deleted,
			Create: &backend.CreateRequest{Offer: offer.Offer{Region: "us-east-1", Instance: "p5", Price: 2.5, Resources: offer.Resources{Spot: true}}},
		}
		with := func(change func(*Doc)) Doc {
			d := doc
			change(&d)
			return d
		}
		ended := Record{State: Gone, Price: 9, CreatedAt: ago(10), BilledFrom: ago(9), BilledTo: ago(4), Doc: doc}
		of := func(change func(*Record)) Record {
			r := ended
			change(&r)
			return r
		}
		records := map[string]Record{
			"ended":    ended,
			"long ago": of(func(r *Record) { r.BilledTo = ago(61) }),
			"being deleted": of(func(r *Record) {
				r.State, r.BilledTo, r.Doc = Deleting, time.Time{}, with(func(d *Doc) { d.DeletingAt = ago(1) })
			}),
			"booting": of(func(r *Record) {
				r.State, r.Wanted, r.BilledTo, r.Doc = Created, true, time.Time{}, with(func(d *Doc) { d.DeletingAt = time.Time{} })
			}),
			"in use":      of(func(r *Record) { r.State, r.Wanted, r.idle, r.BilledTo = Created, true, true, time.Time{} }),
			"as cheap":    of(func(r *Record) { r.Price = 3 }),
			"not told":    of(func(r *Record) { r.Doc = with(func(d *Doc) { d.Priced = false }) }),
			"no limit":    of(func(r *Record) { r.Doc = with(func(d *Doc) { d.MaxPrice = nil }) }),
			"never there": of(func(r *Record) { r.BilledFrom, r.BilledTo = time.Time{}, time.Time{} }),
			"another's":   of(func(r *Record) { r.ProjectID = "q" }),
			"a disk":      of(func(r *Record) { r.Kind = backend.VolumeResource }),
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for name, r := range records {
				r.ID, r.Backend, r.Region = name, "aws", "us-east-1"
				if r.ProjectID == "" {
					r.ProjectID = "p"
				}
				if r.Kind == "" {
					r.Kind = backend.InstanceResource
				}
				if err := insert(t.Context(), tx, r); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Dearers(t.Context(), db.Read(), "p", now.Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i].At = got[i].At.UTC()
		}
		at := func(m int) Dearer {
			return Dearer{Key: offer.Key{Backend: "aws", Region: "us-east-1", Instance: "p5", Spot: true}, Offered: 2.5, Price: 9, At: ago(m)}
		}
		if diff := cmp.Diff([]Dearer{at(10), at(5), at(1)}, got); diff != "" { // booting, ended, being deleted
			t.Errorf("Dearers (-want +got):\n%s", diff)
		}

		knowing := of(func(r *Record) { // bought for what it was known to cost
			r.ID, r.ProjectID, r.Backend, r.Region, r.Kind, r.CreatedAt, r.BilledFrom, r.BilledTo = "dear again", "p", "aws", "us-east-1", backend.InstanceResource, ago(2), ago(2), time.Time{}
			r.State, r.Wanted, r.idle, r.Price, r.Doc = Created, true, true, 9, with(func(d *Doc) {
				create := *d.Create
				create.Offer.Price = 9
				d.Create, d.MaxPrice, d.DeletingAt = &create, nil, time.Time{}
			})
		})
		cheap := of(func(r *Record) {
			r.ID, r.ProjectID, r.Backend, r.Region, r.Kind, r.CreatedAt, r.BilledFrom, r.BilledTo = "as listed again", "p", "aws", "us-east-1", backend.InstanceResource, ago(3), ago(3), time.Time{}
			r.State, r.Wanted, r.idle, r.Price, r.Doc = Created, true, true, 2.5, with(func(d *Doc) { d.MaxPrice, d.DeletingAt = nil, time.Time{} })
		})
		add := func(r Record) {
			t.Helper()
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, r) }); err != nil {
				t.Fatal(err)
			}
		}
		add(knowing)
		if got, err := Dearers(t.Context(), db.Read(), "p", now.Add(-time.Hour)); err != nil || len(got) != 3 {
			t.Errorf("Dearers after a machine that costs what it was known to: %+v, %v, want all of them", got, err)
		}
		add(cheap)
		got, err = Dearers(t.Context(), db.Read(), "p", now.Add(-time.Hour))
		if err != nil || len(got) != 1 || !got[0].At.Equal(ago(1)) {
			t.Errorf("Dearers after a machine that costs what it was offered for: %+v, %v, want the one after it", got, err)
		}
	})
}
