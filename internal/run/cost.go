package run

import (
	"math"
	"time"
)

// cost is what jobs have cost so far, in US dollars: of each attempt that got an instance the
// time from its submission to its end, or to now, at the instance's price. So the time in the
// queue counts, and who shares an instance pays all of it, as the original has it
// (lifecycle 19); what machines really cost is in the ledger.
func cost(now time.Time, jobs []Job) float64 {
	sum := 0.0
	for _, j := range jobs {
		if j.Data.Provisioning == nil {
			continue
		}
		end := now
		if !j.Data.FinishedAt.IsZero() {
			end = j.Data.FinishedAt
		}
		sum += j.Data.Provisioning.Price * max(0, end.Sub(j.SubmittedAt)).Hours()
	}
	return math.Round(sum*1e4) / 1e4
}
