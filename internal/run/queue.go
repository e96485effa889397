package run

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// lookAgain is when a queue that waits for what backends may offer later is looked at.
const lookAgain = 30 * time.Second

// gang is a replica's waiting jobs with their run.
type gang struct {
	run  *Run
	jobs []*Job
}

// until is when the gang has waited for capacity as long as it may, zero when it may not.
func (g *gang) until() time.Time {
	j := g.jobs[0]
	if r := j.Data.Spec.Retry; r != nil && slices.Contains(r.OnEvents, "no-capacity") {
		from := j.Data.WaitFrom
		if from.IsZero() {
			from = g.run.begun()
		}
		return from.Add(agentapi.Seconds(r.Duration))
	}
	return time.Time{}
}

// reconcileQueue places the waiting jobs of one project in the order of its queue: one
// writer per project, so placements do not race each other.
func (s *Service) reconcileQueue(ctx context.Context, it engine.Item) (time.Time, error) {
	c := s.queues.of(it.ID)
	c.mu.Lock() // held across passes of one object only, which never overlap
	defer c.mu.Unlock()
	if waits, err := s.waits(ctx, it.ID); err != nil || !waits {
		return time.Time{}, err
	}
	// Backends whose answers are old are waited for without holding up who needs none of them. The
	// queue is read after they have answered, not before: who comes meanwhile may have priority.
	unsettled, err := s.Catalog.Settled(ctx, it.ID)
	if err != nil {
		return time.Time{}, err
	}
	gangs, orphans, err := s.waitingGangs(ctx, c, it.ID)
	if err != nil {
		return time.Time{}, err
	}
	for _, j := range orphans {
		if err := s.orphaned(ctx, it, *j); err != nil {
			return time.Time{}, err
		}
	}
	if len(gangs) == 0 {
		return time.Time{}, nil
	}
	supply, err := s.supply(ctx, it.ID)
	if err != nil {
		return time.Time{}, err
	}
	asks := c.recall(gangs)
	reserved := reservations(asks, supply.Fleets)
	if unsettled.IsZero() && reserved != nil {
		if unsettled, err = s.Catalog.Settled(ctx, it.ID, reserved...); err != nil {
			return time.Time{}, err
		}
	}
	var pending time.Time
	if unsettled.IsZero() {
		var market market
		if market, pending, err = s.purchasable(ctx, it.ID, reserved); err != nil {
			return time.Time{}, err
		}
		supply.Offers, supply.Index = market.list, market.index
	}
	for i := range asks {
		if err := s.relate(ctx, &asks[i], &gangs[i], supply.Fleets); err != nil {
			return time.Time{}, err
		}
	}
	if unsettled.IsZero() {
		return s.carryOut(ctx, it, gangs, scheduler.Place(asks, supply), pending)
	}
	var placed []gang
	var verdicts []scheduler.Verdict
	for i, v := range scheduler.PlaceOnHosts(asks, supply) {
		if v.Nodes != nil {
			placed, verdicts = append(placed, gangs[i]), append(verdicts, v)
		}
	}
	again, err := s.carryOut(ctx, it, placed, verdicts, pending)
	if again.IsZero() || unsettled.Before(again) {
		again = unsettled
	}
	return again, err
}

