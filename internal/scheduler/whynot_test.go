package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

func excludes(requirement string, excludes, alone int, from float64) api.Exclusion {
	e := api.Exclusion{Requirement: requirement, Excludes: excludes, Alone: alone}
	if alone > 0 {
		e.From = &from
	}
	return e
}

func TestTally(t *testing.T) {
	offer := func(price float64, change func(*api.InstanceOffer)) api.InstanceOffer {
		o := h100s(8)
		o.Price = price
		if change != nil {
			change(&o)
		}
		return o
	}
	far := func(o *api.InstanceOffer) { o.Region = "ap-south-1" }
	bare := func(o *api.InstanceOffer) { o.Instance.Resources.Gpus = nil }
	old := func(o *api.InstanceOffer) {
		for i := range o.Instance.Resources.Gpus {
			o.Instance.Resources.Gpus[i].Name = "A100"
		}
	}
	limit := 20.0
	req := api.Requirements{MaxPrice: &limit, Resources: resources(t, `{"gpu": "H100:8"}`)}
	here := config.ProfileParams{Regions: []string{"us-east-1"}}
	for name, tt := range map[string]struct {
		offers []api.InstanceOffer
		fit    int
		want   []api.Exclusion
	}{
		"nothing there": {},
		"all fit":       {offers: []api.InstanceOffer{offer(10, nil), offer(20, nil)}, fit: 2},
		"the price alone": {
			offers: []api.InstanceOffer{offer(30, nil), offer(25, nil)},
			want:   []api.Exclusion{excludes("max_price", 2, 2, 25)},
		},
		"the one that helps most is first": {
			offers: []api.InstanceOffer{offer(30, nil), offer(9, far), offer(8, far), offer(30, far)},
			want:   []api.Exclusion{excludes("regions", 3, 2, 8), excludes("max_price", 2, 1, 30)},
		},
		"machines without GPUs are no answer": {
			offers: []api.InstanceOffer{offer(1, bare), offer(30, nil)},
			want:   []api.Exclusion{excludes("max_price", 1, 1, 30), excludes("gpu", 1, 0, 0)},
		},
		"none alone": {
			offers: []api.InstanceOffer{offer(30, far), offer(31, old), offer(5, func(o *api.InstanceOffer) { far(o); bare(o) })},
			want:   []api.Exclusion{excludes("regions", 2, 0, 0), excludes("max_price", 2, 0, 0), excludes("gpu", 1, 0, 0), excludes("gpu.name", 1, 0, 0)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var tally Tally
			for _, o := range tt.offers {
				tally.Add(Missed(&req, &here, &o), o.Price)
			}
			if diff := cmp.Diff(tt.want, tally.Exclusions()); diff != "" {
				t.Errorf("Exclusions (-want +got):\n%s", diff)
			}
			if all, fit := tally.Offers(); all != len(tt.offers) || fit != tt.fit {
				t.Errorf("Offers() = %d, %d, want %d, %d", all, fit, len(tt.offers), tt.fit)
			}
		})
	}
}
