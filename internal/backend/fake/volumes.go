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

// volumePrice is of one GiB, in US dollars per hour.
const volumePrice = 0.0001

// disk is one volume; it is kept after its end for the bill.
type disk struct {
	req       backend.VolumeRequest
	id        string
	createdAt time.Time
	readyAt   time.Time
	goneAt    time.Time
	heldBy    map[string]backend.Ref // instances that have it
}

func (c *Cloud) viewDisk(d *disk) backend.Volume {
	v := backend.Volume{Mark: markOf(d.req.Tags, d.req.Name), Ref: backend.Ref{Region: d.req.Region, ID: d.id}, State: backend.StatePending, Zone: d.req.Zone, SizeGiB: d.req.SizeGiB,
		Price: volumePrice * float64(d.req.SizeGiB), CreatedAt: d.createdAt, GoneAt: d.goneAt}
	switch {
	case !d.goneAt.IsZero():
		v.State = backend.StateGone
	case !time.Now().Before(d.readyAt):
		v.State = backend.StateRunning
	}
	for _, id := range slices.Sorted(maps.Keys(d.heldBy)) {
		v.AttachedTo = append(v.AttachedTo, d.heldBy[id])
	}
	return v
}

// sortedDisks lists the volumes in the order of their creation.
func (c *Cloud) sortedDisks() []*disk {
	return slices.SortedFunc(maps.Values(c.disks), func(a, b *disk) int { return strings.Compare(a.id, b.id) })
}

// CreateVolume implements [backend.VolumeBackend].
func (c *Cloud) CreateVolume(ctx context.Context, req backend.VolumeRequest) (backend.Volume, error) {
	var v backend.Volume
	err := c.call(ctx, "CreateVolume", req.Token, func(fate) error {
		for _, d := range c.sortedDisks() {
			if d.req.Token == req.Token {
				v = c.viewDisk(d)
				return nil
			}
		}
		if req.Token == "" || req.Name == "" || req.Region == "" || req.SizeGiB < 1 {
			return &backend.InvalidError{Path: "token", Msg: "token, name, region and size are required"}
		}
		v = c.viewDisk(c.addDisk(req))
		return nil
	}, nil)
	return v, err
}

// addDisk wants the mutex held.
func (c *Cloud) addDisk(req backend.VolumeRequest) *disk {
	now := time.Now()
	d := &disk{req: req, id: fmt.Sprintf("vol-%06d", len(c.disks)+1), createdAt: now, readyAt: now.Add(c.Boot), heldBy: map[string]backend.Ref{}}
	c.disks[d.id] = d
	return d
}

// PlantVolume makes a volume behind the server's back, which is ready at once.
func (c *Cloud) PlantVolume(region string, sizeGiB int) (id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.addDisk(backend.VolumeRequest{Region: region, SizeGiB: sizeGiB})
	d.readyAt = d.createdAt
	return d.id
}

// LiveVolumes lists the volumes that cost money now, in the order of their creation.
func (c *Cloud) LiveVolumes() []backend.Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []backend.Volume
	for _, d := range c.sortedDisks() {
		if d.goneAt.IsZero() {
			all = append(all, c.viewDisk(d))
		}
	}
	return all
}

func (c *Cloud) existingDisk(ref backend.Ref) (*disk, error) {
	d := c.disks[ref.ID]
	if d == nil || d.req.Region != ref.Region || !d.goneAt.IsZero() {
		return nil, fmt.Errorf("volume %s: %w", ref.ID, backend.ErrNotFound)
	}
	return d, nil
}

// DescribeVolume implements [backend.VolumeBackend].
func (c *Cloud) DescribeVolume(ctx context.Context, ref backend.Ref) (backend.Volume, error) {
	var v backend.Volume
	err := c.call(ctx, "DescribeVolume", ref.ID, func(fate) error {
		d, err := c.existingDisk(ref)
		if err == nil {
			v = c.viewDisk(d)
		}
		return err
	}, nil)
	return v, err
}

// DeleteVolume implements [backend.VolumeBackend]. One that an instance has is refused.
func (c *Cloud) DeleteVolume(ctx context.Context, ref backend.Ref) error {
	return c.call(ctx, "DeleteVolume", ref.ID, func(fate) error {
		d, err := c.existingDisk(ref)
		if err != nil {
			return err
		}
		if len(d.heldBy) > 0 {
			return &backend.InvalidError{Path: "volume", Msg: fmt.Sprintf("volume %s is attached", d.id)}
		}
		d.goneAt = time.Now()
		return nil
	}, nil)
}

// AttachVolume implements [backend.VolumeBackend]. A volume belongs to one instance at a time.
func (c *Cloud) AttachVolume(ctx context.Context, volume, instance backend.Ref) (device string, err error) {
	err = c.call(ctx, "AttachVolume", volume.ID, func(fate) error {
		d, err := c.existingDisk(volume)
		if err != nil {
			return err
		}
		m, err := c.existing(instance)
		if err != nil {
			return err
		}
		_, again := d.heldBy[m.id]
		switch {
		case m.region != d.req.Region || d.req.Zone != "" && m.req.Zone != "" && m.req.Zone != d.req.Zone:
			return &backend.InvalidError{Path: "volume", Msg: fmt.Sprintf("volume %s is not where instance %s is", d.id, m.id)}
		case len(d.heldBy) > 0 && !again:
			return &backend.InvalidError{Path: "volume", Msg: fmt.Sprintf("volume %s is attached to another instance", d.id)}
		}
		d.heldBy[m.id] = instance
		device = "/dev/sd" + string(rune('b'+len(c.disksOf(m.id))-1))
		return nil
	}, nil)
	return device, err
}

// disksOf wants the mutex held.
func (c *Cloud) disksOf(instanceID string) []*disk {
	var list []*disk
	for _, d := range c.sortedDisks() {
		if _, has := d.heldBy[instanceID]; has {
			list = append(list, d)
		}
	}
	return list
}

// DetachVolume implements [backend.VolumeBackend]; it takes effect at once.
func (c *Cloud) DetachVolume(ctx context.Context, volume, instance backend.Ref, _ bool) error {
	return c.call(ctx, "DetachVolume", volume.ID, func(fate) error {
		d, err := c.existingDisk(volume)
		if err == nil {
			delete(d.heldBy, instance.ID)
		}
		return err
	}, nil)
}

// listDisks are the volumes with the server's tag, as of a time.
func (c *Cloud) listDisks(serverID string, seen time.Time) []backend.Owned {
	var all []backend.Owned
	for _, d := range c.sortedDisks() {
		if d.req.Tags[backend.TagServer] != serverID || d.createdAt.After(seen) || !d.goneAt.IsZero() && !d.goneAt.After(seen) {
			continue
		}
		state := c.viewDisk(d).State
		if state == backend.StateGone {
			state = backend.StateRunning // the list is stale
		}
		all = append(all, backend.Owned{Mark: markOf(d.req.Tags, d.req.Name), Kind: backend.VolumeResource, Ref: backend.Ref{Region: d.req.Region, ID: d.id},
			State: state, CreatedAt: d.createdAt, Price: volumePrice * float64(d.req.SizeGiB)})
	}
	return all
}
