package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

// summary writes what is said in the way that people read it: "fits 1 of 5; 2 busy; reason;
// fleet 'f': regions 3, 2 from 20, 1 away".
func summary(w api.WhyNot) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d of %d", w.Fit, w.Considered)
	for _, u := range w.Unavailable {
		fmt.Fprintf(&s, "; %d %s", u.Count, u.Availability)
	}
	for _, r := range w.Reasons {
		fmt.Fprintf(&s, "; %s", r)
	}
	for _, e := range w.Excluded {
		fmt.Fprintf(&s, "; %s %d", Setting(e), e.Excludes)
		if e.Alone > 0 {
			fmt.Fprintf(&s, ", %d from %v", e.Alone, *e.From)
		}
		if e.Unavailable > 0 {
			fmt.Fprintf(&s, ", %d away", e.Unavailable)
		}
	}
	return s.String()
}

func TestWhyNot(t *testing.T) {
	state := func(o api.InstanceOffer, a api.InstanceAvailability) api.InstanceOffer { o.Availability = a; return o }
	// a makes no clusters, b does.
	clouds := []api.InstanceOffer{machine("a", "eu", 1, 1), machine("a", "us", 8, 20), machine("b", "us", 8, 30), machine("b", "eu", 8, 40), state(machine("b", "asia", 8, 10), api.NoQuota)}
	cloud := func(id string, change ...func(*Fleet)) Fleet {
		f := Fleet{ID: id, Name: id, Room: -1, Ask: anything()}
		for _, c := range change {
			c(&f)
		}
		return f
	}
	ssh := func(id string) Fleet { return Fleet{ID: id, Name: id, Hosts: true, Ask: anything()} }
	in := func(regions ...string) func(*Fleet) { return func(f *Fleet) { f.Ask.Profile.Regions = regions } }
	full := func(f *Fleet) { f.Room = 0 }
	room := func(n int) func(*Fleet) { return func(f *Fleet) { f.Room = n } }
	clustered := func(f *Fleet) { f.Cluster, f.Ask.Requirements.Multinode = true, new(true) }
	gang := func(nodes, gpus int, change ...func(*Gang)) Gang {
		g := asks("g", nodes, gpus)
		for i := range g.Jobs {
			g.Jobs[i].Requirements.Multinode = new(nodes > 1)
		}
		g.Patient = false
		for _, c := range change {
			c(&g)
		}
		return g
	}
	max := func(price float64) func(*Gang) {
		return func(g *Gang) {
			for i := range g.Jobs {
				g.Jobs[i].Requirements.MaxPrice = &price
			}
		}
	}
	spot := func(g *Gang) { g.Jobs[0].Requirements.Spot = new(true) }
	reuse := func(g *Gang) { g.Reuse = true }
	fleets := func(names ...string) func(*Gang) {
		return func(g *Gang) {
			g.Fleets = []string{}
			for _, n := range names {
				g.Profile.Fleets = append(g.Profile.Fleets, config.EntityRef{Name: n})
				g.Fleets = append(g.Fleets, n)
			}
		}
	}
	for name, tt := range map[string]struct {
		gang   Gang
		supply Supply
		anyway bool
		want   string
	}{
		"of backends alone": {gang(1, 8, max(25)), Supply{Offers: clouds, Backends: 2}, true,
			"1 of 5; 1 no_quota; `max_price` 2, 2 from 30; `gpu.count` 1, 1 from 1"},
		"what is away is told apart": {gang(1, 8, max(5)), Supply{Offers: clouds, Backends: 2}, true,
			"0 of 5; `max_price` 4, 3 from 20, 1 away; `gpu.count` 1, 1 from 1"},
		"no backend": {gang(1, 8), Supply{}, true, "0 of 0; The project has no backends that could create instances"},
		"no fleet":   {gang(1, 8), Supply{Offers: clouds, Backends: 2}, false, "0 of 0; No matching fleet found"},
		"the fleet's wishes are the fleet's": {gang(1, 8, max(25)), Supply{Fleets: []Fleet{cloud("f", in("eu"))}, Offers: clouds, Backends: 2}, false,
			"0 of 5; No offers matching the run requirements in fleet 'f'; `regions` of fleet 'f' 3, 1 from 20, 1 away; `max_price` 2, 1 from 40; `gpu.count` 1, 1 from 1"},
		"both want the same": {gang(1, 8, max(25)), Supply{Fleets: []Fleet{cloud("f", func(f *Fleet) { f.Ask.Requirements.MaxPrice = new(25.0) })}, Offers: clouds[2:3], Backends: 2}, false,
			"0 of 1; No offers matching the run requirements in fleet 'f'; `max_price` 1; `max_price` of fleet 'f' 1"},
		"one of two fleets would do": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f", in("asia")), cloud("g", full)}, Offers: clouds[1:3], Backends: 2}, false,
			"0 of 2; No offers matching the run requirements in fleet 'f'; Fleet 'g' is at capacity; `regions` of fleet 'f' 2, 2 from 20; `nodes` of fleet 'g' 2, 2 from 20"},
		"an empty fleet among full ones": {gang(1, 8, max(5)), Supply{Fleets: []Fleet{cloud("f", full), cloud("g"), ssh("h"), cloud("i", full)}, Offers: clouds[1:3], Backends: 2}, false,
			"0 of 2; No offers matching the run requirements in fleet 'g' or 'h'; Fleets 'f' and 'i' are at capacity; `max_price` 2, 2 from 20; `nodes` of fleet 'f' 2; `nodes` of fleet 'i' 2"},
		"full fleets": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f", full), ssh("h"), cloud("i", full)}, Offers: clouds[1:3], Backends: 2}, false,
			"0 of 2; Fleet is at capacity; `nodes` of fleet 'f' 2, 2 from 20; `nodes` of fleet 'i' 2, 2 from 20"},
		"a full fleet beside one that may have too few": {gang(3, 8), Supply{Fleets: []Fleet{cloud("f", full, clustered), cloud("g", clustered, room(2))}, Offers: clouds[2:4], Backends: 1}, false,
			"2 of 2; 3 instances are needed, fleet 'g' may have 2 more; Fleet 'f' is at capacity"},
		"spot and on-demand exclude each other": {gang(1, 8, spot), Supply{Fleets: []Fleet{cloud("f", func(f *Fleet) { f.Ask.Requirements.Spot = new(false) })}, Offers: clouds[1:3], Backends: 2}, false,
			"0 of 2; No offers matching the run requirements in fleet 'f'; The run and fleet 'f' exclude each other: `spot_policy`; `spot_policy` 2, 2 from 20"},
		"many fleets": {gang(1, 8, spot), Supply{Fleets: slices.Repeat([]Fleet{cloud("f", func(f *Fleet) { f.Ask.Requirements.Spot = new(false) })}, 7), Backends: 2}, false,
			"0 of 0; No offers matching the run requirements in fleet 'f', 'f', 'f', 'f', 'f' or 2 others; The run and fleet 'f', 'f', 'f', 'f', 'f' or 2 others exclude each other: `spot_policy`"},
		"two reservations": {gang(1, 8, func(g *Gang) { g.Jobs[0].Requirements.Reservation = new("r") }),
			Supply{Fleets: []Fleet{cloud("f", func(f *Fleet) { f.Ask.Requirements.Reservation = new("q") })}, Offers: []api.InstanceOffer{func() api.InstanceOffer { o := machine("a", "eu", 8, 9); o.Reserves = true; return o }()}, Backends: 1}, false,
			"0 of 1; No offers matching the run requirements in fleet 'f'; The run and fleet 'f' exclude each other: `reservation`; `reservation` 1, 1 from 9; `reservation` of fleet 'f' 1, 1 from 9"},
		"zones without a common one": {gang(1, 8, func(g *Gang) { g.Profile.AvailabilityZones = []string{"x"} }),
			Supply{Fleets: []Fleet{cloud("f", func(f *Fleet) { f.Ask.Profile.AvailabilityZones = []string{"y"} })}, Offers: []api.InstanceOffer{func() api.InstanceOffer {
				o := machine("a", "eu", 8, 9)
				o.AvailabilityZones = []string{"x", "y"}
				return o
			}()}, Backends: 1}, false,
			"0 of 1; No offers matching the run requirements in fleet 'f'; `availability_zones` 1, 1 from 9; `availability_zones` of fleet 'f' 1, 1 from 9"},
		"several nodes where there are no clusters": {gang(2, 8), Supply{Fleets: []Fleet{cloud("f", clustered)}, Offers: clouds[:2], Backends: 1}, false,
			"0 of 2; No offers matching the run requirements in fleet 'f'; None of the project's backends connects its instances to clusters; `nodes` 2; `placement` of fleet 'f' 2; `gpu.count` 1"},
		"several nodes without a fleet": {gang(2, 8), Supply{Offers: clouds, Backends: 2}, true,
			"2 of 5; 1 no_quota; `nodes` 2, 1 from 20; `gpu.count` 1"},
		"several nodes and no cluster": {gang(2, 8), Supply{Fleets: []Fleet{cloud("f")}, Offers: clouds[2:3], Backends: 1}, false,
			"0 of 1; No matching fleet found; A task with several nodes needs a fleet with `placement: cluster`; `placement` of fleet 'f' 1, 1 from 30"},
		"a cluster stays where it is": {gang(2, 8, max(35)), Supply{Fleets: []Fleet{cloud("f", clustered)}, Offers: clouds[2:4], Backends: 1,
			Hosts: []*Host{{ID: "h", Fleet: "f", Offer: state(machine("b", "eu", 8, 33), api.Idle), Blocks: 1, Ready: true}}}, false,
			"1 of 3; 2 instances that fit are needed, fleet 'f' has 1; `max_price` 1, 1 from 40; `placement` of fleet 'f' 1"},
		"more nodes than a fleet may have": {gang(3, 8), Supply{Fleets: []Fleet{cloud("f", clustered, room(2))}, Offers: clouds[2:4], Backends: 1}, false,
			"2 of 2; 3 instances are needed, fleet 'f' may have 2 more"},
		"a full fleet": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f", full)}, Offers: clouds[1:3], Backends: 2}, false,
			"0 of 2; Fleet is at capacity; `nodes` of fleet 'f' 2, 2 from 20"},
		"all hosts are busy": {gang(1, 1), Supply{Fleets: []Fleet{ssh("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 1), hosted("i", "f", 8, 8, 8), hosted("j", "f", 0, 1, 0)}}, false,
			"0 of 3; 2 busy; The instances of fleet 'f' that fit are in use. With `retry` the run waits for them; `gpu` 1"},
		"hosts are never created": {gang(1, 4), Supply{Fleets: []Fleet{ssh("f")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0)}, Offers: clouds, Backends: 2}, false,
			"0 of 1; No offers matching the run requirements in fleet 'f'; `gpu.count` 1, 1 from 0"},
		"a share of a host would do": {gang(1, 3), Supply{Fleets: []Fleet{ssh("f")}, Hosts: []*Host{hosted("h", "f", 8, 4, 3)}}, false,
			"0 of 1; No offers matching the run requirements in fleet 'f'; `gpu.count` 1, 1 from 0"},
		"only what exists": {gang(1, 8, reuse), Supply{Fleets: []Fleet{cloud("f"), ssh("g")}, Offers: clouds[1:3], Hosts: []*Host{hosted("h", "g", 8, 1, 1)}, Backends: 2}, false,
			"0 of 3; 1 busy; The instances of fleet 'g' that fit are in use. With `retry` the run waits for them; `creation_policy` 2, 2 from 20"},
		"instances by name": {gang(1, 8, func(g *Gang) { g.Profile.Instances = []config.InstanceSelector{{Name: new("nosuch")}} }),
			Supply{Fleets: []Fleet{cloud("f")}, Offers: clouds[1:3], Hosts: []*Host{hosted("h", "f", 8, 1, 0)}, Backends: 2}, false,
			"0 of 3; Failed to use specified instances; `instances` 3, 3 from 0"},
		"a fleet that there is not": {gang(1, 1, fleets("nosuch", "other")), Supply{Fleets: []Fleet{ssh("f"), ssh("g")}, Hosts: []*Host{hosted("h", "f", 1, 1, 0)}}, false,
			"0 of 1; Failed to use specified fleets; There is no fleet 'nosuch' or 'other'; the project has 'f' and 'g'; `fleets` 1, 1 from 0"},
		"nor any other": {gang(1, 1, fleets("nosuch")), Supply{}, false, "0 of 0; Failed to use specified fleets; There is no fleet 'nosuch'; the project has none"},
		"a fleet named for offers": {gang(1, 8, fleets("f")), Supply{Fleets: []Fleet{cloud("f", in("asia")), cloud("g")}, Offers: clouds[1:], Backends: 2}, true,
			"0 of 4; 1 no_quota; `fleets` 3, 3 from 20; `regions` of fleet 'f' 3, 3 from 20"},
		"a backend that is silent": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f")}, Backends: 1, Silent: []Silence{{"a", "Backend 'a' is silent"}}}, false,
			"0 of 0; No offers matching the run requirements in fleet 'f'; Backend 'a' is silent"},
		"a silent backend that would not help": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f", full), ssh("g")}, Backends: 1, Silent: []Silence{{"a", "Backend 'a' is silent"}}}, false,
			"0 of 0; Fleet is at capacity"},
		"no backend for a fleet": {gang(1, 8), Supply{Fleets: []Fleet{cloud("f")}}, false,
			"0 of 0; No offers matching the run requirements in fleet 'f'; The project has no backends that could create instances"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, summary(WhyNot(tt.gang, tt.supply, tt.anyway))); diff != "" {
				t.Errorf("WhyNot (-want +got):\n%s", diff)
			}
		})
	}
}

