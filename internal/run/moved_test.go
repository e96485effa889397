package run

import (
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
)

// Clients are told where a job's machine answers, once it answers there.
func TestMovedMachine(t *testing.T) {
	running := func(change func(*JobSnapshot)) JobSnapshot {
		return job(placed(api.JobRunning), func(s *JobSnapshot) {
			s.Job.Data.Provisioning = &api.JobProvisioningData{Dockerized: true, Hostname: ptr("192.0.2.1"), SSHPort: ptr(22), InternalIP: ptr("10.0.0.1")}
			s.Job.Observed = &agentapi.Task{State: agentapi.Running, Started: true}
			s.Instance.Data.Provisioning = &api.JobProvisioningData{Dockerized: true, Hostname: ptr("192.0.2.2"), SSHPort: ptr(2222), InternalIP: ptr("10.0.0.2")}
			change(s)
		})
	}
	for name, tt := range map[string]struct {
		s        JobSnapshot
		hostname string
		port     int
	}{
		"it answers":          {running(func(*JobSnapshot) {}), "192.0.2.2", 2222},
		"it does not yet":     {running(unreachable), "192.0.2.1", 22},
		"the port is a job's": {running(func(s *JobSnapshot) { s.Job.Data.Provisioning.Dockerized = false }), "192.0.2.2", 22},
		"it has not moved":    {running(func(s *JobSnapshot) { s.Instance.Data.Provisioning = s.Job.Data.Provisioning }), "192.0.2.1", 22},
	} {
		t.Run(name, func(t *testing.T) {
			d := StepJob(at(0), tt.s)
			p := d.Job.Data.Provisioning
			if *p.Hostname != tt.hostname || *p.SSHPort != tt.port || d.Changed != (tt.hostname == "192.0.2.2") {
				t.Errorf("%s:%d, changed: %v; want %s:%d", *p.Hostname, *p.SSHPort, d.Changed, tt.hostname, tt.port)
			}
		})
	}
}
