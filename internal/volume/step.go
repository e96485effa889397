package volume

import (
	"cmp"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/ledger"
)

// Snapshot is all that Step looks at.
type Snapshot struct {
	Volume      Volume
	Disk        *ledger.Record // of a disk that the server makes, nil for others
	Attachments int
	// Retraced says that the volume named a disk that the ledger does not know, and has its own again.
	Retraced bool
}

// Decision is what should happen to a volume now.
type Decision struct {
	Volume  Volume
	Changed bool
	Events  []string
	// Release gives the disk back to the ledger, Register asks the provider about one that
	// was there before.
	Release, Register bool
	Again             time.Time // zero: when woken
}

// Step decides what should happen to one volume now. It reads nothing but its arguments.
func Step(now time.Time, s Snapshot) Decision {
	d := Decision{Volume: s.Volume}
	switch {
	case s.Volume.Deleted:
	case s.Volume.Unwanted:
		d.remove(now, s)
	case s.Volume.Damage != "": // what it is to be is not known
		return d
	case s.Volume.Status == api.VolumeSubmitted && s.Volume.External():
		d.Register = true
	case s.Volume.Status == api.VolumeFailed:
	case s.Disk != nil:
		d.follow(now, *s.Disk)
	}
	if d.Volume.Status == api.VolumeActive && !d.Volume.Unwanted && !d.Volume.Deleted {
		d.cleanUp(now, s)
	}
	return d
}

// remove ends the volume once its disk is gone; while somebody has it, nothing happens.
func (d *Decision) remove(now time.Time, s Snapshot) {
	switch {
	case s.Attachments > 0:
	case s.Disk != nil && s.Disk.State != ledger.Gone:
		d.Release = s.Disk.Wanted
	default:
		d.Volume.Deleted, d.Changed = true, true
		if d.Volume.Data.EndedAt.IsZero() {
			d.Volume.Data.EndedAt = now
		}
		d.Events = append(d.Events, "Volume deleted")
	}
}

// follow takes over what the provider says about the disk.
func (d *Decision) follow(now time.Time, r ledger.Record) {
	inst := r.Instance()
	switch {
	case r.State == ledger.Gone:
		d.fail(now, cmp.Or(r.Message(), "The disk is gone: "+string(r.Doc.Outcome)))
	case r.State == ledger.Created && inst.State == backend.StateFailed:
		d.fail(now, cmp.Or(inst.Message, r.Message(), "The provider could not make the disk"))
		d.Release = true
	case r.State == ledger.Created && inst.State == backend.StateRunning:
		size := 0
		if r.Doc.Volume != nil {
			size = r.Doc.Volume.SizeGiB
		}
		d.found(backend.Volume{Ref: inst.Ref, State: inst.State, Zone: inst.Zone, SizeGiB: size, Price: r.Price, CreatedAt: r.BilledFrom})
	}
}

// found stores that the disk can be used.
func (d *Decision) found(disk backend.Volume) {
	if d.Volume.Status == api.VolumeActive {
		return
	}
	d.Events = append(d.Events, statusEvent(d.Volume.Status, api.VolumeActive, ""))
	d.Volume.Status, d.Volume.Data.Disk, d.Changed = api.VolumeActive, &disk, true
}

// fail stores that the volume will never be of use.
func (d *Decision) fail(now time.Time, msg string) {
	d.Events = append(d.Events, statusEvent(d.Volume.Status, api.VolumeFailed, msg))
	d.Volume.Status, d.Volume.Data.Message, d.Volume.Data.EndedAt, d.Changed = api.VolumeFailed, msg, now, true
}

// cleanUp deletes a volume that nobody has used for as long as its configuration says.
func (d *Decision) cleanUp(now time.Time, s Snapshot) {
	limit := d.Volume.Data.Configuration.AutoCleanupDuration
	if limit == nil || *limit <= 0 || s.Attachments > 0 || d.Volume.External() {
		return
	}
	since := d.Volume.CreatedAt
	if last := d.Volume.Data.LastJobAt; last.After(since) {
		since = last
	}
	due := since.Add(agentapi.Seconds(int64(*limit)))
	if now.Before(due) {
		d.Again = due
		return
	}
	d.Volume.Unwanted, d.Changed = true, true
	d.Events = append(d.Events, "Volume marked for deletion due to exceeding auto_cleanup_duration")
	d.Again = now // delete it
}