// What is kept for those before it is no fault of a fleet's settings.
func TestWordsOfWhoComesLater(t *testing.T) {
	offers := []api.InstanceOffer{machine("a", "eu", 1, 5), machine("a", "eu", 8, 50)}
	one := Fleet{ID: "f", Name: "f", Room: 1, Ask: anything()}
	dear := asks("second", 1, 8)
	dear.Jobs[0].Requirements.MaxPrice = new(10.0)
	got := Place([]Gang{asks("first", 1, 1), asks("like it", 1, 1), dear}, Supply{Fleets: []Fleet{one}, Offers: offers, Backends: 1})
	for i, want := range []string{"", "Fleet is at capacity", "Fleet is at capacity"} {
		if got[i].Why != want {
			t.Errorf("%s: %q, want %q", got[i].Gang, got[i].Why, want)
		}
	}
	full := Place([]Gang{asks("only", 1, 1)}, Supply{Fleets: []Fleet{{ID: "f", Name: "f", Ask: anything()}}, Offers: offers, Backends: 1})
	if want := "Fleet is at capacity. Without `nodes` of fleet 'f' there would be some"; full[0].Why != want {
		t.Errorf("%q, want %q", full[0].Why, want)
	}
	gone := Place([]Gang{dear}, Supply{Fleets: []Fleet{{ID: "f", Name: "f", Room: -1, Ask: anything()}}, Offers: offers[1:], Backends: 1})
	if want := "No offers matching the run requirements in fleet 'f'. Without `max_price` there would be some.\nSee https://dstack.ai/docs/guides/troubleshooting/#provisioning-fails"; gone[0].Why != want {
		t.Errorf("%q, want %q", gone[0].Why, want)
	}
}

