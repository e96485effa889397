package run

import (
	"context"
	"errors"
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/repo"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A job whose code was never uploaded can never run. That the database does not answer now says nothing of the job.
func TestCodeThatIsNotThere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := &Service{Config: Config{DB: db, Repos: &repo.Service{DB: db}}}
		hash, over := "hash", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}
		for name, spec := range map[string]api.RunSpec{
			"files": {FileArchives: []api.FileArchiveMapping{{ID: "archive", Path: "x"}}},
			"code":  {RepoData: &api.RepoData{RepoType: "local"}, RepoCodeHash: &hash},
		} {
			r := Run{RepoID: "repo", Data: Data{Spec: spec}}
			r.Data.Spec.Configuration = taskWith(func(*config.Task) {}).Configuration
			_, never := errors.AsType[*specError](s.code(t.Context(), r, &agentapi.TaskSpec{}))
			if !never {
				t.Errorf("%s that are not there do not end the job", name)
			}
			err := s.code(over(t.Context()), r, &agentapi.TaskSpec{})
			if _, never := errors.AsType[*specError](err); never || err == nil {
				t.Errorf("%s end the job when the database does not answer: %v", name, err)
			}
		}
	})
}

// A job that needs GPUs gets its share of its host's, or all of them: it does not begin with what happens to be free.
func TestGPUsOf(t *testing.T) {
	needs := func(from, to int) *config.GPU { return &config.GPU{Count: config.Between(from, to)} }
	host := &instance.Instance{Data: instance.Data{Host: &agentapi.HostInfo{GPUs: make([]agentapi.GPU, 7)}, Provisioning: &api.JobProvisioningData{}}}
	host.Data.Provisioning.InstanceType.Resources.Gpus = make([]api.Gpu, 8)
	without := &instance.Instance{Data: instance.Data{Host: &agentapi.HostInfo{}, Provisioning: &api.JobProvisioningData{}}}
	for name, c := range map[string]struct {
		gpu   *config.GPU
		share *int
		host  *instance.Instance
		want  int
	}{
		"one of a host of eight, all are its own": {needs(1, -1), nil, host, 8},
		"a share":                            {needs(1, -1), ptr(2), host, 2},
		"a share without":                    {nil, ptr(0), host, 0},
		"it can do without":                  {needs(0, -1), nil, host, -1},
		"it needs none":                      {nil, nil, host, -1},
		"the agent lists none, nor it is to": {needs(1, -1), nil, without, -1},
	} {
		j := Job{Data: JobData{Runtime: &api.JobRuntimeData{GPU: c.share}}}
		j.Data.Spec.Requirements.Resources.GPU = c.gpu
		if got := gpusOf(j, c.host); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
