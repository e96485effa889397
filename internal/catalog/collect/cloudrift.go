package collect

import (
	"context"
	"maps"
	"slices"

	"dstack/internal/catalog/pricelist"
)

func cloudRift() Source {
	return Source{
		Provider: "cloudrift", base: "https://api.cloudrift.ai", baseEnv: "CLOUDRIFT_SERVER_ADDRESS",
		collect: collectCloudRift, expect: expectation{counts: []int{1, 2}, noSpot: true},
	}
}

type cloudRiftAnswer struct {
	Data struct {
		Types []cloudRiftType `json:"instance_types"`
	}
}

// cloudRiftType is a kind of GPU with the machines that have it; sizes are in bytes.
type cloudRiftType struct {
	Brand    string `json:"brand_short"`
	Variants []struct {
		Name  string
		Nodes map[string]number `json:"nodes_per_dc"`
		Cents number            `json:"cost_per_hour"`
		CPUs  number            `json:"cpu_count"`
		DRAM  number            `json:"dram"`
		Disk  number            `json:"disk"`
		GPUs  number            `json:"gpu_count"`
	}
}

func collectCloudRift(ctx context.Context, s *session, t *tray) error {
	question := map[string]any{"version": "2025-03-21", "data": map[string]any{
		"selector": map[string]any{"ByServiceAndLocation": map[string]any{"services": []string{"vm"}}},
	}}
	var answer cloudRiftAnswer
	if err := s.post(ctx, "/api/v1/instance-types/list", nil, question, &answer); err != nil {
		return err
	}
	return t.cloudRift(answer)
}

func (t *tray) cloudRift(answer cloudRiftAnswer) error {
	const gib = 1 << 30
	for _, typ := range answer.Data.Types {
		for _, v := range typ.Variants {
			r := pricelist.Row{
				Instance: v.Name, CPUs: v.CPUs.whole(), MemoryMiB: mib(float64(v.DRAM) / gib), DiskMiB: mib(float64(v.Disk) / gib),
				GPUs: v.GPUs.whole(), Price: float64(v.Cents) / 100,
			}
			if r.GPUs == 0 {
				continue // all that they sell has some
			}
			var ok bool
			if r.GPU, ok = t.gpu(typ.Brand, 0); !ok {
				continue
			}
			if err := t.addIn(r, slices.Sorted(maps.Keys(v.Nodes))); err != nil {
				return err
			}
		}
	}
	return nil
}