// A host with which something is wrong is in no plan, while who can wait waits for it, and is told.
func TestHostsThatAreOut(t *testing.T) {
	well, out := hosted("h", "f", 1, 1, 1), hosted("i", "f", 1, 1, 0)
	out.Ready, out.Out = false, true
	s := Supply{Fleets: []Fleet{{ID: "f", Name: "f", Hosts: true, Ask: anything()}}, Hosts: []*Host{well, out}}
	g := asks("g", 1, 1)
	if list := every(Choices(g, s)[0].Existing()); len(list) != 1 || list[0].Availability != api.Busy {
		t.Errorf("a plan lists %v", list)
	}
	const about = "Some instances of fleet 'f' cannot take jobs: they do not answer, or their GPUs have failed"
	if v := Place([]Gang{g}, s)[0]; !v.Later || v.Why != "Waits until an instance of fleet 'f' is free. "+about {
		t.Errorf("waits: %v, %q", v.Later, v.Why)
	}
	s.Hosts = s.Hosts[1:]
	if why := WhyNot(g, s, false); why.Fit != 0 || why.Considered != 0 || !slices.Contains(why.Reasons, about) {
		t.Errorf("of a fleet that does not answer it is said: %+v", why)
	}
}

// Only fleets with hosts that would do are waited for.
func TestWaitsForFleetsThatWouldDo(t *testing.T) {
	small, big := hosted("s", "small", 1, 1, 0), hosted("b", "big", 8, 1, 1)
	s := Supply{Hosts: []*Host{small, big}, Fleets: []Fleet{
		{ID: "small", Name: "small", Hosts: true, Ask: anything()}, {ID: "big", Name: "big", Hosts: true, Ask: anything()}, {ID: "none", Name: "none", Hosts: true, Ask: anything()},
	}}
	if v := Place([]Gang{asks("g", 1, 8)}, s)[0]; !v.Later || v.Why != "Waits until an instance of fleet 'big' is free" {
		t.Errorf("waits: %v, %q", v.Later, v.Why)
	}
}

