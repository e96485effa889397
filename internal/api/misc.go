package api

// Event is one entry of the audit log.
type Event struct {
	ID                 string        `json:"id"`
	Message            string        `json:"message"`
	RecordedAt         Time          `json:"recorded_at"`
	ActorUserID        *string       `json:"actor_user_id"`
	ActorUser          *string       `json:"actor_user"`
	IsActorUserDeleted *bool         `json:"is_actor_user_deleted"`
	Targets            []EventTarget `json:"targets"`
}

// EventTarget is what an event is about.
type EventTarget struct {
	Type             EventTargetType `json:"type"`
	ProjectID        *string         `json:"project_id"`
	ProjectName      *string         `json:"project_name"`
	IsProjectDeleted *bool           `json:"is_project_deleted"`
	ID               string          `json:"id"`
	Name             string          `json:"name"`
}

// ListEventsRequest filters and pages events.
type ListEventsRequest struct {
	TargetProjects        []string          `json:"target_projects" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetUsers           []string          `json:"target_users" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetFleets          []string          `json:"target_fleets" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetInstances       []string          `json:"target_instances" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetRuns            []string          `json:"target_runs" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetJobs            []string          `json:"target_jobs" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetVolumes         []string          `json:"target_volumes" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetGateways        []string          `json:"target_gateways" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetSecrets         []string          `json:"target_secrets" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetGatewayReplicas []string          `json:"target_gateway_replicas" cfg:"opt,minlen=1,maxlen=16,uuid"`
	TargetPresets         []string          `json:"target_presets" cfg:"opt,minlen=1,maxlen=16,uuid"`
	WithinGateways        []string          `json:"within_gateways" cfg:"opt,minlen=1,maxlen=16,uuid"`
	WithinProjects        []string          `json:"within_projects" cfg:"opt,minlen=1,maxlen=16,uuid"`
	WithinFleets          []string          `json:"within_fleets" cfg:"opt,minlen=1,maxlen=16,uuid"`
	WithinRuns            []string          `json:"within_runs" cfg:"opt,minlen=1,maxlen=16,uuid"`
	IncludeTargetTypes    []EventTargetType `json:"include_target_types" cfg:"opt,minlen=1,maxlen=16,enum=project|user|fleet|instance|run|job|volume|gateway|gateway-replica|preset|secret"`
	Actors                []*string         `json:"actors" cfg:"opt,minlen=1,maxlen=16,uuid"`
	PrevRecordedAt        *Time             `json:"prev_recorded_at"`
	PrevID                *string           `json:"prev_id" cfg:"uuid"`
	Limit                 *int              `json:"limit" cfg:"min=1,max=100"`
	Ascending             bool              `json:"ascending"`
}

// PollLogsRequest reads a submission's log; Diagnose reads the runner's.
type PollLogsRequest struct {
	RunName         string  `json:"run_name" cfg:"req"`
	JobSubmissionID string  `json:"job_submission_id" cfg:"req,uuid"`
	StartTime       *Time   `json:"start_time"`
	EndTime         *Time   `json:"end_time"`
	Descending      bool    `json:"descending"`
	NextToken       *string `json:"next_token"`
	Limit           *int    `json:"limit" cfg:"min=0,max=1000"`
	Diagnose        bool    `json:"diagnose"`
}

// JobSubmissionLogs is a page of a log.
type JobSubmissionLogs struct {
	Logs        []LogEvent `json:"logs"`
	ExternalURL *string    `json:"external_url"`
	NextToken   *string    `json:"next_token"`
}

// LogEvent is a piece of a log; Message is base64 of the bytes.
type LogEvent struct {
	Timestamp Time   `json:"timestamp"`
	LogSource string `json:"log_source"`
	Message   []byte `json:"message"`
}

// StreamLogsRequest follows a submission's log from a byte offset (our addition).
type StreamLogsRequest struct {
	RunName         string `json:"run_name" cfg:"req"`
	JobSubmissionID string `json:"job_submission_id" cfg:"req,uuid"`
	Offset          int64  `json:"offset" cfg:"min=0"`
	Diagnose        bool   `json:"diagnose"`
	Follow          bool   `json:"follow"`
}

// LogChunk is one line of the stream: Data begins at byte Offset of the log. End closes
// the stream: the log is complete.
type LogChunk struct {
	Timestamp *Time  `json:"timestamp,omitempty"`
	Offset    int64  `json:"offset"`
	Data      []byte `json:"data,omitempty"`
	End       bool   `json:"end,omitempty"`
}

// WatchRunRequest waits until a run differs from what the caller has seen (our addition).
type WatchRunRequest struct {
	RunName string `json:"run_name" cfg:"req"`
	// Seen is the Version of the last answer, "" for none.
	Seen string `json:"seen"`
	// Wait bounds the wait, in seconds.
	Wait int `json:"wait" cfg:"min=0,max=25"`
}

// WatchRunResponse is the run as it is now.
type WatchRunResponse struct {
	Run     Run    `json:"run"`
	Version string `json:"version"`
	// Waiting says in words what the run waits for, "" when it does not.
	Waiting string `json:"waiting"`
}

// RepoHead is a repo of a project.
type RepoHead struct {
	RepoID   string   `json:"repo_id"`
	RepoInfo RepoInfo `json:"repo_info"`
}

// RepoInfo is what a repo is.
type RepoInfo struct {
	RepoType string  `json:"repo_type" cfg:"req,enum=remote|local|virtual"`
	RepoName *string `json:"repo_name,omitempty"`
	RepoDir  *string `json:"repo_dir,omitempty"`
	// Sent by old clients.
	RepoHostName *string `json:"repo_host_name,omitempty"`
	RepoPort     *int    `json:"repo_port,omitempty"`
	RepoUserName *string `json:"repo_user_name,omitempty"`
}

// RepoHeadWithCreds adds the caller's credentials.
type RepoHeadWithCreds struct {
	RepoHead
	RepoCreds *RepoCreds `json:"repo_creds"`
}

// RepoCreds are a user's credentials for a repo.
type RepoCreds struct {
	Protocol   *string `json:"protocol,omitempty"`
	CloneURL   string  `json:"clone_url" cfg:"req"`
	PrivateKey *string `json:"private_key"`
	OAuthToken *string `json:"oauth_token"`
}

// GetRepoRequest names a repo.
type GetRepoRequest struct {
	RepoID       string `json:"repo_id" cfg:"req"`
	IncludeCreds bool   `json:"include_creds" cfg:"req"`
}

// InitRepoRequest creates or updates a repo and the caller's credentials.
type InitRepoRequest struct {
	RepoID    string     `json:"repo_id" cfg:"req"`
	RepoInfo  RepoInfo   `json:"repo_info" cfg:"req"`
	RepoCreds *RepoCreds `json:"repo_creds"`
}

// DeleteReposRequest deletes repos by id.
type DeleteReposRequest struct {
	ReposIDs []string `json:"repos_ids" cfg:"req"`
}

// FileArchive is an uploaded tar.
type FileArchive struct {
	ID   string `json:"id"`
	Hash string `json:"hash"`
}

// GetArchiveRequest looks an archive up by its hash.
type GetArchiveRequest struct {
	Hash string `json:"hash" cfg:"req"`
}

// JobMetrics are series of samples.
type JobMetrics struct {
	Metrics []Metric `json:"metrics"`
}

// Metric is one series, newest first.
type Metric struct {
	Name       string `json:"name"`
	Timestamps []Time `json:"timestamps"`
	Values     []any  `json:"values"`
}

// ListGpusRequest groups the offers for a run by GPU.
type ListGpusRequest struct {
	RunSpec RunSpec  `json:"run_spec" cfg:"req"`
	GroupBy []string `json:"group_by" cfg:"opt,enum=backend|region|count"`
	// Reverse asks for the dearest first; the others are as in [GetRunPlanRequest].
	Reverse              bool `json:"reverse"`
	FullOffers           bool `json:"full_offers"`
	UnallocatedResources bool `json:"unallocated_resources"`
}

// GpuGroup is a kind of GPU with what it costs.
type GpuGroup struct {
	Name         string                 `json:"name"`
	MemoryMiB    int                    `json:"memory_mib"`
	Vendor       AcceleratorVendor      `json:"vendor"`
	Availability []InstanceAvailability `json:"availability"`
	Spot         []string               `json:"spot"`
	Count        CountRange             `json:"count"`
	Price        PriceRange             `json:"price"`                 // per GPU
	OfferPrice   *PriceRange            `json:"offer_price,omitempty"` // of whole machines
	Backends     []BackendType          `json:"backends,omitempty"`
	Backend      *BackendType           `json:"backend,omitempty"`
	Regions      []string               `json:"regions,omitempty"`
	Region       *string                `json:"region,omitempty"`
}

// CountRange of GPUs.
type CountRange struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// PriceRange per GPU and hour.
type PriceRange struct {
	Min float64 `json:"min"`
	Max float64 `json:"max"`
}

// ListGpusResponse holds the groups.
type ListGpusResponse struct {
	Gpus []GpuGroup `json:"gpus"`
	// WhyNot is an addition of ours: what excludes the others, where few or none fit.
	WhyNot *WhyNot `json:"why_not,omitempty"`
	PlanNotes
}
