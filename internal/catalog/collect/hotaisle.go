package collect

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"dstack/internal/catalog/pricelist"
)

func hotAisle() Source {
	return Source{
		Provider: "hotaisle", Needs: []string{"HOTAISLE_API_KEY", "HOTAISLE_TEAM_HANDLE"}, PerAccount: true, base: "https://admin.hotaisle.app/api",
		collect: collectHotAisle, expect: expectation{gpus: []string{"MI300X"}, noSpot: true},
	}
}

// hotAisleRegion is the one that there is.
const hotAisleRegion = "us-michigan-1"

// hotAisleItem is a machine that can be had; sizes are in bytes.
type hotAisleItem struct {
	Cents number `json:"OnDemandPrice"`
	Specs struct {
		Cores number `json:"cpu_cores"`
		RAM   number `json:"ram_capacity"`
		Disk  number `json:"disk_capacity"`
		CPUs  struct{ Model string }
		GPUs  []struct {
			Count number
			Model string
		}
	}
}

func collectHotAisle(ctx context.Context, s *session, t *tray) error {
	var items []hotAisleItem
	path := "/teams/" + url.PathEscape(s.env("HOTAISLE_TEAM_HANDLE")) + "/virtual_machines/available/"
	if err := s.get(ctx, path, http.Header{"Authorization": {"Token " + s.env("HOTAISLE_API_KEY")}}, &items); err != nil {
		return err
	}
	return t.hotAisle(items)
}

// hotAisle adds one machine of each name, the cheapest. Names have GPUs and CPUs (catalog 8.12), so that
// one may stand for machines that differ in memory or disk; users and the provider's own tools cannot
// tell these apart either.
func (t *tray) hotAisle(items []hotAisleItem) error {
	const gib = 1 << 30
	best := map[string]pricelist.Row{}
	for _, item := range items {
		r := pricelist.Row{
			Region: hotAisleRegion, CPUs: item.Specs.Cores.whole(), MemoryMiB: mib(float64(item.Specs.RAM) / gib),
			DiskMiB: mib(float64(item.Specs.Disk) / gib), Price: float64(item.Cents) / 100,
		}
		if len(item.Specs.GPUs) != 1 {
			continue // machines without GPUs have no name here
		}
		var ok bool
		r.GPUs = item.Specs.GPUs[0].Count.whole()
		if r.GPU, ok = t.gpu(item.Specs.GPUs[0].Model, 0); !ok {
			continue
		}
		r.Instance = fmt.Sprintf("%dx %s %dx %s", r.GPUs, r.GPU.Name, r.CPUs, item.Specs.CPUs.Model)
		other, known := best[r.Instance]
		if known {
			t.leaveOut(r.Instance + " with another memory or disk")
		}
		if !known || cmp.Or(cmp.Compare(r.Price, other.Price), cmp.Compare(other.MemoryMiB, r.MemoryMiB), cmp.Compare(other.DiskMiB, r.DiskMiB)) < 0 {
			best[r.Instance] = r
		}
	}
	for _, name := range slices.Sorted(maps.Keys(best)) {
		if err := t.add(best[name]); err != nil {
			return err
		}
	}
	return nil
}
