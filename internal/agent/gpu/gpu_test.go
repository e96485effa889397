package gpu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
)

// Outputs as the tools print them.
const (
	nvidiaSMI = "NVIDIA H100 80GB HBM3, 81559, GPU-1c2d3e4f-0000-1111-2222-333344445555, 550.54.15\n" +
		"NVIDIA H100 80GB HBM3, 81559, GPU-2c2d3e4f-0000-1111-2222-333344445555, 550.54.15\n"
	nvidiaOdd = "NVIDIA GH200 480GB, [N/A], GPU-abc, [N/A]\nsome warning\n\n"
	amdSMI    = `[{"gpu": 0, "asic": {"market_name": "AMD Instinct MI300X"}, "bus": {"bdf": "0000:05:00.0"}, "vram": {"type": "HBM", "size": {"value": 196592, "unit": "MB"}}, "driver": {"name": "amdgpu", "version": "6.10.5"}}]`
	amdSMI7   = `{"gpu_data": [{"gpu": 0, "asic": {"market_name": "AMD Instinct MI355X"}, "bus": {"bdf": "0000:05:00.0"}, "vram": {"size": {"value": 294896, "unit": "MB"}}, "driver": {"driver_version": "N/A"}}, {"gpu": 1, "asic": {"market_name": "hidden"}, "bus": {"bdf": "gone"}}]}`
	hlSMI     = "HL-225, 98304, 0\nHL-225, 98304, 1\n"
	ttSMI     = `{"time": "2026", "device_info": [
		{"board_info": {"bus_id": "0000:01:00.0", "board_type": "n300 L", "board_id": "100014411aa"}},
		{"board_info": {"bus_id": "N/A", "board_type": "n300 R", "board_id": "100014411aa"}},
		{"board_info": {"bus_id": "0000:02:00.0", "board_type": "n150", "board_id": "200"}}]}`
	ttBlackhole = `{"device_info": [{"board_info": {"bus_id": "0000:01:00.0", "board_type": "p150a", "board_id": "1"}}, {"board_info": {"bus_id": "0000:02:00.0", "board_type": "bh-scrappy", "board_id": "2"}}]}`
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		name    string
		devices string
		tools   map[string]string // by the start of the command
		want    Found
	}{
		{name: "none", want: Found{Vendor: "none", GPUs: []agentapi.GPU{}}},
		{name: "nvidia", devices: "/dev/nvidiactl", tools: map[string]string{"nvidia-smi": nvidiaSMI}, want: Found{Vendor: "nvidia", GPUs: []agentapi.GPU{
			{ID: "GPU-1c2d3e4f-0000-1111-2222-333344445555", Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Driver: "550.54.15"},
			{ID: "GPU-2c2d3e4f-0000-1111-2222-333344445555", Name: "NVIDIA H100 80GB HBM3", MemoryMiB: 81559, Driver: "550.54.15"},
		}}},
		{name: "nvidia without figures", devices: "/dev/nvidiactl", tools: map[string]string{"nvidia-smi": nvidiaOdd}, want: Found{Vendor: "nvidia", GPUs: []agentapi.GPU{{ID: "GPU-abc", Name: "NVIDIA GH200 480GB"}}}},
		{name: "amd", devices: "/dev/kfd", tools: map[string]string{"amd-smi": amdSMI}, want: Found{Vendor: "amd", GPUs: []agentapi.GPU{{ID: "", Name: "AMD Instinct MI300X", MemoryMiB: 196592, Driver: "6.10.5"}}}},
		{name: "intel", devices: "/dev/accel", tools: map[string]string{"hl-smi": hlSMI}, want: Found{Vendor: "intel", GPUs: []agentapi.GPU{{ID: "0", Name: "HL-225", MemoryMiB: 98304}, {ID: "1", Name: "HL-225", MemoryMiB: 98304}}}},
		{name: "tenstorrent", devices: "/dev/tenstorrent", tools: map[string]string{"tt-smi": ttSMI}, want: Found{Vendor: "tenstorrent", GPUs: []agentapi.GPU{{ID: "0", Name: "n300", MemoryMiB: 24576}, {ID: "1", Name: "n150", MemoryMiB: 12288}}}},
		{name: "blackhole", devices: "/dev/tenstorrent", tools: map[string]string{"tt-smi": ttBlackhole}, want: Found{Vendor: "tenstorrent", GPUs: []agentapi.GPU{{ID: "0", Name: "p150", MemoryMiB: 32768}, {ID: "1", Name: "p100a", MemoryMiB: 28672}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			has := func(path string) bool { return path == c.devices }
			tool := func(_ context.Context, name string, _ ...string) (string, error) {
				if out, ok := c.tools[name]; ok {
					return out, nil
				}
				return "", errors.New("not found")
			}
			if c.name == "amd" { // the card's device file is looked up on the machine
				gpus, err := parseAMD(amdSMI, func(bdf string) string { return "/dev/dri/" + bdf })
				want := []agentapi.GPU{{ID: "/dev/dri/0000:05:00.0", Name: "AMD Instinct MI300X", MemoryMiB: 196592, Driver: "6.10.5"}}
				if diff := cmp.Diff(want, gpus); err != nil || diff != "" {
					t.Errorf("%v, -want +got:\n%s", err, diff)
				}
				return
			}
			got := detect(t.Context(), has, tool)
			for i := range got.GPUs { // of this machine
				if c.want.Vendor == "tenstorrent" {
					got.GPUs[i].Driver = ""
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestAMDSince7(t *testing.T) {
	gpus, err := parseAMD(amdSMI7, func(bdf string) string { return strings.TrimPrefix(bdf, "gone") })
	want := []agentapi.GPU{{ID: "0000:05:00.0", Name: "AMD Instinct MI355X", MemoryMiB: 294896}}
	if diff := cmp.Diff(want, gpus); err != nil || diff != "" {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

// Where the vendor's tool is not installed, its image does the same.
func TestDetectWithImages(t *testing.T) {
	for _, c := range []struct {
		device, want string
		fails        int // calls of docker that end with an error
	}{
		{"/dev/kfd", "run --rm --device /dev/kfd --device /dev/dri dstackai/amd-smi:latest static --json --asic --vram --bus --driver", 0},
		{"/dev/kfd", "run --rm --device /dev/kfd --device /dev/dri dstackai/amd-smi:latest static --json --asic --vram --bus", 1},
		{"/dev/tenstorrent", "run --rm --device /dev/tenstorrent dstackai/tt-smi:latest -s", 0},
	} {
		var last string
		calls := 0
		detect(t.Context(), func(p string) bool { return p == c.device }, func(_ context.Context, name string, args ...string) (string, error) {
			if name != "docker" {
				return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
			}
			last = strings.Join(args, " ")
			if calls++; calls <= c.fails {
				return "", &exec.ExitError{}
			}
			return "[]", nil
		})
		if last != c.want {
			t.Errorf("%s: docker %s", c.device, last)
		}
	}
}

// A tool that is missing, fails or talks nonsense is said, and the host works without GPUs.
func TestDetectProblems(t *testing.T) {
	for device, tool := range map[string]string{"/dev/nvidiactl": "nvidia-smi", "/dev/kfd": "amd-smi", "/dev/tenstorrent": "tt-smi", "/dev/accel": "hl-smi"} {
		for _, out := range []string{"", "garbage", "{", `{"device_info": []}`, "[]", `{"gpu_data": 7}`} {
			for _, err := range []error{nil, errors.New("exit status 9")} {
				got := detect(t.Context(), func(p string) bool { return p == device }, func(context.Context, string, ...string) (string, error) { return out, err })
				if got.Vendor != "none" || len(got.GPUs) != 0 || got.Problem == "" {
					t.Errorf("%s printing %q (%v): %+v", tool, out, err, got)
				}
			}
		}
	}
}

// A tool that hangs, and leaves a child with its output, does not keep the agent from starting.
func TestHangingTool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 30 &\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	out, err := run(ctx, path)
	if took := time.Since(begin); err == nil || took > 15*time.Second {
		t.Errorf("%q, %v after %v", out, err, took)
	}
}

func TestLocks(t *testing.T) {
	l := NewLocks([]agentapi.GPU{{ID: "a"}, {ID: "b"}, {ID: "c"}})
	one, err := l.Acquire("t1", 2)
	if err != nil || len(one) != 2 {
		t.Fatalf("%v, %v", one, err)
	}
	if again, err := l.Acquire("t1", 2); err != nil || cmp.Diff(one, again) != "" {
		t.Errorf("asking again gives %v, %v", again, err)
	}
	if _, err := l.Acquire("t2", 2); err == nil {
		t.Error("more GPUs were given than there are")
	}
	if rest, err := l.Acquire("t2", -1); err != nil || len(rest) != 1 || rest[0].ID != "c" {
		t.Errorf("all that is free: %v, %v", rest, err)
	}
	if err := l.Adopt("t3", []string{"a"}); err == nil {
		t.Error("a held GPU was adopted by another task")
	}
	l.Release("t1")
	if err := l.Adopt("t3", []string{"a", "b"}); err != nil {
		t.Error(err)
	}
	l.Release("t3")
	if err := l.Adopt("t3", []string{"b"}); err != nil {
		t.Error(err)
	}
	for _, n := range []int{1, -1} { // though a is free and comes before it
		if kept, err := l.Acquire("t3", n); err != nil || len(kept) != 1 || kept[0].ID != "b" {
			t.Errorf("%d of those that it holds: %v, %v", n, kept, err)
		}
	}
	if none, err := l.Acquire("t4", 0); err != nil || len(none) != 0 {
		t.Errorf("no GPUs: %v, %v", none, err)
	}
}
