package run

import (
	"errors"
	"strings"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
)

func probed(probes ...api.ProbeSpec) JobData { return JobData{Spec: api.JobSpec{Probes: probes}} }

func TestWell(t *testing.T) {
	twice := api.ProbeSpec{Type: "http", ReadyAfter: 2}
	until := api.ProbeSpec{Type: "http", ReadyAfter: 1, UntilReady: true}
	for name, tt := range map[string]struct {
		data         JobData
		streaks      []int
		well, probed bool
	}{
		"no probes: nobody listens yet": {probed(), nil, false, true},
		"no probes: somebody listens":   {probed(), []int{1}, true, false},
		"not yet":                       {probed(twice), []int{1}, false, true},
		"well":                          {probed(twice), []int{2}, true, true},
		"one of two":                    {probed(twice, until), []int{2, 0}, false, true},
		"both":                          {probed(twice, until), []int{2, 1}, true, true},
		"probed until ready":            {probed(until), []int{1}, true, false},
	} {
		tt.data.Streaks = tt.streaks
		if tt.data.well() != tt.well || tt.data.probed() != tt.probed {
			t.Errorf("%s: well = %v, probed = %v, want %v, %v", name, tt.data.well(), tt.data.probed(), tt.well, tt.probed)
		}
	}
}

