package agentapi

import (
	"fmt"
	"slices"
)

// TaskSpec is everything that a host needs to run one job submission, sent once.
// The container part is for the shim, Job for the runner inside.
type TaskSpec struct {
	ID   string `json:"id"`   // job submission id (UUID)
	Name string `json:"name"` // job name, part of the container's name

	Image        string        `json:"image"`
	RegistryAuth *RegistryAuth `json:"registry_auth,omitempty"`
	Privileged   bool          `json:"privileged,omitempty"`
	// GPUs is how many to hold: -1 all that are free, 0 none.
	GPUs    int           `json:"gpus"`
	CPUs    float64       `json:"cpus"`     // 0: no limit
	Memory  int64         `json:"memory"`   // bytes, 0: no limit
	ShmSize int64         `json:"shm_size"` // bytes, 0: the runtime's default
	Network string        `json:"network"`  // "host" or "bridge"
	Mounts  []Mount       `json:"mounts,omitempty"`
	Volumes []VolumeMount `json:"volumes,omitempty"`
	Devices []string      `json:"devices,omitempty"`
	// HostUser is the login user of the host whose authorized_keys get HostKeys while the
	// task lives; "" leaves the host alone.
	HostUser string   `json:"host_user,omitempty"`
	HostKeys []string `json:"host_keys,omitempty"`

	Job JobSpec `json:"job"`
}

// RegistryAuth are the credentials for the image's registry.
type RegistryAuth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// Mount binds a directory of the host into the container.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	Optional bool   `json:"optional,omitempty"`
}

// VolumeMount attaches a network disk (host-agents 1.14).
type VolumeMount struct {
	Backend  string `json:"backend"`
	Name     string `json:"name"`
	VolumeID string `json:"volume_id"`
	Device   string `json:"device"`
	InitFS   bool   `json:"init_fs"`
	Target   string `json:"target"`
}

// JobSpec is what the runner executes inside the container (host-agents 2.5 to 2.11).
type JobSpec struct {
	RunID   string `json:"run_id"`
	RunName string `json:"run_name"`
	JobID   string `json:"job_id"` // equals TaskSpec.ID
	Project string `json:"project"`
	RepoID  string `json:"repo_id"`

	JobNum         int      `json:"job_num"`
	ReplicaNum     int      `json:"replica_num"`
	JobsPerReplica int      `json:"jobs_per_replica"`
	User           *User    `json:"user,omitempty"` // nil: the image's user
	Command        []string `json:"command"`        // argv; empty: the image's entrypoint and cmd
	// Env is merged and interpolated by the server; it holds secrets, so it is never logged.
	Env        map[string]string `json:"env"`
	WorkingDir string            `json:"working_dir"` // "": the image's

	Cluster Cluster `json:"cluster"`

	Repo  *Repo         `json:"repo,omitempty"`
	Files []FileArchive `json:"files,omitempty"`

	// MaxDuration, in seconds, 0: unlimited. StopDuration is the grace between SIGINT and
	// SIGKILL when the job is stopped or runs out of MaxDuration, in seconds.
	MaxDuration  int64 `json:"max_duration"`
	StopDuration int64 `json:"stop_duration"`
	// Linger is how long, in seconds, a job that has ended by itself stays attachable until
	// somebody has read its output to the end.
	Linger int64 `json:"linger,omitempty"`
	// NoIdle says that nobody wants to know for how long no user was connected: each change costs the server a
	// transaction.
	NoIdle bool `json:"no_idle,omitempty"`
	// LogQuotaHour bounds the stored log, in bytes per hour, 0: unlimited.
	LogQuotaHour int64 `json:"log_quota_hour"`

	// AuthorizedKeys may log in to the container as any of its users; ServerKey too, but
	// its connections do not count as activity.
	AuthorizedKeys []string `json:"authorized_keys"`
	ServerKey      string   `json:"server_key"`

	// ServerAccess gives the job the server's API at [ServerSocket], before its command starts.
	ServerAccess bool `json:"server_access,omitempty"`
}

// User names the job's user; UID or Username is set.
type User struct {
	UID       *int64 `json:"uid,omitempty"`
	Username  string `json:"username,omitempty"`
	GID       *int64 `json:"gid,omitempty"`
	Groupname string `json:"groupname,omitempty"`
}

