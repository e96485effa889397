package shim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"dstack/internal/agent/gpu"
	"dstack/internal/agentapi"
	"dstack/internal/version"
)

// describe finds out what machine this is.
func (s *Shim) describe(ctx context.Context) error {
	h := agentapi.HostInfo{
		Protocol: agentapi.Version, Version: version.Version, Runtime: s.Runtime.Name(),
		CPUs: goruntime.NumCPU(), Arch: "x86", GPUs: []agentapi.GPU{}, Warnings: []string{},
	}
	if goruntime.GOARCH == "arm64" {
		h.Arch = "arm"
	}
	var err error
	if h.Hash, err = hashOf(s.Self); err != nil {
		return err
	}
	if h.InstanceKey, err = s.instanceKey(); err != nil {
		return err
	}
	if h.RuntimeVersion, err = s.Runtime.Version(ctx); err != nil {
		return err
	}
	h.Hostname, _ = os.Hostname() // only for people
	h.BootID = s.BootID()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the memory: %w", err)
	}
	h.Memory = int64(info.Totalram) * int64(info.Unit)
	h.Addresses, h.DefaultAddress = addresses()
	found := s.Detect(ctx)
	s.looked = time.Now()
	h.GPUVendor, h.GPUs = found.Vendor, found.GPUs
	if h.Runtime == "process" {
		h.Warnings = append(h.Warnings, "no container engine answers: jobs run as plain processes, without their image")
	}
	s.host, s.gpus = h, gpu.NewLocks(h.GPUs)
	s.mostGPUs = len(h.GPUs)
	s.setProblem(found.Problem)
	return nil
}

// bootID is another after each start of the host, "" when the kernel does not say.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// gpuVendor is "none" on hosts without accelerators.
func (s *Shim) gpuVendor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.GPUVendor
}

// rootTimeout bounds the question for the engine's folder: while an engine hangs, the server can still have what
// tasks print and how they ended.
const rootTimeout = 2 * time.Second

// hostNow adds what changes.
func (s *Shim) hostNow() agentapi.HostInfo {
	s.mu.Lock()
	s.askedAgain()
	h := s.host
	if s.problem != "" {
		h.Warnings = append([]string{s.problem}, h.Warnings...)
	}
	s.mu.Unlock()
	var why string
	if h.GPUs, h.HeldGPUs, why = s.usable(h.GPUs); why != "" {
		h.Warnings = append([]string{why}, h.Warnings...)
	}
	root := s.Home
	if d, ok := s.Runtime.(interface{ Root(context.Context) string }); ok {
		ctx, cancel := context.WithTimeout(s.ctx, rootTimeout)
		defer cancel()
		if r := d.Root(ctx); r != "" {
			root = r
		}
	}
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) == nil || unix.Statfs(s.Home, &fs) == nil {
		h.DiskSize = room(fs.Bavail, fs.Bsize)
	}
	h.UnixMicros = time.Now().UnixMicro()
	return h
}

// room is what so many blocks hold. File systems that have no end say so with numbers that no disk has, and that
// a server takes for a lie.
func room(blocks uint64, size int64) int64 {
	return int64(min(blocks, maxCount/uint64(max(size, 1)))) * size
}

func hashOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the agent's binary: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read the agent's binary: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (s *Shim) instanceKey() (string, error) {
	path := filepath.Join(s.Home, agentapi.KeyFile)
	if data, err := os.ReadFile(path); err == nil && len(data) > 0 {
		return strings.TrimSpace(string(data)), nil
	}
	key := uuid.NewString()
	if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("store the instance's key: %w", err)
	}
	return key, nil
}

// addresses lists the host's own addresses and the one of the default route.
func addresses() (all []string, def string) {
	all = []string{}
	dev := defaultDevice()
	interfaces, err := net.Interfaces()
	if err != nil {
		return all, ""
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			all = append(all, n.String())
			if i.Name == dev && n.IP.To4() != nil && def == "" {
				def = n.IP.String()
			}
		}
	}
	return all, def
}

// defaultDevice reads the interface of the default route.
func defaultDevice() string {
	data, _ := os.ReadFile("/proc/net/route") // absent: no default route
	for _, line := range strings.Split(string(data), "\n")[min(1, strings.Count(string(data), "\n")):] {
		f := strings.Fields(line)
		if len(f) > 3 && f[1] == "00000000" {
			if flags, err := strconv.ParseInt(f[3], 16, 32); err == nil && flags&2 != 0 {
				return f[0]
			}
		}
	}
	return ""
}
