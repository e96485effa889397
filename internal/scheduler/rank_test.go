package scheduler

import (
	"slices"
	"testing"

	"dstack/internal/api"
)

// What could not be had lately comes later, but before what cannot be had at all.
func TestSortByRank(t *testing.T) {
	offer := func(name string, price, penalty float64, a api.InstanceAvailability) api.InstanceOffer {
		return api.InstanceOffer{Price: price, Penalty: penalty, Availability: a, Instance: api.InstanceType{Name: name}}
	}
	offers := []api.InstanceOffer{
		offer("gone", 1, 0, api.NotAvailable), offer("failed twice", 2, 2, api.Available), offer("dear", 5, 0, api.Available), offer("failed long ago", 2, 0.1, api.Available),
		offer("cheap", 2.1, 0, api.Available),
	}
	Sort(offers)
	var got []string
	for _, o := range offers {
		got = append(got, o.Instance.Name)
	}
	if want := []string{"cheap", "failed long ago", "dear", "failed twice", "gone"}; !slices.Equal(got, want) {
		t.Errorf("in the order %q, want %q", got, want)
	}
}
