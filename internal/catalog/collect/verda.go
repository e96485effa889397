package collect

import (
	"cmp"
	"context"
	"math"
	"strings"

	"dstack/internal/catalog/pricelist"
)

// verda is the former DataCrunch.
func verda() Source {
	return Source{
		Provider: "verda", Needs: []string{"VERDA_CLIENT_ID", "VERDA_CLIENT_SECRET"}, base: "https://api.verda.com/v1",
		collect: collectVerda, expect: expectation{
			// A6000 and L40S, which have been sold too (catalog 8.6), no list of this year has.
			gpus: []string{"B200", "B300", "H200", "H100", "A100", "RTX6000Ada", "RTXPRO6000", "V100"}, cpuOnly: true, spot: true, regions: []string{"FIN-01", "FIN-02"},
		},
	}
}

// verdaType is an instance type; its sizes are in GB, its prices texts.
type verdaType struct {
	Name string `json:"instance_type"`
	CPU  struct {
		Cores number `json:"number_of_cores"`
	}
	Memory struct {
		GB number `json:"size_in_gigabytes"`
	}
	GPU struct {
		Description string
		Count       number `json:"number_of_gpus"`
	}
	GPUMemory struct {
		GB number `json:"size_in_gigabytes"` // of all GPUs together
	} `json:"gpu_memory"`
	Price     number `json:"price_per_hour"`
	SpotPrice number `json:"spot_price"`
	SpotHour  number `json:"spot_price_per_hour"`
}

type verdaLocation struct{ Code string }

func collectVerda(ctx context.Context, s *session, t *tray) error {
	var answer tokenAnswer
	login := map[string]string{"grant_type": "client_credentials", "client_id": s.env("VERDA_CLIENT_ID"), "client_secret": s.env("VERDA_CLIENT_SECRET")}
	if err := s.post(ctx, "/oauth2/token", nil, login, &answer); err != nil {
		return err
	}
	token, err := s.accept(answer)
	if err != nil {
		return err
	}
	var types []verdaType
	if err := s.get(ctx, "/instance-types", bearer(token), &types); err != nil {
		return err
	}
	var locations []verdaLocation
	if err := s.get(ctx, "/locations", bearer(token), &locations); err != nil {
		return err
	}
	return t.verda(types, locations)
}

// verda adds every type in every location, on demand and spot: prices are the same everywhere.
func (t *tray) verda(types []verdaType, locations []verdaLocation) error {
	var regions []string
	for _, l := range locations {
		regions = append(regions, l.Code)
	}
	for _, typ := range types {
		r := pricelist.Row{
			Instance: typ.Name, CPUs: typ.CPU.Cores.whole(), MemoryMiB: mib(float64(typ.Memory.GB)), GPUs: typ.GPU.Count.whole(), Price: float64(typ.Price),
		}
		if r.GPUs > 0 {
			_, name, _ := strings.Cut(typ.GPU.Description, "x ") // "2x H200 SXM5 141GB"
			var ok bool
			if r.GPU, ok = t.gpu(name, float64(typ.GPUMemory.GB)/math.Max(1, float64(typ.GPU.Count))); !ok {
				continue
			}
		}
		if err := t.addIn(r, regions); err != nil {
			return err
		}
		r.Spot, r.Price = true, float64(cmp.Or(typ.SpotHour, typ.SpotPrice)) // it is called either
		if r.Price == 0 {
			continue
		}
		if err := t.addIn(r, regions); err != nil {
			return err
		}
	}
	return nil
}
