package collect

import (
	"context"
	"fmt"
	"math"
	"strings"

	"dstack/internal/catalog/pricelist"
)

func digitalOcean() Source {
	return Source{
		Provider: "digitalocean", Needs: []string{"DIGITAL_OCEAN_API_KEY"}, PerAccount: true, base: "https://api.digitalocean.com", baseEnv: "DIGITAL_OCEAN_API_URL",
		collect: collectDroplets("DIGITAL_OCEAN_API_KEY"), expect: expectation{cpuOnly: true, noSpot: true},
	}
}

// amdDevCloud is DigitalOcean's API elsewhere, with accounts of its own.
func amdDevCloud() Source {
	const key = "AMD_DEVELOPER_CLOUD_API_KEY"
	return Source{
		Provider: "amddevcloud", Needs: []string{key}, PerAccount: true, base: "https://api-amd.digitalocean.com",
		collect: collectDroplets(key), expect: expectation{gpus: []string{"MI300X"}, noSpot: true},
	}
}

type dropletPage struct {
	Sizes []dropletSize
	Links struct {
		Pages struct{ Next string }
	}
}

// dropletSize is a type of virtual machine; memory is in MB, disks are in GB.
type dropletSize struct {
	Slug    string
	Hourly  float64 `json:"price_hourly"`
	VCPUs   number
	Memory  number
	Disk    number
	Regions []string
	Disks   []struct {
		Type string
		Size struct{ Amount number }
	} `json:"disk_info"`
	GPU *struct {
		Count number
		Model string
		VRAM  struct{ Amount number } // of all GPUs together
	} `json:"gpu_info"`
}

func collectDroplets(key string) func(context.Context, *session, *tray) error {
	return func(ctx context.Context, s *session, t *tray) error {
		for n := 1; n <= maxPages; n++ {
			var page dropletPage
			if err := s.get(ctx, fmt.Sprintf("/v2/sizes?per_page=200&page=%d", n), bearer(s.env(key)), &page); err != nil {
				return err
			}
			for _, size := range page.Sizes {
				if err := t.droplet(size); err != nil {
					return err
				}
			}
			if page.Links.Pages.Next == "" {
				return nil
			}
		}
		return fmt.Errorf("%w: there are more than %d pages", errStrange, maxPages)
	}
}

func (t *tray) droplet(size dropletSize) error {
	r := pricelist.Row{
		Instance: size.Slug, CPUs: size.VCPUs.whole(), MemoryMiB: size.Memory.whole(), DiskMiB: mib(float64(size.Disk)), Price: size.Hourly,
	}
	local := 0.0
	for _, d := range size.Disks {
		if d.Type == "local" {
			local += float64(d.Size.Amount)
		}
	}
	if local > 0 {
		r.DiskMiB = mib(local)
	}
	if g := size.GPU; g != nil && g.Count.whole() != 0 {
		_, model, _ := strings.Cut(g.Model, "_") // "nvidia_h100"
		r.GPUs = g.Count.whole()
		var ok bool
		if r.GPU, ok = t.gpu(model, float64(g.VRAM.Amount)/math.Max(1, float64(g.Count))); !ok {
			return nil
		}
	}
	return t.addIn(r, size.Regions)
}
