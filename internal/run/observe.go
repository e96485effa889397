package run

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"dstack/internal/agentapi"
	"dstack/internal/store"
)

// observe believes a host only what concerns jobs that were placed on it, and nothing that is
// older than what is known: the answer to a command and the event stream overtake each other.
func (s *Service) observe(ctx context.Context, instanceID string, t agentapi.Task) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		var text string
		err := tx.QueryRowContext(ctx, selectObserved, t.ID, instanceID).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what the host said of job %s: %w", t.ID, err)
		}
		now, err := json.Marshal(t)
		if err != nil {
			return fmt.Errorf("store what the host says of job %s: %w", t.ID, err)
		}
		var was agentapi.Task
		known := text != "" && json.Unmarshal([]byte(text), &was) == nil // what cannot be read is replaced
		if text == string(now) || known && older(t, was) {
			return nil
		}
		if _, err := tx.ExecContext(ctx, observeJob, string(now), t.ID); err != nil {
			return fmt.Errorf("store what the host says of job %s: %w", t.ID, err)
		}
		tx.OnCommit(func() { s.Engine.Wake(JobKind, t.ID) })
		return nil
	})
}

// order is that of a task's states, which only move forward.
var order = map[agentapi.State]int{
	agentapi.Pending: 0, agentapi.Preparing: 1, agentapi.Pulling: 2, agentapi.Creating: 3, agentapi.Running: 4, agentapi.Terminated: 5,
}

// older says that a tells of an earlier moment of a task than b. Of two that cannot be told
// apart none is.
func older(a, b agentapi.Task) bool {
	return order[a.State] < order[b.State] || a.State == b.State && b.Started && !a.Started
}
