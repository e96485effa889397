package run

import (
	"context"
	"errors"
	"testing"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
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
