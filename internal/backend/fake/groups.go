package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dstack/internal/backend"
)

// group is one placement group; it is kept after its end. Which machines are in it is what
// they were made with.
type group struct {
	req       backend.PlacementRequest
	id        string
	twin      bool // made by a fault beside the one that was asked for
	createdAt time.Time
	goneAt    time.Time
}

// Group is one placement group, as the world sees it.
type Group struct {
	ID       string
	Tags     map[string]string
	Machines []Machine // that are in it and cost money
}

// Groups lists the placement groups that exist, in the order of their creation.
func (c *Cloud) Groups() []Group {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Group
	for _, g := range c.sortedGroups() {
		if g.goneAt.IsZero() {
			all = append(all, Group{g.id, maps.Clone(g.req.Tags), c.inGroup(g.id)})
		}
	}
	return all
}

// inGroup wants the mutex held.
func (c *Cloud) inGroup(id string) []Machine {
	var in []Machine
	for _, m := range c.sorted() {
		if m.req.Placement != nil && m.req.Placement.ID == id && m.goneAt.IsZero() {
			in = append(in, m.outside())
		}
	}
	return in
}

// sortedGroups lists the groups in the order of their creation.
func (c *Cloud) sortedGroups() []*group {
	return slices.SortedFunc(maps.Values(c.groups), func(a, b *group) int { return strings.Compare(a.id, b.id) })
}

// NoFabric is that of instance types which cannot be in placement groups.
const NoFabric = "none"

func (c *Cloud) refOf(g *group) backend.Ref {
	ref := backend.Ref{Region: g.req.Region, ID: g.id}
	if f := c.Fabrics[g.req.Offer.Instance]; f != "" {
		ref.Data = map[string]string{"fabric": f}
	}
	return ref
}

func (c *Cloud) viewGroup(g *group) backend.Placement {
	p := backend.Placement{Mark: markOf(g.req.Tags, g.req.Name), Ref: c.refOf(g), State: backend.StateRunning, CreatedAt: g.createdAt, GoneAt: g.goneAt}
	if !g.goneAt.IsZero() {
		p.State = backend.StateGone
	}
	return p
}

// CreatePlacement implements [backend.PlacementBackend].
func (c *Cloud) CreatePlacement(ctx context.Context, req backend.PlacementRequest) (p backend.Placement, err error) {
	err = c.call(ctx, "CreatePlacement", req.Token, func(f fate) error {
		g, err := c.createGroup(req, f)
		if err == nil {
			p = c.viewGroup(g)
		}
		return err
	}, func() { _, _ = c.createGroup(req, fate{}) }) // nobody reads that answer
	if err != nil {
		return backend.Placement{}, err
	}
	return p, nil
}

// createGroup is the effect of CreatePlacement. A token works for ever, like that of a machine.
func (c *Cloud) createGroup(req backend.PlacementRequest, f fate) (*group, error) {
	for _, g := range c.sortedGroups() {
		if g.req.Token == req.Token && req.Token != "" {
			return g, nil
		}
	}
	switch {
	case req.Token == "" || req.Name == "":
		return nil, &backend.InvalidError{Path: "token", Msg: "token and name are required"}
	case !c.hasRegion(req.Region):
		return nil, &backend.InvalidError{Path: "region", Msg: fmt.Sprintf("there is no region %s", req.Region)}
	case !c.Placeable(req.Offer, backend.Ref{}):
		return nil, &backend.InvalidError{Path: "offer.instance", Msg: fmt.Sprintf("%s has no placement groups", req.Offer.Instance)}
	case f.kinds[NoCapacity]:
		c.count(NoCapacity, true)
		return nil, fmt.Errorf("placement groups in %s: %w", req.Region, backend.ErrQuota)
	}
	made := func(twin bool) *group {
		g := &group{req: req, id: fmt.Sprintf("pg-%06d", len(c.groups)+1), twin: twin, createdAt: time.Now()}
		c.groups[g.id] = g
		return g
	}
	g := made(false)
	if f.kinds[Twin] {
		c.count(Twin, true)
		made(true)
	}
	return g, nil
}

