package run

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/jobspec"
	"dstack/internal/store"
)

// A row whose document makes no sense, because somebody edited it or a disk did, still has its
// columns: it is shown, with a stand-in for its document, can be ended, and holds nobody else up. So has
// one of which a column makes no sense its document, and zero for that column.

// Intact says what a document of a run lacks, without which it is replaced by a stand-in; nil is nothing. Of
// what is less it makes a note.
func (d *Data) Intact() error {
	if d.Spec.Configuration.Common() == nil {
		return errors.New("there is no configuration")
	}
	if d.Spec.RunName == nil {
		d.Damage = "there is no name" // that of the row is shown
	}
	return nil
}

// Intact says what a document of a job lacks, without which it is replaced by a stand-in; nil is nothing. What is
// less, and null, it fills in for those who read it, with a note where that loses something.
func (d *JobData) Intact() error {
	if d.Spec.JobName == "" {
		return errors.New("there is no name")
	}
	s := &d.Spec // published clients read none of these as null
	if s.Env == nil {
		d.Damage, s.Env = "there are no variables", map[string]string{}
	}
	if r := &s.Requirements.Resources; !sized(r) {
		d.Damage, *r = "there are no resources", config.DefaultResources()
	}
	s.AppSpecs, s.Commands, s.Probes = orEmpty(s.AppSpecs), orEmpty(s.Commands), orEmpty(s.Probes)
	return nil
}

// sized says that resources have the sizes that clients need of them.
func sized(r *config.Resources) bool {
	return (r.CPU.Count.Min != nil || r.CPU.Count.Max != nil) && (r.Memory.Min != nil || r.Memory.Max != nil) &&
		(r.GPU == nil || r.GPU.Count.Min != nil || r.GPU.Count.Max != nil) && (r.Disk == nil || r.Disk.Size.Min != nil || r.Disk.Size.Max != nil)
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// unreadable is the configuration that is shown for one that is lost.
const unreadable = `{"type": "task", "commands": ["# the record of this run cannot be read"]}`

// standIn is what a run of which only the columns are known may have asked for: like every spec,
// it is complete for clients.
func standIn(name, repo string) (api.RunSpec, error) {
	key := ""
	spec := api.RunSpec{RunName: &name, RepoID: &repo, RepoData: &api.RepoData{RepoType: "virtual"}, SSHKeyPub: &key}
	if err := json.Unmarshal([]byte(unreadable), &spec.Configuration); err != nil {
		return api.RunSpec{}, fmt.Errorf("make a stand-in for a run: %w", err)
	}
	spec.Configuration.Task.Name = &name
	jobspec.Explicit(&spec)
	return spec, jobspec.FillDefaults(&spec)
}

// whole takes the error of reading a run's row, and puts a stand-in for a damaged document.
func (r *Run) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	if !damage.Document {
		r.Data.Damage = damage.Error()
		return nil
	}
	spec, err := standIn(r.Name, r.RepoID)
	if err != nil {
		return err
	}
	reason := api.RunTerminationReason("")
	if r.Status == api.RunTerminating {
		reason = api.RunServerError // the true one is lost
	}
	r.Data = Data{Reason: reason, Damage: damage.Error(), Spec: spec}
	return nil
}

// damage is what people are told.
func (r *Run) damage() string {
	return fmt.Sprintf("The stored record of this run cannot be read (%s). Its jobs go on as they are; stop it to end them", r.Data.Damage)
}

// whole takes the error of reading a job's row, and puts a stand-in for a damaged document.
func (j *Job) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	if !damage.Document {
		j.Data.Damage = damage.Error()
		return nil
	}
	run, err := standIn("damaged", "")
	if err != nil {
		return err
	}
	spec, err := jobspec.Images{}.Job(run, "damaged", j.Num, 1)
	if err != nil {
		return err
	}
	spec.ReplicaNum, spec.JobName = j.Replica, jobspec.Name("damaged", j.Num, j.Replica)
	j.Data = JobData{Damage: damage.Error(), Sent: j.InstanceID != "", Spec: spec} // it may have been sent
	return nil
}

// strays are blocks that are held by what is no job there, or one that has ended.
const strays = `
SELECT a.job_id, a.instance_id
FROM   assignment a LEFT JOIN job j ON j.id = a.job_id
WHERE  a.job_id IS NOT NULL AND (j.id IS NULL OR j.status IN ('terminated', 'aborted', 'failed', 'done') OR j.instance_id <> a.instance_id)`

// stray is a hold that nobody gives back.
type stray struct{ job, instance string }

func listStrays(ctx context.Context, q store.Querier, cond string, args ...any) ([]stray, error) {
	var list []stray
	rows, err := q.QueryContext(ctx, strays+cond, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var v stray
		err := rows.Scan(&v.job, &v.instance)
		list = append(list, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list holds without a job: %w", err)
	}
	return list, nil
}

const unfinishedJobs = `SELECT id FROM job WHERE status NOT IN ('terminated', 'aborted', 'failed', 'done') AND shard IN`

// liveJobs lists the jobs to be looked at: those that have not ended, and what holds blocks and
// should not: there is none unless rows were lost or edited.
func liveJobs(ctx context.Context, q store.Querier, shards []int) ([]string, error) {
	ids, err := engine.LiveQuery(unfinishedJobs)(ctx, q, shards)
	if err != nil {
		return nil, err
	}
	list, err := listStrays(ctx, q, "")
	for _, v := range list {
		if slices.Contains(shards, engine.Shard(v.job)) && !slices.Contains(ids, v.job) {
			ids = append(ids, v.job)
		}
	}
	return ids, err
}

// tidy gives back what an object holds that is no job there, or one that has ended.
func (s *Service) tidy(ctx context.Context, it engine.Item) error {
	list, err := listStrays(ctx, s.DB.Read(), " AND a.job_id = $1", it.ID)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, v := range list {
		s.endTask(ctx, v)
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		list, err := listStrays(ctx, tx, " AND a.job_id = $1", it.ID)
		for _, v := range list {
			s.Log.Error("blocks were held by no job: given back", "instance", v.instance, "job", v.job)
			if _, err := s.Instances.Release(ctx, tx, v.instance, v.job); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return err
	})
}

// endTaskFor bounds how long a host is asked to end what is over, before it gets the next.
const endTaskFor = 15 * time.Second

// endTask ends what may still run of a job where it holds blocks: others get them. The look for left-over tasks, which
// comes later, does the rest, and ends one on a host that does not answer.
func (s *Service) endTask(ctx context.Context, v stray) {
	client, err := s.Hosts.Client(ctx, v.instance)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endTaskFor)
	defer cancel()
	_, err = client.Terminate(ctx, v.job, agentapi.Terminate{Reason: agentapi.TerminatedByServer})
	if err != nil && !agentapi.IsCode(err, agentapi.CodeNotFound) {
		s.Log.Warn("end the task of a job that is over", "job", v.job, "instance", v.instance, "err", err)
	}
}

// orphaned ends a job whose run is not there any more: nobody else would.
func (s *Service) orphaned(ctx context.Context, it engine.Item, j Job) error {
	d := JobDecision{Job: j}
	d.end(time.Now(), api.JobTerminatedByServer, "The run does not exist any more")
	err := s.commitJob(ctx, it, &d)
	if err == nil { // others look at it, too
		s.Log.Error("a job has no run: it is ended", "job", j.ID, "run", j.RunID)
	}
	return err
}
