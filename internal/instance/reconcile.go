package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/host"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// reconcile loads one instance, lets Step decide, stores the decision under the shard's
// fence and runs its effects.
func (s *Service) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	snap, err := s.load(ctx, it.ID)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && snap.Instance.Deleted:
		s.call(s.turns.decline(it.ID))
		return time.Time{}, s.abandon(ctx, it)
	case err != nil:
		return time.Time{}, err
	case snap.Instance.Data.Damage != "":
		s.Log.Error("the stored record of an instance cannot be read", "instance", snap.Instance.Name, "id", it.ID, "err", snap.Instance.Data.Damage)
	}
	if !snap.Instance.visits() {
		s.call(s.turns.decline(it.ID))
	} else {
		if !s.turns.take(it.ID) {
			return time.Time{}, nil // its time begins with its turn
		}
		defer func() { s.call(s.turns.give()) }()
	}
	d := Step(time.Now(), snap)
	d.Changed = d.Changed || snap.Retraced
	if d.Changed {
		err := s.commit(ctx, it, snap.Instance, &d)
		if errors.Is(err, errNeeded) {
			return time.Time{}, nil // as for one that is not spare: the sweep looks again
		}
		if _, taken := errors.AsType[*takenError](err); taken { // by one that was at it at the same time: the pool is told so
			s.forget(it.ID)
			return time.Now().Add(onboardRetry), nil
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	again, err := s.act(ctx, it, d)
	if err != nil {
		return time.Time{}, err
	}
	return earliest(d.Again, again), nil
}

// call wakes an instance whose turn it is, "" for none.
func (s *Service) call(id string) {
	if id != "" {
		s.Engine.Wake(Kind, id)
	}
}

func (s *Service) load(ctx context.Context, id string) (Snapshot, error) {
	inst, err := s.Get(ctx, s.DB.Read(), id)
	if err != nil {
		return Snapshot{}, err
	}
	snap := Snapshot{Instance: inst, Link: s.linkOf(id), Began: s.began}
	if inst.IntentID != "" {
		snap.Machine, err = s.machine(ctx, s.DB.Read(), inst)
		if errors.Is(err, store.ErrNotFound) {
			err = s.retrace(ctx, &snap)
		}
		if err != nil {
			return Snapshot{}, err
		}
	}
	if snap.left() {
		if inst.Data.Provisioning == nil {
			inst.Data.Provisioning = snap.Machine.Provisioning
		}
		if snap.Awaited, err = s.Awaited(ctx, inst); err != nil {
			return Snapshot{}, err
		}
	}
	if inst.Status == api.InstanceIdle && inst.Data.IdleSeconds >= 0 {
		if snap.SpareNodes, err = s.spare(ctx, s.DB.Read(), inst); err != nil {
			return Snapshot{}, err
		}
	}
	return snap, nil
}

func (s *Service) spare(ctx context.Context, q store.Querier, inst Instance) (bool, error) {
	n, err := Count(ctx, q, inst.FleetID)
	return n > s.MinNodes(ctx, inst.FleetID), err
}

// errNeeded says that the fleet would have less than its minimum.
var errNeeded = errors.New("the fleet needs the instance")

// lockFleet lets one transaction at a time decide over the number of a fleet's instances.
const lockFleet = `UPDATE fleet SET version = version WHERE id = $1`

// keepMinimum refuses to end an instance that the fleet needs: others that were idle for as long
// may have been ended since that was looked at.
func (s *Service) keepMinimum(ctx context.Context, tx *store.Tx, inst Instance) error {
	if _, err := tx.ExecContext(ctx, lockFleet, inst.FleetID); err != nil {
		return fmt.Errorf("lock the fleet of instance %s: %w", inst.Name, err)
	}
	spare, err := s.spare(ctx, tx, inst)
	if err == nil && !spare {
		return errNeeded
	}
	return err
}

func (s *Service) commit(ctx context.Context, it engine.Item, was Instance, d *Decision) error {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		if d.Single {
			if err := s.taken(ctx, tx, d.Instance, d.Instance.Data.Host.InstanceKey, d.Instance.Data.Host.BootID); err != nil {
				return err
			}
		}
		if d.Spare {
			if err := s.keepMinimum(ctx, tx, d.Instance); err != nil {
				return err
			}
		}
		inst := d.Instance
		if err := s.update(ctx, tx, &inst); err != nil {
			return err
		}
		for _, text := range d.Events {
			if err := s.record(ctx, tx, inst, text); err != nil {
				return err
			}
		}
		tx.OnCommit(func() { d.Instance = inst })
		if inst.Deleted {
			return s.comeBack(ctx, tx, inst)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.announce(was, *d)
	return nil
}

// announce wakes whoever waits for what just changed.
func (s *Service) announce(was Instance, d Decision) {
	inst := d.Instance
	switch {
	case inst.Data.LostGPUs == was.Data.LostGPUs:
	case inst.Data.LostGPUs > 0:
		s.Log.Warn("an instance lacks GPUs", "instance", inst.Name, "id", inst.ID, "problem", inst.Lack())
	default:
		s.Log.Info("an instance has all its GPUs again", "instance", inst.Name, "id", inst.ID)
	}
	if len(inst.Assignments) > 0 {
		ids := make([]string, len(inst.Assignments))
		for i, a := range inst.Assignments {
			ids[i] = a.JobID
		}
		s.Changed(ids)
	}
	if d.Freed || was.Well() != inst.Well() || was.Live() != inst.Live() { // one less lets others pass, or is room for another
		s.Freed(inst.ProjectID)
	}
	if was.Live() && !inst.Live() || inst.Deleted || was.Status != inst.Status && inst.Status == api.InstanceTerminated {
		s.FleetChanged(inst.FleetID)
	}
}

// act runs the effects of a decision. Every effect may have been run before.
func (s *Service) act(ctx context.Context, it engine.Item, d Decision) (again time.Time, err error) {
	for _, e := range d.Effects {
		switch e {
		case Onboard:
			again, err = s.onboard(ctx, it, d.Instance)
		case Provision:
			again, err = s.provision(ctx, it, d.Instance)
		case Watch:
			err = s.watch(ctx, d.Instance)
		case Move:
			err = s.move(ctx, d.Instance)
		case Forget:
			s.forget(d.Instance.ID)
		case Uninstall:
			again, err = s.uninstall(ctx, it, d.Instance)
		case GiveBack:
			err = s.giveBack(ctx, d.Instance)
		case AskCloud:
			err = s.askCloud(ctx, d.Instance)
		}
		if err != nil {
			return time.Time{}, err
		}
	}
	return again, nil
}

// provision chooses the best offer that was not tried yet and records the wish for it, or
// ends the instance when there is none.
func (s *Service) provision(ctx context.Context, it engine.Item, inst Instance) (time.Time, error) {
	ask := scheduler.Ask{}
	if inst.Data.Ask != nil {
		ask = *inst.Data.Ask
	}
	var place *api.InstanceOffer
	if inst.Data.Cluster {
		first, err := firstOf(ctx, s.DB.Read(), inst)
		if err != nil {
			return time.Time{}, err
		}
		if first != nil && first.Data.Offer == nil {
			return time.Now().Add(2 * time.Second), nil // where the cluster is, is not known yet
		}
		if first != nil {
			place = first.Data.Offer
		}
	}
	asked := ask
	if place != nil { // others need not be waited for
		asked.Profile.Backends = []string{string(place.Backend)}
	}
	offers, pending, err := s.Offers(ctx, inst.ProjectID, asked, time.Now().Before(inst.Data.SpareUntil))
	if err != nil {
		return time.Time{}, err
	}
	if place != nil { // where the cluster is may not be where this instance is wanted: then there are none
		offers = slices.DeleteFunc(slices.Clone(offers), func(o api.InstanceOffer) bool { return o.Backend != place.Backend || o.Region != place.Region })
	}
	d := Decision{Instance: inst}
	o, ok := d.next(time.Now(), ask, offers, s.MaxOffers)
	switch {
	case !ok && time.Now().Before(pending):
		return earliest(pending, time.Now().Add(askOffers)), nil
	case !ok:
		return time.Time{}, s.commit(ctx, it, inst, &d)
	}
	o.Blocks, o.TotalBlocks = 1, max(1, inst.Blocks)
	name := s.FleetName(ctx, inst.FleetID)
	return time.Time{}, s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		if together, err := together(ctx, tx, inst, o); err != nil || !together {
			return cmp.Or(err, store.ErrConflict)
		}
		next := inst
		if err := s.intend(ctx, tx, &next, o, name); err != nil {
			return err
		}
		return s.update(ctx, tx, &next)
	})
}

