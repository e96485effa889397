package shim

import (
	"math"
	"strings"

	"dstack/internal/agent/runner"
)

const (
	// maxText bounds a text that is told of a task, maxName a name, in bytes. All tasks of a host are told
	// at once, and the server takes only so much: see [agentapi.MaxBody].
	maxText = 4 << 10
	maxName = 256
	// maxCount bounds seconds and the bytes of a log, far beyond what can be.
	maxCount = 1 << 50
)

// sensible makes of what a runner says what the server takes: whoever is root in the container writes
// what they like, and must hide neither the task from the server nor the host with it.
func sensible(s runner.State) runner.State {
	s.Username, s.Reason = short(s.Username, maxName), short(s.Reason, maxName)
	s.WorkingDir, s.Message = short(s.WorkingDir, maxText), short(s.Message, maxText)
	s.IdleSeconds = max(0, min(s.IdleSeconds, maxCount))
	if x := s.ExitStatus; x != nil && (*x < math.MinInt32 || *x > math.MaxInt32) {
		s.ExitStatus = nil
	}
	for _, port := range []*int{&s.SSHPort, &s.HTTPPort} {
		if *port < 0 || *port > math.MaxUint16 {
			*port = 0
		}
	}
	return s
}

// short is the beginning of a text.
func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
