package shim

import (
	"path/filepath"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// serves writes down now and then which server listens, for others that find this agent on a host that they are
// to have. It returns when it last did.
func (s *Shim) serves(server string, last time.Time) time.Time {
	now := time.Now()
	if server == "" || now.Sub(last) < agentapi.OwnerFileEvery {
		return last
	}
	if err := runner.WriteFile(filepath.Join(s.Home, agentapi.OwnerFile), []byte(server+"\n"), 0o644); err != nil {
		s.Log.Warn("write down which server listens", "err", err)
	}
	return now
}
