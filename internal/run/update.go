package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/jobspec"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Fields of a run's specification and of its configuration that may change while it is alive
// (lifecycle 5.3). Those of rolling need new replicas of a service.
var (
	anySpec     = []string{"configuration_path", "configuration"}
	serviceSpec = []string{"repo_data", "repo_code_hash", "file_archives", "working_dir"}
	serviceKeys = []string{"replicas", "groups", "scaling", "gateway"}
	rolling     = []string{"port", "probes", "resources", "volumes", "docker", "files", "image", "user", "privileged", "entrypoint", "working_dir", "python", "nvcc", "single_branch", "env", "shell", "commands"}
)

// changes names the fields that a live run would take over from a new specification, those of
// its configuration as configuration.x. The error says why it cannot.
func changes(old, now api.RunSpec) ([]string, error) {
	from, to := old.Configuration, now.Configuration
	if from.Type() != to.Type() {
		return nil, api.Invalid("Configuration type changed from %s to %s, cannot update", from.Type(), to.Type())
	}
	outer, err := changedSpec(old, now)
	if err != nil {
		return nil, err
	}
	allowed := anySpec
	if to.Service != nil {
		allowed = slices.Concat(anySpec, serviceSpec)
	}
	if !within(outer, allowed) {
		return nil, api.Invalid("Failed to update fields %s. Can only update %s.", api.List(outer), api.List(allowed))
	}
	inner, err := api.Differing(from, to)
	if err != nil {
		return nil, err
	}
	inner = slices.DeleteFunc(inner, func(name string) bool { return name == "name" }) // the run is found by it
	allowed = updatable(old, now)
	if !within(inner, allowed) {
		return nil, api.Invalid("Failed to update fields %s. Can only update %s", api.List(inner), api.List(allowed))
	}
	if to.Service != nil {
		if err := checkRouter(from.Service, to.Service, outer, inner); err != nil {
			return nil, err
		}
	}
	fields := slices.DeleteFunc(outer, func(name string) bool { return name == "configuration" })
	for _, name := range inner {
		fields = append(fields, "configuration."+name)
	}
	return fields, nil
}

// changedSpec names the fields that differ, the merged profile among them.
func changedSpec(old, now api.RunSpec) ([]string, error) {
	names, err := api.Differing(old, now)
	if err != nil {
		return nil, err
	}
	merged, err := api.Differing(old.Merged(), now.Merged())
	if merged != nil {
		names = append(names, "merged_profile")
		slices.Sort(names)
	}
	return names, err
}

// updatable lists the fields of a configuration that may change.
func updatable(old, now api.RunSpec) []string {
	from, to := old.Configuration, now.Configuration
	list := []string{"priority"}
	switch {
	case to.DevEnvironment != nil:
		list = append(list, "inactivity_duration")
	case to.Service != nil:
		list = slices.Concat(list, serviceKeys, rolling)
	}
	if slices.EqualFunc(old.FileArchives, now.FileArchives, same) {
		list = append(list, "files")
	}
	if to.Service != nil && plainHTTPS(from.Service.HTTPS) && plainHTTPS(to.Service.HTTPS) {
		list = append(list, "https")
	}
	if to.Service == nil && archFreed(from.Common().Resources, to.Common().Resources) {
		list = append(list, "resources")
	}
	return list
}

func plainHTTPS(h *config.HTTPS) bool { return h == nil || h.Enabled && !h.Auto }

// archFreed says that resources stayed as they are, but for a processor's architecture that is
// not asked for any more.
func archFreed(old, now config.Resources) bool {
	if now.CPU.Arch == nil {
		old.CPU.Arch = nil
	}
	return same(old, now)
}

// same compares as on the wire.
func same[T any](a, b T) bool {
	names, err := api.Differing(a, b)
	return err == nil && names == nil
}

func within(names, allowed []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(allowed, name) })
}

// checkRouter keeps the router of a service, to which the workers are bound, as it is.
func checkRouter(old, now *config.Service, outer, inner []string) error {
	from, to := routerOf(old), routerOf(now)
	switch {
	case from == nil && to == nil:
		return nil
	case from == nil || to == nil || *from.Name != *to.Name:
		return api.Invalid("Cannot update router replica groups in-place (adding/removing `router` or changing which replica group is the router is not supported). Stop the run and apply again.")
	case from.Router.Type != to.Router.Type:
		return api.Invalid("Cannot change router.type in place. Stop the run with `dstack stop` and re-apply.")
	case from.Router.Type != "dynamo":
		return nil
	case !same(*from, *to):
		return api.Invalid("Cannot update a Dynamo router replica group in place. Stop the run with `dstack stop` and re-apply.")
	}
	for _, name := range slices.Concat(inner, outer) {
		if slices.Contains(rolling, name) || slices.Contains(serviceSpec, name) {
			return api.Invalid("Cannot change top-level `%s` in place when the service has a Dynamo router (would re-provision the router and invalidate workers' cached DSTACK_ROUTER_INTERNAL_IP). Stop the run with `dstack stop` and re-apply.", name)
		}
	}
	return nil
}

