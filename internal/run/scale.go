package run

import (
	"math"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/config"
	"dstack/internal/jobspec"
)

// defaultWindow is over which time a scaler counts requests, in seconds.
const defaultWindow = 60

// scaleAgain is how often a service that may shrink is looked at, while nothing else happens.
const scaleAgain = 10 * time.Second

// Load is how many requests came for a service lately.
type Load struct {
	Requests map[time.Duration]int // by the length of the window that ends now
	// Since is when counting began: of a window that is longer, requests are missing.
	Since time.Time
}

// window is the time over which a group's scaler counts.
func window(s *config.Scaling) time.Duration {
	if s.Window == nil {
		return agentapi.Seconds(defaultWindow)
	}
	return agentapi.Seconds(int64(*s.Window))
}

// desired is how many replicas a group shall have, of which it has had previous until now;
// scaled is when the service last changed a number (lifecycle 15.1).
func desired(now time.Time, g jobspec.Group, previous int, scaled time.Time, load Load) int {
	previous = min(max(previous, g.Min), g.Max)
	if g.Scaling == nil {
		return previous
	}
	w := window(g.Scaling)
	rps := float64(load.Requests[w]) / w.Seconds()
	want := min(max(int(math.Ceil(rps/g.Scaling.Target)), g.Min), g.Max)
	up, down := agentapi.Seconds(int64(g.Scaling.ScaleUpDelay)), agentapi.Seconds(int64(g.Scaling.ScaleDownDelay))
	switch {
	case want > previous && previous > 0 && now.Sub(scaled) < up,
		want < previous && now.Sub(scaled) < down,
		want < previous && now.Sub(load.Since) < w:
		return previous
	}
	return want
}
