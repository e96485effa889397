package api

import (
	"encoding/json"
	"fmt"

	"dstack/internal/config"
)

// Run is a run with its jobs.
type Run struct {
	ID                  string         `json:"id"`
	ProjectName         string         `json:"project_name"`
	User                string         `json:"user"`
	Fleet               *RunFleet      `json:"fleet"`
	SubmittedAt         Time           `json:"submitted_at"`
	LastProcessedAt     Time           `json:"last_processed_at"`
	Status              RunStatus      `json:"status"`
	StatusMessage       string         `json:"status_message"`
	TerminationReason   *string        `json:"termination_reason"`
	RunSpec             RunSpec        `json:"run_spec"`
	Jobs                []Job          `json:"jobs"`
	LatestJobSubmission *JobSubmission `json:"latest_job_submission"`
	Cost                float64        `json:"cost"`
	Service             *ServiceSpec   `json:"service"`
	DeploymentNum       int            `json:"deployment_num"`
	Error               *string        `json:"error"`
	Deleted             *bool          `json:"deleted"`
	NextTriggeredAt     *Time          `json:"next_triggered_at"`
	// Waiting is an addition of ours: why the run is not placed, only while it waits.
	Waiting *RunWaiting `json:"waiting,omitempty"`
	// MachineCost is an addition of ours: US dollars for the machines while the run's jobs held them,
	// see package cost. It is in answers about one run for which something was paid.
	MachineCost *float64 `json:"machine_cost,omitempty"`
}

// RunWaiting is a run's place in its project's queue.
type RunWaiting struct {
	Position int    `json:"position"` // 1 is the head
	Reason   string `json:"reason"`
	Since    Time   `json:"since"`
}

// Text says it in a line.
func (w *RunWaiting) Text() string { return fmt.Sprintf("#%d in the queue: %s", w.Position, w.Reason) }

// RunFleet is the fleet chosen for a run.
type RunFleet struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// RunSpec is what a user submits.
type RunSpec struct {
	RunName           *string              `json:"run_name"`
	RepoID            *string              `json:"repo_id"`
	RepoData          *RepoData            `json:"repo_data"`
	RepoCodeHash      *string              `json:"repo_code_hash"`
	RepoDir           *string              `json:"repo_dir"`
	FileArchives      []FileArchiveMapping `json:"file_archives"`
	WorkingDir        *string              `json:"working_dir"`
	ConfigurationPath *string              `json:"configuration_path"`
	Configuration     config.AnyRun        `json:"configuration" cfg:"req"`
	Profile           *config.Profile      `json:"profile"`
	SSHKeyPub         *string              `json:"ssh_key_pub"`
}

// Merged is the profile that counts: the configuration's options over the profile's.
func (s *RunSpec) Merged() config.Profile {
	common := s.Configuration.Common()
	m := config.Merge(s.Profile, common.ProfileParams)
	if m.CreationPolicy == nil {
		policy := "reuse-or-create"
		m.CreationPolicy = &policy
	}
	return m
}

// RepoData says where code comes from; RepoType is remote, local or virtual.
type RepoData struct {
	RepoType        string  `json:"repo_type" cfg:"req,enum=remote|local|virtual"`
	RepoName        *string `json:"repo_name"`
	RepoBranch      *string `json:"repo_branch"`
	RepoHash        *string `json:"repo_hash"`
	RepoConfigName  *string `json:"repo_config_name"`
	RepoConfigEmail *string `json:"repo_config_email"`
	RepoDir         *string `json:"repo_dir"`
	RepoHostName    *string `json:"repo_host_name"`
	RepoPort        *int    `json:"repo_port"`
	RepoUserName    *string `json:"repo_user_name"`
}

