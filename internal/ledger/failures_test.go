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

func TestFailures(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		now := time.Now().Truncate(time.Microsecond)
		create := &backend.CreateRequest{Offer: offer.Offer{Backend: "aws", Region: "us-east-1", Instance: "p5", Resources: offer.Resources{Spot: true}}}
		records := []Record{
			{State: Gone, CreatedAt: now.Add(-time.Minute), Doc: Doc{Outcome: NoCapacity, Create: create, GoneAt: now.Add(-time.Second)}},
			{State: Gone, CreatedAt: now.Add(-2 * time.Minute), Doc: Doc{Outcome: NoQuota, Create: create}},
			{State: Gone, CreatedAt: now.Add(-2 * time.Hour), Doc: Doc{Outcome: NoCapacity, Create: create}}, // long ago
			{State: Gone, CreatedAt: now, Doc: Doc{Outcome: Cancelled, Create: create}},                      // nobody asked
			{State: Gone, CreatedAt: now, BilledFrom: now, BilledTo: now, Doc: Doc{Outcome: Deleted, Create: create}},
			{State: Gone, CreatedAt: now, Doc: Doc{Outcome: Forgotten, Create: create}}, // nobody knows
			{State: Unknown, CreatedAt: now, Doc: Doc{Create: create}},
			{State: Gone, Kind: backend.VolumeResource, CreatedAt: now, Doc: Doc{Outcome: NoQuota, Volume: &backend.VolumeRequest{}}},
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for i, r := range records {
				r.ID, r.Backend, r.Region, r.ProjectID = fmt.Sprint(i), "aws", "us-east-1", "p"
				if r.Kind == "" {
					r.Kind = backend.InstanceResource
				}
				if err := insert(t.Context(), tx, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Failures(t.Context(), db.Read(), now.Add(-time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i].At = got[i].At.UTC()
		}
		f := Failure{ProjectID: "p", Backend: "aws", Region: "us-east-1", Instance: "p5", Spot: true, Outcome: NoCapacity, At: now.Add(-time.Minute).UTC(), Until: now.Add(-time.Second)}
		earlier := f
		earlier.Outcome, earlier.At, earlier.Until = NoQuota, now.Add(-2*time.Minute).UTC(), time.Time{}
		if diff := cmp.Diff([]Failure{f, earlier}, got); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
	})
}
