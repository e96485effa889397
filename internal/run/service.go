package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/jobspec"
	"dstack/internal/project"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// Plan says what apply would do and where the jobs could run.
func (s *Service) Plan(ctx context.Context, sc project.Scope, r api.GetRunPlanRequest) (api.RunPlan, error) {
	plan, _, err := s.plan(ctx, sc, r)
	return plan, err
}

// plan is Plan, with all the offers for each of its jobs.
func (s *Service) plan(ctx context.Context, sc project.Scope, r api.GetRunPlanRequest) (plan api.RunPlan, all []scheduler.Found, err error) {
	plan = api.RunPlan{ProjectName: sc.Project.Name, User: sc.User.Name, RunSpec: r.RunSpec, Action: api.ActionCreate}
	effective, err := clone(r.RunSpec)
	if err != nil {
		return plan, nil, err
	}
	if err := s.check(ctx, sc, &effective); err != nil {
		return plan, nil, err
	}
	plan.EffectiveRunSpec = &effective
	jobspec.Explicit(&plan.RunSpec)
	name := "dry-run"
	if effective.RunName != nil {
		name = *effective.RunName
		if cur, err := getRun(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name); err == nil {
			v, err := s.view(ctx, cur, sc.Project.Name, true)
			if err != nil {
				return plan, nil, err
			}
			plan.CurrentResource = &v
			if _, err := changes(cur.Data.Spec, effective); err == nil && !cur.Status.Finished() {
				plan.Action = api.ActionUpdate
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return plan, nil, err
		}
	}
	specs, err := s.Images.Planned(effective, name)
	if err != nil {
		return plan, nil, err
	}
	limit := 50
	if r.MaxOffers != nil {
		limit = *r.MaxOffers
	}
	supply, err := s.supply(ctx, sc.Project.ID) // for all groups
	if err != nil {
		return plan, nil, err
	}
	dry := Run{ProjectID: sc.Project.ID, Data: Data{Spec: effective}}
	type group struct {
		node    int
		replica string
	}
	byGroup := map[group]scheduler.Found{} // the jobs of a group have the same offers
	whyNot := map[group]*api.WhyNot{}
	var surveys []survey
	for _, js := range specs {
		key := group{js.NodeGroupIndex, js.ReplicaGroup}
		offers, known := byGroup[key]
		if !known {
			dry.Data.Spec = jobspec.OfGroup(effective, js.ReplicaGroup)
			found, err := s.survey(ctx, supply, dry, groupOf(specs, js), r.ForOffersOnly)
			if err != nil {
				return plan, nil, err
			}
			surveys = append(surveys, found)
			offers = found.offers()
			byGroup[key] = offers
			whyNot[key] = found.whyNot(offers)
		}
		if r.ReverseOffers {
			offers = offers.Reversed()
		}
		jp := api.JobPlan{JobSpec: js, Offers: offers.First(limit), TotalOffers: offers.Len(), WhyNot: whyNot[key], MaxPrice: offers.MaxPrice()}
		for _, o := range scheduler.Lowered(jp.Offers[:min(len(jp.Offers), 50)]) {
			if !slices.Contains(plan.LoweredOffers, o) {
				plan.LoweredOffers = append(plan.LoweredOffers, o)
			}
		}
		plan.JobPlans, all = append(plan.JobPlans, jp), append(all, offers)
	}
	plan.BackendProblems, err = s.problems(ctx, sc.Project.ID, func(backend string) bool {
		return slices.ContainsFunc(surveys, func(v survey) bool { return v.concerns(backend) })
	})
	return plan, all, err
}

// groupOf are the jobs of the group that a job belongs to.
func groupOf(specs []api.JobSpec, of api.JobSpec) []api.JobSpec {
	var list []api.JobSpec
	for i := range specs {
		if js := &specs[i]; js.NodeGroupIndex == of.NodeGroupIndex && js.ReplicaGroup == of.ReplicaGroup {
			list = append(list, *js)
		}
	}
	return list
}

// clone copies a spec through its wire form, so that filling defaults in does not change
// what the client sent.
func clone(spec api.RunSpec) (api.RunSpec, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return api.RunSpec{}, fmt.Errorf("copy a run's spec: %w", err)
	}
	var c api.RunSpec
	if err := json.Unmarshal(data, &c); err != nil {
		return api.RunSpec{}, fmt.Errorf("copy a run's spec: %w", err)
	}
	return c, nil
}

