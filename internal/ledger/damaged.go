package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// Intact says what a document lacks; nil is nothing.
func (d *Doc) Intact() error {
	if d.Create == nil && d.Volume == nil && d.Placement == nil && d.Instance.Ref.ID == "" {
		return errors.New("there is neither a request nor a resource")
	}
	return nil
}

// whole takes the error of reading a row, and puts a stand-in for a damaged document: what is known
// from the columns is enough to find the resource and to delete it.
func (r *Record) whole(err error, resource *string) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	message := "the stored record " + r.ID + " cannot be read: " + damage.Error()
	if !damage.Document {
		r.Doc.Damage, r.Doc.Message = damage.Error(), message
		return nil
	}
	r.Doc = Doc{
		Damage: damage.Error(), Message: message,
		Instance: backend.Instance{Ref: backend.Ref{ID: *resource, Region: r.Region}, State: backend.StateRunning},
	}
	return nil
}

// heal takes what the columns say for what it must be by the document, where somebody has edited them: of
// another kind, a resource would be looked for where it is not, and what has one was asked for.
func (r *Record) heal(resource string) {
	switch {
	case r.Doc.Proof != "" || r.Doc.SeenAt.IsZero():
	case resource == r.Doc.Instance.Ref.ID: // stored by a server before there were proofs
		r.Doc.Proof = r.proof()
	default:
		r.Doc.Proof = "none"
	}
	kind, state := r.Kind, r.State
	switch known := []backend.ResourceKind{backend.InstanceResource, backend.VolumeResource, backend.PlacementResource}; {
	case r.Doc.Create != nil:
		r.Kind = backend.InstanceResource
	case r.Doc.Volume != nil:
		r.Kind = backend.VolumeResource
	case r.Doc.Placement != nil:
		r.Kind = backend.PlacementResource
	case !slices.Contains(known, r.Kind):
		r.Kind = backend.InstanceResource
	}
	switch named := r.Doc.Instance.Ref.ID != ""; r.State {
	case Unknown, Gone:
	case Intended:
		if named {
			r.State = Created
		}
	default: // Created, Deleting, or no state at all
		if !named {
			r.State = Unknown
		}
	}
	r.healed = kind != r.Kind || state != r.State
}

// takeUp wakes intents of an account that wait for nothing although there is something to do about them,
// which happens to rows that somebody edited: nobody looks at those otherwise, not even after a restart.
func (l *Ledger) takeUp(ctx context.Context, it engine.Item, records []Record) error {
	var failed []error
	for _, r := range records {
		if !r.stuck(time.Now()) {
			continue
		}
		failed = append(failed, l.DB.Write(ctx, func(tx *store.Tx) error {
			if err := it.Fence.Check(ctx, tx); err != nil {
				return err
			}
			r, err := load(ctx, tx, r.ID) // a group is not stuck if somebody is in it
			if err != nil || !r.stuck(time.Now()) {
				return err
			}
			r.idle = false
			if err := update(ctx, tx, r); err != nil {
				return fmt.Errorf("take up intent %s: %w", r.ID, err)
			}
			tx.OnCommit(func() {
				l.Log.Warn("the stored record of an intent was changed by somebody else, it is looked at", "intent", r.ID, "kind", r.Kind, "state", r.State,
					"wanted", r.Wanted, "backend", r.Backend, "project", r.ProjectID, "resource", r.Doc.Instance.Ref.ID)
				l.Engine.Wake(Kind, r.ID)
			})
			return nil
		}))
	}
	return errors.Join(failed...)
}

// stuck says that there is something to do about an intent, now or later, and that nobody looks.
func (r Record) stuck(now time.Time) bool {
	if r.Doc.Damage != "" && r.State == Created && r.Wanted { // it is looked at once it is listed, or not
		return false
	}
	what, at := step(now, r)
	return r.idle && (r.healed || what != none || !at.IsZero()) && r.State != Gone
}