// Who waits for a host is told whether a new instance would do as well: hosts are told of when they are free, what
// backends offer has to be asked for again.
func TestWaitsForOffersToo(t *testing.T) {
	busy := hosted("h", "f", 1, 1, 1)
	reuses := asks("g", 1, 1)
	reuses.Reuse = true
	for _, tt := range []struct {
		name     string
		fleet    Fleet
		gang     Gang
		backends int
		want     bool
	}{
		{"a fleet of a cloud", Fleet{Room: 4}, asks("g", 1, 1), 1, true},
		{"one that is full now", Fleet{}, asks("g", 1, 1), 1, true},
		{"no backends", Fleet{Room: 4}, asks("g", 1, 1), 0, false},
		{"hosts of the user", Fleet{Hosts: true}, asks("g", 1, 1), 1, false},
		{"what exists alone", Fleet{Room: 4}, reuses, 1, false},
	} {
		f := tt.fleet
		f.ID, f.Name, f.Ask = "f", "f", anything()
		if v := Place([]Gang{tt.gang}, Supply{Fleets: []Fleet{f}, Hosts: []*Host{busy}, Backends: tt.backends})[0]; !v.Later || v.Grows != tt.want {
			t.Errorf("%s: later %v, grows %v, want %v", tt.name, v.Later, v.Grows, tt.want)
		}
	}
}

