package collect

import (
	"context"
	"net/http"
	"regexp"
	"strconv"

	"dstack/internal/catalog/pricelist"
)

// seeweb tells its plans to accounts. There is no backend for it.
func seeweb() Source {
	const key = "SEEWEB_API_TOKEN"
	return Source{
		Provider: "seeweb", Needs: []string{key}, base: "https://api.seeweb.it/ecs/v2",
		collect: func(ctx context.Context, s *session, t *tray) error {
			var answer struct{ Plans []seewebPlan }
			if err := s.get(ctx, "/plans", http.Header{"X-APITOKEN": {s.env(key)}}, &answer); err != nil {
				return err
			}
			return t.seeweb(answer.Plans)
		},
		expect: expectation{gpus: []string{"A100", "H100", "L4", "L40S"}, noSpot: true},
	}
}

// seewebPlan is an instance type; memory is in MiB, the disk in GB.
type seewebPlan struct {
	Name      string
	CPU       number
	RAM       number
	Disk      number
	GPU       number // how many
	GPULabel  string `json:"gpu_label"`
	Price     number `json:"hourly_price"`
	Available *bool
	Regions   []struct{ Location string } `json:"available_regions"`
}

// gigabytes is the memory in the label of a GPU.
var gigabytes = regexp.MustCompile(`(?i)(\d+) ?GB`)

func (t *tray) seeweb(plans []seewebPlan) error {
	for _, p := range plans {
		if p.GPULabel == "" || p.GPU.whole() < 1 || p.Available != nil && !*p.Available {
			continue
		}
		size := 0.0
		if m := gigabytes.FindStringSubmatch(p.GPULabel); m != nil {
			size, _ = strconv.ParseFloat(m[1], 64) // digits
		} else if plainName(p.GPULabel) == "A100" {
			size = 80 // the only one there
		}
		gpu, known := t.gpu(p.GPULabel, size)
		if !known {
			continue
		}
		r := pricelist.Row{
			Instance: p.Name, CPUs: p.CPU.whole(), MemoryMiB: p.RAM.whole(), DiskMiB: mib(float64(p.Disk)), GPUs: p.GPU.whole(), GPU: gpu, Price: float64(p.Price),
		}
		seen := map[string]bool{}
		for _, region := range p.Regions {
			if r.Region = region.Location; seen[r.Region] {
				continue
			}
			seen[r.Region] = true
			if err := t.add(r); err != nil {
				return err
			}
		}
	}
	return nil
}