// MarshalJSON writes the fields of the type.
func (r RepoData) MarshalJSON() ([]byte, error) {
	switch r.RepoType {
	case "remote":
		return json.Marshal(struct {
			RepoType        string  `json:"repo_type"`
			RepoName        *string `json:"repo_name"`
			RepoBranch      *string `json:"repo_branch"`
			RepoHash        *string `json:"repo_hash"`
			RepoConfigName  *string `json:"repo_config_name"`
			RepoConfigEmail *string `json:"repo_config_email"`
		}{r.RepoType, r.RepoName, r.RepoBranch, r.RepoHash, r.RepoConfigName, r.RepoConfigEmail})
	case "local":
		return json.Marshal(struct {
			RepoType string  `json:"repo_type"`
			RepoDir  *string `json:"repo_dir"`
		}{r.RepoType, r.RepoDir})
	}
	return json.Marshal(map[string]string{"repo_type": r.RepoType})
}

// FileArchiveMapping puts an uploaded archive at Path.
type FileArchiveMapping struct {
	ID   string `json:"id" cfg:"req"`
	Path string `json:"path" cfg:"req"`
}

// Job is one job with its submissions.
type Job struct {
	JobSpec           JobSpec            `json:"job_spec"`
	JobSubmissions    []JobSubmission    `json:"job_submissions"`
	JobConnectionInfo *JobConnectionInfo `json:"job_connection_info"`
}

// JobSpec is what one job runs.
type JobSpec struct {
	ReplicaNum        int                       `json:"replica_num"`
	JobNum            int                       `json:"job_num"`
	JobName           string                    `json:"job_name"`
	JobsPerReplica    int                       `json:"jobs_per_replica"`
	ReplicaGroup      string                    `json:"replica_group"`
	AppSpecs          []AppSpec                 `json:"app_specs"`
	User              *UnixUser                 `json:"user"`
	Commands          []string                  `json:"commands"`
	Env               map[string]string         `json:"env"`
	HomeDir           *string                   `json:"home_dir"`
	ImageName         string                    `json:"image_name"`
	Privileged        bool                      `json:"privileged"`
	SingleBranch      *bool                     `json:"single_branch"`
	MaxDuration       *int64                    `json:"max_duration"`
	StopDuration      *int64                    `json:"stop_duration"`
	UtilizationPolicy *config.UtilizationPolicy `json:"utilization_policy"`
	RegistryAuth      *config.RegistryAuth      `json:"registry_auth"`
	Requirements      Requirements              `json:"requirements"`
	Retry             *Retry                    `json:"retry"`
	Volumes           []config.Mount            `json:"volumes"`
	SSHKey            *config.SSHKey            `json:"ssh_key"`
	WorkingDir        *string                   `json:"working_dir"`
	RepoData          *RepoData                 `json:"repo_data"`
	RepoCodeHash      *string                   `json:"repo_code_hash"`
	RepoDir           string                    `json:"repo_dir"`
	RepoExistsAction  *string                   `json:"repo_exists_action"`
	FileArchives      []FileArchiveMapping      `json:"file_archives"`
	ServicePort       *int                      `json:"service_port"`
	Probes            []ProbeSpec               `json:"probes"`
	NodeGroupIndex    int                       `json:"node_group_index"`
	NodeGroupName     string                    `json:"node_group_name"`
	NodeGroupJobIndex int                       `json:"node_group_job_index"`
}

// AppSpec is a port that the attached client forwards.
type AppSpec struct {
	Port           int               `json:"port"`
	MapToPort      *int              `json:"map_to_port"`
	AppName        string            `json:"app_name"`
	URLPath        *string           `json:"url_path"`
	URLQueryParams map[string]string `json:"url_query_params" cfg:"opt"`
}

// UnixUser is a user and group by id or name.
type UnixUser struct {
	UID       *int64  `json:"uid"`
	GID       *int64  `json:"gid"`
	Username  *string `json:"username"`
	Groupname *string `json:"groupname"`
}

// Retry is when and how long a failed job is tried again; Duration in seconds.
type Retry struct {
	OnEvents []string `json:"on_events"`
	Duration int64    `json:"duration"`
	// Scope is an addition of ours: "node" replaces a lost node of a task alone while the
	// others go on; "" starts all nodes anew.
	Scope string `json:"scope,omitempty"`
}

