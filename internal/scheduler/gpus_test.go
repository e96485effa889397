package scheduler

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
)

func TestGroupGPUs(t *testing.T) {
	offer := func(backend api.BackendType, region string, gpus int, price float64, spot bool) api.InstanceOffer {
		o := h100s(gpus)
		o.Backend, o.Region, o.Price, o.Instance.Resources.Spot = backend, region, price, spot
		return o
	}
	offers := []api.InstanceOffer{
		offer("aws", "r1", 8, 80, false), offer("aws", "r2", 8, 40, true), offer("gcp", "r1", 1, 6, false), offer("gcp", "r1", 0, 1, false),
	}
	type group struct {
		Count            api.CountRange
		Price            api.PriceRange
		Spot             []string
		Backends         []api.BackendType
		Backend, Regions string
	}
	for name, tt := range map[string]struct {
		by   GPUGrouping
		want []group
	}{
		"by kind alone": {GPUGrouping{}, []group{
			{api.CountRange{Min: 1, Max: 8}, api.PriceRange{Min: 5, Max: 10}, []string{"on-demand", "spot"}, []api.BackendType{"aws", "gcp"}, "", ""},
		}},
		"by backend": {GPUGrouping{Backend: true}, []group{
			{api.CountRange{Min: 8, Max: 8}, api.PriceRange{Min: 5, Max: 10}, []string{"on-demand", "spot"}, nil, "aws", "r1 r2 "},
			{api.CountRange{Min: 1, Max: 1}, api.PriceRange{Min: 6, Max: 6}, []string{"on-demand"}, nil, "gcp", "r1 "},
		}},
		"by region and count": {GPUGrouping{Backend: true, Region: true, Count: true}, []group{
			{api.CountRange{Min: 8, Max: 8}, api.PriceRange{Min: 5, Max: 5}, []string{"spot"}, nil, "aws", "r2"},
			{api.CountRange{Min: 1, Max: 1}, api.PriceRange{Min: 6, Max: 6}, []string{"on-demand"}, nil, "gcp", "r1"},
			{api.CountRange{Min: 8, Max: 8}, api.PriceRange{Min: 10, Max: 10}, []string{"on-demand"}, nil, "aws", "r1"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []group
			for _, g := range GroupGPUs(tt.by, These(slices.Collect(pointers(offers)))) {
				s := group{Count: g.Count, Price: g.Price, Spot: g.Spot, Backends: g.Backends}
				if g.Backend != nil {
					s.Backend = string(*g.Backend)
				}
				for _, r := range g.Regions {
					s.Regions += r + " "
				}
				if g.Region != nil {
					s.Regions = *g.Region
				}
				got = append(got, s)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("GroupGPUs (-want +got):\n%s", diff)
			}
		})
	}
}
