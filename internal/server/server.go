// Package server is the control plane as one value: it opens the store, puts engine, ledger,
// hosts and the domain together, and serves the API. It holds no business rules.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/all"
	"dstack/internal/backend/local"
	"dstack/internal/catalog"
	"dstack/internal/cost"
	"dstack/internal/crypt"
	"dstack/internal/engine"
	"dstack/internal/export"
	"dstack/internal/fleet"
	"dstack/internal/gateway"
	"dstack/internal/host"
	"dstack/internal/hub"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/ledger"
	"dstack/internal/logstore"
	"dstack/internal/metrics"
	"dstack/internal/object"
	"dstack/internal/offer"
	"dstack/internal/project"
	"dstack/internal/proxy"
	"dstack/internal/repo"
	"dstack/internal/run"
	"dstack/internal/scheduler"
	"dstack/internal/secret"
	"dstack/internal/store"
	"dstack/internal/template"
	"dstack/internal/user"
	"dstack/internal/volume"
)

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	Dir  string // state of the server
	Host string
	Port int
	// PublicURL is where clients reach the server, optional: made of Host and Port.
	PublicURL string
	Token     string // optional: a new administrator's
	DBURL     string // optional: SQLite below Dir
	// NoFile leaves config.yml alone: there is nothing but the project main.
	NoFile bool
	// Store is an open database to use, and to close, instead of DBURL's; optional.
	Store *store.DB
	// CodeLimit bounds uploads, in bytes, 0: 2 MiB, negative: unlimited.
	CodeLimit int64
	// ProjectQuota bounds the projects that one user who is no admin may own, 0: 10.
	ProjectQuota int
	// LogQuota bounds a job's stored log, in bytes per hour, 0: unlimited.
	LogQuota int64
	// LostAfter is how long a host may be unreachable before its jobs count as lost, 0: for ever.
	LostAfter time.Duration
	// ServiceTimeout is how long a service may take to begin an answer, 0: a minute.
	ServiceTimeout time.Duration
	// ForbidBareServices refuses services without a gateway.
	ForbidBareServices bool
	// ForbidJobAccess refuses runs whose jobs want to call this server.
	ForbidJobAccess bool
	// Resting leaves all work on runs and machines to other servers on the same database.
	Resting bool
	// DBConns bounds the connections to PostgreSQL, 0: 20.
	DBConns int
	// ConnectTimeout is how long a host may take to accept a connection, 0: 10 s.
	ConnectTimeout time.Duration
	// MaxOffers bounds the offers that are tried for one instance, 0: 25.
	MaxOffers int
	// Images, Limits and Network are what runs get and may ask for; optional.
	Images  jobspec.Images
	Limits  jobspec.Limits
	Network run.Network
	// KeepMetrics is for samples of running jobs, KeepFinishedMetrics for those of ended ones. 0: an
	// hour, a week.
	KeepMetrics, KeepFinishedMetrics time.Duration
	// KeepHealth is for checks of the health of instances, HealthEvery the time between two of an
	// instance. 0: a week, a minute.
	KeepHealth, HealthEvery time.Duration
	// EventTTL is how long the audit log is kept, 0: [eventTTL], negative: nothing is written into it.
	EventTTL time.Duration
	// LogTTL is how long the log of a job is kept after the last was written to it, 0: for ever.
	LogTTL time.Duration
	// Prometheus serves /metrics, to holders of PrometheusToken when that is not empty.
	Prometheus      bool
	PrometheusToken string
	// SSHProxy is where users reach their jobs through a proxy, which shows SSHProxyToken to the
	// server; "": there is none.
	SSHProxy      run.SSHProxy
	SSHProxyToken string
	// TemplatesRepo is the git repository with templates for projects without one of their own.
	TemplatesRepo string
	// HubURL is where the hub of models is, "": Hugging Face's.
	HubURL string
	// Storage is where uploads and logs are kept; optional.
	Storage Storage
	// Backends are the types of backends that there are; optional: those of this build.
	Backends []backend.Type
	// Hosts is the way to hosts; optional: SSH.
	Hosts host.Transport
	// Env is the environment, in which backends have the endpoints of their APIs; optional.
	Env func(string) string
	Log *slog.Logger
}

