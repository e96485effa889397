package metrics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/exposition"
	"dstack/internal/store"
)

const (
	// keepText is how long what DCGM says of a job's GPUs counts.
	keepText = 10 * time.Minute
	// textEvery is the least time between two of a job.
	textEvery = agentapi.DCGMEvery - time.Second
)

// TextError says that a text is none of metrics of GPUs.
type TextError struct{ Err error }

func (e *TextError) Error() string { return "metrics of GPUs: " + e.Err.Error() }

func (e *TextError) Unwrap() error { return e.Err }

// AddText stores what DCGM says of a job's GPUs, in the place of what it said before. One that comes
// too early is passed over, one that makes no sense is a [*TextError].
func (s *Store) AddText(ctx context.Context, jobID string, packed []byte) error {
	now := time.Now()
	var last int64
	err := s.DB.Read().QueryRowContext(ctx, ageOfText, jobID).Scan(&last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("look for the metrics of the GPUs of job %s: %w", jobID, err)
	}
	if err == nil && now.Before(store.Time(last).Add(textEvery)) {
		return nil
	}
	text, err := agentapi.Unpack(packed)
	if err == nil {
		_, err = exposition.Parse(text)
	}
	if err != nil {
		return &TextError{err}
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, putText, jobID, store.Micros(now), packed, len(text))
		return err
	})
	if err != nil {
		return fmt.Errorf("store the metrics of the GPUs of job %s: %w", jobID, err)
	}
	return nil
}

// Text is what DCGM said last of a job's GPUs.
type Text struct {
	Size   int64 // in bytes
	packed []byte
}

// Families are its samples.
func (t Text) Families() ([]*exposition.Family, error) {
	text, err := agentapi.Unpack(t.packed)
	if err != nil {
		return nil, err
	}
	return exposition.Parse(text)
}

// Texts returns what DCGM said of the GPUs of jobs in the last ten minutes, by job.
func (s *Store) Texts(ctx context.Context, q store.Querier) (map[string]Text, error) {
	all := map[string]Text{}
	rows, err := q.QueryContext(ctx, selectTexts, store.Micros(time.Now().Add(-keepText)))
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		var t Text
		err := rows.Scan(&id, &t.Size, &t.packed)
		all[id] = t
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the metrics of GPUs: %w", err)
	}
	return all, nil
}
