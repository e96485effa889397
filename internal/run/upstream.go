package run

import (
	"context"
	"errors"
	"strings"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/store"
)

// Upstream is how an SSH proxy reaches a running job, and whom it lets in.
type Upstream struct {
	Hops []instance.Hop // the last one is the job's own SSH server
	Keys []string       // public keys, authorized_keys form
}

// Upstream finds the way to a job; store.ErrNotFound when it does not run.
func (s *Service) Upstream(ctx context.Context, jobID string) (Upstream, error) {
	q := s.DB.Read()
	j, err := getJob(ctx, q, jobID)
	if err != nil {
		return Upstream{}, err
	}
	rt := j.Data.Runtime
	if j.Status != api.JobRunning || rt == nil {
		return Upstream{}, store.ErrNotFound
	}
	r, err := getRun(ctx, q, "id = $1", j.RunID)
	if err != nil {
		return Upstream{}, err
	}
	inst, err := instance.Get(ctx, q, j.InstanceID)
	if err != nil {
		return Upstream{}, err
	}
	var up Upstream
	if up.Hops, err = s.Instances.Hops(ctx, inst); err != nil {
		return Upstream{}, err
	}
	// The job's server takes the key of its own project, the host that of the project whose it is.
	_, private, err := s.Projects.ProjectKey(ctx, j.ProjectID)
	if err != nil {
		return Upstream{}, err
	}
	own := instance.Hop{Host: "localhost", Port: agentapi.RunnerSSHPort, User: "root", Private: private}
	if port := rt.Ports[agentapi.RunnerSSHPort]; port != 0 {
		own.Port = port
	}
	switch u := j.Data.Spec.User; {
	case rt.Username != nil && *rt.Username != "":
		own.User = *rt.Username
	case u != nil && u.Username != nil:
		own.User = *u.Username
	}
	up.Hops = append(up.Hops, own)
	up.Keys, err = s.letIn(ctx, r)
	return up, err
}

// letIn lists the public keys that open a run's jobs: the one that it was submitted with, and
// those of its owner.
func (s *Service) letIn(ctx context.Context, r Run) ([]string, error) {
	var keys []string
	seen := map[string]bool{}
	add := func(key string) {
		if key = strings.TrimSpace(key); key != "" && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	if k := r.Data.Spec.SSHKeyPub; k != nil {
		add(*k)
	}
	owner, err := s.Users.ByID(ctx, s.DB.Read(), r.UserID)
	if errors.Is(err, store.ErrNotFound) {
		return keys, nil
	}
	if err != nil {
		return nil, err
	}
	add(owner.PublicKey)
	uploaded, err := s.Users.PublicKeys(ctx, r.UserID)
	for _, k := range uploaded {
		add(k)
	}
	return keys, err
}
