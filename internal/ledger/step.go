package ledger

import (
	"cmp"
	"errors"
	"time"

	"dstack/internal/backend"
)

// An effect is a call to the provider.
type effect int

const (
	none      effect = iota
	create           // ask for the resource; the record becomes Unknown first
	lookup           // search for it by its tag
	describe         // ask for its state
	terminate        // ask for its deletion, then for its state
	cancel           // end the intent; nothing was asked for
	refuse           // end the intent; the instance cannot join its group
	pass             // begin to delete
)

const (
	// maxRateLimited is how long a create request may wait for a rate limit of the provider, in
	// tries: a backend's own queue takes as long as it takes.
	maxRateLimited = 5
	// longestLimit is the longest wait for such a limit: other offers come sooner, and what is in front
	// of a provider may name a day, in which a machine boots or costs unseen.
	longestLimit = 2 * time.Minute
	// missingFor is how long a resource must be "not found" before it is believed to have
	// ended: reads of most providers are eventually consistent.
	missingFor = 20 * time.Second
	// maxSkew is how far a provider's clock may be from ours, and maxAge how old what nobody has asked for,
	// for what it says of times to be believed: 1970 is the zero of somebody.
	maxSkew = time.Hour
	maxAge  = 10 * 365 * 24 * time.Hour
)

// step decides what to do about an intent now, or when to look again (zero: when woken).
func step(now time.Time, r Record) (effect, time.Time) {
	switch r.State {
	case Intended:
		switch {
		case !r.Wanted, r.Doc.Damage != "", r.Kind == backend.PlacementResource && r.members == 0:
			return cancel, time.Time{}
		case r.group != nil && r.group.shut():
			return refuse, time.Time{}
		case r.group != nil && !r.group.open():
			return none, now.Add(groupPause)
		}
		if r.Doc.TriedAt.After(now) { // rate limited until then
			return none, r.Doc.TriedAt
		}
		return create, time.Time{}
	case Unknown:
		return lookup, time.Time{}
	case Created:
		unwanted, at := r.empty(now)
		if (unwanted || !r.Wanted) && r.members == 0 {
			return pass, time.Time{}
		}
		if r.settled() && !r.checkAt.After(r.Doc.DescribedAt) {
			return none, at
		}
		return describe, time.Time{}
	case Deleting:
		if r.members > 0 { // found alive after they were thought to be gone
			return none, now.Add(groupPause)
		}
		return terminate, time.Time{}
	}
	return none, time.Time{}
}

// empty says that nobody has been in a group for long enough, or when that will be.
func (r Record) empty(now time.Time) (bool, time.Time) {
	if r.Kind != backend.PlacementResource || r.members > 0 {
		return false, time.Time{}
	}
	end := r.memberAt.Add(emptyFor)
	return !now.Before(end), end
}

// settled reports whether nothing is expected to change by itself.
func (r Record) settled() bool {
	if !r.shown() || !r.Doc.MissingAt.IsZero() {
		return false
	}
	if r.Kind == backend.InstanceResource {
		return r.Doc.Instance.Ready() || r.Doc.Instance.State == backend.StateFailed
	}
	return r.Doc.Instance.State == backend.StateRunning || r.Doc.Instance.State == backend.StateFailed
}

// The methods below are what the answers of the provider mean. They return when to look
// again, zero for when woken.

// asking is stored before the request is sent to an account.
func (r *Record) asking(now time.Time, account string) {
	r.State, r.Doc.AskedAt, r.Doc.TriedAt = Unknown, now, now
	r.Doc.Message = "" // of an earlier try
	r.heard(account)
	if r.group != nil { // known, and part of the request from now on
		r.Doc.Create.Placement = &r.group.Doc.Instance.Ref
	}
}

