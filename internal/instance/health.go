package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
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

// health is how well the instance's accelerators are: those that are not there have failed.
func (i *Instance) health() api.HealthStatus {
	switch {
	case i.Data.LostGPUs > 0:
		return api.Failure
	case i.Data.Health == "":
		return api.Healthy
	}
	return i.Data.Health
}

// wantGPUs is how many accelerators the instance was taken or made with, of those that agents list.
func (i *Instance) wantGPUs() int {
	n := 0
	if i.Data.Provisioning != nil {
		for _, g := range i.Data.Provisioning.InstanceType.Resources.Gpus {
			if !strings.EqualFold(string(g.Vendor), "google") { // agents do not see TPUs
				n++
			}
		}
	}
	return n
}

// listsGPUs says that the agent can tell which accelerators there are: in a container of the provider's the tool that
// lists them may be missing.
func (i *Instance) listsGPUs(info *agentapi.HostInfo) bool {
	return len(info.GPUs)+len(info.HeldGPUs) > 0 || info.Runtime != "process" || i.SSH()
}

// lostGPUs is how many accelerators are not there, as the agent says.
func (i *Instance) lostGPUs(info *agentapi.HostInfo) int {
	if !i.listsGPUs(info) {
		return 0
	}
	return max(0, i.wantGPUs()-len(info.GPUs))
}

// AllGPUs is how many accelerators a job that needs some is to get when it has the instance to itself: it must not begin
// with fewer, when one has fallen off or is held yet. It is -1 where nobody knows how many there are for the agent.
func (i *Instance) AllGPUs() int {
	info := i.Data.Host
	if info == nil || !i.listsGPUs(info) {
		return -1
	}
	if n := max(i.wantGPUs(), len(info.GPUs)); n > 0 {
		return n
	}
	return -1
}

// Lack says how many accelerators are not there and why, or what the agent knows of those that are; "" when nothing is
// wrong with them.
func (i *Instance) Lack() string {
	n, why := i.wantGPUs(), ""
	if h := i.Data.Host; h != nil && len(h.Warnings) > 0 {
		why = ": " + Short(strings.Join(h.Warnings, "; "))
	}
	switch {
	case i.Data.LostGPUs > 0:
		return fmt.Sprintf("%d of %d GPUs are there", n-i.Data.LostGPUs, n) + why
	case n > 0 && why != "" && i.Data.Host.Runtime != "process": // which has a warning of its own
		return "GPUs may not work" + why
	}
	return ""
}

// healthEvent is the text of a change of an instance's health.
func healthEvent(was, is api.HealthStatus) string {
	if was == is {
		return "Instance health is still " + upper(is)
	}
	return fmt.Sprintf("Instance health changed %s -> %s", upper(was), upper(is))
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
		if cmp.Or(inst.Data.Health, api.Healthy) == status {
			return nil
		}
		inst.Data.Health = status
		if err := s.update(ctx, tx, &inst); err != nil {
			return err
		}
		is := inst.health()
		if was == is { // it lacks GPUs whatever the others are like
			return nil
		}
		if was == api.Failure || is == api.Failure {
			tx.OnCommit(func() { s.Freed(inst.ProjectID) })
		}
		return s.record(ctx, tx, inst, healthEvent(was, is))
	})
}