// waits says that a job of the project waits for a place.
func (s *Service) waits(ctx context.Context, projectID string) (bool, error) {
	var n int
	err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM job WHERE project_id = $1 AND status = 'submitted' LIMIT 1) AS one`, projectID).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look for waiting jobs: %w", err)
	}
	return n > 0, nil
}

// outcome is what becomes of a gang, as something to do in a transaction.
type outcome func(ctx context.Context, tx *store.Tx, fleets fleetsOnce) error

// together is how many outcomes share a transaction: large enough to get on fast, small enough
// for what waits behind it.
const together = 64

// carryOut stores what was decided for each gang and returns when to look again. None is refused
// while backends may still answer, until pending.
func (s *Service) carryOut(ctx context.Context, it engine.Item, gangs []gang, verdicts []scheduler.Verdict, pending time.Time) (time.Time, error) {
	var again time.Time
	sooner := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	now := time.Now()
	var all []outcome
	for i, v := range verdicts {
		g := &gangs[i]
		until := g.until()
		switch {
		case v.Nodes != nil:
			all = append(all, func(ctx context.Context, tx *store.Tx, fleets fleetsOnce) error {
				return s.claim(ctx, tx, fleets, g, v)
			})
		case !now.Before(until) && now.Before(pending):
			sooner(pending)
		case !now.Before(until):
			all = append(all, func(ctx context.Context, tx *store.Tx, _ fleetsOnce) error { return s.refuse(ctx, tx, g, v.Why) })
		default:
			sooner(until)
			if !v.Later {
				sooner(now.Add(lookAgain))
			}
			if w := g.run.Data.Waiting; w == nil || w.Why != v.Why { // it is news
				all = append(all, func(ctx context.Context, tx *store.Tx, _ fleetsOnce) error { return s.wait(ctx, tx, g, v.Why) })
			}
		}
	}
	for batch := range slices.Chunk(all, together) {
		conflict, err := s.commitOutcomes(ctx, it, batch)
		if err != nil {
			return time.Time{}, err
		}
		if conflict { // something changed meanwhile: look at everything again
			sooner(now.Add(5 * time.Millisecond))
		}
	}
	return again, nil
}

// commitOutcomes stores outcomes in one transaction, or one by one when one of them does not
// fit what has changed meanwhile; conflict says that there was such a one.
func (s *Service) commitOutcomes(ctx context.Context, it engine.Item, batch []outcome) (conflict bool, err error) {
	err = s.DB.WriteFirst(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		fleets := fleetsOnce{}
		for _, do := range batch {
			if err := do(ctx, tx, fleets); err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, store.ErrConflict) {
		return false, err
	}
	if len(batch) == 1 {
		return true, nil
	}
	for _, do := range batch {
		if _, err := s.commitOutcomes(ctx, it, []outcome{do}); err != nil {
			return true, err
		}
	}
	return true, nil
}

// fleetsOnce are the fleets that a transaction has read: that of many hosts is large.
type fleetsOnce map[string]fleet.Fleet

// wish is what a gang asks for by itself, in the scheduler's words: it is the same for as long
// as its rows are.
func wish(g *gang) scheduler.Gang {
	p := g.run.Data.Spec.Merged()
	a := scheduler.Gang{
		ID: g.jobs[0].ID, Profile: p.ProfileParams, Cluster: g.jobs[0].Data.Spec.JobsPerReplica > 1, Patient: !g.until().IsZero(),
		Reuse: p.CreationPolicy != nil && *p.CreationPolicy == "reuse",
	}
	for _, j := range g.jobs {
		a.Jobs = append(a.Jobs, scheduler.Want{Job: j.ID, Requirements: j.Data.Spec.Requirements})
	}
	a.Key = key(a)
	a.Run = g.run.Name
	return a
}

// relate adds to a wish what depends on others: the fleets that it names, and where the other
// nodes of the gang's replica are.
func (s *Service) relate(ctx context.Context, a *scheduler.Gang, g *gang, fleets []scheduler.Fleet) error {
	a.Fleets = named(a.Profile.Fleets, fleets) // equal for equal keys, which have the names
	if len(g.jobs) >= g.jobs[0].Data.Spec.JobsPerReplica {
		return nil
	}
	var err error
	a.Beside, err = s.beside(ctx, g)
	a.Key += fmt.Sprint(a.Beside)
	return err
}

// beside is where the other nodes of a replica are.
func (s *Service) beside(ctx context.Context, g *gang) (scheduler.Site, error) {
	all, err := s.rows.jobsOf(ctx, s.DB.Read(), g.run.ID)
	if err != nil {
		return scheduler.Site{}, err
	}
	for _, j := range latestOf(all[g.run.ID]) {
		if o := jobRuntimeOffer(j); o != nil && j.Replica == g.jobs[0].Replica && !j.Finished() {
			return scheduler.Site{Fleet: g.run.Data.FleetID, Backend: string(o.Backend), Region: o.Region}, nil
		}
	}
	return scheduler.Site{}, nil
}

func jobRuntimeOffer(j Job) *api.InstanceOffer {
	if j.Data.Runtime == nil {
		return nil
	}
	return j.Data.Runtime.Offer
}

// named are the ids of the fleets that references name, nil for no reference.
func named(refs []config.EntityRef, fleets []scheduler.Fleet) []string {
	if refs == nil {
		return nil
	}
	ids := []string{}
	for _, ref := range refs {
		for _, f := range fleets {
			if f.Is(ref) {
				ids = append(ids, f.ID)
			}
		}
	}
	return ids
}

// key is equal for gangs that ask for the same.
func key(g scheduler.Gang) string {
	g.ID, g.Key = "", ""
	reqs := make([]api.Requirements, len(g.Jobs))
	for i, w := range g.Jobs {
		reqs[i] = w.Requirements
	}
	g.Jobs = nil
	p := g.Profile
	g.Profile = config.ProfileParams{}
	// What does not decide where a job can run.
	p.Retry, p.MaxDuration, p.StopDuration, p.Schedule, p.UtilizationPolicy, p.StartupOrder, p.StopCriteria = nil, nil, nil, nil, nil, nil, nil
	h := fnv.New128a()
	_ = json.NewEncoder(h).Encode([]any{g, reqs, p}) // writing to a hash never fails
	return string(h.Sum(nil))
}

// supply is all that the project's jobs can be placed on, but for offers.
func (s *Service) supply(ctx context.Context, projectID string) (scheduler.Supply, error) {
	var out scheduler.Supply
	fleets, instances, err := s.Fleets.Usable(ctx, s.DB.Read(), projectID)
	if err != nil {
		return out, err
	}
	projects := map[string]string{}
	if out.Backends, err = s.Catalog.Backends(ctx, projectID); err != nil {
		return out, err
	}
	live, hosts, total := map[string]int{}, make([][]*scheduler.Host, len(fleets)), 0
	for i, f := range fleets {
		h := s.hosts.of(f.ID, f.Name, instances[f.ID])
		live[f.ID], hosts[i] = h.live, h.list
		total += len(h.list)
	}
	out.Hosts = make([]*scheduler.Host, 0, total)
	for _, list := range hosts {
		out.Hosts = append(out.Hosts, list...)
	}
	for _, f := range fleets {
		if projects[f.ProjectID] == "" {
			p, err := s.Projects.ByID(ctx, s.DB.Read(), f.ProjectID)
			if err != nil {
				return out, err
			}
			projects[f.ProjectID] = p.Name
		}
		one := f.Supply(projects[f.ProjectID], live[f.ID])
		if f.ProjectID != projectID { // imported: people name it with its project
			one.Name = one.Project + "/" + one.Name
		}
		out.Fleets = append(out.Fleets, one)
	}
	slices.SortStableFunc(out.Fleets, func(a, b scheduler.Fleet) int { // those with instances first
		return min(live[b.ID], 1) - min(live[a.ID], 1)
	})
	return out, nil
}

// claim gives every job of a gang its place: all or none.
func (s *Service) claim(ctx context.Context, tx *store.Tx, fleets fleetsOnce, g *gang, v scheduler.Verdict) error {
	f, known := fleets[v.Fleet]
	if !known {
		var err error
		if f, err = s.Fleets.ByID(ctx, tx, v.Fleet); err != nil {
			return err
		}
		fleets[v.Fleet] = f
	}
	if f.Deleted || f.Status != api.FleetActive {
		return fmt.Errorf("fleet %s is being deleted: %w", f.Name, store.ErrConflict)
	}
	if err := usable(ctx, tx, f, g.run.ProjectID); err != nil {
		return err
	}
	for i, n := range v.Nodes {
		if err := s.claimNode(ctx, tx, g.run, *g.jobs[i], f, n); err != nil {
			return err
		}
	}
	return s.chosen(ctx, tx, *g.run, f)
}

func (s *Service) claimNode(ctx context.Context, tx *store.Tx, r *Run, j Job, f fleet.Fleet, n scheduler.Node) error {
	text, blocks := "", n.Offer.TotalBlocks
	var on event.Target
	if n.Host != "" {
		inst, err := s.Instances.Claim(ctx, tx, instance.Claim{InstanceID: n.Host, JobID: j.ID, RunID: r.ID, Blocks: n.Blocks})
		if err != nil {
			return err
		}
		j.InstanceID, blocks = inst.ID, inst.Blocks
		j.Data.Provisioning = inst.Data.Provisioning
		text, on = fmt.Sprintf("Job assigned to instance. Instance blocks: %d/%d busy", inst.Busy(), inst.Blocks), inst.Target()
	} else {
		if err := s.roomIn(ctx, tx, f); err != nil {
			return err
		}
		offer := n.Offer
		inst, err := s.Instances.Create(ctx, tx, instance.Want{
			ProjectID: r.ProjectID, FleetID: f.ID, FleetName: f.Name, Ask: n.Ask, First: &offer, Cluster: f.Cluster(), JobID: j.ID, RunID: r.ID, Blocks: 1, IdleSeconds: idle(n.Ask),
		})
		if err != nil {
			return err
		}
		j.InstanceID = inst.ID
		text, on = "Instance created for job. Instance status: PENDING", inst.Target()
	}
	j.Data.Runtime = runtimeData(n, blocks, s.Network.host(j.Data.Spec.JobsPerReplica))
	j.Data.PlacedAt, j.Data.ProcessedAt = time.Now(), time.Now()
	// A single job on a host that is ready is sent next: recorded here, it needs no transaction
	// of its own.
	j.Data.Sent = n.Host != "" && j.Data.Spec.JobsPerReplica <= 1
	d := JobDecision{Job: j}
	d.to(api.JobProvisioning)
	if err := s.rows.updateJob(ctx, tx, &d.Job); err != nil {
		return err
	}
	if err := s.recordJob(ctx, tx, d.Job, text, on); err != nil {
		return err
	}
	for _, t := range d.Events {
		if err := s.recordJob(ctx, tx, d.Job, t); err != nil {
			return err
		}
	}
	tx.OnCommit(func() {
		s.Engine.Wake(JobKind, j.ID)
		s.changed(r.ID)
	})
	return nil
}

// roomIn checks in the transaction that a fleet may grow: its limit or its instances may
// have changed since the decision.
func (s *Service) roomIn(ctx context.Context, tx *store.Tx, f fleet.Fleet) error {
	if f.Spec.Configuration.Nodes == nil {
		return fmt.Errorf("fleet %s has no instances of backends: %w", f.Name, store.ErrConflict)
	}
	limit := f.Spec.Configuration.Nodes.Max
	if limit == nil {
		return nil
	}
	n, err := instance.Count(ctx, tx, f.ID)
	if err != nil {
		return err
	}
	if n >= *limit {
		return fmt.Errorf("fleet %s is at capacity: %w", f.Name, store.ErrConflict)
	}
	return nil
}

// chosen remembers the fleet of the run and that it waits no longer.
func (s *Service) chosen(ctx context.Context, tx *store.Tx, r Run, f fleet.Fleet) error {
	var version int64
	if err := tx.QueryRowContext(ctx, `SELECT version FROM run WHERE id = $1`, r.ID).Scan(&version); err != nil {
		return fmt.Errorf("read the version of run %s: %w", r.Name, err)
	}
	now := r
	if version != r.Version { // another of its replicas was placed, or it is ending
		var err error
		if now, err = s.rows.run(ctx, tx, r.ID); err != nil {
			return err
		}
	}
	if now.Status == api.RunTerminating || now.Status.Finished() {
		return fmt.Errorf("run %s is ending: %w", r.Name, store.ErrConflict)
	}
	if now.Data.FleetID == f.ID && now.Data.Waiting == nil {
		return nil
	}
	now.Data.FleetID, now.Data.FleetName, now.Data.Waiting = f.ID, f.Name, nil
	return s.rows.updateRun(ctx, tx, &now)
}

// refuse ends the jobs of a gang that cannot be placed and may not wait.
func (s *Service) refuse(ctx context.Context, tx *store.Tx, g *gang, why string) error {
	for _, j := range g.jobs {
		if err := s.endJob(ctx, tx, *j, api.JobNoCapacity, why); err != nil {
			return err
		}
	}
	return nil
}

// wait stores why a run is not placed.
func (s *Service) wait(ctx context.Context, tx *store.Tx, g *gang, why string) error {
	r := *g.run
	r.Data.Waiting = &Waiting{Why: why, Since: time.Now()}
	if old := g.run.Data.Waiting; old != nil {
		r.Data.Waiting.Since = old.Since
	}
	if err := s.rows.updateRun(ctx, tx, &r); err != nil {
		return err
	}
	tx.OnCommit(func() { s.Engine.Tell(watchTopic, r.ID) })
	if g.run.Data.Waiting != nil {
		return nil
	}
	return s.recordRun(ctx, tx, r, event.Event{Message: "Run is waiting for capacity. " + why})
}

// idle is how long a new instance is kept without jobs (lifecycle 16.4).
func idle(a scheduler.Ask) int64 {
	if d := a.Profile.IdleDuration; d != nil {
		return int64(*d)
	}
	return 300
}

// Network says which of the jobs that have an instance to themselves use its network. Those that
// share it have one of their own.
type Network int

// The policies, numbered as users set them; 0 is HostWhole.
const (
	HostClusters Network = 1 // those of several nodes
	HostWhole    Network = 2
	HostNone     Network = 3
)

// host is the network of a job that has its instance to itself, one of so many of its replica.
func (n Network) host(jobs int) api.NetworkMode {
	if n == HostNone || n == HostClusters && jobs <= 1 {
		return api.NetworkBridge
	}
	return api.NetworkHost
}

// runtimeData says what share the job gets of an instance with so many blocks, and which network
// when that is all of it.
func runtimeData(n scheduler.Node, blocks int, whole api.NetworkMode) *api.JobRuntimeData {
	o := n.Offer
	d := &api.JobRuntimeData{NetworkMode: whole, VolumeNames: []string{}, Offer: &o}
	if n.Blocks < blocks {
		res := o.Instance.Resources
		gpus, cpus, mem := len(res.Gpus), float64(res.CPUs), config.Memory(float64(res.MemoryMiB)/1024)
		d.NetworkMode, d.GPU, d.CPU, d.Memory = api.NetworkBridge, &gpus, &cpus, &mem
	}
	if string(o.Backend) == "local" {
		d.NetworkMode = api.NetworkBridge // several servers and users share this machine's ports
	}
	return d
}

// queueCache keeps the parsed rows of the projects' queues by their versions, so that a
// pass over a long queue reads only what changed.
type queueCache struct {
	mu       sync.Mutex
	projects map[string]*projectQueue
}

type projectQueue struct {
	mu   sync.Mutex
	jobs map[string]*Job
	runs map[string]*Run
	// wishes are those of the gangs of the last pass, by their first job.
	wishes map[string]wished
}

// wished is a gang with its wish.
type wished struct {
	gang
	wish scheduler.Gang
}

// recall returns the wishes of a pass's gangs, which are made only of those that have changed.
func (q *projectQueue) recall(gangs []gang) []scheduler.Gang {
	list, now := make([]scheduler.Gang, len(gangs)), make(map[string]wished, len(gangs))
	for i, g := range gangs {
		id := g.jobs[0].ID
		w := q.wishes[id]
		if w.run != g.run || !slices.Equal(w.jobs, g.jobs) {
			w = wished{g, wish(&g)}
		}
		list[i], now[id] = w.wish, w
	}
	q.wishes = now
	return list
}

func newQueueCache() *queueCache { return &queueCache{projects: map[string]*projectQueue{}} }

func (c *queueCache) of(projectID string) *projectQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, ok := c.projects[projectID]
	if !ok {
		q = &projectQueue{}
		c.projects[projectID] = q
	}
	return q
}

// waitingGangs reads a project's queue in its order. Orphans are waiting jobs whose run is not there.
func (s *Service) waitingGangs(ctx context.Context, c *projectQueue, projectID string) (gangs []gang, orphans []*Job, err error) {
	type line struct{ job, run string }
	var lines []line
	jobs, runs := map[string]int64{}, map[string]int64{}
	rows, err := s.DB.Read().QueryContext(ctx, waitingJobs, projectID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var l line
		var jv, rv int64
		err := rows.Scan(&l.job, &jv, &l.run, &rv)
		jobs[l.job] = jv
		if l.run != "" {
			runs[l.run] = rv
		}
		lines = append(lines, l)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list waiting jobs: %w", err)
	}
	q := s.DB.Read()
	c.jobs, err = refresh(c.jobs, jobs, func(j *Job) (string, int64) { return j.ID, j.Version }, func(ids []string) ([]*Job, error) { return s.rows.jobsByID(ctx, q, ids) })
	if err != nil {
		return nil, nil, err
	}
	c.runs, err = refresh(c.runs, runs, func(r *Run) (string, int64) { return r.ID, r.Version }, func(ids []string) ([]*Run, error) { return s.rows.runsByID(ctx, q, ids) })
	if err != nil {
		return nil, nil, err
	}
	for _, l := range lines {
		j, r := c.jobs[l.job], c.runs[l.run]
		if j != nil && l.run == "" && j.Status == api.JobSubmitted {
			orphans = append(orphans, j)
		}
		if j == nil || r == nil || j.Status != api.JobSubmitted || r.Status == api.RunTerminating || r.Status.Finished() {
			continue // it changed between the reads; a wake-up follows
		}
		if n := len(gangs); n > 0 && gangs[n-1].run.ID == r.ID && gangs[n-1].jobs[0].Replica == j.Replica {
			gangs[n-1].jobs = append(gangs[n-1].jobs, j)
			continue
		}
		gangs = append(gangs, gang{run: r, jobs: []*Job{j}})
	}
	return slices.DeleteFunc(gangs, func(g gang) bool { return g.damaged() }), orphans, nil
}

// damaged says that it is not known what the gang asks for.
func (g *gang) damaged() bool {
	return g.run.Data.Damage != "" || slices.ContainsFunc(g.jobs, func(j *Job) bool { return j.Data.Damage != "" })
}

// refresh keeps of old what still has the wanted version and loads the rest, 500 at a time.
func refresh[T any](old map[string]*T, want map[string]int64, row func(*T) (id string, version int64), load func(ids []string) ([]*T, error)) (map[string]*T, error) {
	now := make(map[string]*T, len(want))
	var missing []string
	for id, v := range want {
		if have := old[id]; have != nil {
			if _, version := row(have); version == v {
				now[id] = have
				continue
			}
		}
		missing = append(missing, id)
	}
	for batch := range slices.Chunk(missing, 500) {
		list, err := load(batch)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			id, _ := row(v)
			now[id] = v
		}
	}
	return now, nil
}
