package run

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/store"
)

// specError says that a job can never run as it was asked for.
type specError struct {
	reason api.JobTerminationReason
	msg    string
}

func (e *specError) Error() string { return e.msg }

// linger is long enough for a published client to notice that a job has run and to attach, in
// seconds.
const linger = 15

// taskSpec is what a host's agent gets for a job.
func (s *Service) taskSpec(ctx context.Context, j Job, host *instance.Instance) (agentapi.TaskSpec, error) {
	r, err := s.rows.run(ctx, s.DB.Read(), j.RunID)
	if err != nil {
		return agentapi.TaskSpec{}, err
	}
	p, err := s.Projects.ByID(ctx, s.DB.Read(), j.ProjectID)
	if err != nil {
		return agentapi.TaskSpec{}, err
	}
	secrets, err := s.Secrets.Values(ctx, j.ProjectID)
	if err != nil {
		return agentapi.TaskSpec{}, err
	}
	spec, jpd, rt := j.Data.Spec, j.Data.Provisioning, j.Data.Runtime
	if rt == nil { // by hand
		return agentapi.TaskSpec{}, &specError{api.JobTerminatedByServer, "The job was never placed on its instance"}
	}
	interpolate := func(text string) (string, error) {
		out, err := config.Interpolate(text, map[string]map[string]string{"secrets": secrets})
		if err != nil {
			return "", &specError{api.JobTerminatedByServer, fmt.Sprintf("Secrets interpolation error: %v", err)}
		}
		return out, nil
	}
	env := map[string]string{}
	inst, err := s.instanceEnv(ctx, j.InstanceID)
	if err != nil {
		return agentapi.TaskSpec{}, err
	}
	for k, v := range inst {
		env[k] = v
	}
	for k, v := range spec.Env {
		if env[k], err = interpolate(v); err != nil {
			return agentapi.TaskSpec{}, err
		}
	}
	keys := s.SSHProxy.userKeys(*r.Data.Spec.SSHKeyPub)
	t := agentapi.TaskSpec{
		ID: j.ID, Name: spec.JobName, Image: spec.ImageName, Privileged: spec.Privileged, Network: string(rt.NetworkMode),
		Job: agentapi.JobSpec{
			RunID: r.ID, RunName: r.Name, JobID: j.ID, Project: p.Name, RepoID: r.RepoID, JobNum: spec.JobNum, ReplicaNum: spec.ReplicaNum,
			JobsPerReplica: spec.JobsPerReplica, Command: onHost(host, spec.Commands), Env: env, LogQuotaHour: s.LogQuota, AuthorizedKeys: keys,
			ServerKey: strings.TrimSpace(p.PublicKey), StopDuration: jobspec.DefaultStop,
		},
	}
	t.Job.NoIdle = r.Data.Spec.Configuration.DevEnvironment == nil
	if r.Data.Published && j.Replica == 0 && j.Num == 0 { // the one that published clients attach to
		t.Job.Linger = linger
	}
	if jobspec.ServerAccess(r.Data.Spec) {
		giveAccess(&t)
	}
	if u := spec.User; u != nil {
		t.Job.User = &agentapi.User{UID: u.UID, GID: u.GID}
		if u.Username != nil {
			t.Job.User.Username = *u.Username
		}
		if u.Groupname != nil {
			t.Job.User.Groupname = *u.Groupname
		}
	}
	if spec.WorkingDir != nil {
		t.Job.WorkingDir = *spec.WorkingDir
	}
	if spec.MaxDuration != nil {
		t.Job.MaxDuration = *spec.MaxDuration
	}
	if spec.StopDuration != nil {
		t.Job.StopDuration = *spec.StopDuration
	}
	if a := spec.RegistryAuth; a != nil {
		user, err := interpolate(a.Username)
		if err != nil {
			return agentapi.TaskSpec{}, err
		}
		password, err := interpolate(a.Password)
		if err != nil {
			return agentapi.TaskSpec{}, err
		}
		t.RegistryAuth = &agentapi.RegistryAuth{Username: user, Password: password}
	}
	t.Image, t.RegistryAuth = s.Images.Locate(t.Image, t.RegistryAuth)
	t.GPUs = gpusOf(j, host)
	if rt.CPU != nil {
		t.CPUs = *rt.CPU
	}
	if rt.Memory != nil {
		t.Memory = rt.Memory.Bytes()
	}
	if shm := spec.Requirements.Resources.ShmSize; shm != nil {
		t.ShmSize = shm.Bytes()
	}
	for _, m := range spec.Volumes {
		if m.InstancePath != "" {
			t.Mounts = append(t.Mounts, agentapi.Mount{Source: m.InstancePath, Target: m.Path, Optional: m.Optional})
		}
	}
	if jpd != nil {
		if jpd.Dockerized {
			t.HostUser, t.HostKeys = jpd.Username, keys
		}
	}
	cluster, groups, err := s.cluster(ctx, j)
	if err != nil {
		return agentapi.TaskSpec{}, err
	}
	t.Job.Cluster = cluster
	if r.Data.Spec.Configuration.Service != nil {
		var router string
		if groups, router, err = s.addresses(ctx, r, j); err != nil {
			return agentapi.TaskSpec{}, err
		}
		if router != "" {
			t.Job.Env[routerVariable] = router
		}
	}
	for i, c := range t.Job.Command {
		if t.Job.Command[i], err = jobspec.Interpolate(c, jobspec.MemberOf(r.Data.Spec.Configuration), groups); err != nil {
			return agentapi.TaskSpec{}, &specError{api.JobTerminatedByServer, fmt.Sprintf("Groups IP interpolation error: %v", err)}
		}
	}
	return t, s.code(ctx, r, &t)
}

