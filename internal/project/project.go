// Package project owns projects, their members and what a member may do.
package project

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/event"
	"dstack/internal/sshkey"
	"dstack/internal/store"
	"dstack/internal/user"
)

// Project is one row.
type Project struct {
	ID            string
	Name          string
	OwnerID       string
	PublicKey     string
	IsPublic      bool
	TemplatesRepo string
	CreatedAt     time.Time
	Deleted       bool
	private       string // sealed
}

// Scope is a caller in a project: who asks, where, as what. Role is "" for global admins
// and visitors of public projects who are no members.
type Scope struct {
	Project Project
	User    user.User
	Role    api.ProjectRole
}

// Actor fills the actor of an event.
func (s Scope) Actor(e event.Event) event.Event {
	e.ActorID, e.ActorName, e.ProjectID = s.User.ID, s.User.Name, s.Project.ID
	return e
}

// Admin says that the caller may do everything in the project.
func (s Scope) Admin() bool { return s.User.Admin() || s.Role == api.ProjectAdmin }

// Permissions are the server's defaults for people who are no admins.
type Permissions struct {
	CreateProjects  bool
	Quota           int // of projects that one user may own
	ManageSSHFleets bool
	ManagersSecrets bool
}

// Config is what New needs; all fields are required.
type Config struct {
	DB          *store.DB
	Box         *crypt.Box
	Users       *user.Service
	Permissions Permissions
	// Busy says, in the transaction, what forbids deletion, "" when nothing does.
	Busy func(ctx context.Context, q store.Querier, p Project) (string, error)
	// Created and Deleted are called in the transaction that makes or deletes a project.
	Created, Deleted func(ctx context.Context, tx *store.Tx, p Project) error
	// CheckTemplates says whether a repository with templates can be read.
	CheckTemplates func(ctx context.Context, repo string) error
}

// Service creates, finds and changes projects.
type Service struct{ Config }

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Box == nil || c.Users == nil || c.Busy == nil || c.Created == nil || c.Deleted == nil || c.CheckTemplates == nil {
		return nil, errors.New("project: DB, Box, Users, Busy, Created, Deleted and CheckTemplates are required")
	}
	return &Service{c}, nil
}

const columns = `id, name, owner_id, public_key, is_public, templates_repo, created_at, deleted, private_sealed`

func scan(row interface{ Scan(...any) error }) (Project, error) {
	var p Project
	var created int64
	err := store.DespiteDamage(store.Scan(row, &p.ID, &p.Name, &p.OwnerID, &p.PublicKey, &p.IsPublic, &p.TemplatesRepo, &created, &p.Deleted, &p.private))
	if errors.Is(err, sql.ErrNoRows) {
		return Project{}, store.ErrNotFound
	}
	if err != nil {
		return Project{}, fmt.Errorf("read a project: %w", err)
	}
	p.CreatedAt = store.Time(created)
	return p, nil
}

// ByName finds a project, without regard to case; store.ErrNotFound when there is none.
func (s *Service) ByName(ctx context.Context, q store.Querier, name string) (Project, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM project WHERE NOT deleted AND lower(name) = lower($1)`, name))
}

// ByID finds a project, also a deleted one.
func (s *Service) ByID(ctx context.Context, q store.Querier, id string) (Project, error) {
	return scan(q.QueryRowContext(ctx, `SELECT `+columns+` FROM project WHERE id = $1`, id))
}

// All lists the projects that are not deleted, newest first.
func (s *Service) All(ctx context.Context) ([]Project, error) { return s.list(ctx, "NOT deleted") }

// Former lists the projects that were deleted, newest first.
func (s *Service) Former(ctx context.Context) ([]Project, error) { return s.list(ctx, "deleted") }

func (s *Service) list(ctx context.Context, cond string) ([]Project, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT `+columns+` FROM project WHERE `+cond+` ORDER BY created_at DESC, id`)
	if err != nil {
		return nil, fmt.Errorf("list projects: %w", err)
	}
	defer rows.Close()
	var list []Project
	for rows.Next() {
		p, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// ProjectKey is the pair with which the server logs in to the project's machines.
func (s *Service) ProjectKey(ctx context.Context, projectID string) (public, private string, err error) {
	p, err := s.ByID(ctx, s.DB.Read(), projectID)
	if err != nil {
		return "", "", fmt.Errorf("key of project %s: %w", projectID, err)
	}
	private, err = s.Box.Open(p.private)
	if err != nil {
		return "", "", fmt.Errorf("key of project %s: %w", p.Name, err)
	}
	return p.PublicKey, private, nil
}

// Role is a user's role in a project, "" for none.
func (s *Service) Role(ctx context.Context, projectID, userID string) (api.ProjectRole, error) {
	return RoleIn(ctx, s.DB.Read(), projectID, userID)
}

// RoleIn is [Service.Role] as a transaction sees it.
func RoleIn(ctx context.Context, q store.Querier, projectID, userID string) (api.ProjectRole, error) {
	var role api.ProjectRole
	err := q.QueryRowContext(ctx, `SELECT role FROM member WHERE project_id = $1 AND user_id = $2`, projectID, userID).Scan(&role)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read a member: %w", err)
	}
	return role, nil
}