// Server is a running control plane.
type Server struct {
	Config
	db       *store.DB
	engine   *engine.Engine
	ledger   *ledger.Ledger
	catalog  *catalog.Catalog
	pool     *host.Pool
	bucket   object.Bucket // of uploads, or nil
	sink     logstore.Sink // where logs go, or nil
	logs     *logstore.Logs
	metrics  *metrics.Store
	lives    *lifeMetrics
	clouds   *clouds
	box      *crypt.Box
	users    *user.Service
	projects *project.Service
	secrets  *secret.Service
	repos    *repo.Service
	inst     *instance.Service
	fleets   *fleet.Service
	costs    *cost.Service
	exports  *export.Service
	volumes  *volume.Service
	gateways *gateway.Service
	// templates are those of the web interface.
	templates template.Repos
	runs      *run.Service
	proxy     *proxy.Proxy
	handler   http.Handler
	access    *jobAccess
	// backendNews holds a token when the stored backends have changed.
	backendNews chan struct{}
	stopping    chan struct{} // closed when streams shall end

	// AdminToken is the administrator's; NewAdmin says that this start made it.
	AdminToken string
	NewAdmin   bool
}

// New opens everything. It serves nothing yet: see [Server.Run].
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Dir == "" || c.Log == nil {
		return nil, errors.New("server: Dir and Log are required")
	}
	if !isToken(c.Token) {
		return nil, errors.New("the administrator's token must be of letters, digits and other visible characters of ASCII, without spaces: no header could carry it")
	}
	c.CodeLimit = cmp.Or(c.CodeLimit, codeLimit)
	c.EventTTL = cmp.Or(c.EventTTL, eventTTL)
	if c.Env == nil {
		c.Env = func(string) string { return "" }
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the server's folder: %w", err)
	}
	file, err := loadFile(c.Dir, c.NoFile, c.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{Config: c, stopping: make(chan struct{}), backendNews: make(chan struct{}, 1)}
	if err := s.openStorage(ctx); err != nil {
		return nil, err
	}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	if err := s.assemble(file); err != nil {
		s.db.Close()
		return nil, err
	}
	if err := s.bootstrap(ctx, file); err != nil {
		s.db.Close()
		return nil, file.explain(err)
	}
	s.handler = s.router()
	return s, nil
}

func (s *Server) openStore(ctx context.Context) error {
	if s.db = s.Store; s.db != nil {
		return nil
	}
	url := s.DBURL
	if url == "" {
		dir := filepath.Join(s.Dir, "data")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the server's folder: %w", err)
		}
		url = filepath.Join(dir, "dstack.db")
	}
	var err error
	s.db, err = store.Open(ctx, store.Config{URL: url, Conns: s.DBConns, NoEvents: s.EventTTL < 0, Log: s.Log})
	return err
}

