package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unique"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Rules that are asked once of hosts that are alike give what they give for each.
func TestAlikeHosts(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		queue, s := randomWorld(r)
		for i := range queue {
			if r.IntN(4) == 0 {
				queue[i].Profile.AvailabilityZones = []string{"a"}
			}
			if len(s.Hosts) > 0 && r.IntN(4) == 0 {
				queue[i].Profile.Instances = []config.InstanceSelector{{Name: &s.Hosts[r.IntN(len(s.Hosts))].Name}}
			}
			queue[i].Key = "" // they ask for something else now
		}
		keyed := s
		keyed.Hosts = slices.Clone(s.Hosts)
		for i := range s.Hosts {
			s.Hosts[i].Zone = []string{"", "a", "b"}[r.IntN(3)]
			h := *s.Hosts[i]
			h.Key = unique.Make(fmt.Sprint(len(h.Offer.Instance.Resources.Gpus), h.Blocks, h.Zone))
			keyed.Hosts[i] = &h
		}
		if got, want := Place(queue, keyed), Place(queue, s); !cmp.Equal(want, got) {
			t.Fatalf("seed %d: keys of hosts change the outcome (-without +with):\n%s", seed, cmp.Diff(want, got))
		}
		for _, g := range queue {
			if diff := cmp.Diff(WhyNot(g, s, false), WhyNot(g, keyed, false)); diff != "" {
				t.Fatalf("seed %d: keys of hosts change why (-without +with):\n%s", seed, diff)
			}
			got, want := Choices(g, keyed), Choices(g, s)
			if diff := cmp.Diff(chosen(want), chosen(got)); diff != "" {
				t.Fatalf("seed %d: keys of hosts change the choices (-without +with):\n%s", seed, diff)
			}
			for i := range got {
				if diff := cmp.Diff(every(want[i].Offers()), every(got[i].Offers())); diff != "" {
					t.Fatalf("seed %d: keys of hosts change the offers (-without +with):\n%s", seed, diff)
				}
			}
		}
	}
}

// choice is what a [Choice] tells of instances that exist.
type choice struct {
	Fleet    string
	Pool     bool
	Lowest   float64
	Existing []api.InstanceOffer
}

func chosen(list []Choice) []choice {
	out := make([]choice, len(list))
	for n, c := range list {
		out[n] = choice{c.Fleet, c.Pool, c.lowest, every(c.Existing())}
	}
	return out
}

// Hosts that are alike have one share in a plan, or two where some are busy, however many they are.
func TestSharesOfAlikeHostsAreOne(t *testing.T) {
	s := Supply{Fleets: []Fleet{cluster("f")}}
	for n := range 6 {
		h := hosted(fmt.Sprint(n), "f", 1, 1, n%2)
		h.Key = unique.Make("alike")
		s.Hosts = append(s.Hosts, h)
	}
	g := asks("g", 1, 1)
	choices := Choices(g, s)
	for name, f := range map[string]Found{"of a fleet": choices[0].Offers(), "everywhere": Everywhere(g, s, choices)} {
		made := map[*api.InstanceOffer]bool{}
		for _, o := range f.shares {
			made[o] = true
		}
		if f.Len() != 6 || f.Usable(6) != 3 || len(made) != 2 {
			t.Errorf("%s: %d shares, of which %d can be had, made of %d offers, want 6, 3 and 2", name, f.Len(), f.Usable(6), len(made))
		}
	}
}

// manyHosts are 10,000 hosts of eight kinds in 20 fleets, half of them busy; alike says that their keys tell
// which are of one kind.
func manyHosts(alike bool) Supply {
	var s Supply
	for f := range 20 {
		s.Fleets = append(s.Fleets, cluster(fmt.Sprint("fleet", f)))
		for n := range 500 {
			h := hosted(fmt.Sprint(f, "-", n), fmt.Sprint("fleet", f), 1+n%8, 1, n/8%2)
			if alike {
				h.Key = unique.Make(fmt.Sprint(n % 8))
			}
			s.Hosts = append(s.Hosts, h)
		}
	}
	return s
}

// BenchmarkChoices is a plan's look at 10,000 hosts in 20 fleets.
func BenchmarkChoices(b *testing.B) {
	for _, keys := range []string{"alike", "each its own"} {
		b.Run(keys, func(b *testing.B) {
			s, g := manyHosts(keys == "alike"), asks("g", 1, 2)
			s.Stock = NewStock(s.Hosts) // which lasts for as long as nothing changes
			b.ReportAllocs()
			for b.Loop() {
				Choices(g, s)
			}
		})
	}
}

// BenchmarkSharesOfHosts is what a plan, and one of `dstack offer`, shows of 10,000 hosts that fit.
func BenchmarkSharesOfHosts(b *testing.B) {
	s, g := manyHosts(true), asks("g", 1, 1)
	g.Jobs[0].Requirements.Resources.GPU.Count = config.Between(1, 8)
	choices := Choices(g, s)
	b.Run("of a fleet", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			choices[0].Offers().First(3)
		}
	})
	b.Run("everywhere", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Everywhere(g, s, choices).First(50)
		}
	})
}
