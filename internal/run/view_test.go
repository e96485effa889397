package run

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Only what a user has stopped is called stopped (lifecycle 2.2).
func TestJobMessage(t *testing.T) {
	for _, tt := range []struct {
		status api.JobStatus
		reason api.JobTerminationReason
		exit   *int
		want   string
	}{
		{api.JobRunning, "", nil, "running"},
		{api.JobDone, api.JobDoneByRunner, ptr(0), "exited (0)"},
		{api.JobFailed, api.JobContainerExitedWithError, ptr(7), "exited (7)"},
		{api.JobFailed, api.JobNoCapacity, nil, "no capacity"},
		{api.JobFailed, api.JobInterruptedByNoCapacity, nil, "interrupted"},
		{api.JobFailed, api.JobInstanceUnreachable, nil, "error"},
		{api.JobTerminated, api.JobTerminatedByUser, nil, "stopped"},
		{api.JobTerminated, api.JobMaxDurationExceeded, nil, "terminated"},
		{api.JobTerminated, api.JobUtilizationPolicy, nil, "terminated"},
		{api.JobTerminated, api.JobScaledDown, nil, "terminated"},
		{api.JobAborted, api.JobAbortedByUser, nil, "aborted"},
	} {
		if got := jobMessage(Job{Status: tt.status, Data: JobData{Reason: tt.reason, Exit: tt.exit}}); got != tt.want {
			t.Errorf("%s (%s) is %q, want %q", tt.status, tt.reason, got, tt.want)
		}
	}
}

// What somebody has made null in a record is no null for clients, and the record is said to be damaged.
func TestRenderWithoutWhatIsNeeded(t *testing.T) {
	r := Run{ID: "r", Name: "svc", Status: api.RunRunning, Data: Data{Spec: taskWith(func(*config.Task) {})}}
	j := Job{ID: "j", RunID: "r", Status: api.JobRunning, Data: JobData{Spec: api.JobSpec{JobName: "svc-0-0"}}}
	if err := errors.Join(r.Data.Intact(), j.Data.Intact()); err != nil {
		t.Fatal(err)
	}
	if r.Data.Damage == "" || j.Data.Damage == "" {
		t.Errorf("nothing is said of it: %q, %q", r.Data.Damage, j.Data.Damage)
	}
	v := render(time.Now(), r, []Job{j}, names{}, false, false, nil)
	if v.RunSpec.RunName == nil || *v.RunSpec.RunName != "svc" || v.Error == nil || !strings.Contains(*v.Error, "there is no name") {
		t.Errorf("the run is shown as %+v, error %v", v.RunSpec.RunName, v.Error)
	}
	data, err := json.Marshal(v.Jobs[0].JobSpec)
	var read api.JobSpec
	if err := json.Unmarshal(data, &read); err != nil {
		t.Errorf("clients cannot read it: %v", err)
	}
	for _, null := range []string{`"env":null`, `"commands":null`, `"app_specs":null`, `"probes":null`} {
		if err != nil || strings.Contains(string(data), null) {
			t.Errorf("%s: %s %v", null, data, err)
		}
	}
}