// RetryNode is the scope of a [Retry] that replaces single nodes.
const RetryNode = "node"

// ProbeSpec is a probe with all defaults filled in; times in seconds.
type ProbeSpec struct {
	Type       string               `json:"type"`
	URL        string               `json:"url"`
	Method     string               `json:"method"`
	Headers    []config.ProbeHeader `json:"headers"`
	Body       *string              `json:"body"`
	Timeout    int                  `json:"timeout"`
	Interval   int                  `json:"interval"`
	ReadyAfter int                  `json:"ready_after"`
	UntilReady bool                 `json:"until_ready"`
}

// Probe is a probe's state.
type Probe struct {
	SuccessStreak int `json:"success_streak"`
}

// JobSubmission is one attempt to run a job.
type JobSubmission struct {
	ID                       string               `json:"id"`
	SubmissionNum            int                  `json:"submission_num"`
	DeploymentNum            int                  `json:"deployment_num"`
	SubmittedAt              Time                 `json:"submitted_at"`
	LastProcessedAt          Time                 `json:"last_processed_at"`
	FinishedAt               *Time                `json:"finished_at"`
	InactivitySecs           *int64               `json:"inactivity_secs"`
	Status                   JobStatus            `json:"status"`
	StatusMessage            string               `json:"status_message"`
	TerminationReason        *string              `json:"termination_reason"`
	TerminationReasonMessage *string              `json:"termination_reason_message"`
	ExitStatus               *int                 `json:"exit_status"`
	JobProvisioningData      *JobProvisioningData `json:"job_provisioning_data"`
	JobRuntimeData           *JobRuntimeData      `json:"job_runtime_data"`
	Error                    *string              `json:"error"`
	Probes                   []Probe              `json:"probes"`
	ImagePullProgress        *ImagePullProgress   `json:"image_pull_progress"`
	// ProbeError is an addition of ours: why a probe of a running replica fails, only while one does.
	ProbeError *string `json:"probe_error,omitempty"`
}

// ImagePullProgress sums up an image pull, in bytes.
type ImagePullProgress struct {
	DownloadedBytes   int64 `json:"downloaded_bytes"`
	ExtractedBytes    int64 `json:"extracted_bytes"`
	TotalBytes        int64 `json:"total_bytes"`
	IsTotalBytesFinal bool  `json:"is_total_bytes_final"`
}

// JobProvisioningData says where a job runs and how to reach it.
type JobProvisioningData struct {
	Backend          BackendType          `json:"backend"`
	BaseBackend      *BackendType         `json:"base_backend"`
	InstanceType     InstanceType         `json:"instance_type"`
	InstanceID       string               `json:"instance_id"`
	Hostname         *string              `json:"hostname"`
	InternalIP       *string              `json:"internal_ip"`
	PublicIPEnabled  bool                 `json:"public_ip_enabled"`
	InstanceNetwork  *string              `json:"instance_network"`
	Region           string               `json:"region"`
	AvailabilityZone *string              `json:"availability_zone"`
	Reservation      *string              `json:"reservation"`
	Price            float64              `json:"price"`
	Username         string               `json:"username"`
	SSHPort          *int                 `json:"ssh_port"`
	Dockerized       bool                 `json:"dockerized"`
	SSHProxy         *SSHConnectionParams `json:"ssh_proxy"`
	BackendData      *string              `json:"backend_data"`
	GPUDriver        *GPUDriverInfo       `json:"gpu_driver"`
}

// SSHConnectionParams is an SSH server.
type SSHConnectionParams struct {
	Hostname string `json:"hostname"`
	Username string `json:"username"`
	Port     int    `json:"port"`
}

// GPUDriverInfo is the driver of a host's accelerators.
type GPUDriverInfo struct {
	Vendor  *AcceleratorVendor `json:"vendor"`
	Version string             `json:"version"`
}