// assemble puts the parts together, from the ground up.
func (s *Server) assemble(file file) error {
	box, err := box(file.Encryption)
	if err != nil {
		return err
	}
	s.box = box
	agents := agentbin.New()
	blobs := s.blobs()
	if s.engine, err = engine.New(engine.Config{DB: s.db, Log: s.Log, Owner: uuid.NewString(), Resting: s.Resting}); err != nil {
		return err
	}
	types := s.Backends
	if types == nil {
		types = all.Types(agents)
	}
	if s.clouds, err = newClouds(s.Dir, s.Log, s.Env, types...); err != nil {
		return err
	}
	if s.ledger, err = ledger.New(ledger.Config{DB: s.db, Engine: s.engine, Clouds: s.clouds, Log: s.Log, Current: s.currentBackend, Quote: func(ctx context.Context, projectID string, what offer.Key) (ledger.Quote, error) {
		return s.catalog.Quote(ctx, projectID, what)
	}}); err != nil {
		return err
	}
	logs, err := s.logStore()
	if err != nil {
		return err
	}
	if s.logs, err = logstore.New(logstore.Config{Store: logs, Log: s.Log, Retention: s.LogTTL, Tell: func(jobID string) { s.engine.Tell(logTopic, jobID) }}); err != nil {
		return err
	}
	s.hear()
	s.lives = newLifeMetrics()
	if s.metrics, err = metrics.New(metrics.Config{DB: s.db, Log: s.Log, KeepRunning: s.KeepMetrics, KeepFinished: s.KeepFinishedMetrics, KeepHealth: s.KeepHealth, HealthEvery: s.HealthEvery}); err != nil {
		return err
	}
	perms := permissions(file.DefaultPermissions, cmp.Or(s.ProjectQuota, projectQuota))
	if s.users, err = user.New(user.Config{DB: s.db, Box: box, CanCreateProjects: perms.CreateProjects}); err != nil {
		return err
	}
	s.projects, err = project.New(project.Config{DB: s.db, Box: box, Users: s.users, Permissions: perms,
		Busy: s.projectBusy, Created: s.projectCreated, Deleted: s.projectDeleted, CheckTemplates: template.Check,
	})
	if err != nil {
		return err
	}
	s.secrets = &secret.Service{DB: s.db, Box: box, Log: s.Log}
	s.repos = &repo.Service{DB: s.db, Box: box, Blobs: blobs}
	s.pool = host.NewPool(host.Config{Agents: agents, Log: s.Log, Transport: s.Hosts, ConnectTimeout: s.ConnectTimeout,
		Wish: agentapi.Wish{Health: cmp.Or(s.HealthEvery, metrics.HealthEvery), DCGM: s.Prometheus, Server: s.db.ServerID()}})
	s.access = &jobAccess{listen: s.pool.Listen, log: s.Log, mayCall: func(ctx context.Context, hostID, jobID string) (bool, error) {
		return s.runs.MayCall(ctx, hostID, jobID)
	}}
	s.pool.SetSink(&sink{s})
	offers := func(ctx context.Context, projectID string, ask scheduler.Ask, spare bool) ([]api.InstanceOffer, time.Time, error) {
		return s.runs.Purchasable(ctx, projectID, ask, spare)
	}
	freed := func(projectID string) {
		s.runs.Freed(projectID)
		s.exports.Freed(projectID)
	}
	if s.costs, err = cost.New(cost.Config{DB: s.db, Projects: s.projects}); err != nil {
		return err
	}
	s.fleets, err = fleet.New(fleet.Config{DB: s.db, Engine: s.engine, Box: box, Projects: s.projects, Log: s.Log,
		Instances: func() *instance.Service { return s.inst }, Freed: freed,
		Market: func(ctx context.Context, projectID string, ask scheduler.Ask) (fleet.Market, error) {
			return s.runs.Market(ctx, projectID, ask)
		}})
	if err != nil {
		return err
	}
	if err := s.assembleShared(); err != nil {
		return err
	}
	s.inst, err = instance.New(instance.Config{
		DB: s.db, Engine: s.engine, Ledger: s.ledger, Hosts: s.pool, Onboard: s.pool, Sealer: box, Keys: s.projects, Checks: s.metrics, Log: s.Log,
		Freed:        freed,
		Changed:      func(jobs []string) { s.engine.Wake(run.JobKind, jobs...) },
		FleetChanged: func(id string) { s.engine.Wake(fleet.Kind, id) },
		MinNodes:     s.fleets.MinNodes,
		Awaited: func(ctx context.Context, inst instance.Instance) (bool, error) {
			return s.runs.Awaited(ctx, inst)
		},
		FleetName:   s.fleets.NameOf,
		Offers:      offers,
		ProjectName: s.projectName,
		MaxOffers:   s.MaxOffers,
	})
	if err != nil {
		return err
	}
	if s.catalog, err = catalog.New(catalog.Config{
		Clouds: s.clouds, Log: s.Log, Changed: freed,
		Failures: func(ctx context.Context, since time.Time) ([]ledger.Failure, error) {
			return ledger.Failures(ctx, s.db.Read(), since)
		},
		Dearers: func(ctx context.Context, projectID string, since time.Time) ([]ledger.Dearer, error) {
			return ledger.Dearers(ctx, s.db.Read(), projectID, since)
		},
	}); err != nil {
		return err
	}
	s.runs, err = run.New(run.Config{
		DB: s.db, Engine: s.engine, Instances: s.inst, Fleets: s.fleets, Catalog: s.catalog, Hosts: hosts{s.pool, func() *instance.Service { return s.inst }}, Projects: s.projects,
		Users: s.users, Secrets: s.secrets, Repos: s.repos, Blobs: blobs, Logs: s.logs, Metrics: s.metrics, Log: s.Log, LogQuota: s.LogQuota, LostAfter: s.LostAfter, SSHProxy: s.SSHProxy, ForbidBare: s.ForbidBareServices, ForbidAccess: s.ForbidJobAccess,
		Images: s.Images, Limits: s.Limits, Network: s.Network,
		Gateways: s.gatewaysOf, Tokenizer: hub.Client{Base: s.HubURL}.Tokenizer,
		Probe:   func(ctx context.Context, e run.Endpoint, p api.ProbeSpec) error { return s.proxy.Probe(ctx, e, p) },
		Connect: s.dialReplica,
		Serving: func(jobID string) bool { return s.proxy.Busy(jobID) },
		Changed: func(runID string) { s.proxy.Changed(runID) },
		Moved:   s.runMoved,
	})
	if err != nil {
		return err
	}
	s.proxy, err = proxy.New(proxy.Config{Services: s.runs, Member: s.isMember, Dial: s.dialReplica, Alive: s.hostAnswers, Report: s.runs.CountRequests, Timeout: s.ServiceTimeout, Log: s.Log})
	return err
}

