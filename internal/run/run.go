// Package run owns runs and their jobs: planning, submitting, stopping, the pure steps that
// move them through their life, and the reconcilers that place jobs on instances, hand them
// to the hosts' agents and follow what the agents report.
//
// Test it with go test ./internal/run.
package run

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/blobstore"
	"dstack/internal/catalog"
	"dstack/internal/engine"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/logstore"
	"dstack/internal/metrics"
	"dstack/internal/project"
	"dstack/internal/repo"
	"dstack/internal/secret"
	"dstack/internal/store"
	"dstack/internal/user"
)

// Kinds of the engine.
const (
	Kind      = "run"
	JobKind   = "job"
	QueueKind = "queue" // one per project, by the project's id
)

// watchTopic is what replicas tell each other of runs that somebody may watch.
const watchTopic = "run changed"

// Run is one row.
type Run struct {
	ID          string
	ProjectID   string
	UserID      string
	Name        string
	Status      api.RunStatus
	Priority    int
	RepoID      string
	Deleted     bool
	SubmittedAt time.Time
	Version     int64
	Data        Data
}

// Data is the part of a run that no query looks into.
type Data struct {
	Spec       api.RunSpec              `json:"spec"`
	FleetID    string                   `json:"fleet_id,omitempty"`
	FleetName  string                   `json:"fleet_name,omitempty"`
	Reason     api.RunTerminationReason `json:"reason,omitempty"`
	Deployment int                      `json:"deployment,omitempty"`
	// Published says that a published client submitted the run: see [agentapi.JobSpec.Linger].
	Published   bool      `json:"published,omitempty"`
	ProcessedAt time.Time `json:"processed_at"`
	// Resubmissions counts how often in a row the whole run was sent back to wait without having run.
	Resubmissions int `json:"resubmissions,omitempty"`
	// NextAt is when a scheduled run starts, TriggeredAt when it last did.
	NextAt      time.Time `json:"next_at,omitzero"`
	TriggeredAt time.Time `json:"triggered_at,omitzero"`
	// Service is where a service answers, fixed when it is submitted.
	Service *api.ServiceSpec `json:"service,omitempty"`
	// Desired is how many replicas each group of a service shall have, by name; one that is
	// missing has its least number.
	Desired map[string]int `json:"desired,omitempty"`
	// ScaledAt is when these numbers last changed.
	ScaledAt time.Time `json:"scaled_at,omitzero"`
	// PastCost is what attempts have cost whose rows are gone, in US dollars.
	PastCost float64 `json:"past_cost,omitempty"`
	// Waiting says what a run that has not started waits for, nil when it does not.
	Waiting *Waiting `json:"waiting,omitempty"`
	// Damage is why this is a stand-in for what is stored, "" when it is not.
	Damage string `json:"-"`
}

// Waiting is why a run is not placed.
type Waiting struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
}

// Job is one attempt to run one job.
type Job struct {
	ID          string
	RunID       string
	ProjectID   string
	Replica     int
	Num         int
	Attempt     int
	Status      api.JobStatus
	InstanceID  string
	SubmittedAt time.Time
	Version     int64
	Data        JobData
	Observed    *agentapi.Task
}

// JobData is the part of a job that no query looks into.
type JobData struct {
	Spec api.JobSpec `json:"spec"`
	// Provisioning is the machine, as soon as there is one: without address until it has answered.
	Provisioning *api.JobProvisioningData `json:"provisioning,omitempty"`
	Runtime      *api.JobRuntimeData      `json:"runtime,omitempty"`
	Reason       api.JobTerminationReason `json:"reason,omitempty"`
	Message      string                   `json:"message,omitempty"`
	Exit         *int                     `json:"exit,omitempty"`
	Deployment   int                      `json:"deployment,omitempty"`
	ProcessedAt  time.Time                `json:"processed_at"`
	FinishedAt   time.Time                `json:"finished_at,omitzero"`
	PlacedAt     time.Time                `json:"placed_at,omitzero"`
	StoppingAt   time.Time                `json:"stopping_at,omitzero"`
	// Sent says that the task was or may have been given to the host's agent.
	Sent bool `json:"sent,omitempty"`
	// Unsent is why the host's agent did not take the task at first, "" when it did.
	Unsent string `json:"unsent,omitempty"`
	// Abort asks for an end without grace.
	Abort bool `json:"abort,omitempty"`
	// WaitFrom is when the time began that the attempt may wait for capacity.
	WaitFrom time.Time `json:"wait_from,omitzero"`
	// BuyFrom is before when the attempt may only have a place on an instance that exists: providers
	// refused the attempts before it.
	BuyFrom time.Time `json:"buy_from,omitzero"`
	// Streaks count the successes in a row of each of the probes, up to what makes it ready.
	Streaks []int `json:"streaks,omitempty"`
	// ProbeError is why a probe fails, "" when none does or none has for long enough.
	ProbeError string `json:"probe_error,omitempty"`
	// Ready says that all probes have succeeded, so that requests may come; it stays.
	Ready bool `json:"ready,omitempty"`
	// Damage is why this is a stand-in for what is stored, "" when it is not.
	Damage string `json:"-"`
}

// Finished says that the attempt will not change any more.
func (j *Job) Finished() bool { return j.Status.Finished() }

