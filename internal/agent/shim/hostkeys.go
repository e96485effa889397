package shim

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"dstack/internal/agent/runner"
)

// hostKeys lets users of tasks through the host's own sshd, as a jump to their container.
// A line belongs to the task that is named in its comment, so that two tasks of one user
// do not take each other's key away.
type hostKeys struct {
	mu     sync.Mutex
	lookup func(name string) (*user.User, error) // nil: in this machine's database
}

func marker(task string) string { return "# dstack task " + task }

func (h *hostKeys) add(name, task string, keys []string) error {
	if name == "" || len(keys) == 0 {
		return nil
	}
	return h.rewrite(name, func(lines []string) []string {
		lines = without(lines, marker(task))
		for _, k := range keys {
			if f := strings.Fields(k); len(f) >= 2 {
				lines = append(lines, f[0]+" "+f[1]+" "+marker(task))
			}
		}
		return lines
	})
}

func (h *hostKeys) remove(name, task string) error {
	if name == "" {
		return nil
	}
	err := h.rewrite(name, func(lines []string) []string { return without(lines, marker(task)) })
	var gone user.UnknownUserError
	if errors.As(err, &gone) { // and the keys with them
		return nil
	}
	return err
}

func without(lines []string, suffix string) []string {
	kept := lines[:0:0]
	for _, l := range lines {
		if !strings.HasSuffix(l, suffix) {
			kept = append(kept, l)
		}
	}
	return kept
}

// rewrite replaces the file of a user at once, with one of theirs that nobody else reads. Would it be
// root's for a moment, sshd let nobody in, and after a crash then nobody any more.
func (h *hostKeys) rewrite(name string, change func([]string) []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	lookup := h.lookup
	if lookup == nil {
		lookup = user.Lookup
	}
	u, err := lookup(name)
	if err != nil {
		return err
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	dir := filepath.Join(u.HomeDir, ".ssh")
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := os.Chown(dir, uid, gid); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	path := filepath.Join(dir, "authorized_keys")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var lines []string
	if len(data) > 0 {
		lines = strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	}
	text := strings.Join(change(lines), "\n")
	if text != "" {
		text += "\n"
	}
	if text == string(data) {
		return nil
	}
	return runner.WriteFileOf(path, []byte(text), 0o600, uid, gid)
}