func TestWhyNotWell(t *testing.T) {
	data := func(before string, streaks ...int) JobData {
		d := probed(api.ProbeSpec{ReadyAfter: 1}, api.ProbeSpec{ReadyAfter: 1})
		d.ProbeError, d.Streaks = before, streaks
		return d
	}
	for name, tt := range map[string]struct {
		data    JobData
		streaks []int
		reason  string
		failed  int
		want    string
	}{
		"at first nobody listens":        {data(""), []int{0, 0}, "refused", 2, ""},
		"then it is told":                {data(""), []int{0, 0}, "refused", 3, "refused"},
		"one that did well":              {data("", 1, 1), []int{1, 0}, "status 503", 1, "status 503"},
		"another reason":                 {data("refused"), []int{0, 0}, "status 503", 4, "status 503"},
		"well again":                     {data("status 503", 1, 0), []int{1, 1}, "", 0, ""},
		"one of two is":                  {data("status 503", 0, 0), []int{1, 0}, "", 0, "status 503"},
		"the other is not due, and well": {data("", 1, 1), []int{1, 1}, "", 0, ""},
	} {
		if got := whyNotWell(tt.data, tt.streaks, tt.reason, tt.failed); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if got := firstReason([]error{nil, errors.New(strings.Repeat("é", 200)), errors.New("x")}); got != strings.Repeat("é", 150) {
		t.Errorf("%q", got)
	}
}

// A replica that comes and goes is no event each time.
func TestProbeEvents(t *testing.T) {
	var c probeClock
	for i, want := range []int{1, 2, 3} {
		if got := c.looked("j", true); got != want {
			t.Errorf("look %d: %d in a row", i, got)
		}
	}
	if c.looked("j", false) != 0 || c.looked("j", true) != 1 {
		t.Error("a success ends the row")
	}
	for i, tt := range []struct {
		at   time.Duration
		want bool
	}{{0, true}, {time.Minute, false}, {10 * time.Minute, true}, {19 * time.Minute, false}} {
		if got := c.tell(at(tt.at), "j"); got != tt.want {
			t.Errorf("%d: told %v", i, got)
		}
	}
}

func TestProbeClock(t *testing.T) {
	var c probeClock
	data := probed(api.ProbeSpec{Type: "http", ReadyAfter: 1}, api.ProbeSpec{Type: "http", ReadyAfter: 1, UntilReady: true})
	check := func(what string, now time.Duration, want []int, next time.Duration) {
		t.Helper()
		list, at := c.due(start.Add(now), "job", &data)
		if len(list) != len(want) || len(want) > 0 && list[0] != want[0] {
			t.Errorf("%s: due are %v, want %v", what, list, want)
		}
		if next == 0 != at.IsZero() || next > 0 && !at.Equal(start.Add(next)) {
			t.Errorf("%s: the next is at %v, want %v", what, at, next)
		}
	}
	check("at first", 0, []int{0, 1}, 0)
	c.set("job", 2, 0, start.Add(15*time.Second))
	c.set("job", 2, 1, start.Add(5*time.Second))
	check("afterwards", time.Second, nil, 5*time.Second)
	check("one is due", 5*time.Second, []int{1}, 15*time.Second)
	data.Streaks = []int{0, 1}
	check("one is done", 5*time.Second, nil, 15*time.Second)
	c.forget(func(id string) bool { return id == "job" })
	check("forgotten", time.Second, []int{0}, 0)
}

// TestStepJobOfService follows a replica from its first answer to its end.
func TestStepJobOfService(t *testing.T) {
	port := 80
	served := func(s *JobSnapshot) { s.Job.Data.Spec.ServicePort = &port }
	running := func(change ...func(*JobSnapshot)) JobSnapshot {
		s := JobSnapshot{Reachable: true, Instance: &instance.Instance{Status: api.InstanceBusy},
			Job: Job{Status: api.JobRunning, InstanceID: "i", Data: JobData{Sent: true}, Observed: &agentapi.Task{State: agentapi.Running, Started: true, Ports: map[int]int{1: 1}}}}
		for _, c := range append([]func(*JobSnapshot){served}, change...) {
			c(&s)
		}
		return s
	}
	ready := func(s *JobSnapshot) { s.Job.Data.Streaks, s.Job.Data.Ready = []int{1}, true }
	ending := func(reason api.JobTerminationReason) func(*JobSnapshot) {
		return func(s *JobSnapshot) {
			s.Job.Status, s.Job.Data.Reason, s.Job.Data.StoppingAt = api.JobTerminating, reason, start
		}
	}
	serving := func(s *JobSnapshot) { s.Serving = true }
	ended := func(s *JobSnapshot) { s.Job.Observed.State = agentapi.Terminated }
	brief := func(s *JobSnapshot) { one := int64(1); s.Job.Data.Spec.StopDuration = &one }
	for _, tt := range []struct {
		name                string
		snapshot            JobSnapshot
		now                 time.Duration
		status              api.JobStatus
		ready, probe, stops bool
	}{
		{name: "is looked at", snapshot: running(), status: api.JobRunning, probe: true},
		{name: "is ready", snapshot: running(func(s *JobSnapshot) { s.Job.Data.Streaks = []int{1} }), status: api.JobRunning, ready: true},
		{name: "stays ready", snapshot: running(ready, func(s *JobSnapshot) {
			s.Job.Data.Spec.Probes = []api.ProbeSpec{{Type: "http", ReadyAfter: 1}}
			s.Job.Data.Streaks = []int{0}
		}), status: api.JobRunning, ready: true, probe: true},
		{name: "is given up: it answers what it was asked", snapshot: running(ready, ending(api.JobScaledDown)), now: drainFor - 1, status: api.JobTerminating, ready: true},
		{name: "then it is stopped", snapshot: running(ready, ending(api.JobScaledDown)), now: drainFor, status: api.JobTerminating, ready: true, stops: true},
		{name: "unless it is still busy", snapshot: running(ready, serving, ending(api.JobScaledDown)), now: time.Minute, status: api.JobTerminating, ready: true},
		{name: "for as long as it may", snapshot: running(ready, serving, ending(api.JobScaledDown)), now: jobspec.DefaultStop * time.Second, status: api.JobTerminating, ready: true, stops: true},
		{name: "which may be short", snapshot: running(ready, serving, brief, ending(api.JobScaledDown)), now: time.Second, status: api.JobTerminating, ready: true, stops: true},
		{name: "one that took no requests is stopped at once", snapshot: running(ending(api.JobScaledDown)), status: api.JobTerminating, stops: true},
		{name: "so is one that a user stops", snapshot: running(ready, serving, ending(api.JobTerminatedByUser)), status: api.JobTerminating, ready: true, stops: true},
		{name: "one that has ended needs no stop", snapshot: running(ready, serving, ended, ending(api.JobScaledDown)), status: api.JobTerminated, ready: true},
	} {
		d := StepJob(start.Add(tt.now), tt.snapshot)
		stops := len(d.Effects) == 1 && d.Effects[0] == Stop
		if d.Job.Status != tt.status || d.Job.Data.Ready != tt.ready || d.Probe != tt.probe || stops != tt.stops {
			t.Errorf("%s: %s, ready = %v, probe = %v, stops = %v, want %s, %v, %v, %v", tt.name, d.Job.Status, d.Job.Data.Ready, d.Probe, stops, tt.status, tt.ready, tt.probe, tt.stops)
		}
	}
}
