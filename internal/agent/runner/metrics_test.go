package runner

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
)

func TestGPUMetrics(t *testing.T) {
	two := []agentapi.GPUMetrics{{MemoryBytes: 70123 << 20, UtilPercent: 97}, {MemoryBytes: 3 << 20}}
	none := []agentapi.GPUMetrics{}
	for _, c := range []struct {
		name  string
		parse func(string) []agentapi.GPUMetrics
		out   string
		want  []agentapi.GPUMetrics
	}{
		{"nvidia", parseGPUs, "70123, 97\n3, 0\n", two},
		{"nvidia without figures", parseGPUs, "[N/A], 97\n", none},
		{"intel", parseGPUs, "70123, 97\n3, 0\n", two},
		{"no tool", parseGPUs, "", none},
		{"amd", parseAMD, "gpu,gfx,gfx_clock,vram_used,vram_total\n0,97,132,70123,196300\n1,0,132,3,196300\n", two},
		{"amd without figures", parseAMD, "gpu,gfx,vram_used\n0,N/A,1\n", none},
		{"amd with other columns", parseAMD, "gpu,power\n0,1\n", none},
		{"amd, cut", parseAMD, "gpu,gfx,vram_used\n0,1\n", none},
		{"no tool of amd", parseAMD, "", none},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.parse(c.out)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A tool that hangs, and leaves a child with its output, does not keep the runner from ending.
func TestHangingTool(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	out := newTools().run("sh", "-c", "sleep 60 &\nwait") // no file that a fork of another test may hold for writing
	if took := time.Since(begin); out != "" || took < toolTimeout || took > 30*time.Second {
		t.Errorf("%q after %v", out, took)
	}
}

// Both versions of cgroups give the same figures.
func TestSample(t *testing.T) {
	v2, v1 := t.TempDir(), t.TempDir()
	for path, content := range map[string]string{
		v2 + "/cpu.stat":              "usage_usec 1234567\nuser_usec 1\n",
		v2 + "/memory.current":        "5000\n",
		v2 + "/memory.stat":           "anon 1\ninactive_file 2000\n",
		v1 + "/cpuacct.usage":         "1234567890\n",
		v1 + "/memory.usage_in_bytes": "5000\n",
		v1 + "/memory.stat":           "inactive_file 7\ntotal_inactive_file 2000\n",
	} {
		if err := os.WriteFile(filepath.Clean(path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]sampler{"version 2": {v2: v2}, "version 1": {cpu1: v1, memory: v1}} {
		m, ok := s.sample()
		m.GPUs = nil
		if diff := cmp.Diff(agentapi.Metrics{CPUMicros: 1234567, MemoryBytes: 5000, WorkingSetBytes: 3000}, m); !ok || diff != "" {
			t.Errorf("%s: %v -want +got:\n%s", name, ok, diff)
		}
	}
	// The cache has grown between the two looks.
	if err := os.WriteFile(filepath.Join(v2, "memory.stat"), []byte("inactive_file 5001\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if m, ok := (sampler{v2: v2}).sample(); !ok || m.WorkingSetBytes != 0 {
		t.Errorf("a working set of %d bytes", m.WorkingSetBytes)
	}
	if _, ok := (sampler{}).sample(); ok {
		t.Error("figures without cgroups")
	}
}
