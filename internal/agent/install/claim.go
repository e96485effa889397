package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// claim writes down that the agent is a server's from now on, unless it is another's: of two servers that add
// one host at a time, the second is refused, which may have pushed its own agent by then. "" is nobody in
// particular, who claims nothing.
func claim(home, server string, now time.Time) error {
	if server == "" {
		return nil
	}
	lock, err := os.OpenFile(filepath.Join(home, "install.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return problem("disk_full", "cannot write to %s: %v", home, err)
	}
	defer lock.Close() // gives the lock back
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(home, agentapi.OwnerFile)
	st, err := os.Stat(path)
	if err == nil {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read whose this agent is: %w", err)
		}
		if other := strings.TrimSpace(string(data)); other != "" && other != server && now.Sub(st.ModTime()) < agentapi.ServerGrace {
			return problem(agentapi.InUse, "another dstack server is adding this host, or was connected to it in the last %d minutes", int(agentapi.ServerGrace.Minutes()))
		}
	}
	if err := runner.WriteFile(path, []byte(server+"\n"), 0o644); err != nil {
		return problem("disk_full", "cannot write to %s: %v", home, err)
	}
	return nil
}
