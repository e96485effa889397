// Package event is the audit log: what happened to which objects, and who did it. Entries
// are written in the transaction of the change that they describe.
package event

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/store"
)

// Event is an entry to be recorded.
type Event struct {
	Message   string
	ActorID   string // "" for the server itself
	ActorName string
	ProjectID string // default for targets that name none
	Targets   []Target
}

// Target is an object that an event is about.
type Target struct {
	Type      api.EventTargetType
	ID        string
	Name      string
	ProjectID string
	ParentID  string // an instance's fleet, a job's run
}

const insertEvent = `INSERT INTO event (id, message, recorded_at, actor_id, actor_name) VALUES ($1, $2, $3, $4, $5)`

const insertTarget = `
INSERT INTO event_target (event_id, num, recorded_at, type, target_id, name, project_id, parent_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// Record writes an entry, unless the database is to have none. Its message becomes one line of
// what can be printed: it may quote a provider or a host.
func Record(ctx context.Context, tx *store.Tx, e Event) error {
	if tx.NoEvents() {
		return nil
	}
	id, now := uuid.NewString(), store.Micros(time.Now())
	if _, err := tx.ExecContext(ctx, insertEvent, id, line(e.Message), now, e.ActorID, e.ActorName); err != nil {
		return fmt.Errorf("record an event: %w", err)
	}
	for i, t := range e.Targets {
		if t.ProjectID == "" && t.Type != api.EventTargetUser {
			t.ProjectID = e.ProjectID
		}
		if _, err := tx.ExecContext(ctx, insertTarget, id, i, now, t.Type, t.ID, t.Name, t.ProjectID, t.ParentID); err != nil {
			return fmt.Errorf("record an event's target: %w", err)
		}
	}
	return nil
}

// line is a text without what a terminal would take for more than text, and PostgreSQL does not take.
func line(text string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "\uFFFD")))
}

// Fields lists what an update changed.
func Fields(changed []string) string {
	if len(changed) == 0 {
		return "<none>"
	}
	return strings.Join(changed, ", ")
}

// Bool writes a value as the original's events do.
func Bool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}
