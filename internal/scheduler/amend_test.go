package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dstack/internal/api"
	"dstack/internal/offer"
)

// What is amended is what a new list of the same offers, sorted and indexed, would be.
func TestAmended(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 32))
	moved := 0
	for n := range 3000 {
		var offers []api.InstanceOffer
		seen := map[offer.Key]bool{}
		for range r.IntN(40) {
			o := randomOffer(r)
			o.Instance.Name, o.Price = fmt.Sprint("t", r.IntN(6)), float64(r.IntN(8))
			if n%4 > 0 {
				o.Order = 0
			}
			if k := KeyOf(&o); !seen[k] || n%2 == 0 {
				seen[k] = true
				offers = append(offers, o)
			}
		}
		Sort(offers)
		x := NewIndex(offers)
		keys := []offer.Key{{Backend: "none"}}
		learnt := map[offer.Key][2]float64{}
		for k := range seen {
			if r.IntN(4) == 0 {
				keys = append(keys, k)
				learnt[k] = [2]float64{float64(r.IntN(3)), float64(r.IntN(3)) / 2}
			}
		}
		of := func(k offer.Key, price float64) (float64, float64) {
			l, known := learnt[k]
			if !known {
				t.Fatalf("asked about %v, of which nothing was learnt", k)
			}
			return price + l[0], l[1]
		}
		want := slices.Clone(offers)
		for i := range want {
			if l, known := learnt[KeyOf(&want[i])]; known {
				want[i].Price += l[0]
				want[i].Penalty = l[1]
			}
		}
		Sort(want)
		before := slices.Clone(offers)
		list, got := x.Amended(keys, of)
		if diff := cmp.Diff(want, list, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("offers (-as sorted, +as amended):\n%s", diff)
		}
		if !cmp.Equal(before, offers, cmpopts.EquateEmpty()) {
			t.Fatal("the list that was amended is another")
		}
		if !slices.EqualFunc(want, offers, func(a, b api.InstanceOffer) bool { return KeyOf(&a) == KeyOf(&b) }) {
			moved++
		}
		a := randomAsk(r)
		v, w := got.under(&a), NewIndex(want).under(&a)
		for i := range want {
			if v.fits(i) != w.fits(i) || v.usable(i) != w.usable(i) || v.rows[i].price != w.rows[i].price || v.states[v.rows[i].state] != w.states[w.rows[i].state] {
				t.Fatalf("the index says something else of %s", text(want[i]))
			}
		}
	}
	if moved < 1000 {
		t.Errorf("only in %d lists an offer has another place: the test shows little", moved)
	}
}

// BenchmarkAmended has some of 100,000 offers amended, and the same as a list from the beginning.
func BenchmarkAmended(b *testing.B) {
	s := bigSupply(2000, 50)
	for _, many := range []int{1, 1000} {
		learnt := map[offer.Key]float64{}
		var keys []offer.Key
		for n := range many {
			k := KeyOf(&s.Offers[n*len(s.Offers)/many])
			keys, learnt[k] = append(keys, k), 1
		}
		b.Run(fmt.Sprint(many, " of them"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Index.Amended(keys, func(k offer.Key, price float64) (float64, float64) { return price, learnt[k] })
			}
		})
		b.Run(fmt.Sprint(many, " of them, anew"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				list := slices.Clone(s.Offers)
				for i := range list {
					list[i].Penalty = learnt[KeyOf(&list[i])]
				}
				Sort(list)
				NewIndex(list)
			}
		})
	}
}

// BenchmarkNodes is the plan of a fleet among 100,000 offers of 2,000 kinds.
func BenchmarkNodes(b *testing.B) {
	s := bigSupply(2000, 50)
	for name, gpus := range map[string]int{"many fit": 1, "none fit": 20} {
		g := asks("g", 1, gpus)
		a := Ask{g.Profile, g.Jobs[0].Requirements}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Nodes(a, 1, false, s)
			}
		})
	}
}
