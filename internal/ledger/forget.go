package ledger

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/store"
)

// forgettable says that nobody can be asked about a resource: its account is not configured any
// more, or answered and does not know it, while another did. One that did not answer may do so in
// a minute, so then only what could not be ended or found for long is. What can be asked about
// ends by itself.
func (r Record) forgettable(now time.Time, configured, asked bool, list accountList) bool {
	switch {
	case r.State == Intended:
		return false
	case !configured:
		return true
	case asked && !list.partial:
		return r.Astray() && !r.listed(list)
	}
	return r.debt(now) && !r.listed(list)
}

// Forget gives up a resource that was found to be Forgettable, for an administrator who knows
// better than the ledger: it is taken for gone, and its owner goes on. If the resource does exist,
// and its account is asked again, the sweep finds and deletes it. A record that has changed since
// f was found is a store.ErrConflict.
func (l *Ledger) Forget(ctx context.Context, tx *store.Tx, f Found) error {
	if !f.Forgettable {
		return fmt.Errorf("forget intent %s: what is %s is not to be forgotten", f.ID, f.Verdict)
	}
	before, r := f.Record, f.Record
	r.forgotten(time.Now())
	r.idle = true
	if err := update(ctx, tx, r); err != nil {
		return fmt.Errorf("forget intent %s: %w", r.ID, err)
	}
	l.Log.Warn("resource forgotten, as an administrator asked", "intent", r.ID, "kind", r.Kind, "backend", r.Backend, "region", r.Region, "project", r.ProjectID, "resource", r.Doc.Instance.Ref.ID)
	l.changed(tx, before, r)
	return l.spread(ctx, tx, before, r)
}

// forgotten ends the intent. It cost money for as long as its account is known to have had it.
func (r *Record) forgotten(now time.Time) {
	if until := r.Doc.AstrayAt; r.Astray() && !until.IsZero() && !r.BilledFrom.IsZero() && r.BilledTo.IsZero() {
		r.BilledTo = until
		if until.Before(r.BilledFrom) {
			r.BilledTo = r.BilledFrom
		}
	}
	r.Doc.Message = "forgotten by an administrator: no credentials show whether it exists"
	r.gone(now, Forgotten)
}
