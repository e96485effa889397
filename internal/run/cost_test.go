package run

import (
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/instance"
)

func TestCost(t *testing.T) {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	job := func(price float64, submitted, finished time.Duration) Job {
		j := Job{SubmittedAt: now.Add(-submitted), Data: JobData{Provisioning: &api.JobProvisioningData{Price: price}}}
		if finished != 0 {
			j.Data.FinishedAt = now.Add(-finished)
		}
		return j
	}
	if got := cost(now, 1.5, []Job{job(2, 30*time.Minute, 0)}); got != 2.5 {
		t.Errorf("with what was before, cost is %v, want 2.5", got)
	}
	for name, tt := range map[string]struct {
		jobs []Job
		want float64
	}{
		"none":                             {nil, 0},
		"one that got no instance":         {[]Job{{SubmittedAt: now.Add(-time.Hour)}}, 0},
		"on a machine that boots":          {[]Job{{SubmittedAt: now.Add(-30 * time.Minute), Data: JobData{Price: 2}}}, 1},
		"running":                          {[]Job{job(2, 30*time.Minute, 0)}, 1},
		"finished":                         {[]Job{job(2, 3*time.Hour, 2*time.Hour)}, 2},
		"every attempt, every node":        {[]Job{job(2, 3*time.Hour, 2*time.Hour), {SubmittedAt: now}, job(2, time.Hour, 0), job(4, 15*time.Minute, 0)}, 5},
		"four digits":                      {[]Job{job(1, 10*time.Second, 0)}, 0.0028},
		"at no price":                      {[]Job{job(0, time.Hour, 0)}, 0},
		"finished before it was submitted": {[]Job{job(2, -time.Hour, 0)}, 0}, // by a clock that was set back
	} {
		t.Run(name, func(t *testing.T) {
			if got := cost(now, 0, tt.jobs); got != tt.want {
				t.Errorf("cost is %v, want %v", got, tt.want)
			}
		})
	}
}

// A machine is paid from when it was made on, not from when it can be reached.
func TestBootingMachineCosts(t *testing.T) {
	for name, tt := range map[string]struct {
		status api.InstanceStatus
		want   float64
	}{"not made yet": {api.InstancePending, 0}, "boots": {api.InstanceProvisioning, 2}} {
		t.Run(name, func(t *testing.T) {
			d := StepJob(at(time.Minute), job(placed(api.JobProvisioning), func(s *JobSnapshot) {
				s.Job.Data.Provisioning, s.Reachable = nil, false
				s.Instance.Status = tt.status
				s.Instance.Data = instance.Data{Offer: &api.InstanceOffer{Price: 2}}
			}))
			if got := d.Job.cost(at(time.Hour)); got != tt.want || d.Changed != (tt.want > 0) {
				t.Errorf("an hour costs %v, want %v; changed: %t", got, tt.want, d.Changed)
			}
		})
	}
}
