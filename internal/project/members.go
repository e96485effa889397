package project

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/user"
)

func forbidden(format string, args ...any) error {
	return &api.Error{Kind: api.KindForbidden, Msg: fmt.Sprintf(format, args...)}
}

// roles reads the members of a project.
func roles(ctx context.Context, q store.Querier, projectID string) (map[string]api.ProjectRole, error) {
	rows, err := q.QueryContext(ctx, `SELECT user_id, role FROM member WHERE project_id = $1`, projectID)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	defer rows.Close()
	m := map[string]api.ProjectRole{}
	for rows.Next() {
		var id string
		var role api.ProjectRole
		if err := rows.Scan(&id, &role); err != nil {
			return nil, fmt.Errorf("read a member: %w", err)
		}
		m[id] = role
	}
	return m, rows.Err()
}

func admins(m map[string]api.ProjectRole) map[string]bool {
	set := map[string]bool{}
	for id, role := range m {
		if role == api.ProjectAdmin {
			set[id] = true
		}
	}
	return set
}

// SetMembers replaces the members. A manager cannot change who is an admin.
func (s *Service) SetMembers(ctx context.Context, sc Scope, r api.MembersRequest) (api.Project, error) {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		before, err := roles(ctx, tx, sc.Project.ID)
		if err != nil {
			return err
		}
		after := map[string]api.ProjectRole{}
		order := []string{}
		for _, m := range r.Members {
			u, err := s.Users.ByNameOrEmail(ctx, tx, m.Username)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if _, twice := after[u.ID]; twice {
				return api.Invalid("Cannot add same user multiple times")
			}
			after[u.ID] = m.ProjectRole
			order = append(order, u.ID)
		}
		if !sc.Admin() && !maps.Equal(admins(before), admins(after)) {
			return forbidden("Access denied: changing project admins")
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM member WHERE project_id = $1`, sc.Project.ID); err != nil {
			return err
		}
		for i, id := range order {
			if err := addMember(ctx, tx, sc.Project.ID, id, after[id], i); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, sc.User, sc.Project, "Project updated. Updated fields: members")
	})
	if err != nil {
		return api.Project{}, err
	}
	return s.View(ctx, sc.Project, true)
}

// names says whether a name or e-mail address means u, and not somebody before them.
func (s *Service) names(ctx context.Context, q store.Querier, name string, u user.User) (bool, error) {
	found, err := s.Users.ByNameOrEmail(ctx, q, name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil && found.ID == u.ID, err
}

// AddMembers adds members or changes their roles, but for the last admin's; anyone may join a
// public project.
func (s *Service) AddMembers(ctx context.Context, sc Scope, r api.MembersRequest) (api.Project, error) {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		members, err := roles(ctx, tx, sc.Project.ID)
		if err != nil {
			return err
		}
		selfJoin := false
		if len(r.Members) == 1 && sc.Project.IsPublic && members[sc.User.ID] == "" && !sc.User.Admin() {
			if selfJoin, err = s.names(ctx, tx, r.Members[0].Username, sc.User); err != nil {
				return err
			}
		}
		switch {
		case selfJoin && r.Members[0].ProjectRole != api.ProjectUser:
			return forbidden("Access denied: can only join public projects as user role")
		case !selfJoin && !sc.Admin() && sc.Role != api.ProjectManager:
			return forbidden("Access denied: insufficient permissions to add members")
		}
		after := maps.Clone(members)
		added := map[string]bool{}
		for i, m := range r.Members {
			if m.ProjectRole == api.ProjectAdmin && !sc.Admin() {
				return forbidden("Access denied: only global admins can add project admins")
			}
			u, err := s.Users.ByNameOrEmail(ctx, tx, m.Username)
			if errors.Is(err, store.ErrNotFound) {
				return api.Invalid("User not found: %s", m.Username)
			}
			if err != nil {
				return err
			}
			if added[u.ID] {
				return api.Invalid("Cannot add same user multiple times")
			}
			added[u.ID], after[u.ID] = true, m.ProjectRole
			if err := addMember(ctx, tx, sc.Project.ID, u.ID, m.ProjectRole, len(members)+i); err != nil {
				return err
			}
		}
		switch before, after := admins(members), admins(after); {
		case !sc.Admin() && !maps.Equal(before, after):
			return forbidden("Access denied: changing project admins")
		case len(before) > 0 && len(after) == 0:
			return api.Invalid("Cannot remove all project admins")
		}
		return s.record(ctx, tx, sc.User, sc.Project, "Project updated. Updated fields: members")
	})
	if err != nil {
		return api.Project{}, err
	}
	return s.View(ctx, sc.Project, true)
}

// RemoveMembers removes members; anyone may leave, but for the last admin.
func (s *Service) RemoveMembers(ctx context.Context, sc Scope, r api.RemoveMembersRequest) (api.Project, error) {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		members, err := roles(ctx, tx, sc.Project.ID)
		if err != nil {
			return err
		}
		selfLeave := false
		if len(r.Usernames) == 1 && members[sc.User.ID] != "" {
			if selfLeave, err = s.names(ctx, tx, r.Usernames[0], sc.User); err != nil {
				return err
			}
		}
		if !selfLeave && !sc.Admin() && sc.Role != api.ProjectManager {
			return forbidden("Access denied: insufficient permissions to remove members")
		}
		left := admins(members)
		for _, name := range r.Usernames {
			u, err := s.Users.ByNameOrEmail(ctx, tx, name)
			if errors.Is(err, store.ErrNotFound) {
				return api.Invalid("User not found: %s", name)
			}
			if err != nil {
				return err
			}
			role, member := members[u.ID]
			if !member {
				return api.Invalid("User is not a member of this project: %s", name)
			}
			if role == api.ProjectAdmin && !selfLeave && !sc.User.Admin() {
				return forbidden("Access denied: only global admins can remove project admins (user: %s)", name)
			}
			delete(left, u.ID)
			if _, err := tx.ExecContext(ctx, `DELETE FROM member WHERE project_id = $1 AND user_id = $2`, sc.Project.ID, u.ID); err != nil {
				return err
			}
		}
		if len(left) == 0 && len(admins(members)) > 0 {
			if selfLeave {
				return api.Invalid("Cannot leave project: you are the last admin")
			}
			return api.Invalid("Cannot remove all project admins")
		}
		return s.record(ctx, tx, sc.User, sc.Project, "Project updated. Updated fields: members")
	})
	if err != nil {
		return api.Project{}, err
	}
	return s.View(ctx, sc.Project, true)
}
