package project

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"dstack/internal/api"
	"dstack/internal/event"
	"dstack/internal/store"
	"dstack/internal/user"
)

// View is the project as the wire has it; members and backends are filled for single
// projects only.
func (s *Service) View(ctx context.Context, p Project, full bool) (api.Project, error) {
	owner, err := s.Users.OrNobody(ctx, s.DB.Read(), p.OwnerID)
	if err != nil {
		return api.Project{}, err
	}
	v := api.Project{ProjectID: p.ID, ProjectName: p.Name, Owner: s.Users.View(owner), CreatedAt: api.OptTime(p.CreatedAt),
		Backends: []api.BackendInfo{}, Members: []api.Member{}, IsPublic: p.IsPublic}
	if p.TemplatesRepo != "" {
		v.TemplatesRepo = &p.TemplatesRepo
	}
	if !full {
		return v, nil
	}
	v.Members, err = s.members(ctx, p)
	return v, err
}

func (s *Service) members(ctx context.Context, p Project) ([]api.Member, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT user_id, role FROM member WHERE project_id = $1 ORDER BY num, user_id`, p.ID)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	defer rows.Close()
	members := []api.Member{}
	var ids []string
	for rows.Next() {
		var id string
		var m api.Member
		if err := rows.Scan(&id, &m.ProjectRole); err != nil {
			return nil, fmt.Errorf("read a member: %w", err)
		}
		ids = append(ids, id)
		members = append(members, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	for i, id := range ids {
		u, err := s.Users.OrNobody(ctx, s.DB.Read(), id)
		if err != nil {
			return nil, err
		}
		admin := u.Admin() || members[i].ProjectRole == api.ProjectAdmin
		members[i].User = s.Users.View(u)
		members[i].ProjectRole = members[i].ProjectRole.Shown()
		members[i].Permissions = api.MemberPermissions{
			CanManageSSHFleets: admin || s.Permissions.ManageSSHFleets,
			CanManageSecrets:   admin || members[i].ProjectRole == api.ProjectManager && s.Permissions.ManagersSecrets,
		}
	}
	return members, nil
}

// CanManageSSHFleets says whether the caller may add and remove hosts.
func (s *Service) CanManageSSHFleets(sc Scope) bool {
	return sc.Admin() || s.Permissions.ManageSSHFleets
}

// CanManageSecrets says whether the caller may read and write secrets.
func (s *Service) CanManageSecrets(sc Scope) bool {
	return sc.Admin() || sc.Role == api.ProjectManager && s.Permissions.ManagersSecrets
}

// List returns the projects that the caller may see.
func (s *Service) List(ctx context.Context, caller user.User, r api.ListProjectsRequest) (any, error) {
	if err := user.CheckPattern(r.NamePattern); err != nil {
		return nil, err
	}
	all, err := s.All(ctx)
	if err != nil {
		return nil, err
	}
	joined, err := s.joined(ctx, caller)
	if err != nil {
		return nil, err
	}
	only, err := s.of(ctx, r.Username)
	if err != nil {
		return nil, err
	}
	others := r.IncludeNotJoined == nil || *r.IncludeNotJoined
	views := []api.Project{}
	for _, p := range all {
		if !caller.Admin() && !joined[p.ID] && !(others && p.IsPublic) {
			continue
		}
		if only != nil && !only[p.ID] {
			continue
		}
		if r.NamePattern != nil && !strings.Contains(strings.ToLower(p.Name), strings.ToLower(*r.NamePattern)) {
			continue
		}
		v, err := s.View(ctx, p, false)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	total := len(views)
	views = user.Page(views, r.PrevCreatedAt, r.PrevID, r.Limit, r.Ascending, func(p api.Project) (*api.Time, string) { return p.CreatedAt, p.ProjectID })
	if r.ReturnTotalCount != nil && *r.ReturnTotalCount {
		return api.ProjectsInfoList{TotalCount: total, Projects: views}, nil
	}
	return views, nil
}

// of returns the projects that a user is a member of, nil when nobody is named. Who does not
// exist is a member of none.
func (s *Service) of(ctx context.Context, username *string) (map[string]bool, error) {
	if username == nil {
		return nil, nil
	}
	u, err := s.Users.ByName(ctx, s.DB.Read(), *username)
	if errors.Is(err, store.ErrNotFound) {
		return map[string]bool{}, nil
	}
	if err != nil {
		return nil, err
	}
	return s.joined(ctx, u)
}

// Create makes a project owned by the caller.
func (s *Service) Create(ctx context.Context, caller user.User, r api.CreateProjectRequest) (api.Project, error) {
	if !caller.Admin() && !s.Permissions.CreateProjects {
		return api.Project{}, &api.Error{Kind: api.KindForbidden, Msg: "User cannot create projects"}
	}
	if n := len(r.ProjectName); n < 1 || n > 50 || strings.Trim(r.ProjectName, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return api.Project{}, api.Invalid("Project name should match regex '^[a-zA-Z0-9-_]{1,50}$'")
	}
	if !caller.Admin() {
		var n int
		if err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM project WHERE NOT deleted AND owner_id = $1`, caller.ID).Scan(&n); err != nil {
			return api.Project{}, fmt.Errorf("count projects: %w", err)
		}
		if n >= s.Permissions.Quota {
			return api.Project{}, api.Invalid("User project quota exceeded")
		}
	}
	if err := s.checkTemplates(ctx, r.TemplatesRepo); err != nil {
		return api.Project{}, err
	}
	p, err := s.insert(ctx, r, caller)
	if err != nil {
		return api.Project{}, err
	}
	return s.View(ctx, p, true)
}

