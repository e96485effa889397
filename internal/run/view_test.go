package run

import (
	"testing"

	"dstack/internal/api"
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