// Cluster describes the nodes of the job's replica, in job number order.
type Cluster struct {
	NodeIPs     []string `json:"node_ips"`
	MasterIP    string   `json:"master_ip"`
	GPUsPerJob  int      `json:"gpus_per_job"`
	GPUsPerNode []int    `json:"gpus_per_node"`
	// PrivateKey and PublicKey let the nodes reach each other over SSH; "" on one node.
	PrivateKey string `json:"private_key,omitempty"`
	PublicKey  string `json:"public_key,omitempty"`
}

// Repo is the code that the job starts in.
type Repo struct {
	Type         string `json:"type"`          // "remote", "local" or "virtual"
	Dir          string `json:"dir"`           // target, relative to the working dir or absolute; "~" allowed
	ExistsAction string `json:"exists_action"` // "error" or "skip"
	CloneURL     string `json:"clone_url,omitempty"`
	PrivateKey   string `json:"private_key,omitempty"`
	OAuthToken   string `json:"oauth_token,omitempty"`
	Branch       string `json:"branch,omitempty"`
	Hash         string `json:"hash,omitempty"`
	ConfigName   string `json:"config_name,omitempty"`
	ConfigEmail  string `json:"config_email,omitempty"`
	SingleBranch bool   `json:"single_branch,omitempty"`
	// Blob is the SHA-256 of the uploaded diff (remote) or tar (local, virtual), "" for none.
	Blob string `json:"blob,omitempty"`
}

// FileArchive is one uploaded tar that becomes Path in the container.
type FileArchive struct {
	Blob string `json:"blob"` // SHA-256 of the tar
	Path string `json:"path"`
}

// State is where a task is; states only move forward.
type State string

// The states in their order; Terminated is final.
const (
	Pending    State = "pending"
	Preparing  State = "preparing"
	Pulling    State = "pulling"
	Creating   State = "creating"
	Running    State = "running"
	Terminated State = "terminated"
)

// Reasons that the agent gives for the end of a task (host-agents 1.5, 2.6).
const (
	DoneByRunner             = "done_by_runner"
	ExecutorError            = "executor_error"
	CreatingContainerError   = "creating_container_error"
	ContainerExitedWithError = "container_exited_with_error"
	MaxDurationExceeded      = "max_duration_exceeded"
	LogQuotaExceeded         = "log_quota_exceeded"
	TerminatedByUser         = "terminated_by_user"
	TerminatedByServer       = "terminated_by_server"
	InactivityExceeded       = "inactivity_duration_exceeded"
	PortsBindingFailed       = "ports_binding_failed"
)

// Task is the state of one task.
type Task struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	State      State  `json:"state"`
	Reason     string `json:"reason"` // set once Terminated
	Message    string `json:"message"`
	ExitStatus *int   `json:"exit_status"`
	// Started says that the job's process runs (or ran): the runner has set up user,
	// code and files.
	Started bool `json:"started"`
	// Username and WorkingDir are as resolved in the container, once Started.
	Username   string `json:"username"`
	WorkingDir string `json:"working_dir"`
	// Ports maps container ports to ports on the host's loopback; empty in host network.
	Ports map[int]int   `json:"ports"`
	Pull  *PullProgress `json:"pull"`
	GPUs  []string      `json:"gpus"`
	// JobLog and RunnerLog are the sizes of the streams so far, in bytes.
	JobLog    int64 `json:"job_log"`
	RunnerLog int64 `json:"runner_log"`
	// IdleSeconds is how long no user was connected over SSH (dev environments).
	IdleSeconds int64 `json:"idle_seconds"`
	// ServerAccess says that the agent lets the server [Client.Accept] the task's calls.
	ServerAccess bool  `json:"server_access,omitempty"`
	CreatedAt    int64 `json:"created_at"`  // Unix microseconds
	FinishedAt   int64 `json:"finished_at"` // Unix microseconds, 0 while it lives
}

// PullProgress sums up the layers of an image pull, in bytes.
type PullProgress struct {
	Downloaded int64 `json:"downloaded"`
	Extracted  int64 `json:"extracted"`
	Total      int64 `json:"total"`
	TotalFinal bool  `json:"total_final"`
}

