// Package secret owns the named values of projects, sealed at rest.
package secret

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/event"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Service reads and writes secrets.
type Service struct {
	DB  *store.DB
	Box *crypt.Box
	Log *slog.Logger
}

// Values returns the secrets of a project by name. One that cannot be read is left out, as it
// concerns only who refers to it.
func (s *Service) Values(ctx context.Context, projectID string) (map[string]string, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT name, sealed FROM secret WHERE project_id = $1`, projectID)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	defer rows.Close()
	values := map[string]string{}
	for rows.Next() {
		var name, sealed string
		if err := rows.Scan(&name, &sealed); err != nil {
			return nil, fmt.Errorf("read a secret: %w", err)
		}
		value, err := s.Box.Open(sealed)
		if err != nil {
			s.Log.Error("a secret cannot be read: it is left out", "secret", name, "project", projectID, "err", err)
			continue
		}
		values[name] = value
	}
	return values, rows.Err()
}

// List returns the names, newest first.
func (s *Service) List(ctx context.Context, sc project.Scope, _ struct{}) ([]api.Secret, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT id, name FROM secret WHERE project_id = $1 ORDER BY created_at DESC, name`, sc.Project.ID)
	if err != nil {
		return nil, fmt.Errorf("list secrets: %w", err)
	}
	defer rows.Close()
	list := []api.Secret{}
	for rows.Next() {
		var v api.Secret
		if err := rows.Scan(&v.ID, &v.Name); err != nil {
			return nil, fmt.Errorf("read a secret: %w", err)
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// Get returns one secret with its value.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.GetSecretRequest) (api.Secret, error) {
	v := api.Secret{Name: r.Name}
	var sealed string
	err := s.DB.Read().QueryRowContext(ctx, `SELECT id, sealed FROM secret WHERE project_id = $1 AND name = $2`, sc.Project.ID, r.Name).Scan(&v.ID, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return api.Secret{}, api.NotExists("")
	}
	if err != nil {
		return api.Secret{}, fmt.Errorf("read a secret: %w", err)
	}
	plain, err := s.Box.Open(sealed)
	if err != nil {
		return api.Secret{}, fmt.Errorf("secret %s: %w", r.Name, err)
	}
	v.Value = &plain
	return v, nil
}

// validName is the rule of configurations 4.3; every such name can be referenced as
// ${{ secrets.NAME }}.
func validName(s string) bool {
	return s != "" && len(s) <= 200 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

// Set creates or replaces a secret.
func (s *Service) Set(ctx context.Context, sc project.Scope, r api.SetSecretRequest) (api.Secret, error) {
	if !validName(r.Name) {
		return api.Secret{}, api.Invalid("Secret name should match regex '^[A-Za-z0-9-_]{1,200}$")
	}
	if len([]rune(r.Value)) > 5000 {
		return api.Secret{}, api.Invalid("Secret value length must not exceed 5000")
	}
	sealed, err := s.Box.Seal(r.Value)
	if err != nil {
		return api.Secret{}, err
	}
	v := api.Secret{Name: r.Name, Value: &r.Value}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		fresh := uuid.NewString()
		err := tx.QueryRowContext(ctx, `
INSERT INTO secret (id, project_id, name, sealed, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (project_id, name) DO UPDATE SET sealed = excluded.sealed RETURNING id`,
			fresh, sc.Project.ID, r.Name, sealed, store.Micros(time.Now())).Scan(&v.ID)
		if err != nil {
			return fmt.Errorf("store a secret: %w", err)
		}
		if v.ID == fresh {
			return record(ctx, tx, sc, v, "Secret created")
		}
		return record(ctx, tx, sc, v, "Secret updated")
	})
	if err != nil {
		return api.Secret{}, err
	}
	return v, nil
}

// Delete removes secrets by name: all of them or, when one is not there, none.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.DeleteSecretsRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		var unknown []string
		for _, name := range r.SecretsNames {
			v := api.Secret{Name: name}
			err := tx.QueryRowContext(ctx, `DELETE FROM secret WHERE project_id = $1 AND name = $2 RETURNING id`, sc.Project.ID, name).Scan(&v.ID)
			if errors.Is(err, sql.ErrNoRows) {
				unknown = append(unknown, name)
				continue
			}
			if err != nil {
				return fmt.Errorf("delete a secret: %w", err)
			}
			if err := record(ctx, tx, sc, v, "Secret deleted"); err != nil {
				return err
			}
		}
		if len(unknown) > 0 {
			return api.NotExists("Secrets not found: %s", strings.Join(unknown, ", "))
		}
		return nil
	})
}

func record(ctx context.Context, tx *store.Tx, sc project.Scope, v api.Secret, text string) error {
	return event.Record(ctx, tx, sc.Actor(event.Event{Message: text,
		Targets: []event.Target{{Type: api.EventTargetSecret, ID: v.ID, Name: v.Name}}}))
}