// Of lists the projects that a user is a member of; all of them for admins.
func (s *Service) Of(ctx context.Context, u user.User) (map[string]Project, error) {
	all, err := s.All(ctx)
	if err != nil {
		return nil, err
	}
	joined, err := s.joined(ctx, u)
	if err != nil {
		return nil, err
	}
	m := map[string]Project{}
	for _, p := range all {
		if u.Admin() || joined[p.ID] {
			m[p.ID] = p
		}
	}
	return m, nil
}

func (s *Service) joined(ctx context.Context, u user.User) (map[string]bool, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT project_id FROM member WHERE user_id = $1`, u.ID)
	if err != nil {
		return nil, fmt.Errorf("list memberships: %w", err)
	}
	defer rows.Close()
	m := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("read a membership: %w", err)
		}
		m[id] = true
	}
	return m, rows.Err()
}

// Ensure makes sure that a project exists, owned by u.
func (s *Service) Ensure(ctx context.Context, name string, u user.User) (Project, error) {
	p, err := s.ByName(ctx, s.DB.Read(), name)
	if !errors.Is(err, store.ErrNotFound) {
		return p, err
	}
	p, err = s.insert(ctx, api.CreateProjectRequest{ProjectName: name}, u)
	if api.IsExists(err) { // another replica was faster
		return s.ByName(ctx, s.DB.Read(), name)
	}
	return p, err
}

func (s *Service) insert(ctx context.Context, r api.CreateProjectRequest, owner user.User) (Project, error) {
	keys, err := sshkey.Generate(r.ProjectName + "@dstack")
	if err != nil {
		return Project{}, err
	}
	sealed, err := s.Box.Seal(keys.Private)
	if err != nil {
		return Project{}, err
	}
	p := Project{ID: uuid.NewString(), Name: r.ProjectName, OwnerID: owner.ID, PublicKey: strings.TrimSpace(keys.Public), IsPublic: r.IsPublic, CreatedAt: time.Now(), private: sealed}
	if r.TemplatesRepo != nil {
		p.TemplatesRepo = *r.TemplatesRepo
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `
INSERT INTO project (id, name, owner_id, public_key, private_sealed, is_public, templates_repo, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, p.ID, p.Name, p.OwnerID, p.PublicKey, sealed, p.IsPublic, p.TemplatesRepo, store.Micros(p.CreatedAt))
		if err != nil {
			return err
		}
		if err := addMember(ctx, tx, p.ID, owner.ID, api.ProjectAdmin, 0); err != nil {
			return err
		}
		if err := s.Created(ctx, tx, p); err != nil {
			return err
		}
		return s.record(ctx, tx, owner, p, "Project created")
	})
	if store.Constraint(err) == "project_name" {
		return Project{}, api.Exists("")
	}
	if err != nil {
		return Project{}, err
	}
	return p, nil
}

func addMember(ctx context.Context, tx *store.Tx, projectID, userID string, role api.ProjectRole, num int) error {
	_, err := tx.ExecContext(ctx, `
INSERT INTO member (project_id, user_id, role, num) VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id, user_id) DO UPDATE SET role = excluded.role`, projectID, userID, role, num)
	return err
}

func (s *Service) record(ctx context.Context, tx *store.Tx, actor user.User, p Project, text string) error {
	return event.Record(ctx, tx, Scope{Project: p, User: actor}.Event(text))
}

// Event says that the caller did something to the project.
func (s Scope) Event(text string) event.Event {
	return s.Actor(event.Event{Message: text, Targets: []event.Target{{Type: api.EventTargetProject, ID: s.Project.ID, Name: s.Project.Name}}})
}