// JobRuntimeData is what became known when the job was placed and started.
type JobRuntimeData struct {
	NetworkMode NetworkMode    `json:"network_mode"`
	GPU         *int           `json:"gpu"`
	CPU         *float64       `json:"cpu"`
	Memory      *config.Memory `json:"memory"`
	Ports       map[int]int    `json:"ports" cfg:"opt"`
	VolumeNames []string       `json:"volume_names"`
	Offer       *InstanceOffer `json:"offer"`
	WorkingDir  *string        `json:"working_dir"`
	Username    *string        `json:"username"`
}

// JobConnectionInfo is how users reach a running job.
type JobConnectionInfo struct {
	IDEName            *string  `json:"ide_name"`
	AttachedIDEURL     *string  `json:"attached_ide_url"`
	ProxiedIDEURL      *string  `json:"proxied_ide_url"`
	AttachedSSHCommand []string `json:"attached_ssh_command"`
	ProxiedSSHCommand  []string `json:"proxied_ssh_command" cfg:"opt"`
	SSHProxyHostname   *string  `json:"sshproxy_hostname"`
	SSHProxyPort       *int     `json:"sshproxy_port"`
	SSHProxyUpstreamID *string  `json:"sshproxy_upstream_id"`
}

// Requirements are what a job needs from an instance.
type Requirements struct {
	Resources      config.Resources        `json:"resources"`
	MaxPrice       *float64                `json:"max_price"`
	Spot           *bool                   `json:"spot"`
	Reservation    *string                 `json:"reservation"`
	Multinode      *bool                   `json:"multinode"`
	BackendOptions []config.BackendOptions `json:"backend_options" cfg:"opt"`
}

// ServiceSpec is where a service answers.
type ServiceSpec struct {
	URL     string          `json:"url"`
	Model   *ServiceModel   `json:"model"`
	Options json.RawMessage `json:"options"`
}

// ServiceModel is the model that a service offers.
type ServiceModel struct {
	Name    string `json:"name"`
	BaseURL string `json:"base_url"`
	Type    string `json:"type"`
}

// InstanceOffer is something that could run a job, with its price per hour.
type InstanceOffer struct {
	Backend           BackendType          `json:"backend"`
	Instance          InstanceType         `json:"instance"`
	Region            string               `json:"region"`
	Price             float64              `json:"price"`
	BackendData       map[string]any       `json:"backend_data"`
	Availability      InstanceAvailability `json:"availability"`
	AvailabilityZones []string             `json:"availability_zones" cfg:"opt"`
	InstanceRuntime   InstanceRuntime      `json:"instance_runtime"`
	Blocks            int                  `json:"blocks"`
	TotalBlocks       int                  `json:"total_blocks"`
	// Reserves says that the instance can be created in a reservation, Multinode that instances
	// of this backend and region reach each other; Penalty lowers the place of what could not be
	// had lately. They are for the server alone; instances that exist have none of them.
	Reserves  bool    `json:"-"`
	Multinode bool    `json:"-"`
	Penalty   float64 `json:"-"`
	// Rooms are what reservations have of the offer, Order the place that its backend ranks it at.
	// They are for the server alone, too.
	Rooms []Room `json:"-"`
	Order int    `json:"-"`
}

// Room is how many more instances of an offer can be created in a reservation, in a zone or, if it
// is "", in the whole region.
type Room struct {
	Reservation, Zone string
	Left              int
}

// InstanceType is a kind of machine.
type InstanceType struct {
	Name      string    `json:"name"`
	Resources Resources `json:"resources"`
}

// Resources are what a machine has.
type Resources struct {
	CPUs        int              `json:"cpus"`
	MemoryMiB   int              `json:"memory_mib"`
	Gpus        []Gpu            `json:"gpus"`
	Spot        bool             `json:"spot"`
	Disk        Disk             `json:"disk"`
	CPUArch     *CPUArchitecture `json:"cpu_arch"`
	Description string           `json:"description"`
}

