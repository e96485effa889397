package run

import (
	"testing"
	"time"

	"dstack/internal/config"
	"dstack/internal/jobspec"
)

// scaled is a group with a scaler for a request per second for each replica.
func scaled(least, most int, change ...func(*config.Scaling)) jobspec.Group {
	s := &config.Scaling{Metric: "rps", Target: 1, ScaleUpDelay: 300, ScaleDownDelay: 600}
	for _, c := range change {
		c(s)
	}
	return jobspec.Group{Name: jobspec.OnlyGroup, Min: least, Max: most, Scaling: s}
}

func TestDesired(t *testing.T) {
	half := func(s *config.Scaling) { d := config.Duration(30); s.Window = &d }
	long := 24 * time.Hour
	for name, tt := range map[string]struct {
		group    jobspec.Group
		previous int
		requests int           // within the window
		ago      time.Duration // of the last change
		counting time.Duration // since when requests are counted
		want     int
	}{
		"fixed":                                {jobspec.Group{Min: 2, Max: 2}, 2, 0, 0, long, 2},
		"fixed at another number now":          {jobspec.Group{Min: 3, Max: 3}, 2, 0, 0, long, 3},
		"what is needed, rounded up":           {scaled(1, 5), 1, 90, long, long, 2},
		"exactly what is needed":               {scaled(1, 5), 1, 120, long, long, 2},
		"no more than may be":                  {scaled(1, 5), 1, 9000, long, long, 5},
		"no less than must be":                 {scaled(2, 5), 4, 0, long, long, 2},
		"another window":                       {scaled(1, 5, half), 1, 90, long, long, 3},
		"up: too soon":                         {scaled(1, 5), 1, 90, 299 * time.Second, long, 1},
		"up: in time":                          {scaled(1, 5), 1, 90, 300 * time.Second, long, 2},
		"up from none: at once":                {scaled(0, 5), 0, 1, 0, long, 1},
		"down: too soon":                       {scaled(1, 5), 3, 60, 599 * time.Second, long, 3},
		"down: in time":                        {scaled(1, 5), 3, 60, 600 * time.Second, long, 1},
		"down to none":                         {scaled(0, 5), 1, 0, long, long, 0},
		"down: not before a window is counted": {scaled(0, 5), 1, 0, long, 59 * time.Second, 1},
		"up: also then":                        {scaled(0, 5), 1, 180, long, time.Second, 3},
		"the range has moved up":               {scaled(3, 5), 1, 0, 0, long, 3},
		"the range has moved down":             {scaled(0, 2), 5, 9000, 0, long, 2},
	} {
		now := start.Add(long)
		load := Load{Requests: map[time.Duration]int{}, Since: now.Add(-tt.counting)}
		if tt.group.Scaling != nil {
			load.Requests[window(tt.group.Scaling)] = tt.requests
		}
		if got := desired(now, tt.group, tt.previous, now.Add(-tt.ago), load); got != tt.want {
			t.Errorf("%s: desired = %d, want %d", name, got, tt.want)
		}
	}
}