func routerOf(s *config.Service) *config.ReplicaGroup {
	i := slices.IndexFunc(s.Groups, func(g config.ReplicaGroup) bool { return g.Router != nil })
	if i < 0 {
		return nil
	}
	return &s.Groups[i]
}

// change updates a live run in place.
func (s *Service) change(ctx context.Context, sc project.Scope, cur Run, spec api.RunSpec, r api.ApplyRunPlanRequest) (api.Run, error) {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		now, err := getRun(ctx, tx, "id = $1", cur.ID)
		if err != nil {
			return err
		}
		fields, err := changes(now.Data.Spec, spec)
		if err != nil {
			return cannotOverride(err)
		}
		if now.Status.Finished() || !r.Force && !s.seen(&now, r, sc.User.PublicKey) {
			return api.Invalid("Failed to apply plan. Resource has been changed. Try again or use force apply.")
		}
		now.Data.Spec, now.Data.Deployment = spec, now.Data.Deployment+1
		now.Priority = *spec.Configuration.Common().Priority
		if err := now.update(ctx, tx); err != nil {
			return err
		}
		if err := s.relabel(ctx, tx, now); err != nil {
			return err
		}
		cur = now
		tx.OnCommit(func() {
			s.changed(cur.ID)
			s.Engine.Wake(QueueKind, cur.ProjectID) // the order may be another one
		})
		text := fmt.Sprintf("Run updated. Deployment: %d", now.Data.Deployment)
		if fields != nil {
			text += ". Changed fields: " + strings.Join(fields, ", ")
		}
		return s.recordRun(ctx, tx, now, sc.Actor(event.Event{Message: text}))
	})
	if err != nil {
		return api.Run{}, err
	}
	return s.view(ctx, cur, sc.Project.Name, true)
}

// cannotOverride is what apply says of a change that cannot be made in place.
func cannotOverride(err error) error {
	if _, invalid := errors.AsType[*api.Error](err); invalid {
		return api.Invalid("Cannot override active run. Stop the run first.")
	}
	return err
}

// seen says that the client of a request has seen the run as it is, in the form that it reads.
func (s *Service) seen(r *Run, request api.ApplyRunPlanRequest, userKey string) bool {
	var v api.Run
	resource := request.Plan.CurrentResource
	if len(resource) == 0 || json.Unmarshal(resource, &v) != nil || v.ID != r.ID {
		return false
	}
	if v.RunSpec.Configuration.Common() == nil || s.Limits.Normalise(&v.RunSpec, userKey) != nil {
		return false
	}
	was, err1 := inForm(v.RunSpec, request.Shown)
	is, err2 := inForm(r.Data.Spec, request.Shown)
	return err1 == nil && err2 == nil && same(was, is)
}

// inForm is a specification as form writes it, nil as it is. What a form does not tell apart is one.
func inForm(spec api.RunSpec, form func([]byte) ([]byte, error)) (out api.RunSpec, err error) {
	if form == nil {
		return spec, nil
	}
	data, err := json.Marshal(spec)
	if err == nil {
		data, err = form(data)
	}
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	return out, err
}

// relabel counts the jobs of a run to its current deployment: what may change of a task or a
// dev environment needs no other jobs. Those that wait for a place look for it by what is asked
// for now, the others are woken, since their limits may have changed.
func (s *Service) relabel(ctx context.Context, tx *store.Tx, r Run) error {
	if r.Data.Spec.Configuration.Service != nil {
		return nil // its Step decides which replicas are replaced
	}
	all, err := jobsOf(ctx, tx, r.ID)
	if err != nil {
		return err
	}
	specs, err := s.Images.Replica(r.Data.Spec, r.Name, jobspec.OnlyGroup, 0)
	if err != nil {
		return err
	}
	for _, j := range latestOf(all[r.ID]) {
		if j.Finished() {
			continue
		}
		j.Data.Deployment = r.Data.Deployment
		if j.Status == api.JobSubmitted && j.Num >= 0 && j.Num < len(specs) { // somebody may have edited it
			j.Data.Spec.Requirements = specs[j.Num].Requirements // as many as before: nodes do not change
		}
		if err := j.update(ctx, tx); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Wake(JobKind, j.ID) })
	}
	return nil
}
