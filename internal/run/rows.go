package run

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"dstack/internal/store"
)

// maxRows bounds the runs and the jobs that are remembered.
const maxRows = 10_000

// rows reads runs and jobs, whose documents it remembers by the version of the row: a life
// from queue to end is some thirty looks at what changes seven times. They are shared: nobody
// changes what they point to.
type rows struct {
	runs store.Cache[Data]
	jobs store.Cache[JobData]
}

func newRows() *rows {
	return &rows{runs: store.Cache[Data]{Max: maxRows}, jobs: store.Cache[JobData]{Max: maxRows}}
}

// run reads one run; store.ErrNotFound when there is none.
func (c *rows) run(ctx context.Context, q store.Querier, id string) (Run, error) {
	data, version := c.runs.Get(id)
	r, err := scanRun(q.QueryRowContext(ctx, knownRun, id, version))
	switch {
	case err != nil:
		return Run{}, err
	case r.Version == version:
		r.remembered(data)
	default:
		c.runs.Read(q, id, r.Version, r.Data)
	}
	return r, nil
}

// job reads one job; store.ErrNotFound when there is none.
func (c *rows) job(ctx context.Context, q store.Querier, id string) (Job, error) {
	data, version := c.jobs.Get(id)
	j, err := scanJob(q.QueryRowContext(ctx, knownJob, id, version))
	switch {
	case err != nil:
		return Job{}, err
	case j.Version == version:
		j.remembered(data)
	default:
		c.jobs.Read(q, id, j.Version, j.Data)
	}
	return j, nil
}

// list reads runs by what follows FROM run.
func (c *rows) list(ctx context.Context, q store.Querier, tail string, args ...any) ([]Run, error) {
	list, err := readRuns(ctx, q, "SELECT "+runState+", NULL FROM run "+tail, args...)
	if err != nil {
		return nil, err
	}
	missing := map[string]int{} // where in the list
	for n := range list {
		r := &list[n]
		data, version := c.runs.Get(r.ID)
		if r.remembered(data); version != r.Version {
			missing[r.ID] = n
		}
	}
	for batch := range slices.Chunk(slices.Collect(maps.Keys(missing)), 500) {
		read, err := runsByID(ctx, q, batch)
		if err != nil {
			return nil, err
		}
		for _, r := range read {
			list[missing[r.ID]] = *r
			delete(missing, r.ID)
			c.runs.Read(q, r.ID, r.Version, r.Data)
		}
	}
	return slices.DeleteFunc(list, func(r Run) bool { _, gone := missing[r.ID]; return gone }), nil
}

// runsByID reads at most 500 runs, in no order.
func (c *rows) runsByID(ctx context.Context, q store.Querier, ids []string) ([]*Run, error) {
	list, err := c.list(ctx, q, "WHERE id IN ("+store.Marks(1, len(ids))+")", store.Args(ids)...)
	return pointers(list), err
}

// jobsByID is [rows.runsByID] for jobs.
func (c *rows) jobsByID(ctx context.Context, q store.Querier, ids []string) ([]*Job, error) {
	list, err := c.listJobs(ctx, q, "WHERE id IN ("+store.Marks(1, len(ids))+")", store.Args(ids)...)
	return pointers(list), err
}

// jobsOf returns the jobs of runs, by replica, number and attempt.
func (c *rows) jobsOf(ctx context.Context, q store.Querier, runIDs ...string) (map[string][]Job, error) {
	byRun := map[string][]Job{}
	for batch := range slices.Chunk(runIDs, 500) {
		list, err := c.listJobs(ctx, q, "WHERE run_id IN ("+store.Marks(1, len(batch))+") "+byAttempt, store.Args(batch)...)
		if err != nil {
			return nil, err
		}
		for _, j := range list {
			byRun[j.RunID] = append(byRun[j.RunID], j)
		}
	}
	return byRun, nil
}

// listJobs reads jobs by what follows FROM job.
func (c *rows) listJobs(ctx context.Context, q store.Querier, tail string, args ...any) ([]Job, error) {
	list, err := readJobs(ctx, q, "SELECT "+jobState+", NULL FROM job "+tail, args...)
	if err != nil {
		return nil, err
	}
	missing := map[string]int{} // where in the list
	for n := range list {
		j := &list[n]
		data, version := c.jobs.Get(j.ID)
		if j.remembered(data); version != j.Version {
			missing[j.ID] = n
		}
	}
	for part := range slices.Chunk(slices.Collect(maps.Keys(missing)), 500) {
		read, err := jobsByID(ctx, q, part)
		if err != nil {
			return nil, err
		}
		for _, j := range read {
			list[missing[j.ID]] = *j
			delete(missing, j.ID)
			c.jobs.Read(q, j.ID, j.Version, j.Data)
		}
	}
	return slices.DeleteFunc(list, func(j Job) bool { _, gone := missing[j.ID]; return gone }), nil
}

// updateRun stores a run that was read and changed.
func (c *rows) updateRun(ctx context.Context, tx *store.Tx, r *Run) error {
	if err := r.update(ctx, tx); err != nil {
		return err
	}
	c.runs.Written(tx, r.ID, r.Version, r.Data)
	return nil
}

// updateJob stores a job that was read and changed.
func (c *rows) updateJob(ctx context.Context, tx *store.Tx, j *Job) error {
	if err := j.update(ctx, tx); err != nil {
		return err
	}
	c.jobs.Written(tx, j.ID, j.Version, j.Data)
	return nil
}

// remembered puts the document of a row of which the columns were read.
func (r *Run) remembered(d Data) {
	d.Damage = cmp.Or(r.Data.Damage, d.Damage)
	r.Data = d
}

// remembered puts the document of a row of which the columns were read.
func (j *Job) remembered(d JobData) {
	d.Damage = cmp.Or(j.Data.Damage, d.Damage)
	j.Data = d
}