// answered stores the answer to a create request.
func (r *Record) answered(now time.Time, inst backend.Instance, err error) time.Time {
	if err == nil { // its addresses count when it is shown as ours, which other calls may not do yet
		r.exists(now, backend.Instance{Ref: inst.Ref, State: backend.StatePending, Price: inst.Price, CreatedAt: inst.CreatedAt})
		r.Doc.SeenAt, r.Doc.Proof, r.Doc.TriedAt = time.Time{}, "", now // what the provider shows may lag behind its answer
		return now
	}
	r.Doc.Message = err.Error()
	r.Doc.TriedAt = now
	if !backend.Refused(err) {
		r.Doc.Tries = 1
		return now.Add(lookupPause(1))
	}
	limit, limited := errors.AsType[*backend.RateLimitedError](err)
	if limited && limit.Queued { // the provider said nothing, so this is no try
		r.State = Intended
		r.Doc.TriedAt = now.Add(max(limit.After, time.Second))
		return r.Doc.TriedAt
	}
	if limited && r.Wanted && r.Doc.Tries < maxRateLimited && limit.After <= longestLimit {
		r.State = Intended
		r.Doc.Tries++
		r.Doc.TriedAt = now.Add(max(limit.After, time.Duration(r.Doc.Tries)*time.Second))
		return r.Doc.TriedAt
	}
	r.gone(now, refusal(err))
	return time.Time{}
}

func refusal(err error) Outcome {
	switch {
	case errors.Is(err, backend.ErrNoCapacity):
		return NoCapacity
	case errors.Is(err, backend.ErrQuota):
		return NoQuota
	case errors.Is(err, backend.ErrAuth):
		return AuthFailed
	}
	if _, ok := errors.AsType[*backend.RateLimitedError](err); ok {
		return RateLimited
	}
	return Invalid
}

// exists stores that the resource is there.
func (r *Record) exists(now time.Time, inst backend.Instance) {
	r.State = Created
	if r.BilledFrom.IsZero() {
		r.BilledFrom = cmp.Or(r.Doc.AskedAt, r.Doc.TriedAt, now) // found later: it runs since it was asked for
	}
	r.Doc.Tries, r.Doc.Message = 0, ""
	r.see(now, inst)
}

// see stores an answer that shows the resource.
func (r *Record) see(now time.Time, inst backend.Instance) {
	r.costs(now, inst.Price)
	if r.mayBegin(now, inst.CreatedAt) {
		r.BilledFrom = earlier(inst.CreatedAt, now)
	}
	if inst.Message != "" || r.Doc.Message == otherAccount || r.Doc.Message == r.Doc.Instance.Message { // what it explained before may be over
		r.Doc.Message = inst.Message
	}
	r.Doc.Instance = inst
	r.Doc.MissingAt = time.Time{}
	r.Doc.SeenAt, r.Doc.Proof = now, r.proof()
}

// mayBegin says that a provider can mean what it says of when a resource was created: not long before it
// was asked for, nor ahead. Any other time counts for nothing, as a price does that nobody can mean.
func (r *Record) mayBegin(now, at time.Time) bool {
	oldest := now.Add(-maxAge)
	if !r.Doc.AskedAt.IsZero() {
		oldest = r.Doc.AskedAt.Add(-maxSkew)
	}
	return !at.IsZero() && !at.Before(oldest) && !at.After(now.Add(maxSkew))
}

// searched stores what a search by tag, which began at a time, found after the request was sent. Its
// answer may have taken long: it says nothing of what has turned up meanwhile.
func (r *Record) searched(now, began time.Time, w witness, found *backend.Owned, settle time.Duration) time.Time {
	if found != nil {
		r.heard(w.account)
		r.exists(now, seen(*found))
		return now
	}
	if !r.believes(w) {
		return r.astray(now)
	}
	if end := r.Doc.TriedAt.Add(settle); began.Before(end) {
		r.Doc.Tries++
		return earlier(now.Add(lookupPause(r.Doc.Tries)), end)
	}
	if r.Doc.SeenAt.IsZero() {
		r.gone(now, Lost)
	} else {
		r.gone(now, Vanished)
	}
	return time.Time{}
}

// seen is what a list says about a resource.
func seen(o backend.Owned) backend.Instance {
	return backend.Instance{Mark: o.Mark, Ref: o.Ref, State: o.State, Price: o.Price, CreatedAt: o.CreatedAt}
}

// described stores what the provider says about a created resource.
func (r *Record) described(now time.Time, w witness, inst backend.Instance, err error, settle time.Duration) time.Time {
	r.Doc.DescribedAt = now
	r.checkAt = earlier(r.checkAt, now) // asked by a clock that is ahead, or by nobody: this answers it
	err = r.weigh(w, inst, err)
	switch {
	case errors.Is(err, errForeign):
		return r.disown(now)
	case errors.Is(err, errElsewhere):
		return r.astray(now)
	case errors.Is(err, backend.ErrNotFound):
		if r.missing(now, settle) {
			r.Doc.Message = "no longer known to the provider"
			r.gone(now, Vanished)
			return time.Time{}
		}
		return now.Add(missingFor)
	case inst.State == backend.StateGone:
		r.see(now, inst)
		r.gone(now, Vanished)
		return time.Time{}
	}
	was := r.Doc.Instance.State
	r.see(now, inst)
	if r.settled() {
		r.Doc.Tries = 0
		return time.Time{}
	}
	if was != inst.State {
		r.Doc.Tries = 0
	}
	r.Doc.Tries++
	return now.Add(bootPause(r.Doc.Tries))
}