// Get returns the project of the path.
func (s *Service) Get(ctx context.Context, sc Scope, _ struct{}) (api.Project, error) {
	return s.View(ctx, sc.Project, true)
}

// Update changes what the request sets.
func (s *Service) Update(ctx context.Context, sc Scope, r api.UpdateProjectRequest) (api.Project, error) {
	if !r.ResetTemplatesRepo {
		if err := s.checkTemplates(ctx, r.TemplatesRepo); err != nil {
			return api.Project{}, err
		}
	}
	var p Project
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		before, err := s.ByID(ctx, tx, sc.Project.ID)
		if err != nil {
			return err
		}
		var fields []string
		p, fields = changed(before, r)
		// Guarded by what was read, so that of two requests at a time none is lost.
		err = store.Guarded(tx.ExecContext(ctx, `
UPDATE project SET is_public = $1, templates_repo = $2 WHERE id = $3 AND NOT deleted AND is_public = $4 AND templates_repo = $5`,
			p.IsPublic, p.TemplatesRepo, p.ID, before.IsPublic, before.TemplatesRepo))
		if err != nil {
			return err
		}
		return s.record(ctx, tx, sc.User, p, "Project updated. Updated fields: "+event.Fields(fields))
	})
	if err != nil {
		return api.Project{}, err
	}
	return s.View(ctx, p, true)
}

// checkTemplates refuses a repository that cannot be read.
func (s *Service) checkTemplates(ctx context.Context, repo *string) error {
	if repo == nil || *repo == "" {
		return nil
	}
	if err := s.CheckTemplates(ctx, *repo); err != nil {
		return api.Invalid("Cannot access templates repo: %s", *repo)
	}
	return nil
}

// changed is p as the request wants it, with the fields that differ as events show them.
func changed(p Project, r api.UpdateProjectRequest) (Project, []string) {
	var fields []string
	if r.IsPublic != nil && *r.IsPublic != p.IsPublic {
		p.IsPublic = *r.IsPublic
		fields = append(fields, "is_public="+event.Bool(p.IsPublic))
	}
	switch {
	case r.ResetTemplatesRepo && p.TemplatesRepo != "":
		p.TemplatesRepo = ""
		fields = append(fields, "templates_repo=None")
	case !r.ResetTemplatesRepo && r.TemplatesRepo != nil && *r.TemplatesRepo != "" && *r.TemplatesRepo != p.TemplatesRepo:
		p.TemplatesRepo = *r.TemplatesRepo
		fields = append(fields, "templates_repo="+p.TemplatesRepo)
	}
	return p, fields
}

// Delete removes projects that nothing lives in.
func (s *Service) Delete(ctx context.Context, caller user.User, r api.DeleteProjectsRequest) (*struct{}, error) {
	var list []Project
	for _, name := range r.ProjectsNames {
		p, err := s.ByName(ctx, s.DB.Read(), name)
		if errors.Is(err, store.ErrNotFound) {
			if !caller.Admin() {
				return nil, api.Forbidden()
			}
			return nil, api.Invalid("Failed to delete non-existent projects")
		}
		if err != nil {
			return nil, err
		}
		role, err := s.Role(ctx, p.ID, caller.ID)
		if err != nil {
			return nil, err
		}
		if !caller.Admin() && role != api.ProjectAdmin {
			return nil, api.Forbidden()
		}
		list = append(list, p)
	}
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, p := range list {
			busy, err := s.Busy(ctx, tx, p)
			if err != nil {
				return err
			}
			if busy != "" {
				return api.Invalid("%s", busy)
			}
			err = store.Guarded(tx.ExecContext(ctx, `UPDATE project SET deleted = TRUE WHERE id = $1 AND NOT deleted`, p.ID))
			if errors.Is(err, store.ErrConflict) {
				return api.Invalid("Failed to delete non-existent projects")
			}
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM member WHERE project_id = $1`, p.ID); err != nil {
				return err
			}
			if err := s.Deleted(ctx, tx, p); err != nil {
				return err
			}
			if err := s.record(ctx, tx, caller, p, "Project deleted"); err != nil {
				return err
			}
		}
		return nil
	})
}
