package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// Placement groups. Where a backend has them, the intent of an instance of a cluster joins the
// cluster's group in its region before anything is asked for; the first one records it. The
// group is an intent like any other, so its creation and deletion survive what they survive. It
// is wanted as long as somebody is in it: who is, is what the intents of instances say.

const (
	// emptyFor is how long a group stays that nobody is in: who was refused comes back with
	// another offer.
	emptyFor = time.Minute
	// refusedFor is how long the refusal of a group is remembered, so that other offers of the
	// place do not each ask for one.
	refusedFor = time.Minute
	// groupPause is when to look again at a group that nothing is heard of; changes wake.
	groupPause = 30 * time.Second
)

// clusterOwner is the owner kind of groups: the engine's kind of what clusters are, fleets.
const clusterOwner = "fleet"

// noPlacement is why an offer is passed over (lifecycle 9.2.5).
const noPlacement = "no compatible placement group"

const insertGroup = insertIntent + `
ON CONFLICT (owner_id, backend, region) WHERE kind = 'placement' AND wanted AND state <> 'gone' DO NOTHING`

const selectGroup = `
SELECT ` + columns + ` FROM intent
WHERE  kind = 'placement' AND wanted AND state <> 'gone' AND owner_id = $1 AND backend = $2 AND region = $3`

// selectRefused finds the latest group that could not be had.
const selectRefused = `
SELECT ` + columns + ` FROM intent
WHERE  owner_kind = $1 AND owner_id = $2 AND backend = $3 AND region = $4 AND kind = 'placement' AND state = 'gone' AND billed_from = 0 AND created_at > $5
ORDER BY created_at DESC LIMIT 1`

const countMembers = `SELECT count(*) FROM intent WHERE group_id = $1 AND state <> 'gone'`

const selectWaiting = `SELECT id FROM intent WHERE group_id = $1 AND state = 'intended'`

const joinGroup = `
UPDATE intent SET member_at = $2, idle = FALSE, version = ` + store.NextVersion + `
WHERE  id = $1 AND wanted AND state <> 'gone'`

const leaveGroup = `
UPDATE intent SET member_at = $2, idle = FALSE, version = ` + store.NextVersion + `
WHERE  id = $1`

// load is [Get] with what an intent hangs together with.
func load(ctx context.Context, q store.Querier, id string) (Record, error) {
	r, err := Get(ctx, q, id)
	switch {
	case err != nil:
		return r, err
	case r.GroupID != "" && r.State == Intended:
		g, err := Get(ctx, q, r.GroupID)
		if errors.Is(err, store.ErrNotFound) {
			g, err = Record{State: Gone}, nil
		}
		r.group = &g
		return r, err
	case r.Kind == backend.PlacementResource:
		if err := q.QueryRowContext(ctx, countMembers, id).Scan(&r.members); err != nil {
			return r, fmt.Errorf("count who is in group %s: %w", id, err)
		}
	}
	return r, nil
}

// open says that instances can join the group.
func (r Record) open() bool {
	return r.Wanted && r.State == Created && r.shown() && r.Doc.Instance.State == backend.StateRunning
}

// shut says that instances will never be able to join the group.
func (r Record) shut() bool {
	return !r.Wanted || r.State == Gone || r.State == Created && r.Doc.Instance.State == backend.StateFailed
}

// groups is the backend of an instance that has to be in a group there.
func groups(b backend.Backend, r Record) (backend.PlacementBackend, bool) {
	p, ok := b.(backend.PlacementBackend)
	if !ok || r.Kind != backend.InstanceResource || r.Doc.Cluster == "" {
		return nil, false
	}
	return p, r.Doc.Create.Reservation == "" || p.PlacesReserved()
}

