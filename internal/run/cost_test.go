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
		"on a machine that boots":          {[]Job{{SubmittedAt: now.Add(-30 * time.Minute), Data: JobData{Provisioning: &api.JobProvisioningData{Price: 2}}}}, 1},
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

// A machine is shown and paid from when it was made on, not from when it can be reached: as what was
// made, which need not be what was tried first, at its present price.
func TestBootingMachineCosts(t *testing.T) {
	made := func(price float64) *api.JobProvisioningData {
		return &api.JobProvisioningData{Backend: "aws", Price: price, Hostname: ptr("192.0.2.1"), InternalIP: ptr("10.0.0.1")}
	}
	for name, tt := range map[string]struct {
		status  api.InstanceStatus
		machine *api.JobProvisioningData
		known   *api.JobProvisioningData // of the job
		want    float64
		changed bool
	}{
		"not made yet":      {api.InstancePending, nil, nil, 0, false},
		"boots":             {api.InstanceProvisioning, made(2), nil, 2, true},
		"boots still":       {api.InstanceProvisioning, made(2), &api.JobProvisioningData{Backend: "aws", Price: 2}, 2, false},
		"has another price": {api.InstanceProvisioning, made(9), &api.JobProvisioningData{Backend: "aws", Price: 2}, 9, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := StepJob(at(time.Minute), job(placed(api.JobProvisioning), func(s *JobSnapshot) {
				s.Job.Data.Provisioning, s.Reachable = tt.known, false
				s.Job.Data.Runtime = &api.JobRuntimeData{Offer: &api.InstanceOffer{Backend: "gcp", Price: 1}}
				s.Instance.Status = tt.status
				s.Instance.Data = instance.Data{Offer: &api.InstanceOffer{Backend: "aws", Price: tt.want}, Provisioning: tt.machine}
			}))
			if got := d.Job.cost(at(time.Hour)); got != tt.want || d.Changed != tt.changed {
				t.Errorf("an hour costs %v, want %v; changed: %t, want %t", got, tt.want, d.Changed, tt.changed)
			}
			p := d.Job.Data.Provisioning
			if p != nil && (p.Backend != "aws" || p.Hostname != nil || p.InternalIP != nil) {
				t.Errorf("the job runs on %+v, want one at aws without address", p)
			}
			if o := d.Job.Data.Runtime.Offer; tt.changed && (o.Backend != "aws" || o.Price != tt.want) {
				t.Errorf("the job has the offer %+v, want the one that was made", o)
			}
		})
	}
}
