package gpu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
		fails        int // containers that end with an error
	}{
		{"/dev/kfd", "run --rm --name dstack-amd-smi --device /dev/kfd --device /dev/dri dstackai/amd-smi:latest static --json --asic --vram --bus --driver", 0},
		{"/dev/kfd", "run --rm --name dstack-amd-smi --device /dev/kfd --device /dev/dri dstackai/amd-smi:latest static --json --asic --vram --bus", 1},
		{"/dev/tenstorrent", "run --rm --name dstack-tt-smi --device /dev/tenstorrent dstackai/tt-smi:latest -s", 0},
	} {
		var last string
		calls := 0
		detect(t.Context(), func(p string) bool { return p == c.device }, func(_ context.Context, name string, args ...string) (string, error) {
			if name != "docker" {
				return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
			}
			if args[0] == "rm" { // of what may be left
				return "", &exec.ExitError{}
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

// One GPU that has fallen off does not hide the others, except where their ids are places in the list. What the tool
// says of it is told.
func TestDetectTheOthers(t *testing.T) {
	const (
		two   = "NVIDIA A100, 81920, GPU-0, 550.1\nNVIDIA A100, 81920, GPU-1, 550.1\n"
		lost  = "Unable to determine the device handle for GPU0000:41:00.0: GPU is lost.  Reboot the system to recover this GPU"
		gone  = "[GPU is lost], [GPU is lost], [GPU is lost], [GPU is lost]"
		stuck = "NVIDIA A100, [GPU requires reset], GPU-2, 550.1"
		oneTT = `{"device_info": [{"board_info": {"bus_id": "0000:01:00.0", "board_type": "n150", "board_id": "1"}}]}`
	)
	fails := &exec.ExitError{ProcessState: &os.ProcessState{}} // says "exit status 0"
	for name, c := range map[string]struct {
		device, out string
		err         error
		want        string // "nvidia: a, b; problem"
	}{
		"a code":               {"/dev/nvidiactl", two, fails, "nvidia: GPU-0, GPU-1; nvidia's tool complains: exit status 0"},
		"a code and words":     {"/dev/nvidiactl", lost + "\n" + two, fails, "nvidia: GPU-0, GPU-1; nvidia's tool complains: exit status 0: " + strings.ReplaceAll(lost, "  ", " ")},
		"a row":                {"/dev/nvidiactl", two + gone + "\n", nil, "nvidia: GPU-0, GPU-1; nvidia's tool complains: " + gone},
		"a row with its id":    {"/dev/nvidiactl", stuck + "\n" + two, nil, "nvidia: GPU-0, GPU-1; nvidia's tool complains: " + stuck},
		"a code and a row":     {"/dev/nvidiactl", two + gone + "\n", fails, "nvidia: GPU-0, GPU-1; nvidia's tool complains: exit status 0: " + gone},
		"a warning":            {"/dev/nvidiactl", "warning: old\n" + two, nil, "nvidia: GPU-0, GPU-1; "},
		"the only one":         {"/dev/nvidiactl", lost + "\n", fails, "none: ; nvidia devices are there, but its tool does not work: exit status 0: " + strings.ReplaceAll(lost, "  ", " ")},
		"the only one's row":   {"/dev/nvidiactl", gone + "\n", nil, "none: ; nvidia devices are there, but its tool does not work: " + gone},
		"one of Intel's":       {"/dev/accel", "HL-225, 98304, 1\n0 is gone\n", fails, "intel: 1; intel's tool complains: exit status 0: 0 is gone"},
		"one of Tenstorrent's": {"/dev/tenstorrent", oneTT, fails, "none: ; tenstorrent devices are there, but its tool does not work: exit status 0: " + oneTT},
		"AMD's words":          {"/dev/kfd", "no cards\n", fails, "none: ; amd devices are there, but its tool does not work: exit status 0: no cards"},
	} {
		t.Run(name, func(t *testing.T) {
			f := detect(t.Context(), func(p string) bool { return p == c.device }, func(context.Context, string, ...string) (string, error) { return c.out, c.err })
			var ids []string
			for _, g := range f.GPUs {
				ids = append(ids, g.ID)
			}
			if got := f.Vendor + ": " + strings.Join(ids, ", ") + "; " + f.Problem; got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// program puts a program into a new PATH, without any other.
func program(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// lines are those of a file that may not be there.
func lines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// What a program prints is there whatever its code, with its last words.
func TestToolThatFails(t *testing.T) {
	program(t, "tool", "echo a row\necho 'why,\n  and what' >&2\nexit 15\n")
	out, err := new(Detector).run(t.Context(), "tool", "list")
	if out != "a row\n" || err == nil || err.Error() != "exit status 15: why, and what" || !failed(err) {
		t.Errorf("%q, %v", out, err)
	}
}

// A tool that hangs does not keep the agent from starting, and ends with its children.
func TestHangingTool(t *testing.T) {
	program(t, "tool", "echo begun\nsleep 60 &\nwait\n")
	d := &Detector{}
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		out, err := d.run(ctx, "tool", "list")
		if out != "" || err == nil || err.Error() != "tool was killed: context deadline exceeded" || failed(err) {
			t.Errorf("%q, %v", out, err)
		}
	}
}

// What a tool has printed counts, also when it leaves a daemon with its output behind.
func TestToolThatLeavesADaemon(t *testing.T) {
	held := pipe(t)
	for name, daemon := range map[string]string{
		"in its group":            "cat " + held + " &\n",
		"in a session of its own": "setsid cat " + held + " &\n",
	} {
		t.Run(name, func(t *testing.T) {
			program(t, "tool", daemon+"echo a row\n")
			d := &Detector{}
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if out, err := d.run(ctx, "tool", "list"); out != "a row\n" || err != nil {
					t.Errorf("%q, %v", out, err)
				}
			}
			if len(d.left) > 0 {
				t.Errorf("%d count as left", len(d.left))
			}
		})
	}
	if f, err := os.OpenFile(held, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil { // the end of those that are left
		f.Close()
	}
}

// lookUntil looks for the accelerators of a device until something has happened, or for 5 s, and returns what is
// wrong with them.
func (d *Detector) lookUntil(t *testing.T, device string, happens func()) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() {
		defer cancel()
		happens()
	}()
	return detect(ctx, func(path string) bool { return path == device }, d.run).Problem
}

// pipe makes a named pipe.
func pipe(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// While something of a tool lives that cannot be ended, looks answer at once and leave no more of it behind.
func TestToolThatCannotBeKilled(t *testing.T) {
	begun, held := filepath.Join(t.TempDir(), "begun"), pipe(t)
	// In a session of its own it is out of our reach, as a process is that waits for a driver.
	program(t, "nvidia-smi", "echo $$ >>"+begun+"\nsetsid cat "+held+" &\nwait\n")
	d := &Detector{}
	const is = "nvidia devices are there, but its tool does not work: nvidia-smi"
	var hold *os.File
	got := d.lookUntil(t, "/dev/nvidiactl", func() {
		hold, _ = os.OpenFile(held, os.O_WRONLY, 0) // once it is opened on the other side
	})
	if want := is + " cannot be killed: context canceled"; got != want {
		t.Errorf("the first look: %q, want %q", got, want)
	}
	never := func() { <-t.Context().Done() }
	for range 3 {
		if got, want := d.lookUntil(t, "/dev/nvidiactl", never), is+", which was killed before, still does not end"; got != want {
			t.Errorf("a later look: %q, want %q", got, want)
		}
	}
	if got := lines(t, begun); len(got) != 1 {
		t.Errorf("%d processes are left", len(got))
	}
	if out, err := d.run(t.Context(), "another", "list"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("another tool: %q, %v", out, err)
	}
	hold.Close()
	for _, ended := range d.left {
		<-ended
	}
	program(t, "nvidia-smi", "echo NVIDIA A100, 81920, GPU-0, 550.1\n")
	if got := d.lookUntil(t, "/dev/nvidiactl", never); got != "" || len(d.left) > 0 {
		t.Errorf("it has ended, and a look says %q, %d are left", got, len(d.left))
	}
}

// A container whose client had to be killed is removed, and so is that of an agent that could not do so.
func TestHangingToolInAContainer(t *testing.T) {
	calls, runs := filepath.Join(t.TempDir(), "calls"), pipe(t)
	program(t, "docker", `echo "$*" >>`+calls+"\ncase $1 in run) echo >"+runs+"; exec sleep 60;; esac\nexit 1\n")
	d := &Detector{}
	for range 2 {
		got := d.lookUntil(t, "/dev/kfd", func() { _, _ = os.ReadFile(runs) })
		if want := "amd devices are there, but its tool does not work: docker was killed: context canceled"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	const (
		rm  = "rm -f -v dstack-amd-smi"
		run = "run --rm --name dstack-amd-smi --device /dev/kfd --device /dev/dri dstackai/amd-smi:latest static --json --asic --vram --bus --driver"
	)
	if diff := cmp.Diff([]string{rm, run, rm, rm, run, rm}, lines(t, calls)); diff != "" {
		t.Errorf("calls of docker (-want +got):\n%s", diff)
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
