package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/catalog"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// lookAgain is when a queue that waits for what backends may offer later is looked at.
const lookAgain = 30 * time.Second

// lookSoon is when one is looked at again that waits only until backends which fail may have answered.
const lookSoon = 6 * time.Second

// lookAnyway is when a queue is looked at again in which somebody waits, whatever for: those who wait for hosts have no
// time but the end of their patience, in days. A wake-up that got lost, with the server that was to send it, say, is
// made good by this, sooner than by the engine's sweep. It costs a project with a queue one pass, which reads what
// has changed.
const lookAnyway = 5 * time.Minute

// reconcileQueue places the waiting jobs of one project in the order of its queue: one
// writer per project, so placements do not race each other.
func (s *Service) reconcileQueue(ctx context.Context, it engine.Item) (time.Time, error) {
	c := s.queues.of(it.ID)
	c.mu.Lock() // held across passes of one object only, which never overlap
	defer c.mu.Unlock()
	if waits, err := s.waits(ctx, it.ID); err != nil || !waits {
		if err == nil {
			c.empty()
		}
		return time.Time{}, err
	}
	// Backends whose answers are old are waited for without holding up who needs none of them. The
	// queue is read after they have answered, not before: who comes meanwhile may have priority.
	unsettled, err := s.Catalog.Settled(ctx, it.ID)
	if err != nil {
		return time.Time{}, err
	}
	gangs, orphans, err := s.waitingGangs(ctx, c, it.ID, allJobs)
	if err != nil {
		return time.Time{}, err
	}
	for _, j := range orphans {
		if err := s.orphaned(ctx, it, *j); err != nil {
			return time.Time{}, err
		}
	}
	if len(gangs) == 0 {
		return time.Time{}, nil
	}
	supply, err := s.supply(ctx, it.ID)
	if err != nil {
		return time.Time{}, err
	}
	asks := c.recall(gangs)
	reserved := reservations(asks, supply.Fleets)
	if reserved != nil {
		if unsettled, err = s.Catalog.Settled(ctx, it.ID, reserved...); err != nil {
			return time.Time{}, err
		}
	}
	for i := range asks {
		if err := s.relate(ctx, &asks[i], &gangs[i], supply.Fleets); err != nil {
			return time.Time{}, err
		}
	}
	answers := untilFor(asks, supply, unsettled)
	decided := false
	for i := range asks {
		asks[i].Open = !answers[i].IsZero()
		decided = decided || !asks[i].Open
	}
	var pending catalog.Pending
	if decided {
		settled := func(backend string) bool { return unsettled[backend].IsZero() }
		var market market
		if market, pending, err = s.purchasable(ctx, it.ID, settled, reserved); err != nil {
			return time.Time{}, err
		}
		supply.Offers, supply.Index, supply.Refused = market.list, market.index, market.refused
		supply.Again = func(k offer.Key) int {
			after, _ := market.from.Lately.Refused(k)
			if at := c.asked[k]; at.After(after) {
				after = at
			}
			return s.hosts.given(supply.Fleets, k, after)
		}
		if supply.Silent, err = s.silent(ctx, it.ID); err != nil {
			return time.Time{}, err
		}
	}
	verdicts := scheduler.Place(asks, supply)
	again, err := s.carryOut(ctx, it, gangs, verdicts, untilFor(asks, supply, pending))
	for i, v := range verdicts {
		if until := answers[i]; v.Open && !until.IsZero() && (again.IsZero() || until.Before(again)) {
			again = until
		}
	}
	return again, err
}

// untilFor is for each gang until when backends may answer of which it could have an instance, zero
// for no longer.
func untilFor(asks []scheduler.Gang, supply scheduler.Supply, pending catalog.Pending) []time.Time {
	list := make([]time.Time, len(asks))
	if len(pending) == 0 {
		return list
	}
	equal := map[string]time.Time{} // for gangs that ask for the same
	for i := range asks {
		g := &asks[i]
		until, known := equal[g.Key]
		if !known || g.Key == "" {
			until = pending.Until(func(backend string) bool { return supply.MayBuy(g, backend) })
			equal[g.Key] = until
		}
		list[i] = until
	}
	return list
}