// Hosts reaches the agents.
type Hosts interface {
	// Reachable says whether an instance's agent can be called, as far as that is known
	// without trying.
	Reachable(inst *instance.Instance) bool
	// Client connects when the instance is followed by another replica.
	Client(ctx context.Context, instanceID string) (*agentapi.Client, error)
}

// Config is what New needs; fields are required but for the limits, whose zero is none.
type Config struct {
	DB        *store.DB
	Engine    *engine.Engine
	Instances *instance.Service
	Fleets    *fleet.Service
	Catalog   *catalog.Catalog
	Hosts     Hosts
	Projects  *project.Service
	Users     *user.Service
	Secrets   *secret.Service
	Repos     *repo.Service
	Blobs     blobstore.Store
	Logs      *logstore.Logs
	Metrics   *metrics.Store
	Log       *slog.Logger
	// LogQuota bounds a job's stored log, in bytes per hour, 0: unlimited.
	LogQuota int64
	// LostAfter is how long a host may be unreachable before its jobs count as lost and their
	// retry policy applies, 0: for ever.
	LostAfter time.Duration
	// Images are those of runs that name none; optional.
	Images jobspec.Images
	// Limits bound what configurations may ask for; optional.
	Limits jobspec.Limits
	// Network says which jobs use their host's network; optional: [HostWhole].
	Network Network
	// SSHProxy is shown to users as the way to their jobs.
	SSHProxy SSHProxy
	// ForbidBare refuses services without a gateway.
	ForbidBare bool
	// ForbidAccess refuses runs that want to call the server.
	ForbidAccess bool
	// Gateways lists the gateways that a project may use.
	Gateways func(ctx context.Context, sc project.Scope) ([]api.Gateway, error)
	// Tokenizer asks the hub of models how to talk to one, with the token of a user, "" for none.
	Tokenizer func(ctx context.Context, model, token string) (Tokenizer, error)
	// Probe asks a replica of a service whether it is well; nil is yes.
	Probe func(ctx context.Context, e Endpoint, spec api.ProbeSpec) error
	// Connect connects to a replica of a service.
	Connect func(ctx context.Context, to Endpoint) (net.Conn, error)
	// Serving says that a replica works on requests that came through this server.
	Serving func(jobID string) bool
	// Changed is told of runs that are not what they were.
	Changed func(runID string)
	// Moved is told of a run's change of status after it was stored; optional.
	Moved func(ctx context.Context, r Run, from api.RunStatus)
}

// Service plans, submits and ends runs.
type Service struct {
	Config
	watch  *watchers
	queues *queueCache
	hosts  *hostCache
	places *positionCache
	clock  probeClock
	// started is when this replica of the server began to look at jobs and to count requests.
	started time.Time
	rows    *rows
	texts   *texts
	markets markets
	fetches fetches // of what is missing in logs
}

// New checks c and registers the reconcilers with the engine.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Engine == nil || c.Instances == nil || c.Fleets == nil || c.Catalog == nil || c.Hosts == nil || c.Projects == nil ||
		c.Users == nil || c.Secrets == nil || c.Repos == nil || c.Blobs == nil || c.Logs == nil || c.Metrics == nil || c.Log == nil || c.Gateways == nil || c.Probe == nil || c.Connect == nil || c.Tokenizer == nil || c.Serving == nil || c.Changed == nil {
		return nil, errors.New("run: every field of Config is required")
	}
	s := &Service{Config: c, watch: newWatchers(), queues: newQueueCache(), hosts: &hostCache{}, places: &positionCache{}, rows: newRows(), texts: newTexts(), started: time.Now()}
	c.Engine.Register(engine.Kind{
		Name: Kind, Workers: 16, Reconcile: s.reconcileRun,
		Live: engine.LiveQuery("SELECT id FROM run WHERE status NOT IN ('terminated', 'failed', 'done') AND shard IN"),
	})
	c.Engine.Register(engine.Kind{
		Name: JobKind, Workers: 32, Reconcile: s.reconcileJob, Timeout: 10 * time.Minute,
		Live: liveJobs,
	})
	c.Engine.Register(engine.Kind{Name: MisfitKind, Workers: 4, Reconcile: s.reconcileMisfit, Live: engine.HashedQuery(listMisfits)})
	c.Engine.Register(engine.Kind{
		Name: ProbeKind, Workers: 128, Reconcile: s.reconcileProbe, Timeout: 2 * agentapi.Seconds(c.Limits.LongestProbe()),
		Live: func(context.Context, store.Querier, []int) ([]string, error) { return nil, nil },
		Lost: s.clock.forget,
	})
	c.Engine.Register(engine.Kind{
		Name: RouterKind, Workers: 16, Reconcile: s.reconcileRouter,
		Live: func(context.Context, store.Querier, []int) ([]string, error) { return nil, nil },
	})
	c.Engine.Hear(watchTopic, func(runID string) {
		c.Changed(runID)
		s.watch.notify(runID)
	})
	c.Engine.Register(engine.Kind{Name: QueueKind, Workers: 8, Reconcile: s.reconcileQueue, Live: engine.HashedQuery(waitingProjects), Lost: s.queues.lost})
	return s, nil
}

// Freed is told by the instances that it changed who of a project may have what: the project's queue is
// looked at.
func (s *Service) Freed(projectID string) { s.Engine.Wake(QueueKind, projectID) }
