package api

// RunStatus is the status of a run.
type RunStatus string

// Run statuses; the last three are final.
const (
	RunPending      RunStatus = "pending"
	RunSubmitted    RunStatus = "submitted"
	RunProvisioning RunStatus = "provisioning"
	RunRunning      RunStatus = "running"
	RunTerminating  RunStatus = "terminating"
	RunTerminated   RunStatus = "terminated"
	RunFailed       RunStatus = "failed"
	RunDone         RunStatus = "done"
)

// Finished says that the run will not change any more.
func (s RunStatus) Finished() bool { return s == RunTerminated || s == RunFailed || s == RunDone }

// Shown is the status for clients: they refuse one that they do not know, as an edited row may
// have it. Nobody has ended such a run.
func (s RunStatus) Shown() RunStatus {
	switch s {
	case RunPending, RunSubmitted, RunProvisioning, RunRunning, RunTerminating, RunTerminated, RunFailed, RunDone:
		return s
	}
	return RunRunning
}

// JobStatus is the status of a job submission.
type JobStatus string

// Job statuses; the last four are final.
const (
	JobSubmitted    JobStatus = "submitted"
	JobProvisioning JobStatus = "provisioning"
	JobPulling      JobStatus = "pulling"
	JobRunning      JobStatus = "running"
	JobTerminating  JobStatus = "terminating"
	JobTerminated   JobStatus = "terminated"
	JobAborted      JobStatus = "aborted"
	JobFailed       JobStatus = "failed"
	JobDone         JobStatus = "done"
)

// Finished says that the submission will not change any more.
func (s JobStatus) Finished() bool {
	return s == JobTerminated || s == JobAborted || s == JobFailed || s == JobDone
}

// Shown is the status for clients, as [RunStatus.Shown].
func (s JobStatus) Shown() JobStatus {
	switch s {
	case JobSubmitted, JobProvisioning, JobPulling, JobRunning, JobTerminating, JobTerminated, JobAborted, JobFailed, JobDone:
		return s
	}
	return JobRunning
}

// FleetStatus is the status of a fleet.
type FleetStatus string

// Fleet statuses.
const (
	FleetSubmitted   FleetStatus = "submitted"
	FleetActive      FleetStatus = "active"
	FleetTerminating FleetStatus = "terminating"
	FleetTerminated  FleetStatus = "terminated"
	FleetFailed      FleetStatus = "failed"
)

// Shown is the status for clients, as [RunStatus.Shown].
func (s FleetStatus) Shown() FleetStatus {
	switch s {
	case FleetSubmitted, FleetActive, FleetTerminating, FleetTerminated, FleetFailed:
		return s
	}
	return FleetActive
}

// InstanceStatus is the status of an instance.
type InstanceStatus string

// Instance statuses.
const (
	InstancePending      InstanceStatus = "pending"
	InstanceProvisioning InstanceStatus = "provisioning"
	InstanceIdle         InstanceStatus = "idle"
	InstanceBusy         InstanceStatus = "busy"
	InstanceTerminating  InstanceStatus = "terminating"
	InstanceTerminated   InstanceStatus = "terminated"
)

// Shown is the status for clients, as [RunStatus.Shown]; such an instance takes no jobs.
func (s InstanceStatus) Shown() InstanceStatus {
	switch s {
	case InstancePending, InstanceProvisioning, InstanceIdle, InstanceBusy, InstanceTerminating, InstanceTerminated:
		return s
	}
	return InstanceBusy
}

// InstanceTerminationReason says why an instance ended.
type InstanceTerminationReason string

// Reasons of instances.
const (
	InstanceTerminatedByUser    InstanceTerminationReason = "terminated_by_user"
	InstanceIdleTimeout         InstanceTerminationReason = "idle_timeout"
	InstanceProvisioningTimeout InstanceTerminationReason = "provisioning_timeout"
	InstanceError               InstanceTerminationReason = "error"
	InstanceJobFinished         InstanceTerminationReason = "job_finished"
	InstanceUnreachable         InstanceTerminationReason = "unreachable"
	InstanceNoOffers            InstanceTerminationReason = "no_offers"
	InstanceMasterFailed        InstanceTerminationReason = "master_failed"
	InstanceMaxInstancesLimit   InstanceTerminationReason = "max_instances_limit"
	InstanceFleetSpecMismatch   InstanceTerminationReason = "fleet_spec_mismatch"
)

