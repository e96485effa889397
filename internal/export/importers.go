package export

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dstack/internal/api"
	"dstack/internal/project"
	"dstack/internal/store"
)

// importers finds the projects that shall import, and refuses those that the caller may not
// speak for. Their names are compared without regard to case.
func (s *Service) importers(ctx context.Context, tx *store.Tx, sc project.Scope, names []string) ([]project.Project, error) {
	lower := make([]string, len(names))
	for i, name := range names {
		lower[i] = strings.ToLower(name)
		if lower[i] == strings.ToLower(sc.Project.Name) {
			return nil, api.Invalid("Project '%s' cannot import from itself", sc.Project.Name)
		}
	}
	if name, twice := repeated(lower); twice {
		return nil, api.Invalid("The project '%s' is listed more than once", name)
	}
	var list []project.Project
	var refused []string
	for _, name := range names {
		p, err := s.Projects.ByName(ctx, tx, name)
		if errors.Is(err, store.ErrNotFound) {
			refused = append(refused, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		role, err := project.RoleIn(ctx, tx, p.ID, sc.User.ID)
		if err != nil {
			return nil, err
		}
		if !sc.User.Admin() && role != api.ProjectAdmin {
			refused = append(refused, name)
		}
		list = append(list, p)
	}
	if refused != nil {
		return nil, api.NotExists("Projects {'%s'} not found or you are not allowed to add them as importers. Only project admins can add a project as importer", strings.Join(refused, "', '"))
	}
	return list, nil
}

func (s *Service) addImporters(ctx context.Context, tx *store.Tx, sc project.Scope, e row, names []string) error {
	projects, err := s.importers(ctx, tx, sc, names)
	if err != nil {
		return err
	}
	for _, p := range projects {
		existing, err := addImport(ctx, tx, e.id, p.ID)
		if err != nil {
			return err
		}
		if existing {
			return api.Invalid("Project '%s' already imports '%s/%s'", p.Name, sc.Project.Name, e.name)
		}
		if err := record(ctx, tx, sc, fmt.Sprintf("Import of '%s/%s' added", sc.Project.Name, e.name), p); err != nil {
			return err
		}
	}
	return nil
}

// removeImporters takes an export from projects; its own admin may do that alone.
func (s *Service) removeImporters(ctx context.Context, tx *store.Tx, sc project.Scope, e row, names []string) error {
	lower := make([]string, len(names))
	for i, name := range names {
		lower[i] = strings.ToLower(name)
	}
	if name, twice := repeated(lower); twice {
		return api.Invalid("The project '%s' is listed more than once", name)
	}
	for _, name := range names {
		p, err := s.Projects.ByName(ctx, tx, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err = store.Guarded(tx.ExecContext(ctx, `DELETE FROM import WHERE export_id = $1 AND project_id = $2`, e.id, p.ID))
		if errors.Is(err, store.ErrConflict) {
			return api.Invalid("Project '%s' does not import '%s/%s'", name, sc.Project.Name, e.name)
		}
		if err != nil {
			return fmt.Errorf("take an export from a project: %w", err)
		}
		if err := record(ctx, tx, sc, fmt.Sprintf("Import of '%s/%s' removed", sc.Project.Name, e.name), p); err != nil {
			return err
		}
	}
	return nil
}

// makeGlobal gives an export to all projects.
func (s *Service) makeGlobal(ctx context.Context, tx *store.Tx, sc project.Scope, e row) error {
	if _, err := tx.ExecContext(ctx, `UPDATE export SET is_global = TRUE, version = `+store.NextVersion+` WHERE id = $1`, e.id); err != nil {
		return err
	}
	all, err := ids(ctx, tx, `SELECT id FROM project WHERE NOT deleted AND id <> $1 ORDER BY id`, e.projectID)
	if err != nil {
		return err
	}
	for _, id := range all {
		if _, err := addImport(ctx, tx, e.id, id); err != nil {
			return err
		}
	}
	return record(ctx, tx, sc, fmt.Sprintf("Export '%s' made global", e.name), sc.Project)
}

// Imports lists what a project uses of others, newest first.
func (s *Service) Imports(ctx context.Context, sc project.Scope, _ struct{}) ([]api.Import, error) {
	return imports(ctx, s.DB.Read(), sc.Project.ID)
}

// DeleteImport gives an import back. What is not imported and what does not exist are
// answered alike, so that nobody learns what others export.
func (s *Service) DeleteImport(ctx context.Context, sc project.Scope, r api.DeleteImportRequest) (*struct{}, error) {
	ref := r.ExportProjectName + "/" + r.ExportName
	missing := api.NotExists("Import '%s' not found in project '%s'", ref, sc.Project.Name)
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		from, err := s.Projects.ByName(ctx, tx, r.ExportProjectName)
		if errors.Is(err, store.ErrNotFound) {
			return missing
		}
		if err != nil {
			return err
		}
		e, err := find(ctx, tx, from.ID, r.ExportName)
		if errors.Is(err, store.ErrNotFound) {
			return missing
		}
		if err != nil {
			return err
		}
		return s.within(ctx, tx, from.ID, func() error {
			err := store.Guarded(tx.ExecContext(ctx, `DELETE FROM import WHERE export_id = $1 AND project_id = $2`, e.id, sc.Project.ID))
			if errors.Is(err, store.ErrConflict) {
				return missing
			}
			if err != nil {
				return fmt.Errorf("delete an import: %w", err)
			}
			if e.global {
				return api.Invalid("'%s' is a global export, cannot stop importing", ref)
			}
			return record(ctx, tx, sc, fmt.Sprintf("Import of '%s' removed", ref), from, sc.Project)
		})
	})
}

// Created gives a new project what all projects import.
func (s *Service) Created(ctx context.Context, tx *store.Tx, p project.Project) error {
	global, err := ids(ctx, tx, `SELECT id FROM export WHERE is_global ORDER BY id`)
	if err != nil {
		return err
	}
	for _, id := range global {
		if _, err := addImport(ctx, tx, id, p.ID); err != nil {
			return err
		}
	}
	return nil
}

// Deleted ends what a project that is deleted shares and uses.
func (s *Service) Deleted(ctx context.Context, tx *store.Tx, p project.Project) error {
	return s.within(ctx, tx, p.ID, func() error {
		own, err := ids(ctx, tx, `SELECT id FROM export WHERE project_id = $1 ORDER BY id`, p.ID)
		if err != nil {
			return err
		}
		for _, id := range own {
			if err := drop(ctx, tx, id); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM import WHERE project_id = $1`, p.ID)
		return err
	})
}
