package run

import (
	"math"
	"time"
)

// cost is what jobs have cost so far, in US dollars: of each attempt that got an instance, also one
// that still boots, the time from its submission to its end, or to now, at the instance's price. So
// the time in the queue counts, and who shares an instance pays all of it, as the original has it
// (lifecycle 19); what machines really cost is in the ledger. past is what attempts have cost whose
// rows are gone.
func cost(now time.Time, past float64, jobs []Job) float64 {
	sum := past
	for i := range jobs {
		sum += jobs[i].cost(now)
	}
	return math.Round(sum*1e4) / 1e4
}

func (j *Job) cost(now time.Time) float64 {
	p := j.Data.Provisioning
	if p == nil {
		return 0
	}
	end := now
	if !j.Data.FinishedAt.IsZero() {
		end = j.Data.FinishedAt
	}
	return p.Price * max(0, end.Sub(j.SubmittedAt)).Hours()
}
