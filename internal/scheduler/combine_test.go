package scheduler

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

func TestCombineGPU(t *testing.T) {
	for name, tt := range map[string]struct {
		fleet, run, want string // "" for what cannot be combined
	}{
		"more capable fleet":       {`{"gpu": {"compute_capability": "9.0"}}`, `{"gpu": {"compute_capability": "8.6"}}`, `{"gpu": {"compute_capability": "9.0"}}`},
		"more capable run":         {`{"gpu": {"compute_capability": "9.0"}}`, `{"gpu": {"compute_capability": "10.0"}}`, `{"gpu": {"compute_capability": "10.0"}}`},
		"fleet that asks nothing":  {`{"gpu": null}`, `{"gpu": "H100:8"}`, `{"gpu": "H100:8"}`},
		"run that takes up to two": {`{}`, `{"gpu": "H100:..2"}`, `{"gpu": "H100:..2"}`},
		"none for either":          {`{"gpu": "0.."}`, `{"gpu": "H100:0..2"}`, `{"gpu": "H100:0..2"}`},
		"some and none":            {`{"gpu": 0}`, `{"gpu": 1}`, ``},
	} {
		t.Run(name, func(t *testing.T) {
			ask := func(text string) Ask { return Ask{Requirements: api.Requirements{Resources: resources(t, text)}} }
			got, ok := Combine(ask(tt.fleet), ask(tt.run))
			if !ok || tt.want == "" {
				if ok || tt.want != "" {
					t.Errorf("Combine = %s, %t", text(got), ok)
				}
				return
			}
			if diff := cmp.Diff(ask(tt.want).Requirements, got.Requirements); diff != "" {
				t.Errorf("Combine (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCombineConflicts(t *testing.T) {
	profile := func(change func(*config.ProfileParams)) Ask {
		var a Ask
		change(&a.Profile)
		return a
	}
	requirements := func(change func(*api.Requirements)) Ask {
		var a Ask
		change(&a.Requirements)
		return a
	}
	for name, tt := range map[string]struct{ fleet, run Ask }{
		"reservation": {
			profile(func(p *config.ProfileParams) { p.Reservation = new("r1") }),
			profile(func(p *config.ProfileParams) { p.Reservation = new("r2") }),
		},
		"spot policy": {
			profile(func(p *config.ProfileParams) { p.SpotPolicy = new("spot") }),
			profile(func(p *config.ProfileParams) { p.SpotPolicy = new("on-demand") }),
		},
		"spot": {
			requirements(func(r *api.Requirements) { r.Spot = new(true) }),
			requirements(func(r *api.Requirements) { r.Spot = new(false) }),
		},
		"architecture": {
			requirements(func(r *api.Requirements) { r.Resources.CPU.Arch = new("arm") }),
			requirements(func(r *api.Requirements) { r.Resources.CPU.Arch = new("x86") }),
		},
		"memory": {
			requirements(func(r *api.Requirements) { r.Resources.Memory.Max = new(config.Memory(1)) }),
			requirements(func(r *api.Requirements) { r.Resources.Memory.Min = new(config.Memory(2)) }),
		},
		"order of offers": {
			profile(func(p *config.ProfileParams) {
				p.BackendOptions = []config.BackendOptions{{Type: "vastai", OfferOrder: new("score")}}
			}),
			profile(func(p *config.ProfileParams) {
				p.BackendOptions = []config.BackendOptions{{Type: "vastai", OfferOrder: new("price")}}
			}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := Combine(tt.fleet, tt.run); ok {
				t.Errorf("Combine = %s, want a conflict", text(got))
			}
			if _, ok := Combine(tt.fleet, Ask{}); !ok {
				t.Error("Combine with nothing is a conflict")
			}
		})
	}
}

// What fits both together fits each alone, and combining changes neither.
func TestCombineIsAsTightAsEach(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	fit := 0
	for range 100_000 {
		fleet, run, o := randomAsk(r), randomAsk(r), randomOffer(r)
		both, ok := Combine(fleet, run)
		if !ok || Fits(both.Requirements, both.Profile, o) != "" {
			continue
		}
		fit++
		for side, a := range map[string]Ask{"fleet": fleet, "run": run} {
			if why := Fits(a.Requirements, a.Profile, o); why != "" {
				t.Fatalf("what fits both does not fit the %s (%s)\noffer: %s\nfleet: %s\nrun: %s\nboth: %s", side, why, text(o), text(fleet), text(run), text(both))
			}
		}
	}
	if fit < 500 {
		t.Errorf("only %d offers fit: the test shows little", fit)
	}
}

func TestCombineLeavesItsArgumentsAlone(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 2000 {
		fleet, run := randomAsk(r), randomAsk(r)
		before := text(fleet) + text(run)
		Combine(fleet, run)
		if diff := cmp.Diff(before, text(fleet)+text(run)); diff != "" {
			t.Fatalf("Combine changed its arguments (-before +after):\n%s", diff)
		}
	}
}

// Twice the same is the same.
func TestCombineWithItself(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 2000 {
		a := randomAsk(r)
		got, ok := Combine(a, a)
		if !ok {
			t.Fatalf("Combine(a, a) is a conflict for %s", text(a))
		}
		if diff := cmp.Diff(a, got); diff != "" {
			t.Fatalf("Combine(a, a) (-a +got):\n%s", diff)
		}
	}
}