// missing notes one "not found" and reports whether it can be believed.
func (r *Record) missing(now time.Time, settle time.Duration) bool {
	if r.Doc.MissingAt.IsZero() {
		r.Doc.MissingAt = now
	}
	if r.Doc.SeenAt.IsZero() { // only the answer to create has shown it
		return !now.Before(r.Doc.TriedAt.Add(settle))
	}
	return !now.Before(r.Doc.MissingAt.Add(missingFor))
}

// unwanted begins the deletion.
func (r *Record) unwanted(now time.Time) {
	r.State, r.Wanted = Deleting, false
	r.Doc.DeletingAt, r.Doc.Taken, r.Doc.Tries, r.Doc.MissingAt = now, false, 0, time.Time{}
}

// terminated stores the answers to a deletion request and to the question after it. asked
// is nil when the provider took the request.
func (r *Record) terminated(now time.Time, asked error, inst backend.Instance, described error, settle time.Duration) time.Time {
	r.Doc.Tries++
	if asked == nil && !r.Doc.Taken {
		r.Doc.Taken, r.Doc.Tries, r.Doc.Message = true, 1, ""
	}
	known := asked == nil || errors.Is(asked, backend.ErrNotFound)
	notFound := errors.Is(described, backend.ErrNotFound)
	switch {
	case described == nil && inst.State == backend.StateGone:
		r.see(now, inst)
		r.gone(now, Deleted)
		return time.Time{}
	case notFound && (r.Doc.Taken && !r.Doc.SeenAt.IsZero() || r.missing(now, settle)):
		r.gone(now, Deleted)
		return time.Time{}
	case !known:
		if described == nil {
			r.see(now, inst)
		}
		r.Doc.Message = asked.Error()
	case described != nil && !notFound:
		r.Doc.Message = described.Error()
	case described == nil:
		r.see(now, inst)
	}
	pause := deletePause(r.Doc.Tries, known || errors.Is(asked, backend.ErrInUse))
	if limit, limited := errors.AsType[*backend.RateLimitedError](asked); limited { // no refusal of this one
		pause = min(max(pause, limit.After), longestLimit)
	}
	return now.Add(pause)
}

// gone ends the intent.
func (r *Record) gone(now time.Time, why Outcome) {
	r.State, r.Doc.Outcome, r.Doc.GoneAt = Gone, why, now
	if r.BilledFrom.IsZero() || !r.BilledTo.IsZero() {
		return
	}
	switch end := r.Doc.Instance.GoneAt; {
	case !end.IsZero() && !end.Before(r.BilledFrom.Add(-maxSkew)) && !end.After(now.Add(maxSkew)):
		r.BilledTo = earlier(end, now)
		if end.Before(r.BilledFrom) {
			r.BilledTo = r.BilledFrom
		}
	case !r.Doc.MissingAt.IsZero():
		r.BilledTo = r.Doc.MissingAt
	default:
		r.BilledTo = now
	}
}

// revived undoes gone: the sweep found the resource alive.
func (r *Record) revived(now time.Time, found backend.Owned) {
	r.BilledTo = time.Time{}
	r.exists(now, seen(found))
	r.unwanted(now)
}

func lookupPause(n int) time.Duration { return grow(time.Second, n, 30*time.Second) }

func bootPause(n int) time.Duration { return grow(time.Second, (n+1)/2, 10*time.Second) }

// deletePause grows fast while the provider refuses and slowly while it works on it.
func deletePause(n int, working bool) time.Duration {
	if working {
		return grow(time.Second, (n+1)/2, 30*time.Second)
	}
	return grow(2*time.Second, n, 10*time.Minute)
}

// grow doubles d with each n from 1 on, up to limit.
func grow(d time.Duration, n int, limit time.Duration) time.Duration {
	for range n - 1 {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return d
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