// gpusOf is how many accelerators of its host a job gets: its share, or else all of them if it needs some, and -1 for one
// that needs none, which is whatever is free.
func gpusOf(j Job, host *instance.Instance) int {
	if share := j.Data.Runtime.GPU; share != nil {
		return *share
	}
	if !needsGPUs(j) {
		return -1
	}
	return host.AllGPUs()
}

// notUploaded gives a job up whose code is not there. That it cannot be looked up now passes.
func notUploaded(what string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return &specError{api.JobExecutorError, fmt.Sprintf("%s: %v", what, err)}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// code adds the run's repository and files.
func (s *Service) code(ctx context.Context, r Run, t *agentapi.TaskSpec) error {
	spec := r.Data.Spec
	for _, f := range spec.FileArchives {
		blob, err := s.Repos.ArchiveBlob(ctx, f.ID)
		if err != nil {
			return notUploaded("file archive "+f.ID, err)
		}
		t.Job.Files = append(t.Job.Files, agentapi.FileArchive{Blob: blob, Path: f.Path})
	}
	if spec.RepoData == nil || spec.RepoData.RepoType == "virtual" && spec.RepoCodeHash == nil {
		return nil
	}
	repo := &agentapi.Repo{Type: spec.RepoData.RepoType, Dir: jobspec.WorkflowDir, ExistsAction: "skip"}
	if c := spec.Configuration.Common(); len(c.Repos) > 0 {
		repo.Dir, repo.ExistsAction = c.Repos[0].Path, c.Repos[0].IfExists
	} else if spec.RepoDir != nil {
		repo.Dir = *spec.RepoDir
	}
	d := spec.RepoData
	for to, from := range map[*string]*string{&repo.Branch: d.RepoBranch, &repo.Hash: d.RepoHash, &repo.ConfigName: d.RepoConfigName, &repo.ConfigEmail: d.RepoConfigEmail} {
		if from != nil {
			*to = *from
		}
	}
	if spec.RepoCodeHash != nil {
		blob, err := s.Repos.CodeBlob(ctx, r.ProjectID, r.RepoID, *spec.RepoCodeHash)
		if err != nil {
			return notUploaded("code of repo "+r.RepoID, err)
		}
		repo.Blob = blob
	}
	if repo.Type == "remote" {
		creds, err := s.Repos.Creds(ctx, r.ProjectID, r.RepoID, r.UserID)
		if err != nil {
			return err
		}
		if creds == nil {
			return &specError{api.JobExecutorError, fmt.Sprintf("no credentials for repo %s; run dstack init", r.RepoID)}
		}
		repo.CloneURL = creds.CloneURL
		if creds.PrivateKey != nil {
			repo.PrivateKey = *creds.PrivateKey
		}
		if creds.OAuthToken != nil {
			repo.OAuthToken = *creds.OAuthToken
		}
	}
	t.Job.Repo = repo
	return nil
}
