package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// The order of offers is what a merge of the backends' lists by price gives, each of which keeps its order
// (lifecycle 7.4).
func TestSortMergesRankings(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	for range 2000 {
		lists := map[api.BackendType][]api.InstanceOffer{}
		var all []api.InstanceOffer
		for _, b := range []api.BackendType{"a", "b", "c"} {
			for n := range r.IntN(6) {
				o := api.InstanceOffer{Backend: b, Price: float64(r.IntN(5)), Availability: api.Available, Order: n + 1, Instance: api.InstanceType{Name: fmt.Sprint(r.IntN(9))}}
				lists[b], all = append(lists[b], o), append(all, o)
			}
		}
		want := merged(lists)
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		Sort(all)
		for i, o := range all {
			if got := placed(o); got != want[i] {
				t.Fatalf("place %d has %s, want %s of %v", i, got, want[i], want)
			}
		}
	}
}

// What does not fit, or cannot be had now, has no part in the order of the rest: lists are merged that
// have none of it.
func TestRankingsOfWhatFits(t *testing.T) {
	r := rand.New(rand.NewPCG(33, 34))
	for range 1000 {
		fit, away := map[api.BackendType][]api.InstanceOffer{}, map[api.BackendType][]api.InstanceOffer{}
		s := Supply{Fleets: []Fleet{{ID: "f", Name: "f", Room: -1, Ask: anything()}}, Backends: 3}
		for _, b := range []api.BackendType{"a", "b", "c"} {
			for n := range r.IntN(8) {
				o := machine(string(b), "eu", 8, float64(r.IntN(5)))
				o.Order, o.Instance.Name = n+1, fmt.Sprint(n)
				switch r.IntN(3) {
				case 0:
					o.Instance.Resources.Gpus = o.Instance.Resources.Gpus[:1]
				case 1:
					o.Availability = api.NotAvailable
					away[b] = append(away[b], o)
				default:
					fit[b] = append(fit[b], o)
				}
				s.Offers = append(s.Offers, o)
			}
		}
		Sort(s.Offers)
		usable := merged(fit)
		all := append(slices.Clone(usable), merged(away)...)

		g := asks("g", 1, 8)
		ask := Ask{g.Profile, g.Jobs[0].Requirements}
		choices := Choices(g, s)
		nodes, _ := Nodes(ask, 1, false, s)
		for name, got := range map[string][]api.InstanceOffer{"of the fleet": every(choices[0].Offers()), "everywhere": every(Everywhere(g, s, choices)), "for nodes": every(nodes)} {
			if diff := cmp.Diff(all, names(got)); diff != "" {
				t.Fatalf("offers %s of %v (-want +got):\n%s", name, names(s.Offers), diff)
			}
		}
		var tried, next []string
		for {
			o, ok := Next(ask, s.Offers, tried)
			if !ok {
				break
			}
			tried, next = append(tried, OfferKey(o)), append(next, placed(o))
		}
		if diff := cmp.Diff(usable, next); diff != "" {
			t.Fatalf("one after the other of %v (-want +got):\n%s", names(s.Offers), diff)
		}
		if v := Place([]Gang{g}, s)[0]; len(usable) > 0 && (v.Nodes == nil || placed(v.Nodes[0].Offer) != usable[0]) {
			t.Fatalf("placed on %+v, want %s", v.Nodes, usable[0])
		}
	}
}

// merged merges lists by price, each of which keeps its order.
func merged(lists map[api.BackendType][]api.InstanceOffer) []string {
	var want []string
	for {
		best := api.BackendType("")
		for _, b := range []api.BackendType{"a", "b", "c"} {
			if len(lists[b]) > 0 && (best == "" || lists[b][0].Price < lists[best][0].Price) {
				best = b
			}
		}
		if best == "" {
			return want
		}
		// What follows at once costs no more: it is behind this one only for its backend.
		for dear := lists[best][0].Price; len(lists[best]) > 0 && lists[best][0].Price <= dear; lists[best] = lists[best][1:] {
			want = append(want, placed(lists[best][0]))
		}
	}
}

// placed names an offer by its place in the list of its backend.
func placed(o api.InstanceOffer) string { return fmt.Sprint(o.Backend, o.Order) }

func names(offers []api.InstanceOffer) []string {
	var list []string
	for _, o := range offers {
		list = append(list, placed(o))
	}
	return list
}
