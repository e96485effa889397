package runner

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dstack/internal/agentapi"
)

// sampler reads the job's use of CPU, memory and GPUs (host-agents 2.13) from cgroups of
// either version.
type sampler struct {
	v2           string // folder of the cgroup, "" when it is version 1
	cpu1, memory string // folders of the controllers in version 1
	tools        tools
}

func newSampler() sampler {
	s := sampler{tools: newTools()}
	mounts := map[string]string{}
	if f, err := os.Open("/proc/self/mounts"); err == nil {
		defer f.Close()
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			p := strings.Fields(sc.Text())
			if len(p) < 4 {
				continue
			}
			switch p[2] {
			case "cgroup2":
				if mounts["v2"] == "" {
					mounts["v2"] = p[1]
				}
			case "cgroup":
				for _, o := range strings.Split(p[3], ",") {
					mounts[o] = p[1]
				}
			}
		}
	}
	data, _ := os.ReadFile("/proc/self/cgroup") // without it there are no metrics
	for _, line := range strings.Split(string(data), "\n") {
		p := strings.SplitN(line, ":", 3)
		if len(p) != 3 {
			continue
		}
		if p[0] == "0" && mounts["v2"] != "" && mounts["memory"] == "" {
			s.v2 = existing(mounts["v2"], p[2])
		}
		for _, c := range strings.Split(p[1], ",") {
			switch c {
			case "cpuacct":
				s.cpu1 = existing(mounts[c], p[2])
			case "memory":
				s.memory = existing(mounts[c], p[2])
			}
		}
	}
	return s
}

// existing is the cgroup's folder: inside a container its path may not be visible, then the
// mount itself is the cgroup.
func existing(mount, path string) string {
	if mount == "" {
		return ""
	}
	dir := filepath.Join(mount, path)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	return mount
}

func (s sampler) sample() (agentapi.Metrics, bool) {
	var m agentapi.Metrics
	switch {
	case s.v2 != "":
		m.CPUMicros = stat(filepath.Join(s.v2, "cpu.stat"), "usage_usec")
		m.MemoryBytes = number(filepath.Join(s.v2, "memory.current"))
		m.WorkingSetBytes = max(0, m.MemoryBytes-stat(filepath.Join(s.v2, "memory.stat"), "inactive_file")) // read later
	case s.memory != "":
		m.CPUMicros = number(filepath.Join(s.cpu1, "cpuacct.usage")) / 1000
		m.MemoryBytes = number(filepath.Join(s.memory, "memory.usage_in_bytes"))
		m.WorkingSetBytes = max(0, m.MemoryBytes-stat(filepath.Join(s.memory, "memory.stat"), "total_inactive_file")) // as above
	default:
		return m, false
	}
	m.GPUs = s.tools.gpus()
	return m, true
}

func number(path string) int64 {
	data, _ := os.ReadFile(path) // absent: 0
	n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n
}

func stat(path, key string) int64 {
	data, _ := os.ReadFile(path) // absent: 0
	for _, line := range strings.Split(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// gpus asks the vendor's tool when the container has one (the order is that of host-agents
// 1.8).
func (t tools) gpus() []agentapi.GPUMetrics {
	exists := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	switch {
	case exists("/dev/nvidiactl"):
		return parseGPUs(t.run("nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits"))
	case exists("/dev/tenstorrent"): // its tool tells nothing of use
	case exists("/dev/kfd"):
		return parseAMD(t.run("amd-smi", "monitor", "-vu", "--csv"))
	case exists("/dev/accel"):
		return parseGPUs(t.run("hl-smi", "--query-aip=memory.used,utilization.aip", "--format=csv,noheader,nounits"))
	}
	return []agentapi.GPUMetrics{}
}

// toolTimeout is how long a vendor's tool may take, killTimeout how long one that was killed may take to end.
const (
	toolTimeout = 4 * time.Second
	killTimeout = 2 * time.Second
)

// tools runs one of the vendors' tools at a time.
type tools struct{ room chan struct{} }

func newTools() tools { return tools{make(chan struct{}, 1)} }

// run returns what a program prints, "" when there is none or it fails. One that waits for a driver cannot
// even be killed, and one that was killed may have children that hold its output open: the runner must
// end all the same, and starts no other meanwhile.
func (t tools) run(name string, args ...string) string {
	select {
	case t.room <- struct{}{}:
	default:
		return "" // the last one has not ended
	}
	printed := make(chan []byte, 1)
	go func() {
		defer func() { <-t.room }()
		ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.WaitDelay = killTimeout / 2
		out, err := cmd.Output()
		if err != nil {
			out = nil
		}
		printed <- out
	}()
	select {
	case out := <-printed:
		return string(out)
	case <-time.After(toolTimeout + killTimeout):
		return ""
	}
}

// parseGPUs reads lines of used MiB and percent, as NVIDIA's and Intel's tools print them.
// Numbers that are none give an empty list: a wrong one is worse than none.
func parseGPUs(out string) []agentapi.GPUMetrics {
	list := []agentapi.GPUMetrics{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		p := strings.Split(line, ",")
		if len(p) != 2 {
			return []agentapi.GPUMetrics{}
		}
		m, ok := gpuMetrics(p[0], p[1])
		if !ok {
			return []agentapi.GPUMetrics{}
		}
		list = append(list, m)
	}
	return list
}

// parseAMD finds the columns by their names.
func parseAMD(out string) []agentapi.GPUMetrics {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	header := strings.Split(strings.TrimSpace(lines[0]), ",")
	used, util := slices.Index(header, "vram_used"), slices.Index(header, "gfx")
	list := []agentapi.GPUMetrics{}
	if used < 0 || util < 0 {
		return list
	}
	for _, line := range lines[1:] {
		p := strings.Split(strings.TrimSpace(line), ",")
		if len(p) != len(header) {
			return []agentapi.GPUMetrics{}
		}
		m, ok := gpuMetrics(p[used], p[util])
		if !ok {
			return []agentapi.GPUMetrics{}
		}
		list = append(list, m)
	}
	return list
}

func gpuMetrics(usedMiB, percent string) (agentapi.GPUMetrics, bool) {
	mib, err1 := strconv.ParseInt(strings.TrimSpace(usedMiB), 10, 64)
	util, err2 := strconv.Atoi(strings.TrimSpace(percent))
	return agentapi.GPUMetrics{MemoryBytes: mib << 20, UtilPercent: util}, err1 == nil && err2 == nil
}