func (s *Server) projectName(ctx context.Context, id string) string {
	p, err := s.projects.ByID(ctx, s.db.Read(), id)
	if err != nil {
		return id
	}
	return p.Name
}

// bootstrap makes what a server cannot be without: an administrator and the projects of
// the configuration.
func (s *Server) bootstrap(ctx context.Context, file file) error {
	admin, token, created, err := s.users.EnsureAdmin(ctx, s.Token)
	if err != nil {
		return err
	}
	s.AdminToken, s.NewAdmin = token, created
	if s.Token != "" && !created && s.Token != token {
		s.Log.Warn("the given token counts at the first start only; the administrator's stays as it is")
	}
	if _, err := s.projects.Ensure(ctx, "main", admin); err != nil {
		return err
	}
	for _, p := range file.Projects {
		pr, err := s.projects.Ensure(ctx, p.Name, admin)
		if err != nil {
			return err
		}
		for _, b := range p.Backends {
			if err := s.clouds.add(pr, settings(b), ""); err != nil {
				return err
			}
			if b["type"] == local.Name {
				if err := s.fleets.EnsureLocal(ctx, project.Scope{Project: pr, User: admin, Role: api.ProjectAdmin}); err != nil {
					return err
				}
			}
		}
	}
	return s.loadBackends(ctx)
}

// Handler is the API.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) router() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range s.routes() {
		mux.Handle(rt.pattern, s.serve(rt))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			encode(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
			return
		}
		w.Header().Set("Allow", "GET, HEAD")
		encode(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
	})
	return s.observed(s.passServices(mux))
}

// sink passes on what hosts say.
type sink struct{ s *Server }

func (k *sink) Pinned(id, key string) {
	if err := k.s.inst.Pinned(context.Background(), id, key); err != nil {
		k.s.Log.Error("store a host key", "instance", id, "err", err)
	}
}

func (k *sink) Taken(ctx context.Context, id, key, bootID string) (string, error) {
	return k.s.inst.Taken(ctx, id, key, bootID)
}

// Connected takes over the tasks first, so that nobody acts on old ones, and removes those
// that no job stands for before the host gets new jobs.
func (k *sink) Connected(ctx context.Context, id string, info agentapi.HostInfo, tasks []agentapi.Task) {
	if err := k.s.runs.Observe(ctx, id, tasks...); err != nil {
		k.s.Log.Error("take over the tasks of a host", "instance", id, "err", err)
	}
	left := k.clean(ctx, id, tasks)
	if ctx.Err() != nil {
		return // the host was forgotten meanwhile
	}
	k.s.inst.Connected(id, info)
	k.s.runs.Reconnected(ctx, id)
	for _, t := range tasks {
		k.s.access.saw(ctx, id, t)
	}
	k.lost(ctx, id, tasks)
	go k.tend(ctx, id, left)
}

const (
	// leftOverPatience bounds the wait for the end of left-over tasks when a host is connected, leftOverEvery
	// spaces the looks at them.
	leftOverPatience = 30 * time.Second
	leftOverEvery    = 500 * time.Millisecond
	// lookAgain is about the time between two looks for them while the host is connected, lookSoon the first
	// between two attempts to be rid of what stays.
	lookAgain = 15 * time.Minute
	lookSoon  = 30 * time.Second
)

// tend looks for left-over tasks for as long as ctx, the connection, lasts: a host may be busy when a job is over and
// is to be forgotten, one that does not end may do so later, and a request that begins a task may come late.
func (k *sink) tend(ctx context.Context, id string, left bool) {
	for wait := lookSoon; ; {
		pause := lookAgain - apart(id)
		if left {
			pause, wait = wait, min(2*wait, lookAgain)
		} else {
			wait = lookSoon
		}
		if !sleep(ctx, pause) {
			return
		}
		client, err := k.s.pool.Client(id)
		if err != nil {
			return
		}
		if tasks, err := client.Tasks(ctx); err == nil { // otherwise the connection ends soon, or it is asked again
			left = k.clean(ctx, id, tasks)
		}
	}
}

