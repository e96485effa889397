package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/metrics"
	"dstack/internal/store"
)

// HealthChecks stores checks of the accelerators of instances. It says whether it did: it does not
// when the last one was a moment ago.
type HealthChecks interface {
	AddHealth(ctx context.Context, tx *store.Tx, h metrics.Health) (stored bool, err error)
}

// health is how well the instance's accelerators are.
func (i *Instance) health() api.HealthStatus {
	if i.Data.Health == "" {
		return api.Healthy
	}
	return i.Data.Health
}

// Checked stores what a host says of its accelerators and shows it. Those of a host on which nothing
// checks them count as healthy. An instance with a failure gets no jobs; those that it has go on.
func (s *Service) Checked(ctx context.Context, id string, h agentapi.Health) error {
	status := api.Healthy
	if h.DCGM != nil {
		status = metrics.Status(h.DCGM.OverallHealth)
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		inst, err := s.Get(ctx, tx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && inst.Deleted {
			return nil
		}
		if err != nil {
			return err
		}
		if h.DCGM != nil {
			stored, err := s.Checks.AddHealth(ctx, tx, metrics.Health{InstanceID: id, At: time.Now(), DCGMHealth: *h.DCGM})
			if err != nil || !stored {
				return err
			}
		}
		was := inst.health()
		if was == status {
			return nil
		}
		inst.Data.Health = status
		if err := s.update(ctx, tx, &inst); err != nil {
			return err
		}
		if was == api.Failure {
			tx.OnCommit(func() { s.Freed(inst.ProjectID) })
		}
		return s.record(ctx, tx, inst, fmt.Sprintf("Instance health changed %s -> %s", upper(was), upper(status)))
	})
}