// What is said to fit without a requirement does, just that many.
func TestWhyNotIsTrue(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	tried := map[string]int{}
	for range 20_000 {
		g, s := randomQuestion(r)
		anyway := r.IntN(3) == 0
		before := newPlacer(s).tally(&g, anyway)
		for _, e := range before.exclusions(s.Fleets) {
			if e.Requirement == "gpu" || e.Alone == 0 && e.Unavailable == 0 {
				continue
			}
			tried[e.Requirement]++
			freer, supply := without(g, s, e)
			after := newPlacer(supply).tally(&freer, anyway)
			if after.fit-before.fit != e.Alone {
				t.Fatalf("without %s %d more fit, not %d\ngang: %s\nsupply: %s", Setting(e), after.fit-before.fit, e.Alone, text(g), text(s))
			}
		}
	}
	for _, word := range []string{"backends", "regions", "availability_zones", "max_price", "spot_policy", "reservation", "cpu", "cpu.arch", "memory", "disk", "gpu.count", "gpu.vendor", "gpu.name",
		"gpu.memory", "gpu.total_memory", "gpu.compute_capability", "nodes", "placement", "creation_policy", "instances", "fleets"} {
		if tried[word] < 10 {
			t.Errorf("%q stood alone %d times only: the test shows little", word, tried[word])
		}
	}
}

