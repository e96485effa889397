// Package gpu finds a host's accelerators through the vendors' tools and hands them out to
// tasks.
package gpu

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dstack/internal/agentapi"
)

// Found is what a look saw.
type Found struct {
	Vendor string // "none" without accelerators
	GPUs   []agentapi.GPU
	// Problem says why accelerators that seem to be there could not be listed, or not all of them.
	Problem string
}

// Detector looks for accelerators. Its zero value is ready for use, by one look at a time.
type Detector struct {
	// left is what earlier looks have left behind, each with a channel that is closed once it has ended: see run.
	left map[string]<-chan struct{}
}

// Detect looks for accelerators; the first vendor that matches counts (host-agents 1.8).
func (d *Detector) Detect(ctx context.Context) Found {
	return detect(ctx, exists, d.run)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func detect(ctx context.Context, has func(string) bool, run tool) Found {
	var vendor string
	var list func() ([]agentapi.GPU, error)
	switch {
	case has("/dev/nvidiactl") || has("/dev/dxg") && has("/usr/lib/wsl/lib/nvidia-smi"):
		vendor = "nvidia"
		list = func() ([]agentapi.GPU, error) {
			out, err := run(ctx, "nvidia-smi", "--query-gpu=name,memory.total,uuid,driver_version", "--format=csv,noheader,nounits")
			return readTable(out, err, 4, parseNVIDIA)
		}
	case has("/dev/tenstorrent"):
		vendor = "tenstorrent"
		list = func() ([]agentapi.GPU, error) {
			out, err := run.orImage(ctx, "tt-smi", "dstackai/tt-smi:latest", []string{"/dev/tenstorrent"}, "-s")
			if err != nil { // the ids are places in the whole list
				return nil, because(err, out)
			}
			return parseTenstorrent(out)
		}
	case has("/dev/kfd"):
		vendor = "amd"
		list = func() ([]agentapi.GPU, error) {
			args := []string{"static", "--json", "--asic", "--vram", "--bus", "--driver"}
			image, devices := "dstackai/amd-smi:latest", []string{"/dev/kfd", "/dev/dri"}
			out, err := run.orImage(ctx, "amd-smi", image, devices, args...)
			if failed(err) { // some versions do not know the driver
				out, err = run.orImage(ctx, "amd-smi", image, devices, args[:len(args)-1]...)
			}
			gpus, bad := parseAMD(out, renderNode)
			if err != nil && bad != nil {
				return nil, because(err, out)
			}
			return gpus, cmp.Or(err, bad)
		}
	case has("/dev/accel"):
		vendor = "intel"
		list = func() ([]agentapi.GPU, error) {
			out, err := run(ctx, "hl-smi", "--query-aip=name,memory.total,index", "--format=csv,noheader,nounits")
			return readTable(out, err, 3, parseIntel)
		}
	default:
		return Found{Vendor: "none", GPUs: []agentapi.GPU{}}
	}
	gpus, err := list()
	switch {
	case len(gpus) == 0 && err != nil:
		return Found{Vendor: "none", GPUs: []agentapi.GPU{}, Problem: fmt.Sprintf("%s devices are there, but its tool does not work: %v", vendor, err)}
	case len(gpus) == 0:
		return Found{Vendor: "none", GPUs: []agentapi.GPU{}, Problem: vendor + " devices are there, but its tool lists none"}
	case err != nil: // of one that has fallen off, while the others work
		return Found{Vendor: vendor, GPUs: gpus, Problem: fmt.Sprintf("%s's tool complains: %v", vendor, err)}
	}
	return Found{Vendor: vendor, GPUs: gpus}
}

// readTable reads the rows of a tool whatever the code with which it ended. What it prints besides is what is wrong then.
func readTable(out string, err error, fields int, parse func([][]string) (gpus []agentapi.GPU, lost string)) ([]agentapi.GPU, error) {
	rows, rest := csv(out, fields)
	gpus, lost := parse(rows)
	if err == nil {
		rest = "" // a warning
	}
	return gpus, because(err, rest+"\n"+lost)
}

// csv splits what a tool prints into rows of so many fields and the rest.
func csv(out string, fields int) (rows [][]string, rest string) {
	for line := range strings.Lines(out) {
		f := strings.Split(line, ",")
		if len(f) != fields {
			rest += line
			continue
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		rows = append(rows, f)
	}
	return rows, rest
}

// parseNVIDIA reads nvidia-smi's rows. Of a GPU that cannot be reached it may say so in place of some or all fields.
func parseNVIDIA(rows [][]string) (gpus []agentapi.GPU, lost string) {
	for _, f := range rows {
		if strings.HasPrefix(f[2], "[") || slices.Contains(f, "[GPU is lost]") || slices.Contains(f, "[GPU requires reset]") {
			lost += strings.Join(f, ", ") + "\n"
			continue
		}
		mib, _ := strconv.Atoi(f[1]) // a bad value is 0
		gpus = append(gpus, agentapi.GPU{ID: f[2], Name: f[0], MemoryMiB: mib, Driver: driver(f[3])})
	}
	return gpus, lost
}

func parseIntel(rows [][]string) (gpus []agentapi.GPU, lost string) {
	for _, f := range rows {
		mib, _ := strconv.Atoi(f[1]) // a bad value is 0
		gpus = append(gpus, agentapi.GPU{ID: f[2], Name: f[0], MemoryMiB: mib})
	}
	return gpus, ""
}

// driver drops the words that tools print for "unknown".
func driver(s string) string {
	switch strings.ToUpper(s) {
	case "N/A", "[N/A]", "UNKNOWN", "[UNKNOWN]", "[NOT SUPPORTED]", "[NOT AVAILABLE]":
		return ""
	}
	return s
}

// renderNode finds the device file of an AMD card by its place on the bus.
func renderNode(bdf string) string {
	path, err := filepath.EvalSymlinks("/dev/dri/by-path/pci-" + bdf + "-render")
	if err != nil {
		return ""
	}
	return path
}

// Locks says which task holds which accelerator. It is safe for concurrent use.
type Locks struct {
	mu    sync.Mutex
	gpus  []agentapi.GPU
	owner map[string]string // by id of the accelerator
}

// NewLocks manages a host's accelerators.
func NewLocks(gpus []agentapi.GPU) *Locks {
	return &Locks{gpus: gpus, owner: map[string]string{}}
}

// Set replaces the accelerators that there are. What tasks hold stays theirs.
func (l *Locks) Set(gpus []agentapi.GPU) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gpus = gpus
}

// Acquire gives n free accelerators to a task, all free ones for -1. What the task holds
// already comes first, and is all for -1: its container may have been made with it.
func (l *Locks) Acquire(task string, n int) ([]agentapi.GPU, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	take := func(got []agentapi.GPU, owner string) []agentapi.GPU {
		for _, g := range l.gpus {
			if l.owner[g.ID] == owner && (n < 0 || len(got) < n) {
				got = append(got, g)
			}
		}
		return got
	}
	got := take(nil, task)
	if n >= 0 || len(got) == 0 {
		got = take(got, "")
	}
	if n > 0 && len(got) < n {
		return nil, fmt.Errorf("no capacity: %d GPUs requested, %d available", n, len(got))
	}
	for _, g := range got {
		l.owner[g.ID] = task
	}
	return got, nil
}

// Adopt gives accelerators back to the task that held them before a restart.
func (l *Locks) Adopt(task string, ids []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if o := l.owner[id]; o != "" && o != task {
			return fmt.Errorf("GPU %s is held by task %s", id, o)
		}
		l.owner[id] = task
	}
	return nil
}

// Release frees what the task holds, and nothing else. It says whether that was anything.
func (l *Locks) Release(task string) (held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, o := range l.owner {
		if o == task {
			delete(l.owner, id)
			held = true
		}
	}
	return held
}

// Owner is the task that holds an accelerator, "" when none does.
func (l *Locks) Owner(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.owner[id]
}

// Owners are the tasks that hold accelerators, those that hold more than one more than once.
func (l *Locks) Owners() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.owner))
}
