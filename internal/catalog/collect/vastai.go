package collect

import (
	"context"
	"fmt"
	"math"
	"strings"

	"dstack/internal/catalog/pricelist"
)

// vastAI is a market: its machines are single ones, whose prices change within minutes.
func vastAI() Source {
	return Source{
		Provider: "vastai", base: "https://console.vast.ai", collect: collectVastAI,
		expect: expectation{gpus: []string{"RTX4090"}, spot: true},
	}
}

// vastDisk is the size in GB that prices are for: what runs ask for without saying.
const vastDisk = 100

// vastOffer is a machine; its memory is in MB, its disk in GB.
type vastOffer struct {
	ID        number
	Cores     number  `json:"cpu_cores"`
	Effective number  `json:"cpu_cores_effective"` // what the tenant gets of them
	RAM       number  `json:"cpu_ram"`             // of all cores
	GPUs      number  `json:"num_gpus"`
	GPU       string  `json:"gpu_name"`
	VRAM      number  `json:"gpu_ram"`
	Disk      number  `json:"disk_space"`
	Base      number  `json:"dph_base"`
	Storage   number  `json:"storage_cost"` // of a GB for a month
	MinBid    *number `json:"min_bid"`
	Place     *string `json:"geolocation"`
	Arch      string  `json:"cpu_arch"`
}

func collectVastAI(ctx context.Context, s *session, t *tray) error {
	is := func(op string, v any) map[string]any { return map[string]any{op: v} }
	question := map[string]any{
		"limit": 3000, "order": [][]string{{"dph_total", "asc"}, {"id", "asc"}}, "type": "ondemand",
		"rentable": is("eq", true), "rented": is("eq", false), "verified": is("eq", true), "datacenter": is("eq", true),
		"direct_port_count": is("gte", 1), "inet_down": is("gt", 128), "cuda_max_good": is("gte", 12.8), "compute_cap": is("gte", 600),
		"disk_space": is("gte", vastDisk),
	}
	var answer struct{ Offers []vastOffer }
	if err := s.post(ctx, "/api/v0/bundles/", nil, question, &answer); err != nil {
		return err
	}
	return t.vastAI(answer.Offers)
}

func (t *tray) vastAI(offers []vastOffer) error {
	for _, o := range offers {
		if o.Cores <= 0 || o.Effective <= 0 || o.Disk < vastDisk {
			continue
		}
		disk := vastDisk * float64(o.Storage) / 720 // hours of a month
		r := pricelist.Row{
			Instance: fmt.Sprintf("%d", int64(o.ID)), Region: vastRegion(o.Place), CPUs: o.Effective.whole(),
			MemoryMiB: mib(math.Trunc(float64(o.RAM) * float64(o.Effective) / float64(o.Cores) / 1000)), DiskMiB: vastDisk << 10,
			GPUs: o.GPUs.whole(), Price: math.Round((float64(o.Base)+disk)*1e5) / 1e5,
		}
		if o.Arch == "arm64" {
			r.Arch = "arm"
		}
		if r.GPUs > 0 {
			var ok bool
			if r.GPU, ok = t.gpu(o.GPU, float64(o.VRAM)/1024); !ok {
				continue
			}
		}
		if err := t.add(r); err != nil {
			return err
		}
		if o.MinBid == nil {
			continue
		}
		r.Spot, r.Price = true, math.Round((float64(*o.MinBid)+disk)*1e5)/1e5
		if err := t.add(r); err != nil {
			return err
		}
	}
	return nil
}

// vastRegion turns "Paris, FR" into fr-paris. Some machines do not say where they are.
func vastRegion(place *string) string {
	if place == nil {
		return ""
	}
	city, country, found := strings.Cut(*place, ",")
	name := strings.ReplaceAll(strings.ToLower(city), " ", "")
	if code := strings.TrimSpace(strings.ToLower(country)); found && code != "" {
		name = strings.Trim(code+"-"+name, "-")
	}
	return name
}
