package scheduler

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dstack/internal/api"
)

// What is found over the index is what a look at each offer gives.
func TestNodes(t *testing.T) {
	r := rand.New(rand.NewPCG(33, 34))
	found, undivided := 0, 0
	for range 5000 {
		_, s := randomQuestion(r)
		for n := range s.Offers {
			if r.IntN(2) == 0 {
				s.Offers[n].Instance.Resources.CPUs = 8 // else few could be divided
			}
		}
		Sort(s.Offers)
		ask, blocks, auto := randomAsk(r), 1+r.IntN(3), r.IntN(4) == 0
		if r.IntN(2) == 0 {
			ask = Ask{}
		}
		var want []api.InstanceOffer
		var tally Tally
		for _, o := range s.Offers {
			missed := ask.missed(&o)
			n, ok := Divide(blocks, auto, o.Instance.Resources.CPUs, len(o.Instance.Resources.Gpus))
			if !ok {
				missed |= 1 << notDivisible
				undivided++
			}
			tally.add(1, o.Price, way{settings: missed, state: ask.state(&o)})
			if missed == 0 {
				o = ask.narrowed(o)
				o.TotalBlocks = n
				want = append(want, o)
			}
		}
		resort(want)
		got, why := Nodes(ask, blocks, auto, s)
		if diff := cmp.Diff(want, every(got), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-looked at, +found)\n%s\nask: %s, %d blocks, auto %v\nsupply: %s", diff, text(ask), blocks, auto, text(s))
		}
		whole := tally.whyNot([]Fleet{{}})
		if s.Backends == 0 {
			whole.Reasons = []string{noBackends}
		}
		if diff := cmp.Diff(whole, why); diff != "" {
			t.Fatalf("why no more (-looked at, +counted at once)\n%s\nask: %s, %d blocks, auto %v\nsupply: %s", diff, text(ask), blocks, auto, text(s))
		}
		found += len(want)
	}
	if found < 1000 || undivided < 1000 {
		t.Errorf("%d are found, %d cannot be divided: the test shows little", found, undivided)
	}
}
