package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// describeTimeout bounds the question about a disk that was there before.
const describeTimeout = time.Minute

var errNoAnswer = errors.New("the provider did not answer in time")

// reconcile loads one volume, lets Step decide and carries it out in one transaction.
func (s *Service) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	snap, err := s.load(ctx, it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if snap.Volume.Damage != "" {
		s.Log.Error("the stored record of a volume cannot be read", "volume", snap.Volume.Name, "id", it.ID, "err", snap.Volume.Damage)
	}
	d := Step(time.Now(), snap)
	d.Changed = d.Changed || snap.Retraced
	if d.Register {
		if err := s.register(ctx, &d); err != nil {
			return time.Time{}, err
		}
	}
	if !d.Changed && !d.Release {
		return d.Again, nil
	}
	return d.Again, s.commit(ctx, it, d)
}

func (s *Service) load(ctx context.Context, id string) (Snapshot, error) {
	q := s.DB.Read()
	v, err := get(ctx, q, "id = $1", id)
	if err != nil {
		return Snapshot{}, err
	}
	snap := Snapshot{Volume: v}
	if !v.External() {
		if err := s.findDisk(ctx, q, &snap); err != nil {
			return Snapshot{}, err
		}
	}
	snap.Attachments, err = attached(ctx, q, v.ID)
	return snap, err
}

// findDisk reads what the ledger knows of a volume's disk. A row that was edited by hand may name one that
// does not exist: then it is what the ledger has for this volume, and without any the disk is as good as gone.
func (s *Service) findDisk(ctx context.Context, q store.Querier, snap *Snapshot) error {
	v := &snap.Volume
	r, err := s.Ledger.Get(ctx, q, v.IntentID)
	if errors.Is(err, store.ErrNotFound) {
		var own []string
		if own, err = s.Ledger.Wanted(ctx, q, Kind, v.ID); len(own) > 0 {
			s.Log.Error("a volume names a disk that the ledger does not know: it gets its own again", "volume", v.Name, "id", v.ID, "intent", v.IntentID, "own", own[0])
			v.IntentID, snap.Retraced = own[0], true
			r, err = s.Ledger.Get(ctx, q, v.IntentID)
		} else {
			r = ledger.Record{State: ledger.Gone, Doc: ledger.Doc{Message: "The record of its disk is lost"}}
		}
	}
	snap.Disk = &r
	return err
}

// register asks the provider about a disk that was there before.
func (s *Service) register(ctx context.Context, d *Decision) error {
	v := &d.Volume
	b, err := s.Clouds.Backend(ctx, v.ProjectID, v.Backend)
	if err != nil {
		return fmt.Errorf("register volume %s: %w", v.Name, err)
	}
	disks, ok := b.(backend.VolumeBackend)
	if !ok {
		d.fail(time.Now(), "Backend not available")
		return nil
	}
	call, cancel := context.WithTimeoutCause(ctx, describeTimeout, errNoAnswer)
	defer cancel()
	id := v.externalID()
	disk, err := disks.DescribeVolume(call, backend.Ref{Region: v.Data.Configuration.Region, ID: id})
	switch {
	case errors.Is(err, backend.ErrNotFound) || err == nil && disk.State == backend.StateGone:
		d.fail(time.Now(), fmt.Sprintf("Volume %s not found in %s", id, v.Data.Configuration.Region))
	case errors.Is(err, backend.ErrAuth):
		d.fail(time.Now(), err.Error())
	case err != nil:
		return fmt.Errorf("register volume %s: %w", v.Name, err)
	case disk.State == backend.StateRunning:
		disk.Price = 0 // paid for by whoever made it
		d.found(disk)
	default:
		d.Again = time.Now().Add(10 * time.Second)
	}
	return nil
}

func (s *Service) commit(ctx context.Context, it engine.Item, d Decision) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		v := d.Volume
		if d.Changed {
			v.Data.ProcessedAt = time.Now()
			if err := update(ctx, tx, &v); err != nil {
				return err
			}
		}
		if d.Release {
			if err := s.Ledger.Release(ctx, tx, v.IntentID); err != nil {
				return err
			}
		}
		for _, text := range d.Events {
			if err := record(ctx, tx, v, event.Event{Message: text}); err != nil {
				return err
			}
		}
		return nil
	})
}