// RunTerminationReason says why a run ended.
type RunTerminationReason string

// Reasons of runs.
const (
	RunAllJobsDone        RunTerminationReason = "all_jobs_done"
	RunJobFailed          RunTerminationReason = "job_failed"
	RunRetryLimitExceeded RunTerminationReason = "retry_limit_exceeded"
	RunStoppedByUser      RunTerminationReason = "stopped_by_user"
	RunAbortedByUser      RunTerminationReason = "aborted_by_user"
	RunServerError        RunTerminationReason = "server_error"
	RunGatewayError       RunTerminationReason = "gateway_error"
)

// Status is the run's final status for the reason.
func (r RunTerminationReason) Status() RunStatus {
	switch r {
	case RunAllJobsDone:
		return RunDone
	case RunStoppedByUser, RunAbortedByUser:
		return RunTerminated
	}
	return RunFailed
}

// OfJobs is the reason for which a run's unfinished jobs end with it.
func (r RunTerminationReason) OfJobs() JobTerminationReason {
	switch r {
	case RunAllJobsDone:
		return JobDoneByRunner
	case RunStoppedByUser:
		return JobTerminatedByUser
	case RunAbortedByUser:
		return JobAbortedByUser
	}
	return JobTerminatedByServer
}

// JobTerminationReason says why a job submission ended.
type JobTerminationReason string

// Reasons of job submissions.
const (
	JobNoCapacity                   JobTerminationReason = "failed_to_start_due_to_no_capacity"
	JobInterruptedByNoCapacity      JobTerminationReason = "interrupted_by_no_capacity"
	JobInstanceUnreachable          JobTerminationReason = "instance_unreachable"
	JobInstanceAccessRevoked        JobTerminationReason = "instance_access_revoked"
	JobWaitingInstanceLimitExceeded JobTerminationReason = "waiting_instance_limit_exceeded"
	JobWaitingRunnerLimitExceeded   JobTerminationReason = "waiting_runner_limit_exceeded"
	JobTerminatedByUser             JobTerminationReason = "terminated_by_user"
	JobVolumeError                  JobTerminationReason = "volume_error"
	JobGatewayError                 JobTerminationReason = "gateway_error"
	JobScaledDown                   JobTerminationReason = "scaled_down"
	JobDoneByRunner                 JobTerminationReason = "done_by_runner"
	JobAbortedByUser                JobTerminationReason = "aborted_by_user"
	JobTerminatedByServer           JobTerminationReason = "terminated_by_server"
	JobInactivityDurationExceeded   JobTerminationReason = "inactivity_duration_exceeded"
	JobUtilizationPolicy            JobTerminationReason = "terminated_due_to_utilization_policy"
	JobContainerExitedWithError     JobTerminationReason = "container_exited_with_error"
	JobPortsBindingFailed           JobTerminationReason = "ports_binding_failed"
	JobCreatingContainerError       JobTerminationReason = "creating_container_error"
	JobExecutorError                JobTerminationReason = "executor_error"
	JobMaxDurationExceeded          JobTerminationReason = "max_duration_exceeded"
	JobLogQuotaExceeded             JobTerminationReason = "log_quota_exceeded"
)

// Status is the submission's final status for the reason; an unknown one is a failure.
func (r JobTerminationReason) Status() JobStatus {
	switch r {
	case JobDoneByRunner:
		return JobDone
	case JobAbortedByUser:
		return JobAborted
	case JobTerminatedByUser, JobScaledDown, JobTerminatedByServer, JobInactivityDurationExceeded, JobUtilizationPolicy, JobMaxDurationExceeded:
		return JobTerminated
	}
	return JobFailed
}

