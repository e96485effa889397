package run

import (
	"context"
	"slices"

	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/scheduler"
)

// maxAwaiting is of how many jobs a queue is read that is asked whether it could use an instance: each instance that
// boots for nobody asks every few seconds.
const maxAwaiting = 200

// Awaited says that a run of the project waits that would be placed on an instance, which boots and has no
// job, if it were up. The queue decides who gets it when it is.
func (s *Service) Awaited(ctx context.Context, inst instance.Instance) (bool, error) {
	if waits, err := s.waits(ctx, inst.ProjectID); err != nil || !waits {
		return false, err
	}
	gangs, err := s.firstGangs(ctx, inst.ProjectID, maxAwaiting)
	if err != nil {
		return false, err
	}
	supply, err := s.supply(ctx, inst.ProjectID)
	if err != nil {
		return false, err
	}
	asks := make([]scheduler.Gang, len(gangs))
	for i := range gangs {
		asks[i] = wish(&gangs[i])
		if err := s.relate(ctx, &asks[i], &gangs[i], supply.Fleets); err != nil {
			return false, err
		}
	}
	_, instances, err := s.Fleets.Usable(ctx, s.DB.Read(), inst.ProjectID)
	if err != nil {
		return false, err
	}
	// Others that boot for nobody will be free as well: of more than are waited for, the same ones are found
	// to be of use whichever is asked for.
	list := slices.Clone(instances[inst.FleetID])
	if at := slices.IndexFunc(list, func(o *instance.Instance) bool { return o.ID == inst.ID }); at >= 0 {
		list[at] = &inst // it may know more of itself
	} else {
		list = append(list, &inst)
	}
	var up []*scheduler.Host
	for _, o := range list {
		if o != &inst && !jobless(o) {
			continue
		}
		if h := whenUp(o); h != nil {
			up = append(up, h)
		}
	}
	supply.Hosts = append(slices.DeleteFunc(slices.Clone(supply.Hosts), func(h *scheduler.Host) bool {
		return slices.ContainsFunc(up, func(o *scheduler.Host) bool { return o.ID == h.ID })
	}), up...)
	supply.Stock, supply.Coming = nil, nil // those of the hosts as they are
	return slices.ContainsFunc(scheduler.Place(asks, supply), func(v scheduler.Verdict) bool {
		return slices.ContainsFunc(v.Nodes, func(n scheduler.Node) bool { return n.Host == inst.ID })
	}), nil
}

// firstGangs are those of the first jobs of a queue, so many or, of a gang that has more, a few times as many.
func (s *Service) firstGangs(ctx context.Context, projectID string, most int) ([]gang, error) {
	for {
		gangs, _, err := s.waitingGangs(ctx, &projectQueue{}, projectID, most)
		if len(gangs) > 0 || err != nil || most > jobspec.MaxNodes {
			return gangs, err
		}
		most *= 2
	}
}
