package run

import (
	"context"
	"errors"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/store"
)

// noAccess ends a job that may call the server, and cannot.
const noAccess = "Could not establish dstack server access"

// checkServerAccess refuses runs that want what the operator forbids (lifecycle 4.1).
func checkServerAccess(spec api.RunSpec, forbidden bool) error {
	if forbidden && jobspec.ServerAccess(spec) {
		return api.Invalid("This dstack-server installation forbids `dstack: true` in run configurations.")
	}
	return nil
}

// MayCall says that a job on an instance may call the server. Hosts are asked for nothing that
// its owner did not ask for.
func (s *Service) MayCall(ctx context.Context, instanceID, jobID string) (bool, error) {
	j, err := s.rows.job(ctx, s.DB.Read(), jobID)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil || j.Finished() || j.InstanceID != instanceID {
		return false, err
	}
	r, err := s.rows.run(ctx, s.DB.Read(), j.RunID)
	return err == nil && jobspec.ServerAccess(r.Data.Spec), err
}

// giveAccess adds what a job needs that may call the server. Its owner has to bring a token, and
// may well name another server.
func giveAccess(t *agentapi.TaskSpec) {
	t.Job.ServerAccess = true
	if _, ok := t.Job.Env["DSTACK_PROJECT"]; !ok {
		t.Job.Env["DSTACK_PROJECT"] = t.Job.Project
	}
}
