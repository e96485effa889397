package lambda

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

func typeOf(name, description string, cents int) instanceType {
	t := instanceType{Name: name, Description: description, Cents: float64(cents)}
	t.VCPUs, t.MemoryGiB, t.Storage = 30, 200, 512
	return t
}

func TestOfferOf(t *testing.T) {
	for description, want := range map[string]struct {
		gpu    string // "" is not offered
		n, mib int
		arch   string
	}{
		"1x A10 (24 GB PCIe)":       {"A10", 1, 24 << 10, "x86"},
		"8x Tesla V100 (16 GB)":     {"V100", 8, 16 << 10, "x86"},
		"2x A100 (80 GB SXM4)":      {"A100", 2, 80 << 10, "x86"},
		"1x RTX 6000 (24 GB)":       {"RTX6000", 1, 24 << 10, "x86"},
		"1x GH200 (96 GB)":          {"GH200", 1, 96 << 10, "arm"},
		"16x B200 (180 GB SXM6)":    {"B200", 16, 180 << 10, "x86"},
		"4x CPU General":            {},
		"":                          {},
		"0x H100 (80 GB)":           {},
		"1x H100 (0 GB)":            {},
		"1x H100 (99999999999 GB)":  {},
		"9999999999x H100 (80 GB)":  {},
		"one H100 with a lot of GB": {},
	} {
		o, ok := offerOf(typeOf("t", description, 129))
		if ok != (want.gpu != "") {
			t.Errorf("offerOf(%q) is offered: %v", description, ok)
		}
		if !ok {
			continue
		}
		res := offer.Resources{CPUs: 30, MemoryMiB: 219955, DiskMiB: 563085, Arch: want.arch,
			GPUs: slices.Repeat([]offer.GPU{{Name: want.gpu, MemoryMiB: want.mib, Vendor: "nvidia"}}, want.n)}
		if diff := cmp.Diff(offer.Offer{Backend: "lambda", Instance: "t", Price: 1.29, Resources: res}, o); diff != "" {
			t.Errorf("offerOf(%q) (-want +got):\n%s", description, diff)
		}
	}
	for name, bad := range map[string]instanceType{
		"free": typeOf("t", "1x A10 (24 GB)", 0), "nameless": typeOf("", "1x A10 (24 GB)", 1),
	} {
		if o, ok := offerOf(bad); ok {
			t.Errorf("a %s type is offered: %+v", name, o)
		}
	}
	if o, ok := offerOf(typeOf("t", "1x A10 (24 GB)", -1)); !ok || pricelist.CheckLive(o) == nil {
		t.Errorf("nobody will be told of a price below zero: %+v, %v", o, ok)
	}
}

func TestOffers(t *testing.T) {
	types := map[string]typeItem{
		"small": {Type: typeOf("small", "1x A10 (24 GB PCIe)", 75), Within: []named{{"us-east-1"}, {"new-region-1"}}},
		"big":   {Type: typeOf("big", "8x H100 (80 GB SXM5)", 2392)},
		"cpu":   {Type: typeOf("cpu", "4x CPU General", 20), Within: []named{{"us-east-1"}}},
	}
	regions := []named{{"us-east-1"}, {"us-west-1"}, {""}}
	list := func(wanted func(string) bool) []string {
		var all []string
		for _, o := range offers(types, regions, wanted) {
			all = append(all, o.Instance+" "+o.Region+" "+string(o.Availability))
		}
		return all
	}
	want := []string{
		"small new-region-1 available", "small us-east-1 available", "small us-west-1 not_available",
		"big new-region-1 not_available", "big us-east-1 not_available", "big us-west-1 not_available",
	}
	if diff := cmp.Diff(want, list(func(string) bool { return true })); diff != "" {
		t.Errorf("offers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"small us-west-1 not_available", "big us-west-1 not_available"}, list(func(r string) bool { return r == "us-west-1" })); diff != "" {
		t.Errorf("offers of one region (-want +got):\n%s", diff)
	}
}

func TestConfiguredRegions(t *testing.T) {
	bubble(t, func(t *testing.T, _ *account, b *lambda) {
		b.config.Regions = []string{"us-west-1"}
		all, err := b.Offers(t.Context(), offer.Query{})
		if err != nil || len(all) == 0 {
			t.Fatalf("Offers = %v, %v", all, err)
		}
		for _, o := range all {
			if o.Region != "us-west-1" {
				t.Errorf("offered in %s, configured is us-west-1", o.Region)
			}
		}
		spot := true
		if all, err := b.Offers(t.Context(), offer.Query{Spot: &spot}); err != nil || len(all) != 0 {
			t.Errorf("spot offers = %v, %v: lambda has none", all, err)
		}
	})
}
