package metrics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/store"
)

// HealthEvery is the least time between two stored checks of an instance when nothing else is
// configured.
const HealthEvery = time.Minute

// healthSlack is by how much a check may come too early: those of a host are not exactly as far
// apart as it was asked for.
const healthSlack = time.Second

// Health is one check of an instance's accelerators.
type Health struct {
	InstanceID string
	At         time.Time
	agentapi.DCGMHealth
}

// Status is a health of DCGM in the words of the API.
func Status(health int) api.HealthStatus {
	switch {
	case health >= agentapi.HealthFail:
		return api.Failure
	case health >= agentapi.HealthWarn:
		return api.Warning
	}
	return api.Healthy
}

// AddHealth stores a check of an instance, unless the last one was a moment ago.
func (s *Store) AddHealth(ctx context.Context, tx *store.Tx, h Health) (stored bool, err error) {
	var last int64
	err = tx.QueryRowContext(ctx, latestHealth, h.InstanceID).Scan(&last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return false, fmt.Errorf("look for the last check of instance %s: %w", h.InstanceID, err)
	}
	if err == nil && h.At.Before(store.Time(last).Add(s.HealthEvery-healthSlack)) {
		return false, nil
	}
	message := ""
	if len(h.Incidents) > 0 {
		message = h.Incidents[0].ErrorMessage
	}
	_, err = tx.ExecContext(ctx, insertHealth, h.InstanceID, store.Micros(h.At), Status(h.OverallHealth), message, store.JSON(&agentapi.Health{DCGM: &h.DCGMHealth}))
	if err != nil {
		return false, fmt.Errorf("store health of instance %s: %w", h.InstanceID, err)
	}
	return true, nil
}

// HealthChecks returns the newest limit checks of an instance in the range, newest first.
func (s *Store) HealthChecks(ctx context.Context, q store.Querier, instanceID string, r Range, limit int) ([]Health, error) {
	from, to := r.micros()
	var all []Health
	rows, err := q.QueryContext(ctx, selectHealth, instanceID, from, to, limit)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var at int64
		var response agentapi.Health
		if err := store.DespiteDamage(store.Scan(rows, &at, store.JSON(&response))); err != nil {
			return err
		}
		h := Health{InstanceID: instanceID, At: store.Time(at)}
		if response.DCGM != nil {
			h.DCGMHealth = *response.DCGM
		}
		all = append(all, h)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read health of instance %s: %w", instanceID, err)
	}
	return all, nil
}
