package server

import (
	"context"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/host"
	"dstack/internal/instance"
)

// hosts reaches the agents of instances for the rest of the server: over the connection that
// this replica keeps, or, where another replica follows the host, over one for the call.
type hosts struct {
	pool *host.Pool
	inst func() *instance.Service
}

// Reachable is exact for the hosts that this replica follows; of others it knows what their
// replica has stored. Of one whose record is damaged and no ledger knows a machine, nobody knows where it is.
func (h hosts) Reachable(inst *instance.Instance) bool {
	if h.pool.Watched(inst.ID) {
		_, err := h.pool.Client(inst.ID)
		return err == nil
	}
	connected := inst.Status == api.InstanceIdle || inst.Status == api.InstanceBusy || inst.Status == api.InstanceTerminating
	if inst.Data.Damage != "" && inst.IntentID == "" && inst.Data.Remote == nil {
		return false
	}
	return connected && !inst.Unreachable && inst.Data.LostAt.IsZero()
}

func (h hosts) Client(ctx context.Context, instanceID string) (*agentapi.Client, error) {
	if h.pool.Watched(instanceID) {
		return h.pool.Client(instanceID)
	}
	t, err := h.inst().Target(ctx, instanceID)
	if err != nil {
		return nil, err
	}
	return h.pool.Visit(ctx, t)
}