// together says that an instance made of the offer would be where its cluster is. Transactions that
// look and choose at the same time are serializable, on PostgreSQL too: one of them looks again.
func together(ctx context.Context, q store.Querier, inst Instance, o api.InstanceOffer) (bool, error) {
	if !inst.Data.Cluster {
		return true, nil
	}
	first, err := firstOf(ctx, q, inst)
	if err != nil || first == nil {
		return true, err
	}
	at := first.Data.Offer
	return at != nil && at.Backend == o.Backend && at.Region == o.Region, nil
}

// selectFirst finds the first live instance of a fleet but one: a later one only if it has a place. It reads one
// row, since each of hundreds of nodes asks.
const selectFirst = `
WHERE fleet_id = $1 AND NOT deleted AND status NOT IN ('terminating', 'terminated') AND id <> $2 AND num > $3
  AND (num < $4 OR backend <> '') ORDER BY num LIMIT 1`

// firstOf is the live instance with the lowest number of a cluster, nil when it is inst.
func firstOf(ctx context.Context, q store.Querier, inst Instance) (*Instance, error) {
	for after := -1; ; {
		list, err := query(ctx, q, selectFirst, inst.FleetID, inst.ID, after, inst.Num)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		if first := &list[0]; first.Num < inst.Num || first.Data.Offer != nil {
			return first, nil
		}
		after = list[0].Num // its record is damaged: where it is is not known
	}
}

