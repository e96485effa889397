package server

import (
	"context"
	"slices"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/project"
)

// able says for the maker of a kind of object whether a backend of a project can make it. If
// not, the refusal tells which backends the project has and which of them could.
func (s *Server) able(what string, can func(backend.Backend) bool) func(context.Context, project.Project, string) error {
	return func(ctx context.Context, p project.Project, name string) error {
		if name == "datacrunch" { // renamed
			name = "verda"
		}
		accounts, err := s.clouds.Accounts(ctx)
		if err != nil {
			return err
		}
		configured, able := []string{}, []string{}
		for _, a := range accounts {
			if a.ProjectID != p.ID {
				continue
			}
			configured = append(configured, a.Backend)
			b, err := s.clouds.Backend(ctx, a.ProjectID, a.Backend)
			if err != nil {
				s.Log.Warn("a backend cannot be opened", "project", p.Name, "backend", a.Backend, "err", err)
				continue
			}
			if can(b) {
				able = append(able, a.Backend)
			}
		}
		slices.Sort(configured)
		slices.Sort(able)
		switch {
		case slices.Contains(able, name):
			return nil
		case slices.Contains(configured, name):
			return api.Invalid("%s are not supported for %s backend. Available backends with %s support: %s. Configured backends of project %s: %s.",
				title(what), name, what, api.List(able), p.Name, api.List(configured))
		}
		return api.BadRequest(api.CodeBackendNotAvailable, "Backend %s not available. Available backends with %s support: %s. Configured backends of project %s: %s.",
			name, what, api.List(able), p.Name, api.List(configured))
	}
}

func title(word string) string { return string(word[0]-'a'+'A') + word[1:] }

func makesVolumes(b backend.Backend) bool { _, ok := b.(backend.VolumeBackend); return ok }

func makesGateways(b backend.Backend) bool { _, ok := b.(backend.GatewayBackend); return ok }
