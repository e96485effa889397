// Package projecttest makes projects for the tests of what belongs to projects.
package projecttest

import (
	"context"
	"errors"
	"testing"

	"dstack/internal/crypt"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// Projects are those of a database, with the administrator who owns them.
type Projects struct {
	*project.Service
	Users *user.Service
	Admin user.User
}

// New opens the projects of db. Of hooks, Created and Deleted count; the zero value has none.
func New(t testing.TB, db *store.DB, hooks project.Config) *Projects {
	t.Helper()
	box, err := crypt.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	users, err := user.New(user.Config{DB: db, Box: box})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context, *store.Tx, project.Project) error { return nil }
	c := project.Config{
		DB: db, Box: box, Users: users, Created: nothing, Deleted: nothing,
		Busy:           func(context.Context, store.Querier, project.Project) (string, error) { return "", nil },
		CheckTemplates: func(context.Context, string) error { return nil },
	}
	if hooks.Created != nil {
		c.Created = hooks.Created
	}
	if hooks.Deleted != nil {
		c.Deleted = hooks.Deleted
	}
	projects, err := project.New(c)
	admin, _, _, adminErr := users.EnsureAdmin(t.Context(), "t")
	if err := errors.Join(err, adminErr); err != nil {
		t.Fatal(err)
	}
	return &Projects{projects, users, admin}
}

// Scope makes a project and returns what the administrator does in it.
func (p *Projects) Scope(t testing.TB, name string) project.Scope {
	t.Helper()
	made, err := p.Ensure(t.Context(), name, p.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return project.Scope{Project: made, User: p.Admin}
}