// join has an instance join the group of its cluster, which is recorded when there is none.
func (l *Ledger) join(ctx context.Context, it engine.Item, b backend.PlacementBackend) (time.Time, error) {
	return l.transact(ctx, it, func(tx *store.Tx, r *Record) (time.Time, error) {
		o := r.Doc.Create.Offer
		if r.GroupID != "" || !r.Wanted {
			return time.Now(), nil
		}
		if !b.Placeable(o, backend.Ref{}) {
			r.unplaceable(time.Now(), "")
			return time.Time{}, nil
		}
		if why, err := refusedLately(ctx, tx, *r); err != nil || why != "" {
			r.unplaceable(time.Now(), why)
			return time.Time{}, err
		}
		g, err := l.groupFor(ctx, tx, *r)
		if err == nil && g.open() && !b.Placeable(o, g.Doc.Instance.Ref) {
			if g.members > 0 {
				r.unplaceable(time.Now(), "")
				return time.Time{}, nil
			}
			if err := l.Release(ctx, tx, g.ID); err != nil { // the place is for one that suits
				return time.Time{}, err
			}
			g, err = l.groupFor(ctx, tx, *r)
		}
		if err != nil {
			return time.Time{}, err
		}
		now := time.Now()
		if err := store.Guarded(tx.ExecContext(ctx, joinGroup, g.ID, store.Micros(now))); err != nil {
			return time.Time{}, fmt.Errorf("join group %s: %w", g.ID, err)
		}
		r.GroupID, r.group = g.ID, &g
		tx.OnCommit(func() { l.Engine.Wake(Kind, g.ID) })
		return now, nil
	}, Intended)
}

// refusedLately says why a group in the place of an instance was just refused, whatever its
// instances are; "" when it was not.
func refusedLately(ctx context.Context, q store.Querier, r Record) (why string, err error) {
	g, err := scan(q.QueryRowContext(ctx, selectRefused, clusterOwner, r.Doc.Cluster, r.Backend, r.Region, store.Micros(time.Now().Add(-refusedFor))))
	switch {
	case errors.Is(store.One(err), store.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the last placement group of %s in %s: %w", r.Doc.Cluster, r.Region, err)
	case g.Doc.Outcome == NoQuota, g.Doc.Outcome == NoCapacity, g.Doc.Outcome == AuthFailed, g.Doc.Outcome == RateLimited:
		return g.Doc.Message, nil
	}
	return "", nil
}

// groupFor finds the group for an instance of a cluster, or records one.
func (l *Ledger) groupFor(ctx context.Context, tx *store.Tx, r Record) (Record, error) {
	id, c := uuid.NewString(), r.Doc.Create
	g := Record{
		ID: id, Version: 1, Kind: backend.PlacementResource, Backend: r.Backend, Region: r.Region, ProjectID: r.ProjectID,
		OwnerKind: clusterOwner, OwnerID: r.Doc.Cluster, State: Intended, Wanted: true, CreatedAt: time.Now(),
	}
	g.Doc.Placement = &backend.PlacementRequest{
		Token: id, Name: resourceName(c.Project, c.Fleet, id), Region: r.Region, Offer: c.Offer, Tags: l.tags(c.Tags, id, c.Project, c.Fleet, c.Fleet),
	}
	if err := insertBy(ctx, tx, insertGroup, g); err != nil {
		return g, fmt.Errorf("record a placement group: %w", err)
	}
	found, err := scan(tx.QueryRowContext(ctx, selectGroup, g.OwnerID, g.Backend, g.Region))
	if err != nil {
		return g, fmt.Errorf("read the placement group of %s in %s: %w", g.OwnerID, g.Region, err)
	}
	return load(ctx, tx, found.ID)
}

// unplaceable ends an intent whose instance cannot be where its cluster is. why is what the
// provider says, "" when it was not asked.
func (r *Record) unplaceable(now time.Time, why string) {
	r.Doc.Message = noPlacement
	if why != "" {
		r.Doc.Message += ": " + why
	}
	r.gone(now, NoPlacement)
}

// spread tells those that a change concerns beside the owner: instances that wait for their
// group, and the group that an instance has left.
func (l *Ledger) spread(ctx context.Context, tx *store.Tx, before, after Record) error {
	switch {
	case before.State == after.State && before.Doc.Instance.State == after.Doc.Instance.State && before.Wanted == after.Wanted:
		return nil
	case after.Kind == backend.PlacementResource:
		rows, err := tx.QueryContext(ctx, selectWaiting, after.ID)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			tx.OnCommit(func() { l.Engine.Wake(Kind, id) })
			return err
		})
		if err != nil {
			return fmt.Errorf("list who waits for group %s: %w", after.ID, err)
		}
	case after.GroupID != "" && after.State == Gone:
		if _, err := tx.ExecContext(ctx, leaveGroup, after.GroupID, store.Micros(time.Now())); err != nil {
			return fmt.Errorf("leave group %s: %w", after.GroupID, err)
		}
		tx.OnCommit(func() { l.Engine.Wake(Kind, after.GroupID) })
	}
	return nil
}
