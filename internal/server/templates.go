package server

import (
	"cmp"
	"context"

	"dstack/internal/api"
	"dstack/internal/project"
)

// listTemplates returns what the project's repository of templates has, or the server's.
func (s *Server) listTemplates(ctx context.Context, sc project.Scope, _ struct{}) ([]api.UITemplate, error) {
	repo := cmp.Or(sc.Project.TemplatesRepo, s.TemplatesRepo)
	if repo == "" {
		return []api.UITemplate{}, nil
	}
	list, err := s.templates.List(ctx, repo)
	if err != nil {
		s.Log.Warn("templates cannot be read", "project", sc.Project.Name, "err", err)
		return nil, api.Invalid("Cannot access templates repo: %s", repo)
	}
	return list, nil
}