// What is said to fit is what a plan lists.
func TestWhyNotCountsWhatPlansList(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	fit := 0
	for range 20_000 {
		g, s := randomQuestion(r)
		listed := map[string]bool{}
		for _, c := range Choices(g, s) {
			for _, o := range every(c.Offers()) {
				if o.Availability.Usable() && isNew(&o) {
					listed[o.Instance.Resources.Description] = true // once, though several fleets may have it
				}
			}
			for _, o := range every(c.Existing()) {
				if o.Availability.Usable() {
					listed[c.Fleet+text(o)+fmt.Sprint(len(listed))] = true
				}
			}
		}
		why := WhyNot(g, s, false)
		if why.Fit != len(listed) {
			t.Fatalf("%d fit, %d are listed\ngang: %s\nsupply: %s", why.Fit, len(listed), text(g), text(s))
		}
		fit += why.Fit
		if placed := why.Reasons == nil; placed != (why.Fit > 0) {
			t.Fatalf("%d fit, but the reasons are %q", why.Fit, why.Reasons)
		}
	}
	if fit < 1000 {
		t.Errorf("only %d fit: the test shows little", fit)
	}
}

// without leaves out what an exclusion names.
func without(g Gang, s Supply, e api.Exclusion) (Gang, Supply) {
	if e.Fleet != "" {
		s.Fleets = slices.Clone(s.Fleets)
		i := slices.IndexFunc(s.Fleets, func(f Fleet) bool { return f.Name == e.Fleet })
		f := &s.Fleets[i]
		switch e.Requirement {
		case "nodes":
			f.Room = -1
		case "placement":
			f.Cluster = g.Cluster // what the run asks for
			f.Ask = relaxed(f.Ask, e.Requirement)
		default:
			f.Ask = relaxed(f.Ask, e.Requirement)
		}
		return g, s
	}
	switch e.Requirement {
	case "creation_policy":
		g.Reuse = false
	case "instances":
		g.Profile.Instances = nil
	case "fleets":
		g.Fleets = nil
	default:
		g.Jobs = slices.Clone(g.Jobs)
		ask := relaxed(Ask{g.Profile, g.Jobs[0].Requirements}, e.Requirement)
		g.Profile, g.Jobs[0].Requirements = ask.Profile, ask.Requirements
	}
	return g, s
}