// Gpu is one accelerator of a machine.
type Gpu struct {
	Name      string            `json:"name"`
	MemoryMiB int               `json:"memory_mib"`
	Vendor    AcceleratorVendor `json:"vendor"`
}

// Disk of a machine; 0 means unknown.
type Disk struct {
	SizeMiB int `json:"size_mib"`
}

// RunPlan is what apply would do.
type RunPlan struct {
	ProjectName      string      `json:"project_name"`
	User             string      `json:"user"`
	RunSpec          RunSpec     `json:"run_spec"`
	EffectiveRunSpec *RunSpec    `json:"effective_run_spec"`
	JobPlans         []JobPlan   `json:"job_plans"`
	CurrentResource  *Run        `json:"current_resource"`
	Action           ApplyAction `json:"action"`
	PlanNotes
}

// JobPlan is where one job could run.
type JobPlan struct {
	JobSpec     JobSpec         `json:"job_spec"`
	Offers      []InstanceOffer `json:"offers"`
	TotalOffers int             `json:"total_offers"`
	MaxPrice    *float64        `json:"max_price"`
	// WhyNot is an addition of ours: what excludes the others, where few or none fit.
	WhyNot *WhyNot `json:"why_not,omitempty"`
}

// GetRunPlanRequest asks for a plan. MaxOffers bounds the offers of each job.
type GetRunPlanRequest struct {
	RunSpec       RunSpec `json:"run_spec" cfg:"req"`
	MaxOffers     *int    `json:"max_offers" cfg:"min=1,max=10000"`
	ForOffersOnly bool    `json:"for_offers_only"`
	// FullOffers keeps offers whole; UnallocatedResources counts what is free on backends
	// that share machines.
	FullOffers           bool `json:"full_offers"`
	UnallocatedResources bool `json:"unallocated_resources"`
	// ReverseOffers asks for the dearest first.
	ReverseOffers bool `json:"reverse_offers"`
}

// ApplyRunPlanRequest submits a run or changes one.
type ApplyRunPlanRequest struct {
	Plan struct {
		RunSpec         RunSpec         `json:"run_spec" cfg:"req"`
		CurrentResource json.RawMessage `json:"current_resource"`
	} `json:"plan" cfg:"req"`
	Force bool `json:"force" cfg:"req"`
	// Published says that a published client asks; the server knows it from the headers.
	Published bool `json:"-"`
	// Shown is a document in the form that the client reads, in which CurrentResource comes back;
	// nil leaves it as it is.
	Shown func(data []byte) ([]byte, error) `json:"-"`
}

// GetRunRequest names a run by name or id.
type GetRunRequest struct {
	RunName *string `json:"run_name"`
	ID      *string `json:"id" cfg:"uuid"`
}

// StopRunsRequest stops runs, at once when Abort is set.
type StopRunsRequest struct {
	RunsNames []string `json:"runs_names" cfg:"req"`
	Abort     bool     `json:"abort" cfg:"req"`
}

// DeleteRunsRequest deletes finished runs.
type DeleteRunsRequest struct {
	RunsNames []string `json:"runs_names" cfg:"req"`
}

// ListRunsRequest pages through runs.
type ListRunsRequest struct {
	ProjectName         *string `json:"project_name"`
	RepoID              *string `json:"repo_id"`
	Username            *string `json:"username"`
	OnlyActive          bool    `json:"only_active"`
	IncludeJobs         *bool   `json:"include_jobs,omitempty"` // the original takes no null
	JobSubmissionsLimit *int    `json:"job_submissions_limit" cfg:"min=0,max=10"`
	PrevSubmittedAt     *Time   `json:"prev_submitted_at"`
	PrevRunID           *string `json:"prev_run_id" cfg:"uuid"`
	Limit               *int    `json:"limit" cfg:"min=0,max=100"`
	Ascending           bool    `json:"ascending"`
}