// check fills defaults in and refuses what can never run: secrets included, so that no
// host is taken for a run that has to fail.
func (s *Service) check(ctx context.Context, sc project.Scope, spec *api.RunSpec) error {
	if err := s.Limits.Normalise(spec, sc.User.PublicKey); err != nil {
		return err
	}
	if err := checkServerAccess(*spec, s.ForbidAccess); err != nil {
		return err
	}
	if sv := spec.Configuration.Service; sv != nil {
		if err := s.publishable(ctx, sc, sv); err != nil {
			return err
		}
	}
	c := spec.Configuration.Common()
	texts := map[string]string{}
	for k, v := range c.Env {
		texts["env."+k] = v.Value
	}
	if a := c.RegistryAuth; a != nil {
		texts["registry_auth.username"], texts["registry_auth.password"] = a.Username, a.Password
	}
	var secrets map[string]string
	for where, text := range texts {
		if !strings.Contains(text, "${{") {
			continue
		}
		if secrets == nil {
			var err error
			if secrets, err = s.Secrets.Values(ctx, sc.Project.ID); err != nil {
				return err
			}
		}
		if _, err := config.Interpolate(text, map[string]map[string]string{"secrets": secrets}); err != nil {
			return api.Invalid("%s: Secrets interpolation error: %v. Set secrets with `dstack secret set`", where, err)
		}
	}
	for _, m := range c.Volumes {
		if len(m.Names) > 0 {
			return api.NotExists("Volume %s not found", api.List(m.Names))
		}
	}
	return nil
}

// Apply submits a run or changes a live one in place.
func (s *Service) Apply(ctx context.Context, sc project.Scope, r api.ApplyRunPlanRequest) (api.Run, error) {
	spec := r.Plan.RunSpec
	if err := s.check(ctx, sc, &spec); err != nil {
		return api.Run{}, err
	}
	if spec.RunName != nil {
		cur, err := getRun(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *spec.RunName)
		if err == nil && !cur.Status.Finished() {
			return s.change(ctx, sc, cur, spec, r)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return api.Run{}, err
		}
	}
	run, err := s.submit(ctx, sc, spec, r.Published)
	if err != nil {
		return api.Run{}, err
	}
	return s.view(ctx, run, sc.Project.Name, true)
}

// submit stores a new run with its jobs in one transaction.
func (s *Service) submit(ctx context.Context, sc project.Scope, spec api.RunSpec, published bool) (Run, error) {
	var r Run
	model, err := s.model(ctx, sc, spec)
	if err != nil {
		return r, err
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		name, err := s.name(ctx, tx, sc.Project.ID, spec.RunName)
		if err != nil {
			return err
		}
		spec := spec // the name is not the user's when this runs again
		spec.RunName = &name
		if err := s.Repos.Ensure(ctx, tx, sc.Project.ID, *spec.RepoID, spec.RepoData); err != nil {
			return err
		}
		now := time.Now()
		r = Run{ID: uuid.NewString(), ProjectID: sc.Project.ID, UserID: sc.User.ID, Name: name, Status: api.RunSubmitted, RepoID: *spec.RepoID,
			Priority: *spec.Configuration.Common().Priority, SubmittedAt: now, Data: Data{Spec: spec, Published: published, ProcessedAt: now}}
		if spec.Configuration.Service != nil {
			if r.Data.Service, err = publication(sc.Project.Name, name, model); err != nil {
				return err
			}
		}
		if sched := spec.Merged().Schedule; sched != nil {
			r.Status, r.Data.NextAt = api.RunPending, sched.Next(now)
		}
		if err := r.insert(ctx, tx); err != nil {
			return err
		}
		text := "Run submitted. Status: " + strings.ToUpper(string(r.Status))
		if err := s.recordRun(ctx, tx, r, sc.Actor(event.Event{Message: text})); err != nil {
			return err
		}
		if r.Data.Service != nil {
			if err := s.recordRun(ctx, tx, r, sc.Actor(event.Event{Message: "Service assigned to run without a gateway"})); err != nil {
				return err
			}
		}
		tx.OnCommit(func() { s.Engine.Wake(Kind, r.ID) })
		if r.Status == api.RunPending {
			return nil
		}
		return s.startJobs(ctx, tx, r, "run submission")
	})
	if store.Constraint(err) == "run_project_id_name_key" {
		return Run{}, api.Exists("")
	}
	return r, err
}

