package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// machine is a whole instance with so many GPUs at a price.
func machine(backend, region string, gpus int, price float64) api.InstanceOffer {
	arch := api.CPUArchitecture("x86")
	o := api.InstanceOffer{
		Backend: api.BackendType(backend), Region: region, Price: price, Availability: api.Available, Multinode: backend == "b",
		Instance: api.InstanceType{Name: fmt.Sprintf("g%d", gpus), Resources: api.Resources{CPUs: 8 * max(1, gpus), MemoryMiB: 65536 * max(1, gpus), CPUArch: &arch, Disk: api.Disk{SizeMiB: 512000}}},
	}
	for range gpus {
		o.Instance.Resources.Gpus = append(o.Instance.Resources.Gpus, api.Gpu{Name: "H100", MemoryMiB: 81920, Vendor: "nvidia"})
	}
	return o
}

func hosted(id, fleet string, gpus, blocks, busy int) *Host {
	o := machine("remote", "remote", gpus, 0)
	o.Availability = api.Idle
	return &Host{ID: id, Name: id, Fleet: fleet, Offer: o, Blocks: blocks, Busy: busy, Ready: true}
}

// rented is a host that is a machine of an offer.
func rented(h *Host, o api.InstanceOffer) *Host {
	o.Availability = api.Idle
	h.Offer = o
	return h
}

// asks is a gang of so many nodes that need so many GPUs each.
func asks(id string, nodes, gpus int) Gang {
	g := Gang{ID: id, Cluster: nodes > 1, Patient: true, Key: fmt.Sprintf("%d/%d", nodes, gpus)}
	req := api.Requirements{Resources: config.DefaultResources()}
	req.Resources.GPU.Count = config.Between(gpus, gpus)
	for n := range nodes {
		g.Jobs = append(g.Jobs, Want{fmt.Sprintf("%s-%d", id, n), req})
	}
	return g
}

func cluster(id string) Fleet {
	return Fleet{ID: id, Name: id, Cluster: true, Ask: anything()}
}

func anything() Ask {
	r := config.Resources{CPU: config.CPU{Count: config.Between(1, -1)}, Memory: config.AtLeast(0), GPU: &config.GPU{Count: config.Between(0, -1)}}
	return Ask{Requirements: api.Requirements{Resources: r}}
}

// refused is a gang whose instances no provider had.
func refused(g Gang) Gang {
	g.BuyFrom = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	return g
}

// again is such a gang, a while later.
func again(g Gang) Gang {
	g = refused(g)
	g.Asks = true
	return g
}

// except says that offers of some backends could not be had lately.
func except(backends ...string) func(offer.Key) bool {
	return func(k offer.Key) bool { return slices.Contains(backends, k.Backend) }
}

// given says that so many were given since of the offers of a backend.
func given(backend string, n int) func(offer.Key) int {
	return func(k offer.Key) int { return n * flag(k.Backend == backend) }
}

// told writes verdicts as "gang: host, +offer" or "gang: waits".
func told(verdicts []Verdict) string {
	var lines []string
	for _, v := range verdicts {
		var nodes []string
		for _, n := range v.Nodes {
			if n.Host == "" {
				nodes = append(nodes, fmt.Sprintf("+%s/%s/%s", n.Offer.Backend, n.Offer.Region, n.Offer.Instance.Name))
			} else {
				nodes = append(nodes, fmt.Sprintf("%s:%d", n.Host, n.Blocks))
			}
		}
		switch {
		case v.Nodes != nil:
			lines = append(lines, v.Gang+": "+strings.Join(nodes, " "))
		case v.Awaits != nil:
			for _, n := range v.Awaits {
				nodes = append(nodes, n.Host)
			}
			lines = append(lines, v.Gang+": awaits "+strings.Join(nodes, " "))
		case v.NoFleet:
			lines = append(lines, v.Gang+": no fleet")
		case v.Later:
			lines = append(lines, v.Gang+": waits")
		default:
			lines = append(lines, v.Gang+": no")
		}
	}
	return strings.Join(lines, "; ")
}

