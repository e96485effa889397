package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
)

func TestDivide(t *testing.T) {
	for name, tt := range map[string]struct {
		want       int
		auto       bool
		cpus, gpus int
		n          int // 0: not divisible
	}{
		"fewer CPUs than GPUs": {auto: true, cpus: 2, gpus: 4, n: 2},
		"nothing to divide":    {auto: true},
		"no blocks":            {cpus: 4},
		"negative":             {want: -1, cpus: 4},
	} {
		t.Run(name, func(t *testing.T) {
			if n, ok := Divide(tt.want, tt.auto, tt.cpus, tt.gpus); n != tt.n || ok != (tt.n > 0) {
				t.Errorf("Divide = %d, %t, want %d", n, ok, tt.n)
			}
		})
	}
}

func TestShare(t *testing.T) {
	arm := api.CPUArchitecture("arm")
	gpus := make([]api.Gpu, 8)
	whole := api.Resources{CPUs: 96, MemoryMiB: 1001, Gpus: gpus, Disk: api.Disk{SizeMiB: 500}, Spot: true, CPUArch: &arm}
	for name, tt := range map[string]struct {
		blocks, total int
		want          api.Resources
	}{
		"undivided": {1, 1, whole},
		"all of it": {8, 8, whole},
		"half":      {2, 4, api.Resources{CPUs: 48, MemoryMiB: 500, Gpus: gpus[:4], Disk: whole.Disk, Spot: true, CPUArch: &arm}},
		"a quarter": {2, 8, api.Resources{CPUs: 24, MemoryMiB: 250, Gpus: gpus[:2], Disk: whole.Disk, Spot: true, CPUArch: &arm}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Share(whole, tt.blocks, tt.total)); diff != "" {
				t.Errorf("Share(%d of %d) (-want +got):\n%s", tt.blocks, tt.total, diff)
			}
		})
	}
}

func TestShareOf(t *testing.T) {
	for name, tt := range map[string]struct {
		resources string
		cluster   bool
		total     int
		want      int
	}{
		"no share serves":                {`{"gpu": "H100:1", "cpu": "3.."}`, false, 8, 0},
		"the smallest share that serves": {`{"gpu": "H100:2..", "cpu": "3.."}`, false, 8, 2},
		"only the whole":                 {`{"gpu": "H100:8"}`, false, 8, 8},
		"undivided":                      {`{"gpu": "H100:8"}`, false, 1, 1},
		"node of a cluster":              {`{"gpu": "H100:1.."}`, true, 8, 8},
	} {
		t.Run(name, func(t *testing.T) {
			w := Want{Requirements: api.Requirements{Resources: resources(t, tt.resources)}}
			h := &Host{Offer: h100s(8), Blocks: tt.total}
			if n := shareOf(&Gang{Cluster: tt.cluster}, w, h); n != tt.want {
				t.Errorf("%d blocks, want %d", n, tt.want)
			}
		})
	}
}