// Terminate asks for the end of a task. The runner gets SIGINT for the job and Grace
// seconds before SIGKILL; Grace 0 kills at once.
type Terminate struct {
	Grace   int64  `json:"grace"` // seconds
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// EventKind says which field of an [Event] is set.
type EventKind string

// Event kinds. Receivers skip unknown ones.
const (
	TaskEvent      EventKind = "task"
	LogEvent       EventKind = "log"
	MetricsEvent   EventKind = "metrics"
	HealthEvent    EventKind = "health"    // see [Wish]
	DCGMEvent      EventKind = "dcgm"      // see [Wish]
	HeartbeatEvent EventKind = "heartbeat" // has no sequence number
	// UnreadableEvent stands for a line that is no event; no agent sends it. Seq is 0 when it
	// is not known.
	UnreadableEvent EventKind = "unreadable"
)

// Event is one line of the stream. Seq grows by one per persisted event and never
// repeats in an agent home, also after a restart.
type Event struct {
	Seq    int64     `json:"seq"`
	Micros int64     `json:"micros"` // host clock, Unix microseconds
	Kind   EventKind `json:"kind"`
	TaskID string    `json:"task_id,omitempty"`

	Task    *Task    `json:"task,omitempty"`
	Log     *LogData `json:"log,omitempty"`
	Metrics *Metrics `json:"metrics,omitempty"`
	Health  *Health  `json:"health,omitempty"`
	// DCGM is what an exporter of DCGM says of the task's GPUs, in Prometheus' text format and
	// packed: see [Unpack].
	DCGM []byte `json:"dcgm,omitempty"`

	// Size is how long the line was, in bytes, of an event that was received.
	Size int `json:"-"`
}

// DroppedError says that some of many events were dropped for what is wrong with them, and that
// the others were taken.
type DroppedError struct {
	Count int
	Why   error
}

func (e *DroppedError) Error() string { return fmt.Sprintf("%d events dropped: %v", e.Count, e.Why) }

// HeldError says that logs and ends of some tasks could not be stored and have to be told again, and that the rest
// was taken.
type HeldError struct {
	Tasks   []string      // ids, without repetition
	Why     error         // of one of them
	Dropped *DroppedError // what was dropped of the rest; nil for nothing
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("logs of tasks are not stored: %v", e.Why)
}
func (e *HeldError) Unwrap() error { return e.Why }

// Hold adds a task. Of several reasons it keeps the same one each time.
func (e *HeldError) Hold(task string, why error) {
	if !slices.Contains(e.Tasks, task) {
		e.Tasks = append(e.Tasks, task)
	}
	if e.Why == nil || why.Error() < e.Why.Error() {
		e.Why = why
	}
}

// LogSource names one of a task's two streams.
type LogSource string

// The streams of a task: the job's stored output (control sequences removed) and the
// runner's own lines.
const (
	JobLog    LogSource = "job"
	RunnerLog LogSource = "runner"
)

// LogData is a piece of a stream. Offset is the position of Data's first byte, so that
// receivers drop what they have and notice what they miss.
type LogData struct {
	Source LogSource `json:"source"`
	Offset int64     `json:"offset"`
	Data   []byte    `json:"data"`
}

// Metrics is one sample of a running task (host-agents 2.13).
type Metrics struct {
	CPUMicros       int64        `json:"cpu_micros"` // cumulative
	MemoryBytes     int64        `json:"memory_bytes"`
	WorkingSetBytes int64        `json:"working_set_bytes"`
	GPUs            []GPUMetrics `json:"gpus"`
}

// GPUMetrics is one sample of one GPU of a task.
type GPUMetrics struct {
	MemoryBytes int64 `json:"memory_bytes"`
	UtilPercent int   `json:"util_percent"`
}

// Ends says that the event tells of the end of a task.
func (e *Event) Ends() bool { return e.Task != nil && e.Task.State == Terminated }

// Ack tells the agent that events up to Seq are stored by the server, but for logs and ends of some tasks, which the
// next stream tells again and this one does not go on with. (An older agent takes them for stored and goes on; the
// server fetches what is missing then.)
type Ack struct {
	Seq    int64    `json:"seq"`
	Except []string `json:"except,omitempty"` // ids of tasks
}

// Error is the body of every failed request. Code is one of the words below or "".
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error codes.
const (
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"     // the task is not terminated, or is to be created and has ended before
	CodeInvalid     = "invalid"      // the request can never succeed
	CodeMissingBlob = "missing_blob" // upload the blob first, then repeat
)

func (e *Error) Error() string { return e.Message }
