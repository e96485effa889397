package run

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

func TestWhyNot(t *testing.T) {
	offer := func(backend, region string, price float64, gpus int, a api.InstanceAvailability) api.InstanceOffer {
		o := api.InstanceOffer{Backend: api.BackendType(backend), Region: region, Price: price, Availability: a}
		o.Instance.Resources = api.Resources{CPUs: 8, MemoryMiB: 64 << 10}
		for range gpus {
			o.Instance.Resources.Gpus = append(o.Instance.Resources.Gpus, api.Gpu{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"})
		}
		return o
	}
	supply := scheduler.Supply{
		Hosts: []*scheduler.Host{{Offer: offer("remote", "remote", 0, 1, api.Busy)}},
		Offers: []api.InstanceOffer{
			offer("aws", "us", 30, 8, api.Available), offer("aws", "eu", 40, 8, api.Available), offer("lambda", "eu", 20, 8, api.NotAvailable), offer("lambda", "eu", 3, 1, api.Available),
		},
	}
	limit := 25.0
	ask := func(resources string, price *float64, regions ...string) scheduler.Ask {
		a := scheduler.Ask{Requirements: api.Requirements{MaxPrice: price}, Profile: config.ProfileParams{Regions: regions}}
		if err := json.Unmarshal([]byte(resources), &a.Requirements.Resources); err != nil {
			t.Fatal(err)
		}
		return a
	}
	const gpus = `{"gpu": "H100:8"}`
	for name, tt := range map[string]struct {
		want, all scheduler.Ask
		why       *api.WhyNot
	}{
		"everything fits": {ask(`{}`, nil), ask(`{}`, nil), nil},
		"the run's wishes": {ask(gpus, &limit), ask(gpus, &limit), &api.WhyNot{Considered: 5, Fit: 1, Excluded: []api.Exclusion{
			{Requirement: "max_price", Excludes: 2, Alone: 2, From: 30}, {Requirement: "gpu.count", Excludes: 2, Alone: 2, From: 0},
		}}},
		"the fleet's too, of new instances": {ask(`{"gpu": 8}`, nil), ask(gpus, nil, "asia"), &api.WhyNot{Considered: 5, Excluded: []api.Exclusion{
			{Requirement: "regions", Excludes: 4, Alone: 3, From: 20}, {Requirement: "gpu.count", Excludes: 2, Alone: 1, From: 0},
		}}},
		"enough would fit": {ask(`{}`, nil), ask(gpus, nil, "us", "eu"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.why, whyNot(supply, tt.want, tt.all)); diff != "" {
				t.Errorf("why not (-want +got):\n%s", diff)
			}
		})
	}
}