// Error is the short text that lists show for the reason, "" when the reason says nothing
// beyond the status.
func (r JobTerminationReason) Error() string {
	switch r {
	case JobInstanceUnreachable, JobInstanceAccessRevoked, JobWaitingInstanceLimitExceeded, JobWaitingRunnerLimitExceeded,
		JobVolumeError, JobGatewayError, JobScaledDown, JobInactivityDurationExceeded, JobPortsBindingFailed, JobExecutorError,
		JobMaxDurationExceeded, JobLogQuotaExceeded:
		return words(string(r))
	case JobUtilizationPolicy:
		return "utilization policy"
	case JobCreatingContainerError:
		return "runner error"
	}
	return ""
}

// Error is the short text that lists show for the reason.
func (r RunTerminationReason) Error() string {
	switch r {
	case RunRetryLimitExceeded, RunServerError, RunGatewayError:
		return words(string(r))
	}
	return ""
}

func words(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '_' {
			b[i] = ' '
		}
	}
	return string(b)
}

// The small enums of requests and responses.
type (
	BackendType          string
	AcceleratorVendor    string
	CPUArchitecture      string
	InstanceAvailability string
	InstanceRuntime      string
	NetworkMode          string
	ApplyAction          string
	GlobalRole           string
	ProjectRole          string
	EventTargetType      string
	HealthStatus         string
	VolumeStatus         string
	GatewayStatus        string
	GatewayReplicaStatus string
)

// Availability of offers.
const (
	Unknown      InstanceAvailability = "unknown"
	Available    InstanceAvailability = "available"
	NotAvailable InstanceAvailability = "not_available"
	NoQuota      InstanceAvailability = "no_quota"
	NoBalance    InstanceAvailability = "no_balance"
	Idle         InstanceAvailability = "idle"
	Busy         InstanceAvailability = "busy"
)

// Usable says that the offer can be tried.
func (a InstanceAvailability) Usable() bool { return a == Unknown || a == Available || a == Idle }

// Words of the small enums.
const (
	RuntimeShim InstanceRuntime = "shim"

	NetworkHost   NetworkMode = "host"
	NetworkBridge NetworkMode = "bridge"

	ActionCreate ApplyAction = "create"
	ActionUpdate ApplyAction = "update"

	GlobalAdmin GlobalRole = "admin"
	GlobalUser  GlobalRole = "user"

	ProjectAdmin   ProjectRole = "admin"
	ProjectManager ProjectRole = "manager"
	ProjectUser    ProjectRole = "user"

	Healthy HealthStatus = "healthy"
	Warning HealthStatus = "warning"
	Failure HealthStatus = "failure"

	VolumeSubmitted VolumeStatus = "submitted"
	VolumeActive    VolumeStatus = "active"
	VolumeFailed    VolumeStatus = "failed"

	GatewaySubmitted GatewayStatus = "submitted"
	GatewayFailed    GatewayStatus = "failed"

	EventTargetProject  EventTargetType = "project"
	EventTargetUser     EventTargetType = "user"
	EventTargetFleet    EventTargetType = "fleet"
	EventTargetInstance EventTargetType = "instance"
	EventTargetRun      EventTargetType = "run"
	EventTargetJob      EventTargetType = "job"
	EventTargetVolume   EventTargetType = "volume"
	EventTargetGateway  EventTargetType = "gateway"
	EventTargetSecret   EventTargetType = "secret"
)

// Shown is the role for clients, as [RunStatus.Shown]. One that nobody knows is no admin's.
func (r GlobalRole) Shown() GlobalRole {
	if r == GlobalAdmin {
		return r
	}
	return GlobalUser
}

// Shown is the role for clients, as [GlobalRole.Shown].
func (r ProjectRole) Shown() ProjectRole {
	if r == ProjectAdmin || r == ProjectManager {
		return r
	}
	return ProjectUser
}

// BackendTypes are the backends that can be configured, in the order in which they are listed.
func BackendTypes() []BackendType {
	return []BackendType{"amddevcloud", "aws", "azure", "cloudrift", "crusoe", "datacrunch", "digitalocean", "gcp", "hotaisle",
		"jarvislabs", "kubernetes", "lambda", "nebius", "oci", "runpod", "slurm", "vastai", "verda", "vultr"}
}
