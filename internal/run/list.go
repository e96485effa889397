package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/encoded"
	"dstack/internal/store"
	"dstack/internal/user"
)

// List returns a page of the runs that a user may see.
func (s *Service) List(ctx context.Context, u user.User, r api.ListRunsRequest) (encoded.JSON[[]api.Run], error) {
	projects, err := s.Projects.Of(ctx, u)
	if err != nil {
		return nil, err
	}
	p := page{active: r.OnlyActive, ascending: r.Ascending, limit: 100}
	for id, project := range projects {
		if r.ProjectName == nil || project.Name == *r.ProjectName {
			p.projects = append(p.projects, id)
		}
	}
	if p.projects == nil || r.RepoID != nil && r.ProjectName == nil {
		return encoded.List[api.Run](nil), nil
	}
	slices.Sort(p.projects)
	if r.RepoID != nil {
		p.repo = *r.RepoID
	}
	if r.Username != nil {
		owner, err := s.Users.ByName(ctx, s.DB.Read(), *r.Username)
		if errors.Is(err, store.ErrNotFound) {
			return nil, api.NotExists("User not found")
		}
		if err != nil {
			return nil, err
		}
		p.user = owner.ID
	}
	if r.Limit != nil {
		p.limit = *r.Limit
	}
	if r.PrevSubmittedAt != nil {
		p.after = r.PrevSubmittedAt.Time
		if r.PrevRunID != nil {
			p.afterID = *r.PrevRunID
		}
	}
	tail, args := p.query(u.Admin())
	runs, err := s.rows.list(ctx, s.DB.Read(), tail, args...)
	if err != nil {
		return nil, err
	}
	return s.listed(ctx, runs, projects, r)
}

// page says which runs a list shows.
type page struct {
	projects   []string
	repo, user string // "" for any
	active     bool
	ascending  bool // the oldest first
	after      time.Time
	afterID    string // "" for all of that moment
	limit      int
}

// query is what follows FROM run. Either way it reads an index in the order of the list and
// little more than a page: with all of the server's projects the one over all runs, where
// nearly each that it meets belongs to the list; otherwise a page of each project, of which
// the first are taken.
func (p page) query(everything bool) (tail string, args []any) {
	var conds []string
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	ids := make([]string, len(p.projects))
	for i, id := range p.projects {
		ids[i] = arg(id)
	}
	in := "IN (" + strings.Join(ids, ", ") + ")"
	if p.repo != "" {
		conds = append(conds, "repo_id = "+arg(p.repo))
	}
	if p.user != "" {
		conds = append(conds, "user_id = "+arg(p.user))
	}
	if p.active {
		conds = append(conds, "status NOT IN ('terminated', 'failed', 'done')")
	}
	cmp, order, tie := "<", "submitted_at DESC, id", ">" // ids run the other way
	if p.ascending {
		cmp, order, tie = ">", "submitted_at, id DESC", "<"
	}
	if !p.after.IsZero() {
		at := arg(store.Micros(p.after))
		cond := "submitted_at " + cmp + " " + at
		if p.afterID != "" {
			cond = fmt.Sprintf("submitted_at %s= %s AND (%s OR id %s %s)", cmp, at, cond, tie, arg(p.afterID))
		}
		conds = append(conds, cond)
	}
	end := fmt.Sprintf(" ORDER BY %s LIMIT %d", order, p.limit)
	switch {
	case len(p.projects) == 1:
		return "WHERE " + strings.Join(append(conds, "project_id = "+ids[0]), " AND ") + end, args
	case everything && p.repo == "" && p.user == "":
		// An expression, so that no index by project is used.
		return "WHERE " + strings.Join(append(conds, "project_id || '' "+in), " AND ") + end, args
	}
	first := "SELECT id FROM run WHERE " + strings.Join(append(conds, "project_id = p.id"), " AND ") + end
	return "WHERE id IN (SELECT r.id FROM project p JOIN run r ON r.id IN (" + first + ") WHERE p.id " + in + ")" + end, args
}