// waits says that a job of the project waits for a place.
func (s *Service) waits(ctx context.Context, projectID string) (bool, error) {
	var n int
	err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM job WHERE project_id = $1 AND status = 'submitted' LIMIT 1) AS one`, projectID).Scan(&n)
	if err != nil {
		return false, fmt.Errorf("look for waiting jobs: %w", err)
	}
	return n > 0, nil
}

// outcome is what becomes of a gang, as something to do in a transaction.
type outcome func(ctx context.Context, tx *store.Tx, fleets fleetsOnce) error

// together is how many outcomes share a transaction: large enough to get on fast, small enough
// for what waits behind it.
const together = 128

// carryOut stores what was decided for each gang and returns when to look again. None is refused
// while backends may still answer of which it could have an instance, until pending.
func (s *Service) carryOut(ctx context.Context, it engine.Item, gangs []gang, verdicts []scheduler.Verdict, pending []time.Time) (time.Time, error) {
	var again time.Time
	sooner := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	now := time.Now()
	var all []outcome
	told := map[string]bool{} // runs
	for i, v := range verdicts {
		g := &gangs[i]
		until := g.until()
		ends := !now.Before(until)
		switch {
		case v.Open:
		case v.Nodes != nil:
			all = append(all, func(ctx context.Context, tx *store.Tx, fleets fleetsOnce) error {
				tx.OnCommit(func() { s.queues.of(it.ID).asks(v, now) })
				return s.claim(ctx, tx, fleets, g, v)
			})
		case ends && (v.NoFleet || !now.Before(pending[i])):
			all = append(all, func(ctx context.Context, tx *store.Tx, _ fleetsOnce) error { return s.refuse(ctx, tx, g, v.Why) })
		default:
			switch {
			case ends:
				sooner(pending[i])
				sooner(now.Add(lookSoon))
			case v.Later && !v.Grows:
				sooner(until)
				sooner(now.Add(lookAnyway))
			default:
				sooner(until)
				sooner(now.Add(lookAgain))
			}
			if v.Awaits != nil {
				sooner(v.UpBy)
			}
			for _, at := range []time.Time{g.asksFrom(), g.buyFrom()} {
				if now.Before(at) && now.Before(g.buyFrom()) {
					sooner(at)
				}
			}
			// Of the replicas of a service each is a gang, and those of another group may wait for something else:
			// the first one tells for all of them, or they would correct each other for as long as they wait.
			first := !told[g.run.ID]
			told[g.run.ID] = true
			if w := g.run.Data.Waiting; first && (w == nil || w.Why != v.Why) { // it is news
				all = append(all, func(ctx context.Context, tx *store.Tx, _ fleetsOnce) error { return s.wait(ctx, tx, g, v.Why) })
			}
		}
	}
	for batch := range slices.Chunk(all, together) {
		conflict, err := s.commitOutcomes(ctx, it, batch)
		if err != nil {
			return time.Time{}, err
		}
		if conflict { // something changed meanwhile: look at everything again
			sooner(now.Add(5 * time.Millisecond))
		}
	}
	return again, nil
}

// commitOutcomes stores outcomes in one transaction, or one by one when one of them does not
// fit what has changed meanwhile; conflict says that there was such a one. One that can never be stored, of
// a row that was edited by hand, holds up no other.
func (s *Service) commitOutcomes(ctx context.Context, it engine.Item, batch []outcome) (conflict bool, err error) {
	err = s.DB.WriteFirst(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		fleets := fleetsOnce{}
		for _, do := range batch {
			if err := do(ctx, tx, fleets); err != nil {
				return err
			}
		}
		return nil
	})
	conflict = errors.Is(err, store.ErrConflict)
	never := store.Constraint(err) != "" || store.BadValue(err)
	switch {
	case err == nil || !conflict && !never:
		return false, err
	case len(batch) == 1 && never:
		s.Log.Error("what was decided for a waiting run cannot be stored", "project", it.ID, "err", err)
		return false, nil
	case len(batch) == 1:
		return true, nil
	}
	for _, do := range batch {
		changed, err := s.commitOutcomes(ctx, it, []outcome{do})
		if err != nil {
			return true, err
		}
		conflict = conflict || changed
	}
	return conflict, nil
}

// fleetsOnce are the fleets that a transaction has read: that of many hosts is large.
type fleetsOnce map[string]fleet.Fleet

// refuse ends the jobs of a gang that cannot be placed and may not wait.
func (s *Service) refuse(ctx context.Context, tx *store.Tx, g *gang, why string) error {
	for _, j := range g.jobs {
		if err := s.endJob(ctx, tx, *j, api.JobNoCapacity, why); err != nil {
			return err
		}
	}
	return nil
}

// wait stores why a run is not placed.
func (s *Service) wait(ctx context.Context, tx *store.Tx, g *gang, why string) error {
	r := *g.run
	r.Data.Waiting = &Waiting{Why: why, Since: time.Now()}
	if old := g.run.Data.Waiting; old != nil {
		r.Data.Waiting.Since = old.Since
	} else if from := g.jobs[0].Data.WaitFrom; !from.IsZero() { // attempts before this one have waited too
		r.Data.Waiting.Since = from
	}
	if err := s.rows.updateRun(ctx, tx, &r); err != nil {
		return err
	}
	tx.OnCommit(func() { s.Engine.Tell(watchTopic, r.ID) })
	if g.run.Data.Waiting != nil {
		return nil
	}
	return s.recordRun(ctx, tx, r, event.Event{Message: "Run is waiting for capacity. " + why})
}
