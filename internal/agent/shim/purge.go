package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"dstack/internal/agent/runtime"
)

// Purge removes what the tasks of a home have left on the host besides their files:
// containers and users' keys. No agent may run there.
func Purge(ctx context.Context, home string, runtimes []runtime.Runtime) error {
	for _, r := range runtimes {
		found, err := r.List(ctx)
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := r.Remove(ctx, f.ID); err != nil {
				return err
			}
		}
	}
	return purgeKeys(home, &hostKeys{})
}

func purgeKeys(home string, keys *hostKeys) error {
	entries, err := os.ReadDir(filepath.Join(home, "tasks"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list tasks: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(home, "tasks", e.Name())
		spec, err := readSpec(dir, e.Name())
		if err != nil { // its state knows whose keys they are
			var saved stored
			_ = readJSON(filepath.Join(dir, stateFile), &saved) // as far as it can be read
			spec.HostUser = saved.HostUser
		}
		if err := keys.remove(spec.HostUser, spec.ID); err != nil {
			return fmt.Errorf("remove the keys of task %s: %w", spec.ID, err)
		}
	}
	return nil
}