// randomQuestion is a gang with wishes, and fleets with wishes, hosts and offers.
func randomQuestion(r *rand.Rand) (Gang, Supply) {
	var s Supply
	for n := range 1 + r.IntN(2) {
		f := Fleet{ID: fmt.Sprint("f", n), Name: fmt.Sprint("f", n), Ask: fewWishes(r), Room: pick(r, -1, -1, 0, 1), Cluster: r.IntN(2) == 0}
		if r.IntN(4) == 0 {
			f.Hosts, f.Room = true, 0
		}
		s.Fleets = append(s.Fleets, f)
		for i := range r.IntN(3) {
			o := randomOffer(r)
			o.Availability, o.AvailabilityZones = api.Idle, nil
			blocks := pick(r, 1, 1, 2)
			s.Hosts = append(s.Hosts, &Host{ID: fmt.Sprint(f.ID, i), Name: fmt.Sprint(f.ID, i), Fleet: f.ID, Num: i, Zone: pick(r, "", "a", "b"), Offer: o, Blocks: blocks, Busy: r.IntN(blocks + 1), Ready: true})
			if h := s.Hosts[len(s.Hosts)-1]; r.IntN(6) == 0 {
				h.Ready, h.Out = false, true
			}
		}
	}
	for i := range r.IntN(6) {
		o := randomOffer(r)
		o.Availability, o.Instance.Resources.Description = pick(r, api.Available, api.Unknown, api.NoQuota), fmt.Sprint(i)
		if o.Rooms != nil { // without the reservation it fits less: what can be had in it alone
			o.Availability = api.Available
		}
		s.Offers = append(s.Offers, o)
	}
	ask := fewWishes(r)
	g := Gang{Profile: ask.Profile, Jobs: []Want{{"j", ask.Requirements}}, Reuse: r.IntN(5) == 0}
	if r.IntN(4) == 0 {
		g.Profile.Instances = []config.InstanceSelector{{Name: new("f0" + fmt.Sprint(r.IntN(2)))}}
	}
	if r.IntN(4) == 0 {
		g.Fleets = []string{"f1"}
	}
	return g, s
}

// fewWishes is a random ask for little, so that some things fit.
func fewWishes(r *rand.Rand) Ask {
	a := randomAsk(r)
	words := []string{"backends", "regions", "instance_types", "availability_zones", "max_price", "spot_policy", "reservation", "backend_options", "nodes", "cpu", "cpu.arch", "memory", "disk",
		"gpu.count", "gpu.vendor", "gpu.name", "gpu.memory", "gpu.total_memory", "gpu.compute_capability"}
	r.Shuffle(len(words), func(i, j int) { words[i], words[j] = words[j], words[i] })
	for _, w := range words[3:] {
		a = relaxed(a, w)
	}
	return a
}

// BenchmarkWhyNot looks at 10,000 hosts in 20 fleets, one of which may grow, and as many offers.
func BenchmarkWhyNot(b *testing.B) {
	for _, keys := range []string{"alike", "each its own"} {
		b.Run(keys, func(b *testing.B) {
			s := manyHosts(keys == "alike")
			for f := range s.Fleets {
				s.Fleets[f].Hosts = f > 0
			}
			s.Fleets[0].Room = -1
			for n := range 10_000 {
				s.Offers = append(s.Offers, machine("a", fmt.Sprint(n%50), n%8, float64(n)))
			}
			s.Stock, s.Index = NewStock(s.Hosts), NewIndex(s.Offers)
			g := asks("g", 1, 9)
			b.ReportAllocs()
			for b.Loop() {
				WhyNot(g, s, false)
			}
		})
	}
}

func TestRoomThatIsKept(t *testing.T) {
	head, behind, hurried := refused(asks("head", 1, 1)), asks("y", 1, 8), asks("z", 1, 4)
	head.Run, hurried.Patient = "head", false
	f := cluster("f")
	f.Room = 1
	v := Place([]Gang{head, behind, hurried}, Supply{Fleets: []Fleet{f}, Offers: []api.InstanceOffer{machine("a", "eu", 1, 1), machine("b", "us", 8, 20)}, Backends: 2})
	for i, want := range []string{
		"No provider gave the instances that were last requested",
		"Waits behind run 'head', for which the last room of fleet 'f' is kept",
		"The last room of fleet 'f' is kept for run 'head', which is ahead. With `retry` the run waits for it",
	} {
		if !strings.HasPrefix(v[i].Why, want) {
			t.Errorf("%s: %q, want %q", v[i].Gang, v[i].Why, want)
		}
	}
}
