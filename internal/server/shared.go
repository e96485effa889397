package server

import (
	"context"

	"dstack/internal/export"
	"dstack/internal/gateway"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/volume"
)

// assembleShared puts together what projects have beside runs and fleets, and what they share.
func (s *Server) assembleShared() error {
	var err error
	s.volumes, err = volume.New(volume.Config{DB: s.db, Engine: s.engine, Ledger: s.ledger, Projects: s.projects, Users: s.users, Clouds: s.clouds,
		Backends: s.able("volumes", makesVolumes), Log: s.Log})
	if err != nil {
		return err
	}
	s.gateways, err = gateway.New(gateway.Config{DB: s.db, Projects: s.projects, Backends: s.able("gateways", makesGateways)})
	if err != nil {
		return err
	}
	s.exports, err = export.New(export.Config{DB: s.db, Engine: s.engine, Projects: s.projects, Find: s.shareable, Lost: s.lostShare,
		Usable: func(projectID string) { s.runs.Freed(projectID) }})
	return err
}

// shareable finds the objects of a project that shall be exported.
func (s *Server) shareable(ctx context.Context, q store.Querier, kind export.Kind, p project.Project, names []string) ([]string, error) {
	if kind == export.Gateways {
		return s.gateways.Shareable(ctx, q, p, names)
	}
	return s.fleets.Shareable(ctx, q, p, names)
}

// lostShare ends what a project does with an object of another that it may not use any more.
func (s *Server) lostShare(ctx context.Context, tx *store.Tx, kind export.Kind, projectID, objectID string) error {
	if kind == export.Gateways {
		return s.gateways.Lost(ctx, tx, projectID, objectID)
	}
	return s.runs.Revoke(ctx, tx, projectID, objectID)
}

// projectBusy says what forbids deleting a project, "" when nothing does.
func (s *Server) projectBusy(ctx context.Context, q store.Querier, p project.Project) (string, error) {
	for _, busy := range []func(context.Context, store.Querier, string) (string, error){s.runs.Busy, s.fleets.Busy, s.volumes.Busy} {
		if why, err := busy(ctx, q, p.ID); err != nil || why != "" {
			return why, err
		}
	}
	left, err := s.ledger.Left(ctx, q, p.ID, "")
	if err != nil || len(left) == 0 {
		return "", err
	}
	return "Failed to delete project with what may cost money and could not be ended without it (" + resources(left) + "). " +
		"Wait until `dstack server doctor` shows it no more, or forget it there.", nil
}

func (s *Server) projectCreated(ctx context.Context, tx *store.Tx, p project.Project) error {
	return s.exports.Created(ctx, tx, p)
}

func (s *Server) projectDeleted(ctx context.Context, tx *store.Tx, p project.Project) error {
	if err := s.exports.Deleted(ctx, tx, p); err != nil {
		return err
	}
	return s.gateways.Deleted(ctx, tx, p)
}