// apart is a part of lookAgain that follows from a host's id: hosts that were connected together are not asked
// together.
func apart(id string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id)) // a hash takes everything
	return time.Duration(h.Sum64() % uint64(lookAgain/3))
}

// clean ends the tasks that no job stands for, and waits until they have ended: they hold the accelerators
// and ports that the next job is to have. What they have printed is kept before the host forgets it. What
// cannot be done, or not soon, does not keep the host from its other jobs: then some may be left.
func (k *sink) clean(ctx context.Context, id string, tasks []agentapi.Task) (some bool) {
	dangling, err := k.s.runs.Dangling(ctx, id, tasks)
	if err != nil {
		k.s.Log.Error("look for left-over tasks", "instance", id, "err", err)
		return true
	}
	client, err := k.s.pool.Client(id)
	if err != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, leftOverPatience)
	defer cancel()
	left := map[string]bool{}
	for _, t := range dangling {
		if _, err := client.Terminate(ctx, t, agentapi.Terminate{Reason: agentapi.TerminatedByServer}); err != nil {
			k.s.Log.Warn("end a left-over task", "instance", id, "task", t, "err", err)
			some = true
			continue
		}
		left[t] = true
	}
	for len(left) > 0 {
		now, err := client.Tasks(ctx)
		if err == nil {
			var failed bool
			left, failed = k.forget(ctx, client, id, left, now)
			some = some || failed
		}
		if err != nil || len(left) > 0 && !sleep(ctx, leftOverEvery) {
			k.s.Log.Warn("left-over tasks stay on a host for now", "instance", id, "tasks", len(left), "err", err)
			return true
		}
	}
	return some
}

// sleep says whether it has not been interrupted.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// forget deletes the left-over tasks of a host that have ended, and returns those that have not. Others may have failed
// to be.
func (k *sink) forget(ctx context.Context, client *agentapi.Client, id string, left map[string]bool, tasks []agentapi.Task) (still map[string]bool, failed bool) {
	still = map[string]bool{}
	for _, t := range tasks {
		switch {
		case !left[t.ID] || t.Check() != "":
			continue
		case t.State != agentapi.Terminated:
			still[t.ID] = true
			continue
		}
		if err := k.s.runs.Complete(ctx, id, t); err != nil { // the event stream tells it
			k.s.Log.Warn("keep the log of a left-over task", "instance", id, "task", t.ID, "err", err)
			failed = true
			continue
		}
		failed = client.Delete(ctx, t.ID) != nil || failed
	}
	return still, failed
}

// lost ends the jobs that a host has forgotten: its disk was replaced, for example.
func (k *sink) lost(ctx context.Context, id string, tasks []agentapi.Task) {
	unknown, err := k.s.runs.Unknown(ctx, id, tasks)
	if err != nil {
		k.s.Log.Error("look for jobs that a host has forgotten", "instance", id, "err", err)
		return
	}
	client, err := k.s.pool.Client(id)
	if err != nil || len(unknown) == 0 {
		return
	}
	now, err := client.Tasks(ctx) // a job may have come after those of before were listed
	if err != nil {
		k.s.Log.Warn("look for jobs that a host has forgotten", "instance", id, "err", err)
		return
	}
	for _, job := range unknown {
		if slices.ContainsFunc(now, func(t agentapi.Task) bool { return t.ID == job }) {
			continue
		}
		k.s.Log.Error("a host does not know a job any more that it had taken", "instance", id, "job", job)
		if err := k.s.runs.Lost(ctx, id, job); err != nil {
			k.s.Log.Error("end a job that its host has forgotten", "instance", id, "job", job, "err", err)
		}
	}
}

func (k *sink) Disconnected(id string, err error) { k.s.inst.Disconnected(id, err) }

func (k *sink) Handle(ctx context.Context, id string, events []agentapi.Event) error {
	var health *agentapi.Health // the last: the others are over
	for _, e := range events {
		if e.Task != nil {
			k.s.access.saw(ctx, id, *e.Task)
		}
		if e.Health != nil {
			health = e.Health
		}
	}
	if health != nil {
		if err := k.s.inst.Checked(ctx, id, *health); err != nil {
			return err
		}
	}
	return k.s.runs.Handle(ctx, id, events)
}