func TestPlace(t *testing.T) {
	grows := func(f Fleet, room int) Fleet { f.Room = room; return f }
	impatient := func(g Gang) Gang { g.Patient = false; return g }
	unready := func(h *Host) *Host { h.Ready = false; return h }
	out := func(h *Host) *Host { h.Ready, h.Out = false, true; return h }
	of := func(f Fleet, backend string) Fleet { f.Ask.Profile.Backends = []string{backend}; return f }
	lowered := func(o api.InstanceOffer) api.InstanceOffer { o.Penalty = 1; return o }
	clouds := []api.InstanceOffer{machine("a", "eu", 1, 1), machine("b", "us", 1, 2), machine("b", "us", 8, 20)}
	for _, c := range []struct {
		name  string
		queue []Gang
		s     Supply
		want  string
	}{
		{"first come, first served", []Gang{asks("x", 1, 1), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0)}}, "x: h:1; y: waits"},
		{"an instance is shared by blocks", []Gang{asks("x", 1, 2), asks("y", 1, 1), asks("z", 1, 2)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 4, 4, 0)}}, "x: h:2; y: h:1; z: waits"},
		{"fuller instances first, so that whole ones stay whole", []Gang{asks("x", 1, 1), asks("y", 1, 4)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 4, 4, 0), hosted("i", "f", 4, 4, 2)}}, "x: i:1; y: h:4"},
		{"a gang is placed as a whole", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 0)}}, "x: h:1 i:1"},
		{"or not at all", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 1)}}, "x: waits"},
		{"what the head waits for is kept for it", []Gang{asks("x", 2, 1), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 1)}}, "x: waits; y: waits"},
		{"but not until a host is back that is out", []Gang{asks("x", 2, 1), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), out(hosted("i", "f", 1, 1, 0))}}, "x: waits; y: h:1"},
		{"what it has no use for is not", []Gang{asks("x", 2, 8), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 8, 1, 0), hosted("i", "f", 8, 1, 1), hosted("j", "f", 1, 1, 0)}}, "x: waits; y: j:1"},
		{"nor is the room of a fleet without limit", []Gang{asks("x", 2, 8), asks("y", 1, 1)}, Supply{
			Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: []api.InstanceOffer{machine("b", "us", 1, 2), machine("b", "eu", 8, 20)},
			Hosts: []*Host{rented(hosted("h", "f", 8, 1, 0), machine("b", "us", 8, 20)), rented(hosted("i", "f", 8, 1, 1), machine("b", "us", 8, 20))},
		}, "x: waits; y: +b/us/g1"},
		{"a head that can never be placed holds nothing", []Gang{asks("x", 3, 1), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 1)}}, "x: no; y: h:1"},
		{"nor does one that may not wait", []Gang{impatient(asks("x", 2, 1)), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 1)}}, "x: waits; y: h:1"},
		{"a host that does not answer may come back", []Gang{asks("x", 1, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{unready(hosted("h", "f", 1, 1, 0))}}, "x: waits"},
		{"nodes of a cluster have whole instances", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 4, 4, 0), hosted("i", "f", 1, 1, 0), hosted("j", "f", 1, 1, 0)}}, "x: i:1 j:1"},
		{"several nodes need a cluster", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{{ID: "f", Name: "f"}}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 0)}}, "x: no fleet"},
		{"no fleet at all", []Gang{asks("x", 1, 1)}, Supply{}, "x: no fleet"},
		{"the cheapest offer, in a fleet that may grow", []Gang{asks("x", 1, 1), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds}, "x: +a/eu/g1; y: +b/us/g8"},
		{"a fleet grows to its limit", []Gang{asks("x", 1, 1), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 1)}, Offers: clouds}, "x: +a/eu/g1; y: no"},
		{"instances that exist come first", []Gang{asks("x", 1, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Hosts: []*Host{hosted("h", "f", 1, 1, 0)}, Offers: clouds}, "x: h:1"},
		{"a cluster is made where instances reach each other", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds}, "x: +b/us/g1 +b/us/g1"},
		{"within what its fleet allows", []Gang{asks("x", 2, 1)}, Supply{Fleets: []Fleet{func() Fleet {
			f := grows(cluster("f"), -1)
			f.Ask.Profile.Regions = []string{"us"}
			return f
		}()}, Offers: []api.InstanceOffer{machine("b", "eu", 1, 1), machine("b", "us", 1, 2)}}, "x: +b/us/g1 +b/us/g1"},
		{"and grows where it is", []Gang{asks("x", 2, 1)}, Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds,
			Hosts: []*Host{{ID: "h", Fleet: "f", Offer: func() api.InstanceOffer { o := machine("b", "us", 1, 2); o.Availability = api.Idle; return o }(), Blocks: 1, Ready: true}}}, "x: h:1 +b/us/g1"},
		{"what could not be had lately comes later, in another fleet too", []Gang{asks("x", 1, 1)}, Supply{
			Fleets: []Fleet{of(grows(cluster("f"), -1), "a"), of(grows(cluster("g"), -1), "b")},
			Offers: []api.InstanceOffer{machine("b", "us", 1, 1.5), lowered(machine("a", "eu", 1, 1))},
		}, "x: +b/us/g1"},
		{"no new instances where they are not wanted", []Gang{func() Gang { g := asks("x", 1, 1); g.Reuse = true; return g }()},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds}, "x: no"},
		{"nor before they may be asked for again, by those who may not", []Gang{refused(asks("x", 1, 1)), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds}, "x: no; y: +a/eu/g1"},
		{"while one that exists is taken, or waited for", []Gang{refused(asks("x", 1, 1)), refused(asks("y", 1, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Hosts: []*Host{hosted("h", "f", 1, 1, 0)}, Offers: clouds}, "x: h:1; y: waits"},
		{"offers that were not refused may be asked for sooner", []Gang{refused(asks("x", 1, 1)), again(asks("y", 1, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a")}, "x: no; y: +b/us/g1"},
		{"who was refused a while ago asks with the next that wants the same", []Gang{again(asks("x", 1, 1)), again(asks("y", 1, 1)), asks("z", 1, 1), asks("o", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b")}, "x: +a/eu/g1; y: no; z: +a/eu/g1; o: +b/us/g8"},
		{"wherever in the queue it waits", []Gang{asks("w", 3, 16), again(asks("x", 1, 4)), again(asks("y", 1, 1)), asks("z", 1, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b")}, "w: no; x: no; y: +a/eu/g1; z: +a/eu/g1"},
		{"also with one that wants something else but would have the same offer", []Gang{again(asks("x", 1, 1)), func() Gang { g := asks("y", 1, 1); g.Key = "other"; return g }(), impatient(asks("z", 1, 8))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b")}, "x: +a/eu/g1; y: +a/eu/g1; z: +b/us/g8"},
		{"what was given since is asked for again, by one after the other", []Gang{again(asks("x", 1, 1)), again(asks("y", 1, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b"), Again: given("a", 1)}, "x: +a/eu/g1; y: no"},
		{"not beside a newcomer, and not just after a refusal", []Gang{asks("z", 1, 1), again(asks("x", 1, 1)), refused(asks("y", 1, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b"), Again: given("a", 1)}, "z: +a/eu/g1; x: no; y: no"},
		{"by as many nodes as were given", []Gang{again(asks("x", 3, 1)), again(asks("y", 2, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b"), Again: given("b", 2)}, "x: no; y: +b/us/g1 +b/us/g1"},
		{"who may not wait asks at the same time", []Gang{again(asks("x", 1, 1)), impatient(asks("y", 1, 1))},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b")}, "x: +a/eu/g1; y: +a/eu/g1"},
		{"on the hosts that are kept for it first", []Gang{again(asks("x", 2, 1)), asks("y", 1, 1)}, Supply{
			Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: []api.InstanceOffer{machine("b", "us", 1, 2)}, Refused: except("b"),
			Hosts: []*Host{rented(hosted("h", "f", 1, 1, 0), machine("b", "us", 1, 2)), rented(hosted("i", "f", 1, 1, 1), machine("b", "us", 1, 2))},
		}, "x: h:1 +b/us/g1; y: +b/us/g1"},
		{"also for an offer that is not its best", []Gang{again(asks("x", 1, 1)), func() Gang { g := asks("y", 1, 1); g.Key, g.Profile.Backends = "b", []string{"b"}; return g }()},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Offers: clouds, Refused: except("a", "b")}, "x: +b/us/g1; y: +b/us/g1"},
		{"the last room is kept for it", []Gang{refused(asks("x", 1, 1)), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 1)}, Offers: clouds, Refused: except("a")}, "x: no; y: no"},
		{"other room is not", []Gang{refused(asks("x", 1, 1)), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 2)}, Offers: clouds, Refused: except("a")}, "x: no; y: +b/us/g8"},
		{"nor that of another fleet", []Gang{refused(asks("x", 1, 1)), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 1), grows(cluster("g"), 1)}, Offers: clouds, Refused: except("a")}, "x: no; y: +b/us/g8"},
		{"nor for one that may not wait", []Gang{impatient(refused(asks("x", 1, 1))), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 1)}, Offers: clouds, Refused: except("a")}, "x: no; y: +b/us/g8"},
		{"nor where there is no offer for it", []Gang{refused(asks("x", 1, 16)), asks("y", 1, 8)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 1)}, Offers: clouds, Refused: except("a")}, "x: no; y: +b/us/g8"},
		{"it asks in the room that is kept for it", []Gang{again(asks("x", 1, 1)), asks("y", 1, 1)},
			Supply{Fleets: []Fleet{grows(cluster("f"), 2)}, Offers: clouds, Refused: except("a", "b")}, "x: +a/eu/g1; y: +a/eu/g1"},
		{"all wait where there is nothing to ask for", []Gang{again(asks("x", 2, 1)), again(asks("y", 1, 4)), asks("z", 1, 4)},
			Supply{Fleets: []Fleet{grows(cluster("f"), -1)}, Hosts: []*Host{hosted("h", "f", 4, 1, 1)}, Offers: clouds}, "x: no; y: waits; z: waits"},
		{"only the fleets that were named", []Gang{func() Gang { g := asks("x", 1, 1); g.Fleets = []string{"g"}; return g }()},
			Supply{Fleets: []Fleet{cluster("f"), cluster("g")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "g", 1, 1, 0)}}, "x: i:1"},
		{"a fleet with room for the whole gang", []Gang{asks("x", 2, 1)},
			Supply{Fleets: []Fleet{cluster("f"), cluster("g")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "g", 1, 1, 0), hosted("j", "g", 1, 1, 0)}}, "x: i:1 j:1"},
		{"a lost node beside the others", []Gang{func() Gang {
			g := asks("x", 1, 1)
			g.Cluster, g.Beside = true, Site{"g", "remote", "remote"}
			return g
		}()}, Supply{Fleets: []Fleet{cluster("f"), cluster("g")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "g", 1, 1, 0)}}, "x: i:1"},
		{"unlike nodes find their hosts", []Gang{func() Gang {
			g := asks("x", 2, 1)
			g.Jobs[0].Requirements.Resources.GPU = &config.GPU{Count: config.Between(1, -1)} // 1 or 8 would do
			g.Jobs[1].Requirements = asks("y", 1, 1).Jobs[0].Requirements
			g.Key = "unlike"
			return g
		}()}, Supply{Fleets: []Fleet{cluster("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 8, 1, 0)}}, "x: i:1 h:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := told(Place(c.queue, c.s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestPlaceWhereTheClusterIs has a new instance made where its fleet's cluster is, also of instances that
// jobs do not see yet and for a single node, or in another fleet.
func TestPlaceWhereTheClusterIs(t *testing.T) {
	f, g := cluster("f"), Fleet{ID: "g", Name: "g", Room: -1, Ask: anything()}
	f.Room, f.At = -1, Site{"f", "b", "us"}
	cheaper, there := machine("b", "eu", 1, 1), machine("b", "us", 1, 2)
	for name, tt := range map[string]struct {
		nodes       int
		fleets      []Fleet
		offers      []api.InstanceOffer
		want, fleet string
		plan        float64 // price of the first that a plan shows, 0 for none
	}{
		"one node":               {1, []Fleet{f}, []api.InstanceOffer{cheaper, there}, "x: +b/us/g1", "f", 2},
		"several":                {2, []Fleet{f}, []api.InstanceOffer{cheaper, there}, "x: +b/us/g1 +b/us/g1", "f", 2},
		"none are there":         {1, []Fleet{f}, []api.InstanceOffer{cheaper}, "x: no", "", 0},
		"but for another fleet":  {1, []Fleet{f, g}, []api.InstanceOffer{cheaper}, "x: +b/eu/g1", "g", 1},
		"which comes first then": {1, []Fleet{f, g}, []api.InstanceOffer{cheaper, there}, "x: +b/eu/g1", "g", 1},
	} {
		s, x := Supply{Fleets: tt.fleets, Offers: tt.offers, Backends: 1}, asks("x", tt.nodes, 1)
		v := Place([]Gang{x}, s)
		if got := told(v); got != tt.want || v[0].Fleet != tt.fleet {
			t.Errorf("%s: %s in fleet %q, want %s in %q", name, got, v[0].Fleet, tt.want, tt.fleet)
		}
		price := 0.0
		if first := Choices(x, s)[0].Offers().First(1); len(first) > 0 {
			price = first[0].Price
		}
		if price != tt.plan {
			t.Errorf("%s: a plan begins with $%v, want $%v", name, price, tt.plan)
		}
		if why := WhyNot(x, s, false); tt.fleet == "" && (why.Fit != 0 || len(why.Excluded) != 1 || Setting(why.Excluded[0]) != "`placement` of fleet 'f'") {
			t.Errorf("%s: %s", name, summary(why))
		}
	}
}

// Whatever the queue and the supply: gangs all or nothing, no block given twice, no fleet
// beyond its limit, and nobody takes what a patient gang before it could use.
func TestPlaceInvariants(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		queue, s := randomWorld(r)
		verdicts := Place(queue, s)
		free, room := map[string]int{}, map[string]int{}
		for _, h := range s.Hosts {
			if h.Ready {
				free[h.ID] = h.Blocks - h.Busy
			}
		}
		for _, f := range s.Fleets {
			room[f.ID] = f.Room
		}
		for i, v := range verdicts {
			if v.Nodes != nil && len(v.Nodes) != len(queue[i].Jobs) {
				t.Fatalf("seed %d: gang %s has %d of %d nodes", seed, v.Gang, len(v.Nodes), len(queue[i].Jobs))
			}
			for _, n := range v.Nodes {
				if n.Host == "" {
					room[v.Fleet]--
				}
				free[n.Host] -= n.Blocks
			}
			if v.Nodes == nil && queue[i].Patient && v.Later {
				if host := passedOver(&queue[i], s, verdicts[i+1:]); host != "" {
					t.Fatalf("seed %d: %s could use %s: %s", seed, v.Gang, host, told(verdicts))
				}
			}
		}
		for id, n := range free {
			if id != "" && n < 0 {
				t.Fatalf("seed %d: host %s has %d blocks too few", seed, id, -n)
			}
		}
		for _, f := range s.Fleets {
			if f.Room >= 0 && room[f.ID] < 0 {
				t.Fatalf("seed %d: fleet %s grew beyond its limit", seed, f.ID)
			}
		}
		again := Place(queue, s)
		if told(again) != told(verdicts) {
			t.Fatalf("seed %d: not the same twice", seed)
		}
		unkeyed := slices.Clone(queue)
		for i := range unkeyed {
			unkeyed[i].Key = ""
		}
		if got := told(Place(unkeyed, s)); got != told(verdicts) {
			t.Fatalf("seed %d: keys change the outcome:\n%s\n%s", seed, got, told(verdicts))
		}
	}
}

// passedOver is a host that a waiting gang could use in a fleet that could serve it, but
// that a gang behind it got; "" when there is none.
func passedOver(g *Gang, s Supply, later []Verdict) string {
	p := newPlacer(s)
	shares := p.shares(g)
	fleets := p.fleetsOf(g)
	for _, f := range fleets {
		if !p.possible(g, f, shares, func(h *Host) bool { return !h.Out }) {
			continue
		}
		for _, v := range later {
			for _, n := range v.Nodes {
				for i, h := range s.Hosts {
					if h.ID == n.Host && h.Fleet == s.Fleets[f].ID && shares[0].of(i) > 0 {
						return h.ID
					}
				}
			}
		}
	}
	return ""
}

func randomWorld(r *rand.Rand) ([]Gang, Supply) {
	var s Supply
	for n := range 1 + r.IntN(3) {
		f := cluster(fmt.Sprintf("f%d", n))
		f.Cluster = r.IntN(2) == 0
		f.Room = []int{0, 0, 1, 2, -1}[r.IntN(5)]
		s.Fleets = append(s.Fleets, f)
		for i := range r.IntN(4) {
			gpus := []int{1, 2, 8}[r.IntN(3)]
			blocks := []int{1, gpus}[r.IntN(2)]
			h := hosted(fmt.Sprintf("f%d-%d", n, i), f.ID, gpus, blocks, r.IntN(blocks+1))
			h.Ready = r.IntN(5) > 0
			s.Hosts = append(s.Hosts, h)
		}
	}
	if r.IntN(2) == 0 {
		s.Offers = []api.InstanceOffer{machine("a", "eu", 1, 1), machine("b", "us", 2, 2)}
	}
	var queue []Gang
	for n := range 1 + r.IntN(6) {
		g := asks(fmt.Sprintf("g%d", n), 1+r.IntN(3), []int{1, 2, 8}[r.IntN(3)])
		g.Patient = r.IntN(4) > 0
		if !g.Patient {
			g.Key += "!"
		}
		queue = append(queue, g)
	}
	return queue, s
}

// Who may have an instance of a backend: those who wait for it to say what it offers.
func TestMayBuy(t *testing.T) {
	only := func(names ...string) func(*Fleet) { return func(f *Fleet) { f.Ask.Profile.Backends = names } }
	fleet := func(change ...func(*Fleet)) Supply {
		f := cluster("f")
		f.Room = 2
		for _, c := range change {
			c(&f)
		}
		return Supply{Fleets: []Fleet{f}}
	}
	with := func(change func(*Gang)) Gang {
		g := asks("g", 1, 1)
		change(&g)
		return g
	}
	for name, tt := range map[string]struct {
		gang   Gang
		supply Supply
		want   bool
	}{
		"anything":               {asks("g", 1, 1), fleet(), true},
		"named by the run":       {with(func(g *Gang) { g.Profile.Backends = []string{"B", "A"} }), fleet(), true},
		"excluded by the run":    {with(func(g *Gang) { g.Profile.Backends = []string{"b"} }), fleet(), false},
		"excluded by the fleet":  {asks("g", 1, 1), fleet(only("b")), false},
		"by one fleet of two":    {asks("g", 1, 1), Supply{Fleets: append(fleet(only("b")).Fleets, fleet().Fleets...)}, true},
		"not by a fleet it uses": {with(func(g *Gang) { g.Fleets = []string{"x"} }), fleet(), false},
		"no fleet":               {asks("g", 1, 1), Supply{}, false},
		"a full fleet":           {asks("g", 1, 1), fleet(func(f *Fleet) { f.Room = 0 }), false},
		"hosts of the user":      {asks("g", 1, 1), fleet(func(f *Fleet) { f.Hosts = true }), false},
		"no new instances":       {with(func(g *Gang) { g.Reuse = true }), fleet(), false},
		"after a refusal":        {refused(asks("g", 1, 1)), fleet(), true},
		"beside nodes there":     {with(func(g *Gang) { g.Beside = Site{"f", "a", "eu"} }), fleet(), true},
		"beside nodes elsewhere": {with(func(g *Gang) { g.Beside = Site{"f", "b", "eu"} }), fleet(), false},
		"they exclude each other": {with(func(g *Gang) { g.Jobs[0].Requirements.Spot = new(true) }),
			fleet(func(f *Fleet) { f.Ask.Requirements.Spot = new(false) }), false},
	} {
		if got := tt.supply.MayBuy(&tt.gang, "a"); got != tt.want {
			t.Errorf("%s: MayBuy = %v, want %v", name, got, tt.want)
		}
		told := tt.want || name == "a full fleet"
		if got := tt.supply.Concerns(&tt.gang, "a"); got != told {
			t.Errorf("%s: Concerns = %v, want %v", name, got, told)
		}
	}
}

// Instances that are named by fleet and number are those of that fleet, though another project's has its name.
func TestPlaceOnNamedInstances(t *testing.T) {
	s := Supply{Fleets: []Fleet{{ID: "own", Name: "rack", Project: "team", Hosts: true, Ask: anything()}, {ID: "shared", Name: "main/rack", Project: "main", Hosts: true, Ask: anything()}}}
	for _, f := range s.Fleets {
		h := hosted(f.ID+"-3", f.ID, 1, 1, 0)
		h.Num = 3
		s.Hosts = append(s.Hosts, h)
	}
	ref := func(text string) config.InstanceSelector {
		r, _ := config.ParseEntityRef(text)
		return config.InstanceSelector{Fleet: &r, Instance: 3}
	}
	for text, want := range map[string]string{"rack": "x: own-3:1; y: waits", "team/rack": "x: own-3:1; y: waits", "main/rack": "x: shared-3:1; y: waits", "other/rack": "x: no; y: no"} {
		x, y := asks("x", 1, 1), asks("y", 1, 1)
		x.Profile.Instances, y.Profile.Instances = []config.InstanceSelector{ref(text)}, []config.InstanceSelector{ref(text)}
		if got := told(Place([]Gang{x, y}, s)); got != want {
			t.Errorf("on %s: %s, want %s", text, got, want)
		}
	}
}

// Gangs that wait to ask again say when each of them does, and none has the place of another.
func TestPlaceRefusedGangs(t *testing.T) {
	later := again(asks("y", 1, 1))
	later.BuyFrom = later.BuyFrom.Add(time.Minute)
	growing := cluster("f")
	growing.Room = -1
	s := Supply{Fleets: []Fleet{growing}, Offers: []api.InstanceOffer{machine("a", "eu", 1, 1)}, Refused: except("a")}
	v := Place([]Gang{again(asks("x", 1, 1)), later, asks("z", 1, 1), later}, s)
	if got, want := told(v), "x: +a/eu/g1; y: no; z: +a/eu/g1; y: no"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !strings.Contains(v[1].Why, "12:01:00 UTC") || v[3].Nodes != nil {
		t.Errorf("%+v, want the time of its own request", v[1])
	}
}

// One that waits to ask again and has no use for an offer is looked at once, however many ask for that offer.
func TestPlaceAsksOnceInVain(t *testing.T) {
	growing := cluster("f")
	growing.Room = -1
	p := newPlacer(Supply{Fleets: []Fleet{growing}, Offers: []api.InstanceOffer{machine("a", "eu", 1, 1)}, Refused: except("a")})
	queue := []Gang{again(asks("x", 1, 4)), asks("y", 1, 1), asks("z", 1, 1)}
	for i := 1; i < len(queue); i++ {
		if n, v := p.ahead(&queue[i], queue, []int{0}); n >= 0 {
			t.Fatalf("with %s asks %+v", queue[i].ID, v)
		}
	}
	for of := range p.asked {
		if of.gang != &queue[2] {
			t.Errorf("the offers were looked at for %s behind %s", of.gang.ID, queue[1].ID)
		}
	}
}

// Before it is known what backends offer, nobody is placed on what an open gang before them could use,
// or told that there is nothing, and the first of the queue has the place that it would have anyway.
func TestPlaceOpenGangs(t *testing.T) {
	for seed := range uint64(6000) {
		r := rand.New(rand.NewPCG(seed, 3))
		queue, s := randomWorld(r)
		hosts := map[string]int{}
		for i, h := range s.Hosts {
			hosts[h.ID] = i
		}
		full := Place(queue, s)
		all := seed%2 == 0
		for k := range queue {
			queue[k].Open = all || r.IntN(3) == 0
			queue[k].Key += fmt.Sprint(queue[k].Open)
		}
		early := Place(queue, s)
		if n := slices.IndexFunc(full[0].Nodes, func(n Node) bool { return n.Host == "" }); full[0].Nodes != nil && n < 0 && !cmp.Equal(early[0], full[0]) {
			t.Fatalf("seed %d: the first gang's place (-with offers +without):\n%s", seed, cmp.Diff(full[0], early[0]))
		}
		p := newPlacer(s)
		for k, v := range early {
			if v.Nodes == nil && queue[k].Open && !v.Open {
				t.Fatalf("seed %d: gang %d is refused before it is known what there is: %s", seed, k, v.Why)
			}
			if slices.ContainsFunc(v.Nodes, func(n Node) bool { return n.Host == "" }) && queue[k].Open {
				t.Fatalf("seed %d: gang %d has a new instance", seed, k)
			}
			if !v.Open {
				continue
			}
			shares, fleets := p.shares(&queue[k]), p.fleetsOf(&queue[k])
			for m := k + 1; m < len(queue); m++ {
				equal := slices.IndexFunc(queue, func(g Gang) bool { return g.Key == queue[m].Key }) // which was told the same
				if w := early[m]; w.Nodes == nil && !w.Open && equal > k && slices.ContainsFunc(p.fleetsOf(&queue[m]), func(f int) bool { return slices.Contains(fleets, f) }) {
					t.Fatalf("seed %d: gang %d is refused behind gang %d, which is open: %s", seed, m, k, w.Why)
				}
				for _, n := range early[m].Nodes {
					i, onHost := hosts[n.Host]
					if !onHost {
						f := slices.IndexFunc(s.Fleets, func(f Fleet) bool { return f.ID == early[m].Fleet })
						if s.Fleets[f].Room > 0 && slices.Contains(fleets, f) && queue[k].refusesNew() == 0 {
							t.Fatalf("seed %d: gang %d has room in fleet %s, which gang %d waits for", seed, m, early[m].Fleet, k)
						}
						continue
					}
					for j := range shares {
						if f := s.Hosts[i].Fleet; shares[j].of(i) > 0 && slices.ContainsFunc(fleets, func(at int) bool { return s.Fleets[at].ID == f }) {
							t.Fatalf("seed %d: gang %d has host %s, which gang %d waits for", seed, m, n.Host, k)
						}
					}
				}
			}
		}
	}
}

// Nodes that find no host are not searched for one by one among all that the others have: that is cubic.
func TestMatchIsNotCubic(t *testing.T) {
	for name, apart := range map[string]bool{"nodes that ask for the same": false, "a host asked for by each node": true} {
		s, g := halfFree(300)
		p := newPlacer(s)
		shares := p.shares(&g)
		if apart { // for another share each, so that no two have one list
			for j := range shares {
				shares[j].blocks = slices.Clone(shares[j].blocks)
				shares[j].blocks = append(shares[j].blocks, j)
			}
		}
		asked := 0
		found := p.match(&g, 0, Site{}, shares, func(i, n int) bool { asked++; return n <= p.free[i] })
		placed := 0
		for _, i := range found {
			if i >= 0 {
				placed++
			}
		}
		if placed != 150 {
			t.Errorf("%s: %d nodes have a host, want 150", name, placed)
		}
		most := len(s.Hosts)
		if apart {
			most *= len(g.Jobs)
		}
		if asked > most {
			t.Errorf("%s: hosts were asked whether they are free %d times, want at most %d", name, asked, most)
		}
	}
}

// halfFree are so many hosts, of which every other one is free, and a gang of as many nodes.
func halfFree(hosts int) (Supply, Gang) {
	s := Supply{Fleets: []Fleet{cluster("f")}}
	for n := range hosts {
		s.Hosts = append(s.Hosts, hosted(fmt.Sprint(n), "f", 1, 1, n%2))
	}
	return s, asks("g", hosts, 1)
}

// BenchmarkPlaceLarge has a gang of 1,000 nodes wait for as many hosts of which half are free.
func BenchmarkPlaceLarge(b *testing.B) {
	s, g := halfFree(1000)
	for b.Loop() {
		Place([]Gang{g}, s)
	}
}

// BenchmarkPlace places 10,000 waiting runs of 20 kinds on 1,000 hosts, half of them free.
func BenchmarkPlace(b *testing.B) {
	s := Supply{Fleets: []Fleet{cluster("f")}}
	for n := range 1000 {
		s.Hosts = append(s.Hosts, hosted(fmt.Sprint(n), "f", 1+n%8, 1, n%2))
	}
	var queue []Gang
	for n := range 10_000 {
		g := asks(fmt.Sprint(n), 1, 1+n%8)
		g.Key += fmt.Sprint(n % 20)
		queue = append(queue, g)
	}
	for b.Loop() {
		Place(queue, s)
	}
	b.ReportMetric(float64(len(queue))*float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// BenchmarkPlaceWide places 10,000 waiting runs of 20 kinds on 10,000 hosts in 20 fleets, half
// of them free.
func BenchmarkPlaceWide(b *testing.B) {
	var s Supply
	for f := range 20 {
		s.Fleets = append(s.Fleets, cluster(fmt.Sprint("fleet", f)))
		for n := range 500 {
			s.Hosts = append(s.Hosts, hosted(fmt.Sprint(f, "-", n), fmt.Sprint("fleet", f), 1+n%8, 1, n/8%2))
		}
	}
	var queue []Gang
	for n := range 10_000 {
		g := asks(fmt.Sprint(n), 1, 1+n%8)
		g.Key += fmt.Sprint(n % 20)
		queue = append(queue, g)
	}
	for b.Loop() {
		Place(queue, s)
	}
	b.ReportMetric(float64(len(queue))*float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// TestPlaceTellsWhatIsKept has a run behind a gang that waits, while instances are free.
func TestPlaceTellsWhatIsKept(t *testing.T) {
	head, patient, hasty := asks("x", 2, 1), asks("y", 1, 1), asks("z", 1, 1)
	hasty.Patient = false
	head.Run, patient.Key, hasty.Key = "train", "y", "z"
	hosts := []*Host{hosted("h", "f", 1, 1, 0), hosted("i", "f", 1, 1, 1)}
	got := Place([]Gang{head, patient, hasty}, Supply{Fleets: []Fleet{cluster("f")}, Hosts: hosts})
	for n, want := range []string{
		"Waits until 2 instances of fleet 'f' are free at the same time",
		"Waits behind run 'train', for which the free instances of fleet 'f' are kept",
		"The free instances of fleet 'f' that fit are kept for run 'train', which is ahead. With `retry` the run waits for them",
	} {
		if got[n].Why != want {
			t.Errorf("verdict %d: %q, want %q", n, got[n].Why, want)
		}
	}
}
