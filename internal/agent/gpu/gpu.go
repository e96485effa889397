// Package gpu finds a host's accelerators through the vendors' tools and hands them out to
// tasks.
package gpu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dstack/internal/agentapi"
)

// Found is what Detect saw.
type Found struct {
	Vendor string // "none" without accelerators
	GPUs   []agentapi.GPU
	// Problem says why accelerators that seem to be there could not be listed.
	Problem string
}

const (
	// toolTimeout bounds a vendor's tool; a driver that hangs must not stop the agent.
	toolTimeout = 30 * time.Second
	// imageTimeout bounds one that comes in an image, which may have to be pulled.
	imageTimeout = 2 * time.Minute
	// killTimeout is how long one that was killed may take to end.
	killTimeout = 2 * time.Second
)

// Detect looks for accelerators; the first vendor that matches counts (host-agents 1.8).
func Detect(ctx context.Context) Found {
	return detect(ctx, exists, run)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run returns what a program prints. One that waits for a driver cannot even be killed, and one that was
// killed may have children that hold its output open: they are left.
func run(ctx context.Context, name string, args ...string) (string, error) {
	limit := toolTimeout
	if name == "docker" {
		limit = imageTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = killTimeout / 2
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := cmd.Output()
		done <- result{out, err}
	}()
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		<-time.After(killTimeout)
		close(killed)
	})
	defer stop()
	select {
	case r := <-done:
		return string(r.out), r.err
	case <-killed:
		return "", fmt.Errorf("%s does not end: %w", name, ctx.Err())
	}
}

func detect(ctx context.Context, has func(string) bool, tool func(context.Context, string, ...string) (string, error)) Found {
	// installed runs a tool of the host, or where there is none the one in an image.
	installed := func(name, image string, devices []string, args ...string) (string, error) {
		out, err := tool(ctx, name, args...)
		if !errors.Is(err, exec.ErrNotFound) {
			return out, err
		}
		docker := []string{"run", "--rm"}
		for _, d := range devices {
			docker = append(docker, "--device", d)
		}
		return tool(ctx, "docker", append(append(docker, image), args...)...)
	}
	var vendor string
	var list func() ([]agentapi.GPU, error)
	switch {
	case has("/dev/nvidiactl") || has("/dev/dxg") && has("/usr/lib/wsl/lib/nvidia-smi"):
		vendor = "nvidia"
		list = func() ([]agentapi.GPU, error) {
			out, err := tool(ctx, "nvidia-smi", "--query-gpu=name,memory.total,uuid,driver_version", "--format=csv,noheader,nounits")
			return parseNVIDIA(out), err
		}
	case has("/dev/tenstorrent"):
		vendor = "tenstorrent"
		list = func() ([]agentapi.GPU, error) {
			out, err := installed("tt-smi", "dstackai/tt-smi:latest", []string{"/dev/tenstorrent"}, "-s")
			if err != nil {
				return nil, err
			}
			return parseTenstorrent(out)
		}
	case has("/dev/kfd"):
		vendor = "amd"
		list = func() ([]agentapi.GPU, error) {
			args := []string{"static", "--json", "--asic", "--vram", "--bus", "--driver"}
			out, err := installed("amd-smi", "dstackai/amd-smi:latest", []string{"/dev/kfd", "/dev/dri"}, args...)
			var exit *exec.ExitError
			if errors.As(err, &exit) { // some versions do not know the driver
				out, err = installed("amd-smi", "dstackai/amd-smi:latest", []string{"/dev/kfd", "/dev/dri"}, args[:len(args)-1]...)
			}
			if err != nil {
				return nil, err
			}
			return parseAMD(out, renderNode)
		}
	case has("/dev/accel"):
		vendor = "intel"
		list = func() ([]agentapi.GPU, error) {
			out, err := tool(ctx, "hl-smi", "--query-aip=name,memory.total,index", "--format=csv,noheader,nounits")
			return parseIntel(out), err
		}
	default:
		return Found{Vendor: "none", GPUs: []agentapi.GPU{}}
	}
	gpus, err := list()
	if err != nil || len(gpus) == 0 {
		f := Found{Vendor: "none", GPUs: []agentapi.GPU{}, Problem: vendor + " devices are there, but its tool lists none"}
		if err != nil {
			f.Problem = fmt.Sprintf("%s devices are there, but its tool does not work: %v", vendor, err)
		}
		return f
	}
	return Found{Vendor: vendor, GPUs: gpus}
}

func csv(out string, fields int) [][]string {
	var rows [][]string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		f := strings.Split(line, ",")
		if len(f) != fields {
			continue
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		rows = append(rows, f)
	}
	return rows
}

func parseNVIDIA(out string) []agentapi.GPU {
	var gpus []agentapi.GPU
	for _, f := range csv(out, 4) {
		mib, _ := strconv.Atoi(f[1]) // a bad value is 0
		gpus = append(gpus, agentapi.GPU{ID: f[2], Name: f[0], MemoryMiB: mib, Driver: driver(f[3])})
	}
	return gpus
}

func parseIntel(out string) []agentapi.GPU {
	var gpus []agentapi.GPU
	for _, f := range csv(out, 3) {
		mib, _ := strconv.Atoi(f[1]) // a bad value is 0
		gpus = append(gpus, agentapi.GPU{ID: f[2], Name: f[0], MemoryMiB: mib})
	}
	return gpus
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

// Release frees what the task holds, and nothing else.
func (l *Locks) Release(task string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, o := range l.owner {
		if o == task {
			delete(l.owner, id)
		}
	}
}

// Owners are the tasks that hold accelerators, those that hold more than one more than once.
func (l *Locks) Owners() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.owner))
}
