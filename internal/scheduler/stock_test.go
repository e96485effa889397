package scheduler

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"unique"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/config"
)

// A stock says of each host what the host says.
func TestStock(t *testing.T) {
	r := rand.New(rand.NewPCG(27, 28))
	for range 500 {
		var hosts []*Host
		for n := range r.IntN(12) {
			h := hosted(fmt.Sprint(n), pick(r, "f", "g", "h"), 1+r.IntN(2), 2, r.IntN(3))
			h.Ready = r.IntN(3) > 0
			if r.IntN(3) > 0 {
				h.Key = unique.Make(fmt.Sprint(len(h.Offer.Instance.Resources.Gpus)))
			}
			hosts = append(hosts, h)
		}
		s := NewStock(hosts)
		of := map[string][]int{}
		for i, h := range hosts {
			of[h.Fleet] = append(of[h.Fleet], i)
			free := 0
			if h.Ready {
				free = h.Blocks - h.Busy
			}
			if like := hosts[s.kinds[s.kind[i]]]; s.free[i] != free || like.Key != h.Key || like != h && h.Key == (unique.Handle[string]{}) {
				t.Fatalf("host %d has %d free blocks, not %d, and is like host %s", i, free, s.free[i], like.ID)
			}
		}
		if diff := cmp.Diff(of, s.of); diff != "" {
			t.Fatalf("hosts by fleet (-want +got):\n%s", diff)
		}
	}
}

// What is placed is taken from a copy of what is free: the stock is everybody's.
func TestPlacesTakeNothingOfTheStock(t *testing.T) {
	for seed := range uint64(300) {
		queue, s := randomWorld(rand.New(rand.NewPCG(seed, 4)))
		want := told(Place(queue, s))
		s.Stock = NewStock(s.Hosts)
		for range 2 {
			if got := told(Place(queue, s)); got != want {
				t.Fatalf("seed %d: of a stock that others use\n%s\nof one of its own\n%s", seed, got, want)
			}
			for _, g := range queue {
				WhyNot(g, s, false)
			}
		}
	}
}

// A plan's cost grows with the kinds of hosts, not with the hosts: among ten thousand it takes no room for each.
func TestPlansAmongManyHostsAllocateLittle(t *testing.T) {
	s, g := manyHosts(true), asks("g", 1, 1)
	g.Jobs[0].Requirements.Resources.GPU.Count = config.Between(1, 8)
	s.Stock = NewStock(s.Hosts)
	perPlan := bytesPerRun(func() { Choices(g, s)[0].Offers().First(3) })
	if most := uint64(64 << 10); perPlan > most {
		t.Errorf("a plan among %d hosts allocates %d bytes, want %d at most", len(s.Hosts), perPlan, most)
	}
}

// bytesPerRun is how much f allocates.
func bytesPerRun(f func()) uint64 {
	f()
	const runs = 10
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / runs
}