// PlantGroup makes a group behind the server's back, with any tags: a stranger's, say.
func (c *Cloud) PlantGroup(region string, tags map[string]string) (id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := &group{req: backend.PlacementRequest{Region: region, Tags: maps.Clone(tags)}, id: fmt.Sprintf("pg-%06d", len(c.groups)+1), createdAt: time.Now()}
	c.groups[g.id] = g
	return g.id
}

func (c *Cloud) existingGroup(ref backend.Ref) (*group, error) {
	g := c.groups[ref.ID]
	if g == nil || g.req.Region != ref.Region || !g.goneAt.IsZero() {
		return nil, fmt.Errorf("placement group %s: %w", ref.ID, backend.ErrNotFound)
	}
	return g, nil
}

// admit refuses a machine for a group that it cannot join. It wants the mutex held.
func (c *Cloud) admit(req backend.CreateRequest) error {
	if req.Placement == nil {
		return nil
	}
	if _, err := c.existingGroup(*req.Placement); err != nil {
		return &backend.InvalidError{Path: "placement", Msg: err.Error()}
	}
	if !c.Placeable(req.Offer, *req.Placement) {
		return &backend.InvalidError{Path: "placement", Msg: fmt.Sprintf("%s in %s cannot join %s", req.Offer.Instance, req.Offer.Region, req.Placement.ID)}
	}
	return nil
}

// DescribePlacement implements [backend.PlacementBackend].
func (c *Cloud) DescribePlacement(ctx context.Context, ref backend.Ref) (p backend.Placement, err error) {
	err = c.call(ctx, "DescribePlacement", ref.ID, func(fate) error {
		g, err := c.existingGroup(ref)
		if err == nil {
			p = c.viewGroup(g)
		}
		return err
	}, nil)
	return p, err
}

// DeletePlacement implements [backend.PlacementBackend]; it takes effect at once.
func (c *Cloud) DeletePlacement(ctx context.Context, ref backend.Ref) error {
	return c.call(ctx, "DeletePlacement", ref.ID,
		func(fate) error { return c.deleteGroup(ref) },
		func() { _ = c.deleteGroup(ref) }) // nobody reads that answer
}

func (c *Cloud) deleteGroup(ref backend.Ref) error {
	g, err := c.existingGroup(ref)
	if err != nil {
		return err
	}
	if in := c.inGroup(g.id); len(in) > 0 {
		return fmt.Errorf("placement group %s with %v: %w", g.id, in, backend.ErrInUse)
	}
	g.goneAt = time.Now()
	return nil
}

// Placeable implements [backend.PlacementBackend]: a group has its region and its fabric.
func (c *Cloud) Placeable(o backend.Offer, group backend.Ref) bool {
	fabric := c.Fabrics[o.Instance]
	return fabric != NoFabric && (group.ID == "" || group.Region == o.Region && group.Data["fabric"] == fabric)
}

// PlacesReserved implements [backend.PlacementBackend].
func (c *Cloud) PlacesReserved() bool { return !c.Config.ReservedApart }

// listGroups are the groups with the server's tag, as of a time.
func (c *Cloud) listGroups(serverID string, seen time.Time) []backend.Owned {
	var all []backend.Owned
	for _, g := range c.sortedGroups() {
		if g.req.Tags[backend.TagServer] != serverID || g.createdAt.After(seen) || !g.goneAt.IsZero() && !g.goneAt.After(seen) {
			continue
		}
		// One that is gone is listed as of then: the list is stale.
		all = append(all, backend.Owned{Mark: markOf(g.req.Tags, g.req.Name), Kind: backend.PlacementResource, Ref: c.refOf(g),
			State: backend.StateRunning, CreatedAt: g.createdAt})
	}
	return all
}
