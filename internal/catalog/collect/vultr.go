package collect

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// vultr publishes the prices of all its plans, without a key.
func vultr() Source {
	return Source{
		Provider: "vultr", base: "https://api.vultr.com/v2", collect: collectVultr,
		expect: expectation{gpus: []string{"A100"}, cpuOnly: true, noSpot: true},
	}
}

type vultrPage struct {
	Plans []vultrPlan  `json:"plans"`
	Metal []vultrMetal `json:"plans_metal"`
	Meta  struct {
		Links struct{ Next string }
	}
}

// vultrPlan is a virtual machine. Sizes are in MB (RAM) and GB (disk).
type vultrPlan struct {
	ID        string
	VCPUs     number `json:"vcpu_count"`
	RAM       number
	Disk      number
	Hourly    number `json:"hourly_cost"`
	Type      string
	GPU       string `json:"gpu_type"`
	VRAM      number `json:"gpu_vram_gb"` // of all GPUs, or of a part of one
	Locations []string
}

// vultrMetal is a whole machine.
type vultrMetal struct {
	ID        string
	Threads   number `json:"cpu_threads"`
	RAM       number
	Disk      number
	Hourly    number `json:"hourly_cost"`
	Locations []string
}

func collectVultr(ctx context.Context, s *session, t *tray) error {
	for _, list := range []string{"/plans?type=all&per_page=500", "/plans-metal?per_page=500"} {
		if err := s.vultr(ctx, list, t); err != nil {
			return err
		}
	}
	return nil
}

// vultr reads all pages of a list.
func (s *session) vultr(ctx context.Context, list string, t *tray) error {
	path := list
	for range maxPages {
		var page vultrPage
		if err := s.get(ctx, path, nil, &page); err != nil {
			return err
		}
		if err := t.vultr(page); err != nil {
			return err
		}
		if page.Meta.Links.Next == "" {
			return nil
		}
		path = list + "&cursor=" + url.QueryEscape(page.Meta.Links.Next)
	}
	return fmt.Errorf("%w: there are more than %d pages", errStrange, maxPages)
}

func (t *tray) vultr(page vultrPage) error {
	for _, p := range page.Plans {
		r := pricelist.Row{
			Instance: p.ID, CPUs: p.VCPUs.whole(), MemoryMiB: p.RAM.whole(), DiskMiB: mib(float64(p.Disk)), Price: float64(p.Hourly),
		}
		switch p.Type {
		case "vc2", "vhf", "vhp", "voc":
		case "vcg":
			var ok bool
			if r.GPU, r.GPUs, ok = t.vultrGPU(p); !ok {
				continue
			}
		default:
			continue
		}
		if err := t.vultrAdd(r, p.Locations); err != nil {
			return err
		}
	}
	for _, p := range page.Metal {
		r := pricelist.Row{
			Instance: p.ID, CPUs: p.Threads.whole(), MemoryMiB: p.RAM.whole(), DiskMiB: mib(float64(p.Disk)), Price: float64(p.Hourly),
		}
		if m, known := vultrMetalGPUs[p.ID]; known {
			r.GPUs, r.Arch = m.count, m.arch
			r.GPU, _ = t.gpu(m.name, m.gib)
		} else if strings.Contains(p.ID, "gpu") {
			t.leaveOut(p.ID)
			continue
		}
		if err := t.vultrAdd(r, p.Locations); err != nil {
			return err
		}
	}
	return nil
}

func (t *tray) vultrAdd(r pricelist.Row, locations []string) error {
	if r.Price == 0 { // not for sale
		t.free++
		return nil
	}
	return t.addIn(r, locations)
}

// vultrGPU are a plan's GPUs: whole ones, or a part of one.
func (t *tray) vultrGPU(p vultrPlan) (offer.GPU, int, bool) {
	_, name, _ := strings.Cut(p.GPU, "_")
	a, known := config.FindAccelerator(plainName(name))
	if !known || len(a.Memory) == 0 || p.VRAM.whole() <= 0 {
		t.leaveOut(p.GPU)
		return offer.GPU{}, 0, false
	}
	one := a.Memory[len(a.Memory)-1] // of the A100 they have the larger
	count := max(1, p.VRAM.whole()/one)
	g, ok := t.gpu(a.Name, float64(p.VRAM)/float64(count))
	return g, count, ok
}

// vultrMetalGPUs are the machines with GPUs, which the API does not describe.
var vultrMetalGPUs = map[string]struct {
	count int
	name  string
	gib   float64
	arch  string
}{
	"vbm-48c-1024gb-4-a100-gpu":    {4, "A100", 80, ""},
	"vbm-112c-2048gb-8-h100-gpu":   {8, "H100", 80, ""},
	"vbm-112c-2048gb-8-a100-gpu":   {8, "A100", 80, ""},
	"vbm-64c-2048gb-8-l40-gpu":     {8, "L40S", 48, ""},
	"vbm-72c-480gb-gh200-gpu":      {1, "GH200", 96, "arm"},
	"vbm-256c-2048gb-8-mi300x-gpu": {8, "MI300X", 192, ""},
}
