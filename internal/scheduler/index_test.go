package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dstack/internal/api"
)

// every is all that was found.
func every(f Found) []api.InstanceOffer { return f.First(f.Len()) }

// An index says of each offer what the rules say of it.
func TestIndexSaysWhatTheRulesSay(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	fit := 0
	for range 5000 {
		offers := make([]api.InstanceOffer, 1+r.IntN(8))
		for i := range offers {
			offers[i] = randomOffer(r)
		}
		a := randomAsk(r)
		v := NewIndex(offers).under(&a)
		for i, o := range offers {
			want := Missed(&a.Requirements, &a.Profile, &o)
			if got := v.fits(i); got != (want == 0) {
				t.Fatalf("fits = %v, want misses %v\nask: %s\noffer: %s", got, want.Words(), text(a), text(o))
			}
			if got := (v.ofKind(v.rows[i].kind) | v.ofPlace(v.rows[i].place)) &^ priceRules; got != want&^priceRules {
				t.Fatalf("misses %v, want %v\nask: %s\noffer: %s", got.Words(), want.Words(), text(a), text(o))
			}
			fit += flag(want == 0)
		}
	}
	if fit < 500 {
		t.Errorf("only %d fit: the test shows little", fit)
	}
}

// What is counted of alike offers at once is what is counted of each.
func TestTallyOfAlikeOffers(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	for range 5000 {
		g, s := randomQuestion(r)
		for range r.IntN(3) { // some that are alike
			if len(s.Offers) > 0 {
				o := s.Offers[r.IntN(len(s.Offers))]
				o.Price = float64(r.IntN(4))
				s.Offers = append(s.Offers, o)
			}
		}
		anyway := r.IntN(2) == 0
		with := func(offers ...api.InstanceOffer) sum {
			one := s
			one.Offers = offers
			return summed(newPlacer(one).tally(&g, anyway), s.Fleets)
		}
		hosts := with()
		want := hosts
		want.of = maps.Clone(hosts.of)
		for _, o := range s.Offers {
			want.add(with(o), hosts)
		}
		if got := with(s.Offers...); !cmp.Equal(want, got, cmp.AllowUnexported(sum{})) {
			t.Fatalf("one by one, and at once:\n%s\ngang: %s\nsupply: %s", cmp.Diff(want, got, cmp.AllowUnexported(sum{})), text(g), text(s))
		}
	}
}

// sum is a tally whose parts can be added.
type sum struct {
	all, fit int
	of       map[string]api.Exclusion // by what excludes, or by availability
}

func summed(t *Tally, fleets []Fleet) sum {
	s := sum{t.all, t.fit, map[string]api.Exclusion{}}
	for _, e := range t.exclusions(fleets) {
		s.of[e.Fleet+" "+e.Requirement] = e
	}
	for a, n := range t.away {
		s.of[string(a)] = api.Exclusion{Excludes: n}
	}
	return s
}

// add adds what another has beyond a base of both.
func (s *sum) add(o, base sum) {
	s.all, s.fit = s.all+o.all-base.all, s.fit+o.fit-base.fit
	for k, e := range o.of {
		was, have := base.of[k], s.of[k]
		switch {
		case have.Alone == 0:
			have.From = e.From
		case e.Alone > 0:
			have.From = new(min(*have.From, *e.From))
		}
		have.Requirement, have.Fleet = e.Requirement, e.Fleet
		have.Excludes, have.Alone, have.Unavailable = have.Excludes+e.Excludes-was.Excludes, have.Alone+e.Alone-was.Alone, have.Unavailable+e.Unavailable-was.Unavailable
		s.of[k] = have
	}
}

// What is found is what a look at each offer, and a sort of all, gives.
func TestFoundInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(25, 26))
	found := 0
	for range 5000 {
		g, s := randomQuestion(r)
		Sort(s.Offers)
		choices := Choices(g, s)
		var want []api.InstanceOffer
		for _, c := range choices {
			want = append(want, every(c.Existing())...)
			if g.Fleets != nil {
				for _, o := range every(c.Offers()) {
					if isNew(&o) {
						want = append(want, o)
					}
				}
			}
		}
		if g.Fleets == nil && !g.Reuse && len(g.Profile.Instances) == 0 {
			for _, o := range s.Offers {
				if a := (Ask{g.Profile, g.Jobs[0].Requirements}); Fits(a.Requirements, a.Profile, o) == "" {
					if a.Requirements.Reservation != nil {
						o = a.narrowed(o)
					}
					o.Blocks, o.TotalBlocks = 1, 1
					want = append(want, o)
				}
			}
		}
		Sort(want)
		got := Everywhere(g, s, choices)
		if diff := cmp.Diff(want, every(got), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-looked at, +found)\n%s\ngang: %s\nsupply: %s", diff, text(g), text(s))
		}
		if n := len(want); n > 0 {
			slices.Reverse(want)
			if diff := cmp.Diff(want[:n/2+1], got.Reversed().First(n/2+1)); diff != "" {
				t.Fatalf("reversed: %s", diff)
			}
			dear := slices.MaxFunc(want, func(a, b api.InstanceOffer) int { return cmpPrice(a, b) })
			if *got.MaxPrice() != dear.Price {
				t.Fatalf("the highest price is %v, want %v", *got.MaxPrice(), dear.Price)
			}
			found += n
		}
	}
	if found < 1000 {
		t.Errorf("only %d are found: the test shows little", found)
	}
}

func cmpPrice(a, b api.InstanceOffer) int { return flag(a.Price > b.Price) - flag(a.Price < b.Price) }

// bigSupply has many offers of few kinds, and a fleet that may grow.
func bigSupply(kinds, places int) Supply {
	s := Supply{Fleets: []Fleet{{ID: "f", Name: "f", Room: -1}}, Backends: 1}
	for k := range kinds {
		for p := range places {
			o := machine("a", fmt.Sprint("r", p), k%9, float64(k)/4+float64(p)/100)
			o.Instance.Name = fmt.Sprint("t", k)
			s.Offers = append(s.Offers, o)
		}
	}
	Sort(s.Offers)
	s.Index = NewIndex(s.Offers)
	return s
}

// A plan's cost grows with the kinds of offers, not with the offers: of fifty times as many it makes no
// more than room for the numbers of those that fit.
func TestPlansAmongManyOffersAllocateLittle(t *testing.T) {
	for name, gpus := range map[string]int{"many fit": 1, "none fit": 20} {
		t.Run(name, func(t *testing.T) {
			g := asks("g", 1, gpus)
			perPlan := func(s Supply) float64 {
				return testing.AllocsPerRun(5, func() {
					c := Choices(g, s)
					c[0].Offers().First(50)
					Everywhere(g, s, c).First(50)
					WhyNot(g, s, false)
				})
			}
			few, many := perPlan(bigSupply(500, 1)), perPlan(bigSupply(500, 50))
			if many > 2*few+100 {
				t.Errorf("%v allocations among 25,000 offers, %v among 500 of as many kinds", many, few)
			}
		})
	}
}

// BenchmarkPlan is what a plan looks for among 100,000 offers of 2,000 kinds.
func BenchmarkPlan(b *testing.B) {
	s := bigSupply(2000, 50)
	for name, gpus := range map[string]int{"many fit": 1, "none fit": 20} {
		g := asks("g", 1, gpus)
		b.Run("run/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Choices(g, s)[0].Offers().First(50)
			}
		})
		b.Run("offer/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Everywhere(g, s, Choices(g, s)).First(50)
			}
		})
		b.Run("why not/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				WhyNot(g, s, false)
			}
		})
	}
}
