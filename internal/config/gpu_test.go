package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGPUComputeCapability(t *testing.T) {
	goldenLines(t, "known-accelerators.jsonl", func(t *testing.T, row struct {
		Name, Vendor string
		Capability   []int `json:"compute_capability"`
	}) {
		if strings.HasSuffix(row.Name, "B300") {
			row.Capability = []int{10, 3} // the original has 10.0
		}
		var got []int
		if c, ok := GPUComputeCapability(strings.ToLower(row.Name)); ok {
			got = c[:]
		}
		if diff := cmp.Diff(row.Capability, got); diff != "" {
			t.Errorf("capability of %s %s (-want +got):\n%s", row.Vendor, row.Name, diff)
		}
	})
}

func TestAccelerators(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range Accelerators() {
		name := strings.ToLower(a.Name)
		if seen[name] {
			t.Errorf("%s is there twice", a.Name)
		}
		seen[name] = true
		if len(a.Memory) == 0 || !slices.IsSorted(a.Memory) || a.Memory[0] <= 0 || a.Architecture == "" {
			t.Errorf("%s has the memory %v and the architecture %q", a.Name, a.Memory, a.Architecture)
		}
		if has := a.Capability != [2]int{}; has != (a.Vendor == "nvidia") {
			t.Errorf("%s of %s has the compute capability %v", a.Name, a.Vendor, a.Capability)
		}
	}
}

// The kinds that the original's table has wrong or lacks.
func TestCorrectedAccelerators(t *testing.T) {
	for _, want := range []Accelerator{
		{"B300", "nvidia", []int{270}, "Blackwell", [2]int{10, 3}},
		{"MI325X", "amd", []int{256}, "CDNA3", [2]int{}},
		{"P4", "nvidia", []int{8}, "Pascal", [2]int{6, 1}},
		{"K80", "nvidia", []int{12}, "Kepler", [2]int{3, 7}},
		{"A30", "nvidia", []int{24}, "Ampere", [2]int{8, 0}},
		{"H20", "nvidia", []int{96, 141}, "Hopper", [2]int{9, 0}},
		{"MI25", "amd", []int{16}, "Vega", [2]int{}},
	} {
		got, ok := FindAccelerator(strings.ToLower(want.Name))
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("%s, known: %v (-want +got):\n%s", want.Name, ok, diff)
		}
	}
}

func TestParseTPU(t *testing.T) {
	for name, want := range map[string]TPU{
		"v2-8":          {"v2", 4, 64},
		"v3-8":          {"v3", 4, 128},
		"v4-8":          {"v4", 4, 128},
		"v5p-8":         {"v5p", 4, 380}, // the original has the 95 GiB of one chip
		"v5litepod-1":   {"v5litepod", 1, 16},
		"V5LITEPOD-256": {"v5litepod", 256, 4096},
		"v6e-8":         {"v6e", 8, 256},
	} {
		got, ok := ParseTPU(name)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("ParseTPU(%q), known: %v (-want +got):\n%s", name, ok, diff)
		}
	}
	for _, name := range []string{"", "v5p", "v5p-", "v1-8", "v5p-8x", "v6e-+1", "H100"} {
		if got, ok := ParseTPU(name); ok {
			t.Errorf("ParseTPU(%q) = %+v", name, got)
		}
	}
}
