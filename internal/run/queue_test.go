package run

import (
	"testing"

	"dstack/internal/api"
)

// A gang may wait for as long as its policy says, however long that is.
func TestGangUntil(t *testing.T) {
	for seconds, later := range map[int64]bool{0: false, 60: true, 10_000_000_000: true} {
		job := Job{Data: JobData{WaitFrom: start, Spec: api.JobSpec{Retry: &api.Retry{OnEvents: []string{"no-capacity"}, Duration: seconds}}}}
		g := gang{run: &Run{}, jobs: []*Job{&job}}
		if got := g.until(); got.After(start) != later {
			t.Errorf("with %d seconds until %v, from %v", seconds, got, start)
		}
	}
}
