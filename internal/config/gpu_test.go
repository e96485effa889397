package config

import (
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
