package run

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

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

// buyFrom is when the gang may have new instances of any offer, asksFrom of those that were not refused.
func (g *gang) buyFrom() time.Time  { return g.jobs[0].Data.BuyFrom }
func (g *gang) asksFrom() time.Time { return g.jobs[0].SubmittedAt.Add(resubmitAfter[0]) }

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
	// asked is when a new machine of each offer was last asked for.
	asked map[offer.Key]time.Time
}

// maxAsked bounds the offers that are remembered for that.
const maxAsked = 1000

// asks remembers what new machines a gang has asked for.
func (q *projectQueue) asks(v scheduler.Verdict, now time.Time) {
	for _, n := range v.Nodes {
		if n.Host != "" {
			continue
		}
		if q.asked == nil || len(q.asked) >= maxAsked {
			q.asked = map[offer.Key]time.Time{}
		}
		q.asked[scheduler.KeyOf(&n.Offer)] = now
	}
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

// empty forgets the rows and the wishes of a queue in which nobody waits any more.
func (q *projectQueue) empty() { q.jobs, q.runs, q.wishes = nil, nil, nil }

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

// lost forgets the queues of projects that another replica looks at now. A pass that still runs for one keeps what
// it has until it ends.
func (c *queueCache) lost(theirs func(projectID string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.projects, func(id string, _ *projectQueue) bool { return theirs(id) })
}

// allJobs is for all of a queue.
const allJobs = math.MaxInt64

// waitingGangs reads a project's queue in its order, those gangs of it that are whole among its first jobs, so many
// at most. Orphans are waiting jobs whose run is not there.
func (s *Service) waitingGangs(ctx context.Context, c *projectQueue, projectID string, most int) (gangs []gang, orphans []*Job, err error) {
	type line struct{ job, run string }
	var lines []line
	jobs, runs := map[string]int64{}, map[string]int64{}
	rows, err := s.DB.Read().QueryContext(ctx, waitingJobs, projectID, most)
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
	if len(lines) == most && len(gangs) > 0 {
		gangs = gangs[:len(gangs)-1] // it may have more
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
