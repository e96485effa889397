package collect

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"dstack/internal/catalog/pricelist"
)

func jarvisLabs() Source {
	return Source{
		Provider: "jarvislabs", Needs: []string{"JL_API_KEY"}, PerAccount: true, base: "https://backendn.jarvislabs.net", baseEnv: "JARVISLABS_API_URL",
		collect: collectJarvisLabs, expect: expectation{noSpot: true},
	}
}

// jarvisMeta is what their servers have; memory is in GB.
type jarvisMeta struct {
	Servers []struct {
		Region   string
		Workload *string `json:"workload_type"`
		GPU      string  `json:"gpu_type"`
		VRAM     number
		Price    number  `json:"price_per_hour"` // of one GPU
		CPUs     number  `json:"cpus_per_gpu"`
		RAM      number  `json:"ram_per_gpu"`
		Free     number  `json:"num_free_devices"`
		Really   *number `json:"effective_num_free_devices"`
		GPUs     *number `json:"num_gpus"`
	} `json:"server_meta"`
	CPU struct {
		Combinations []struct {
			Available bool
			VCPUs     number
			RAM       number `json:"ram_gb"`
			Price     number
			PerHour   number `json:"price_per_hour"` // also seen
			Regions   map[string]bool
		}
	} `json:"cpu_meta"`
}

// jarvisRegions are those whose machines can be reached.
var jarvisRegions = []string{"india-01", "india-chennai-01", "india-noida-01", "europe-01"}

func collectJarvisLabs(ctx context.Context, s *session, t *tray) error {
	var meta jarvisMeta
	if err := s.get(ctx, "/misc/server_meta", bearer(s.env("JL_API_KEY")), &meta); err != nil {
		return err
	}
	return t.jarvisLabs(meta)
}

func (t *tray) jarvisLabs(meta jarvisMeta) error {
	cents := func(n number, times int) float64 { return math.Round(float64(n)*float64(times)*1e5) / 1e5 }
	seen := map[string]bool{} // several servers may have the same GPUs in a region
	for _, m := range meta.Servers {
		if !slices.Contains(jarvisRegions, m.Region) || m.Workload != nil && *m.Workload != "vm" {
			continue
		}
		g, ok := t.gpu(m.GPU, float64(m.VRAM))
		if !ok {
			continue
		}
		free, most := m.Free, 1
		if m.Really != nil {
			free = *m.Really
		}
		if m.GPUs != nil {
			most = m.GPUs.whole()
		}
		for n := 1; n <= min(free.whole(), most); n++ {
			name := fmt.Sprintf("%s-%dx", strings.ReplaceAll(g.Name, " ", ""), n)
			if seen[name+m.Region] {
				continue
			}
			seen[name+m.Region] = true
			err := t.add(pricelist.Row{
				Instance: name, Region: m.Region, CPUs: m.CPUs.whole() * n, MemoryMiB: mib(float64(m.RAM) * float64(n)),
				GPUs: n, GPU: g, Price: cents(m.Price, n),
			})
			if err != nil {
				return err
			}
		}
	}
	for _, c := range meta.CPU.Combinations {
		r := pricelist.Row{
			Instance: fmt.Sprintf("cpu-%dx%d", c.VCPUs.whole(), c.RAM.whole()), CPUs: c.VCPUs.whole(), MemoryMiB: mib(float64(c.RAM)), Price: cents(cmp.Or(c.Price, c.PerHour), 1),
		}
		for _, r.Region = range slices.Sorted(maps.Keys(c.Regions)) {
			if !c.Available || !c.Regions[r.Region] || !slices.Contains(jarvisRegions, r.Region) {
				continue
			}
			if err := t.add(r); err != nil {
				return err
			}
		}
	}
	return nil
}