func (s *Service) linkOf(id string) Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[id]
}

func (s *Service) setLink(id string, change func(*Link)) {
	s.mu.Lock()
	l := s.links[id]
	change(&l)
	s.links[id] = l
	s.mu.Unlock()
}

// watch has the pool connect to an instance. That this cannot be begun, since its key cannot be read, say, is
// noted as that of a host which does not answer.
func (s *Service) watch(ctx context.Context, inst Instance) error {
	t, err := s.target(ctx, inst)
	s.setLink(inst.ID, func(l *Link) {
		switch {
		case l.Watched:
		case err != nil:
			l.Since, l.Problem = cmp.Or(l.Since, time.Now()), err.Error()
		default:
			l.Watched, l.Since, l.Tried, l.Problem = true, time.Now(), time.Now(), ""
		}
	})
	if err != nil {
		return err
	}
	s.Hosts.Watch(t)
	return nil
}

// move has the pool connect to another address than before. Since when the machine does not answer stays.
func (s *Service) move(ctx context.Context, inst Instance) error {
	s.Hosts.Forget(inst.ID)
	since := s.linkOf(inst.ID).Since
	s.setLink(inst.ID, func(l *Link) { *l = Link{Asked: l.Asked} })
	err := s.watch(ctx, inst)
	s.setLink(inst.ID, func(l *Link) { l.Since = since })
	return err
}

func (s *Service) forget(id string) {
	s.Hosts.Forget(id)
	s.mu.Lock()
	delete(s.links, id)
	s.mu.Unlock()
}

// lost ends the connections to hosts that other replicas follow now.
func (s *Service) lost(theirs func(id string) bool) {
	s.turns.lost(theirs)
	s.mu.Lock()
	var ids []string
	for id := range s.links {
		if theirs(id) {
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()
	for _, id := range ids {
		s.forget(id)
	}
}

// Connected is told by the host pool that an agent answers.
func (s *Service) Connected(id string, info agentapi.HostInfo) {
	s.setLink(id, func(l *Link) {
		l.Connected, l.Info, l.Problem, l.Since, l.Asked = true, &info, "", time.Now(), time.Time{}
	})
	s.Engine.Wake(Kind, id)
}

// Disconnected is told by the host pool that the connection to an agent is gone.
func (s *Service) Disconnected(id string, err error) {
	s.mu.Lock()
	l, known := s.links[id]
	if known {
		if l.Connected {
			l.Since = time.Now()
		}
		l.Connected, l.Info = false, nil
		if err != nil {
			refused, ok := errors.AsType[*host.OnboardError](err)
			l.Problem, l.Reached = err.Error(), ok && refused.Code != host.CodeUnreachable
		}
		s.links[id] = l
	}
	s.mu.Unlock()
	if known {
		s.Engine.Wake(Kind, id)
	}
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
