package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"dstack/internal/api"
	"dstack/internal/offer"
)

// TestVerdictsAreRight places random queues and holds each verdict against what its gang asks for.
func TestVerdictsAreRight(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 42))
	placed, bought, ahead := 0, 0, 0
	for n := range 20_000 {
		queue, supply := randomQueue(r), randomSupply(r)
		verdicts := Place(queue, supply)
		if len(verdicts) != len(queue) {
			t.Fatalf("queue %d: %d verdicts for %d gangs", n, len(verdicts), len(queue))
		}
		used, grown := map[string]int{}, map[string]int{}
		for i, v := range verdicts {
			g := &queue[i]
			if bad := wrong(g, v, supply, used, grown); bad != "" {
				t.Fatalf("queue %d, gang %d (%s): %s\n%s", n, i, g.ID, bad, told(verdicts))
			}
			placed += flag(v.Nodes != nil)
			news := slices.ContainsFunc(v.Nodes, func(n Node) bool { return n.Host == "" })
			bought += flag(news)
			ahead += flag(news && g.Asks && i > 0 && verdicts[0].Nodes == nil)
		}
	}
	if placed < 1000 || bought < 1000 || ahead < 100 {
		t.Errorf("%d gangs were placed, %d on new instances, %d of them asked again behind one that waits: too few to tell", placed, bought, ahead)
	}
}

// wrong says what is wrong with a verdict, "" when nothing is, and counts what it takes.
func wrong(g *Gang, v Verdict, s Supply, used, grown map[string]int) string {
	if v.Gang != g.ID {
		return "has the verdict of " + v.Gang
	}
	if v.Nodes == nil {
		return ""
	}
	f := s.Fleets[slices.IndexFunc(s.Fleets, func(f Fleet) bool { return f.ID == v.Fleet })]
	switch {
	case len(v.Nodes) != len(g.Jobs):
		return fmt.Sprintf("%d nodes for %d jobs", len(v.Nodes), len(g.Jobs))
	case g.Fleets != nil && !slices.Contains(g.Fleets, f.ID):
		return "is in a fleet that it does not name"
	case g.Cluster && !f.Cluster:
		return "is in a fleet that is no cluster"
	}
	for j, n := range v.Nodes {
		want, o := g.Jobs[j], n.Offer
		o.Availability = api.Available
		switch {
		case n.Job != want.Job:
			return fmt.Sprintf("job %s has the place of %s", want.Job, n.Job)
		case Fits(want.Requirements, g.Profile, o) != "":
			return fmt.Sprintf("job %s is on %s: %s", want.Job, o.Instance.Name, Fits(want.Requirements, g.Profile, o))
		case g.Cluster && (o.Backend != v.Nodes[0].Offer.Backend || o.Region != v.Nodes[0].Offer.Region):
			return "is spread over regions"
		}
		if n.Host == "" {
			if grown[f.ID]++; f.Room >= 0 && grown[f.ID] > f.Room || f.Hosts || g.Reuse || g.Open || !g.BuyFrom.IsZero() && !g.Asks {
				return "has a new instance that it may not have"
			}
			continue
		}
		h := s.Hosts[slices.IndexFunc(s.Hosts, func(h *Host) bool { return h.ID == n.Host })]
		if used[h.ID] += n.Blocks; h.Fleet != f.ID || !h.Ready || h.Busy+used[h.ID] > h.Blocks {
			return fmt.Sprintf("is on host %s of fleet %s, ready %v, %d of %d blocks taken", h.ID, h.Fleet, h.Ready, h.Busy+used[h.ID], h.Blocks)
		}
	}
	return ""
}

func randomQueue(r *rand.Rand) []Gang {
	queue := make([]Gang, 1+r.IntN(6))
	for i := range queue {
		g := asks(fmt.Sprint("g", i), pick(r, 1, 1, 2, 3), pick(r, 0, 1, 1, 2, 4, 16))
		switch r.IntN(4) {
		case 0:
			g = refused(g)
		case 1:
			g = again(g)
		}
		g.Patient, g.Open, g.Reuse = r.IntN(4) > 0, r.IntN(10) == 0, r.IntN(10) == 0
		if r.IntN(6) == 0 {
			g.Key = ""
		}
		if r.IntN(4) == 0 {
			g.Fleets = []string{pick(r, "f", "g", "own")}
			if g.Key != "" {
				g.Key += g.Fleets[0]
			}
		}
		if g.Key != "" {
			g.Key += fmt.Sprint(g.Reuse)
		}
		queue[i] = g
	}
	return queue
}

func randomSupply(r *rand.Rand) Supply {
	grows := func(f Fleet) Fleet {
		f.Room, f.Cluster = pick(r, -1, 0, 1, 2, 3), r.IntN(3) > 0
		return f
	}
	own := cluster("own")
	own.Hosts, own.Room, own.Cluster = true, 0, r.IntN(2) == 0
	s := Supply{Fleets: []Fleet{grows(cluster("f")), grows(cluster("g")), own}}
	for n := range r.IntN(6) {
		blocks := pick(r, 1, 1, 2, 4)
		h := hosted(fmt.Sprint("h", n), pick(r, "f", "g", "own", "own"), pick(r, 0, 1, 2, 4), blocks, r.IntN(blocks+1))
		if h.Fleet != "own" {
			h = rented(h, machine(pick(r, "a", "b"), pick(r, "eu", "us"), pick(r, 1, 2, 4), 2))
		}
		h.Ready = r.IntN(4) > 0
		s.Hosts = append(s.Hosts, h)
	}
	for range r.IntN(6) {
		s.Offers = append(s.Offers, machine(pick(r, "a", "b"), pick(r, "eu", "us"), pick(r, 0, 1, 2, 4), float64(1+r.IntN(4))))
	}
	Sort(s.Offers)
	if r.IntN(2) == 0 {
		gone := pick(r, "a", "b")
		s.Refused = except(gone)
		if r.IntN(2) == 0 {
			s.Again = func(offer.Key) int { return 2 }
		}
	}
	return s
}
