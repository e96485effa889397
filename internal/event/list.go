package event

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
)

// Viewer is who asks: an admin sees everything, others what touches them and their projects.
type Viewer struct {
	UserID   string
	Admin    bool
	Projects []string
}

// List returns a page of events, newest first unless asked otherwise.
func List(ctx context.Context, q store.Querier, v Viewer, r api.ListEventsRequest) ([]api.Event, error) {
	var w where
	if err := w.filters(r); err != nil {
		return nil, err
	}
	w.visible(v)
	w.page(r)
	order, tie, limit := "DESC", "ASC", 100
	if r.Ascending {
		order, tie = tie, order
	}
	if r.Limit != nil {
		limit = *r.Limit
	}
	text := fmt.Sprintf(`
SELECT e.id, e.message, e.recorded_at, e.actor_id, e.actor_name, COALESCE(a.deleted, FALSE) FROM event e LEFT JOIN account a ON a.id = e.actor_id
%s ORDER BY e.recorded_at %s, e.id %s LIMIT %d`, w.text(), order, tie, limit)
	rows, err := q.QueryContext(ctx, text, w.args...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	defer rows.Close()
	events := []api.Event{}
	for rows.Next() {
		var e api.Event
		var at int64
		var actor, name string
		var deleted bool
		if err := store.DespiteDamage(store.Scan(rows, &e.ID, &e.Message, &at, &actor, &name, &deleted)); err != nil {
			return nil, fmt.Errorf("read an event: %w", err)
		}
		e.RecordedAt = api.At(store.Time(at))
		e.Targets = []api.EventTarget{}
		if actor != "" {
			e.ActorUserID, e.ActorUser, e.IsActorUserDeleted = &actor, &name, &deleted
		}
		events = append(events, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return events, targets(ctx, q, events)
}

// targets fills the events in one query.
func targets(ctx context.Context, q store.Querier, events []api.Event) error {
	if len(events) == 0 {
		return nil
	}
	byID := map[string]*api.Event{}
	args := make([]any, len(events))
	for i := range events {
		byID[events[i].ID] = &events[i]
		args[i] = events[i].ID
	}
	rows, err := q.QueryContext(ctx, `
SELECT t.event_id, t.type, t.target_id, t.name, t.project_id, COALESCE(p.name, ''), COALESCE(p.deleted, FALSE)
FROM   event_target t LEFT JOIN project p ON p.id = t.project_id
WHERE  t.event_id IN (`+list(1, len(args))+`) ORDER BY t.event_id, t.num`, args...)
	if err != nil {
		return fmt.Errorf("list event targets: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, project, projectName string
		var deleted bool
		var t api.EventTarget
		if err := store.DespiteDamage(store.Scan(rows, &id, &t.Type, &t.ID, &t.Name, &project, &projectName, &deleted)); err != nil {
			return fmt.Errorf("read an event target: %w", err)
		}
		if project != "" {
			t.ProjectID, t.ProjectName, t.IsProjectDeleted = &project, &projectName, &deleted
		}
		byID[id].Targets = append(byID[id].Targets, t)
	}
	return rows.Err()
}

// where collects conditions with their numbered arguments.
type where struct {
	conds []string
	args  []any
}

func (w *where) text() string {
	if len(w.conds) == 0 {
		return ""
	}
	return "WHERE " + strings.Join(w.conds, " AND ")
}

func (w *where) arg(v any) string {
	w.args = append(w.args, v)
	return fmt.Sprintf("$%d", len(w.args))
}

func (w *where) in(column string, values []string) string {
	marks := make([]string, len(values))
	for i, v := range values {
		marks[i] = w.arg(v)
	}
	return column + " IN (" + strings.Join(marks, ", ") + ")"
}

// filters puts all target filters on one and the same target.
func (w *where) filters(r api.ListEventsRequest) error {
	var target, direct, within []string
	for _, f := range []struct {
		typ string
		ids []string
	}{
		{"project", r.TargetProjects}, {"user", r.TargetUsers}, {"fleet", r.TargetFleets}, {"instance", r.TargetInstances},
		{"run", r.TargetRuns}, {"job", r.TargetJobs}, {"volume", r.TargetVolumes}, {"gateway", r.TargetGateways}, {"gateway-replica", r.TargetGatewayReplicas}, {"preset", r.TargetPresets}, {"secret", r.TargetSecrets},
	} {
		if f.ids == nil {
			continue
		}
		direct = append(direct, "target_"+strings.ReplaceAll(f.typ, "-", "_")+"s")
		target = append(target, "t.type = "+w.arg(f.typ), w.in("t.target_id", f.ids))
	}
	for _, f := range []struct {
		name string
		ids  []string
	}{{"within_projects", r.WithinProjects}, {"within_fleets", r.WithinFleets}, {"within_runs", r.WithinRuns}, {"within_gateways", r.WithinGateways}} {
		if f.ids == nil {
			continue
		}
		within = append(within, f.name)
		if f.name == "within_projects" {
			target = append(target, w.in("t.project_id", f.ids))
			continue
		}
		target = append(target, "("+w.in("t.parent_id", f.ids)+" OR "+w.in("t.target_id", f.ids)+")")
	}
	for kind, set := range map[string][]string{"target": direct, "within": within} {
		if len(set) > 1 {
			return &api.Error{Kind: api.KindValidation, Msg: fmt.Sprintf("At most one %s_* filter can be set at a time. Got %s", kind, strings.Join(set, ", "))}
		}
	}
	if r.IncludeTargetTypes != nil {
		types := make([]string, len(r.IncludeTargetTypes))
		for i, t := range r.IncludeTargetTypes {
			types[i] = string(t)
		}
		target = append(target, w.in("t.type", types))
	}
	if target != nil {
		w.conds = append(w.conds, "EXISTS (SELECT 1 FROM event_target t WHERE t.event_id = e.id AND "+strings.Join(target, " AND ")+")")
	}
	if r.Actors != nil {
		ids := make([]string, len(r.Actors))
		for i, a := range r.Actors {
			if a != nil {
				ids[i] = *a
			}
		}
		w.conds = append(w.conds, w.in("e.actor_id", ids))
	}
	return nil
}

func (w *where) visible(v Viewer) {
	if v.Admin {
		return
	}
	own := "(t.type = 'user' AND t.target_id = " + w.arg(v.UserID) + ")"
	if len(v.Projects) > 0 {
		own += " OR " + w.in("t.project_id", v.Projects)
	}
	w.conds = append(w.conds, "EXISTS (SELECT 1 FROM event_target t WHERE t.event_id = e.id AND ("+own+"))")
}

func (w *where) page(r api.ListEventsRequest) {
	if r.PrevRecordedAt == nil {
		return
	}
	cmp, tie := "<", ">" // ids run the other way
	if r.Ascending {
		cmp, tie = tie, cmp
	}
	at := w.arg(store.Micros(r.PrevRecordedAt.Time))
	if r.PrevID == nil {
		w.conds = append(w.conds, "e.recorded_at "+cmp+" "+at)
		return
	}
	w.conds = append(w.conds, fmt.Sprintf("(e.recorded_at %s %s OR e.recorded_at = %s AND e.id %s %s)", cmp, at, at, tie, w.arg(*r.PrevID)))
}

func list(from, n int) string {
	marks := make([]string, n)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", from+i)
	}
	return strings.Join(marks, ", ")
}

// expireBatch is how many events are deleted in one transaction: others write in between, and no statement takes
// longer than a database may take to answer.
const expireBatch = 1000

const selectOldest = `
SELECT count(*), coalesce(max(recorded_at), 0)
FROM   (SELECT recorded_at FROM event WHERE recorded_at < $1 ORDER BY recorded_at LIMIT $2) AS oldest`

// Expire deletes events older than t.
func Expire(ctx context.Context, db *store.DB, t time.Time) error {
	for more := true; more; {
		err := db.Write(ctx, func(tx *store.Tx) (err error) {
			more, err = expireSome(ctx, tx, t)
			return err
		})
		if err != nil {
			return fmt.Errorf("expire events: %w", err)
		}
	}
	return nil
}

// expireSome deletes the oldest; more says that there may be more.
func expireSome(ctx context.Context, tx *store.Tx, t time.Time) (more bool, err error) {
	var n int
	var upTo int64
	if err := tx.QueryRowContext(ctx, selectOldest, store.Micros(t), expireBatch).Scan(&n, &upTo); err != nil || n == 0 {
		return false, err
	}
	for _, text := range []string{
		`DELETE FROM event_target WHERE event_id IN (SELECT id FROM event WHERE recorded_at <= $1)`,
		`DELETE FROM event WHERE recorded_at <= $1`,
	} {
		if _, err := tx.ExecContext(ctx, text, upTo); err != nil {
			return false, err
		}
	}
	return n >= expireBatch, nil
}