// name frees the name of a finished run, or generates one.
func (s *Service) name(ctx context.Context, tx *store.Tx, projectID string, want *string) (string, error) {
	if want != nil {
		_, err := tx.ExecContext(ctx, `UPDATE run SET deleted = TRUE WHERE NOT deleted AND project_id = $1 AND name = $2 AND status IN ('terminated', 'failed', 'done')`, projectID, *want)
		return *want, err
	}
	base := fleet.GeneratedName()
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%d", base, n)
		var taken int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM run WHERE NOT deleted AND project_id = $1 AND name = $2`, projectID, name).Scan(&taken); err != nil {
			return "", fmt.Errorf("look for a free name: %w", err)
		}
		if taken == 0 {
			return name, nil
		}
	}
}

// startJobs stores the first attempts of a run's jobs: of as many replicas as it begins with.
func (s *Service) startJobs(ctx context.Context, tx *store.Tx, r Run, origin string) error {
	replica := 0
	for _, g := range jobspec.Groups(r.Data.Spec.Configuration) {
		for range g.Min {
			specs, err := s.Images.Replica(r.Data.Spec, r.Name, g.Name, replica)
			if err != nil {
				return err
			}
			for _, js := range specs {
				if err := s.newJob(ctx, tx, r, js, NewJob{Replica: replica, Num: js.JobNum}, origin); err != nil {
					return err
				}
			}
			replica++
		}
	}
	return nil
}

// newJob stores one attempt and wakes the queue.
func (s *Service) newJob(ctx context.Context, tx *store.Tx, r Run, spec api.JobSpec, n NewJob, origin string) error {
	j := Job{ID: uuid.NewString(), RunID: r.ID, ProjectID: r.ProjectID, Replica: n.Replica, Num: n.Num, Attempt: n.Attempt, Status: api.JobSubmitted,
		SubmittedAt: time.Now(), Data: JobData{Spec: spec, Deployment: r.Data.Deployment, WaitFrom: n.WaitFrom, BuyFrom: n.BuyFrom, ProcessedAt: time.Now()}}
	if err := j.insert(ctx, tx); err != nil {
		return err
	}
	tx.OnCommit(func() { s.Engine.Wake(QueueKind, r.ProjectID) })
	return s.recordJob(ctx, tx, j, "Job created on "+origin+". Status: SUBMITTED")
}

// Stop asks runs to end; unknown and finished ones are ignored.
func (s *Service) Stop(ctx context.Context, sc project.Scope, r api.StopRunsRequest) (*struct{}, error) {
	for _, name := range r.RunsNames {
		err := s.DB.Write(ctx, func(tx *store.Tx) error {
			run, err := getRun(ctx, tx, "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name)
			if errors.Is(err, store.ErrNotFound) || err == nil && run.Status.Finished() {
				return nil
			}
			if err != nil {
				return err
			}
			reason := api.RunStoppedByUser
			if r.Abort {
				reason = api.RunAbortedByUser
			}
			if !run.endsBy(reason) {
				return nil
			}
			d := RunDecision{Run: run}
			d.end(reason)
			d.Run.Data.ProcessedAt = time.Now()
			if err := d.Run.update(ctx, tx); err != nil {
				return err
			}
			for _, text := range d.Events {
				if err := s.recordRun(ctx, tx, d.Run, sc.Actor(event.Event{Message: text})); err != nil {
					return err
				}
			}
			tx.OnCommit(func() { s.changed(run.ID) })
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// endsBy says that the end for which a user asks is another than the one that comes anyway: what ends
// already can be aborted, and of a schedule only a cycle ends by itself.
func (r *Run) endsBy(reason api.RunTerminationReason) bool {
	byUser := r.Data.Reason == api.RunStoppedByUser || r.Data.Reason == api.RunAbortedByUser
	switch {
	case r.Status != api.RunTerminating:
		return true
	case reason == api.RunAbortedByUser:
		return r.Data.Reason != reason
	}
	return !byUser && r.Data.Spec.Merged().Schedule != nil
}

// Delete hides finished runs; unknown ones are ignored.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.DeleteRunsRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		var active []string
		var runs []Run
		for _, name := range r.RunsNames {
			run, err := getRun(ctx, tx, "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if !run.Status.Finished() {
				active = append(active, name)
			}
			runs = append(runs, run)
		}
		if active != nil {
			return api.Invalid("Cannot delete active runs: %s", api.List(active))
		}
		for _, run := range runs {
			run.Deleted = true
			if err := run.update(ctx, tx); err != nil {
				return err
			}
			if err := s.recordRun(ctx, tx, run, sc.Actor(event.Event{Message: "Run deleted"})); err != nil {
				return err
			}
		}
		return nil
	})
}

// Get returns one run.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.GetRunRequest) (api.Run, error) {
	var run Run
	var err error
	switch {
	case r.ID != nil:
		run, err = getRun(ctx, s.DB.Read(), "project_id = $1 AND id = $2", sc.Project.ID, *r.ID)
	case r.RunName != nil:
		run, err = getRun(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *r.RunName)
	default:
		return api.Run{}, api.Invalid("run_name or id must be specified")
	}
	if errors.Is(err, store.ErrNotFound) {
		return api.Run{}, api.NotExists("Run not found")
	}
	if err != nil {
		return api.Run{}, err
	}
	return s.view(ctx, run, sc.Project.Name, true)
}

// Busy says what forbids deleting a project.
func (s *Service) Busy(ctx context.Context, q store.Querier, projectID string) (string, error) {
	runs, err := listRuns(ctx, q, "WHERE project_id = $1 AND status NOT IN ('terminated', 'failed', 'done') ORDER BY name LIMIT 100", projectID)
	if err != nil || len(runs) == 0 {
		return "", err
	}
	names := make([]string, len(runs))
	for i, r := range runs {
		names[i] = r.Name
	}
	return "Failed to delete project with active runs: " + api.List(names), nil
}

func (s *Service) instanceEnv(ctx context.Context, id string) (map[string]string, error) {
	inst, err := s.Instances.Get(ctx, s.DB.Read(), id)
	if err != nil || inst.Data.Remote == nil {
		return nil, err
	}
	return inst.Data.Remote.Env, nil
}

// version names the state of a run that clients look at.
func version(r api.Run, waiting string) string {
	text := string(r.Status) + waiting
	if j := r.LatestJobSubmission; j != nil {
		text += fmt.Sprintf("/%d/%s/%v", j.SubmissionNum, j.Status, j.ImagePullProgress)
		if p := j.ImagePullProgress; p != nil {
			text += fmt.Sprint(p.DownloadedBytes, p.ExtractedBytes)
		}
	}
	return text
}
