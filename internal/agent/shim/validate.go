package shim

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"dstack/internal/agentapi"
)

// validate refuses what can never run, before anything is stored.
func validate(spec agentapi.TaskSpec) error {
	switch {
	case !agentapi.ValidID(spec.ID):
		return errors.New("id: not a UUID")
	case !validName(spec.Name):
		return fmt.Errorf("name: not a name for a task: %q", spec.Name)
	case spec.GPUs < -1:
		return fmt.Errorf("gpus: %d", spec.GPUs)
	case spec.CPUs < 0, spec.Memory < 0, spec.ShmSize < 0:
		return errors.New("cpus, memory and shm_size: less than nothing")
	case spec.Network != "" && spec.Network != "host" && spec.Network != "bridge":
		return fmt.Errorf("network: neither host nor bridge: %q", spec.Network)
	case strings.ContainsAny(spec.HostUser, "/\x00\n:"):
		return fmt.Errorf("host_user: %q", spec.HostUser)
	}
	for i, m := range spec.Mounts {
		if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) {
			return fmt.Errorf("mounts[%d]: the paths must be absolute: %q to %q", i, m.Source, m.Target)
		}
	}
	for i, v := range spec.Volumes {
		if !validName(v.Name) || !filepath.IsAbs(v.Target) {
			return fmt.Errorf("volumes[%d]: %q at %q", i, v.Name, v.Target)
		}
	}
	for _, sum := range blobsOf(spec) {
		if !validSum(sum) {
			return fmt.Errorf("blob: not a SHA-256: %q", sum)
		}
	}
	return nil
}

// validName keeps names fit for containers and folders.
func validName(s string) bool {
	return s != "" && len(s) <= 100 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" && s[0] != '.' && s[0] != '-'
}

func validSum(sum string) bool {
	return len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == ""
}

// blobsOf lists the uploads that a task needs.
func blobsOf(spec agentapi.TaskSpec) []string {
	var sums []string
	if r := spec.Job.Repo; r != nil && r.Blob != "" {
		sums = append(sums, r.Blob)
	}
	for _, f := range spec.Job.Files {
		sums = append(sums, f.Blob)
	}
	return sums
}
