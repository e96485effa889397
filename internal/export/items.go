package export

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/project"
	"dstack/internal/store"
)

// repeated finds a name that a list has twice.
func repeated(names []string) (string, bool) {
	seen := map[string]bool{}
	for _, name := range names {
		if seen[name] {
			return name, true
		}
		seen[name] = true
	}
	return "", false
}

// add shares objects of the project.
func (s *Service) add(ctx context.Context, tx *store.Tx, sc project.Scope, e row, kind Kind, names []string) error {
	objects, err := s.objects(ctx, tx, sc, kind, names)
	if err != nil {
		return err
	}
	for i, id := range objects {
		_, err := tx.ExecContext(ctx, `INSERT INTO export_item (export_id, object_id, kind) VALUES ($1, $2, $3)`, e.id, id, kind)
		if store.Constraint(err) == "export_item_pkey" {
			return api.Invalid("The %s '%s' is already exported in '%s'", kind, names[i], e.name)
		}
		if err != nil {
			return fmt.Errorf("export a %s: %w", kind, err)
		}
	}
	return nil
}

// remove shares objects of the project no longer.
func (s *Service) remove(ctx context.Context, tx *store.Tx, sc project.Scope, e row, kind Kind, names []string) error {
	objects, err := s.objects(ctx, tx, sc, kind, names)
	if err != nil {
		return err
	}
	for i, id := range objects {
		res, err := tx.ExecContext(ctx, `DELETE FROM export_item WHERE export_id = $1 AND object_id = $2`, e.id, id)
		if err := store.Guarded(res, err); err == store.ErrConflict {
			return api.Invalid("The %s '%s' is not exported in '%s'", kind, names[i], e.name)
		} else if err != nil {
			return fmt.Errorf("take a %s out of an export: %w", kind, err)
		}
	}
	return nil
}

func (s *Service) objects(ctx context.Context, tx *store.Tx, sc project.Scope, kind Kind, names []string) ([]string, error) {
	if name, twice := repeated(names); twice {
		return nil, api.Invalid("The %s '%s' is listed more than once", kind, name)
	}
	if len(names) == 0 {
		return nil, nil
	}
	return s.Find(ctx, tx, kind, sc.Project, names)
}

// addImport lets a project use an export; existing says that it could already.
func addImport(ctx context.Context, tx *store.Tx, exportID, projectID string) (existing bool, err error) {
	err = store.Guarded(tx.ExecContext(ctx, `
INSERT INTO import (id, export_id, project_id, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (export_id, project_id) DO NOTHING`,
		uuid.NewString(), exportID, projectID, store.Micros(time.Now())))
	if err == store.ErrConflict {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("import an export: %w", err)
	}
	return false, nil
}
