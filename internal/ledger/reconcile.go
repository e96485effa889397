package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// Deadlines of the calls to providers: well above what was seen to be normal.
const (
	createTimeout   = 5 * time.Minute // Kubernetes and Azure answer after the machine is placed
	describeTimeout = time.Minute
	deleteTimeout   = time.Minute
	listTimeout     = 2 * time.Minute // all regions of AWS
	storeTimeout    = 10 * time.Second
)

var (
	errNoAnswer = errors.New("the provider did not answer in time")
	errChanged  = errors.New("its backend was changed or deleted meanwhile")
)

// maxOpenTries is how often an intent that was not begun waits for its backend's
// configuration to be readable.
const maxOpenTries = 3

func (l *Ledger) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	r, err := load(ctx, l.DB.Read(), it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	what, at := step(time.Now(), r)
	switch what {
	case none:
		return at, l.markIdle(ctx, it, r, at)
	case cancel:
		l.withdraw(ctx, r)
		return l.still(ctx, it, cancel, func(r *Record) { r.gone(time.Now(), Cancelled) }, Intended)
	case refuse:
		l.withdraw(ctx, r)
		return l.still(ctx, it, refuse, func(r *Record) { r.unplaceable(time.Now(), r.group.Doc.Message) }, Intended)
	case pass:
		return l.still(ctx, it, pass, func(r *Record) { r.unwanted(time.Now()) }, Created)
	}
	b, err := l.Clouds.Backend(ctx, r.ProjectID, r.Backend)
	if err != nil {
		return l.closed(ctx, it, r, fmt.Errorf("backend %s of project %s: %w", r.Backend, r.ProjectID, err))
	}
	from := sourceOf(Account{r.ProjectID, r.Backend}, b)
	if !l.crowds.enter(time.Now(), from, r.ID) {
		return time.Now().Add(crowdPause), nil
	}
	defer func() {
		if next := l.crowds.leave(time.Now(), from); next != "" {
			l.Engine.Wake(Kind, next)
		}
	}()
	ops, err := operations(b, r.Kind)
	if err != nil {
		return l.closed(ctx, it, r, err)
	}
	switch what {
	case create:
		p, grouped := groups(b, r)
		switch {
		case grouped && r.group == nil:
			return l.join(ctx, it, p)
		case grouped && !p.Placeable(r.Doc.Create.Offer, r.group.Doc.Instance.Ref):
			return l.save(ctx, it, func(r *Record) time.Time { r.unplaceable(time.Now(), ""); return time.Time{} }, Intended)
		}
		switch why, again, err := l.affordable(ctx, r); {
		case err != nil || !again.IsZero():
			return again, err
		case why != "":
			l.withdraw(ctx, r)
			return l.save(ctx, it, func(r *Record) time.Time { r.tooDear(time.Now(), why); return time.Time{} }, Intended)
		}
		return l.create(ctx, it, b, ops)
	case lookup:
		return l.lookup(ctx, it, r, b)
	case describe:
		return l.describe(ctx, it, r, b, ops)
	default:
		return l.terminate(ctx, it, r, b, ops)
	}
}

// closed handles a backend that cannot be opened: an intent that was not begun ends, the
// others wait for it as long as it takes.
func (l *Ledger) closed(ctx context.Context, it engine.Item, r Record, why error) (time.Time, error) {
	if r.State != Intended || it.Attempt < maxOpenTries {
		return time.Time{}, why
	}
	return l.save(ctx, it, func(r *Record) time.Time {
		r.Doc.Message = why.Error()
		r.gone(time.Now(), Invalid)
		return time.Time{}
	}, Intended)
}

// withdraw gives up the turn of an intent that waits in its backend's own queue. It is a courtesy
// to the others: a turn that nobody comes for is lost after a while.
func (l *Ledger) withdraw(ctx context.Context, r Record) {
	if r.Doc.TriedAt.IsZero() {
		return
	}
	b, err := l.Clouds.Backend(ctx, r.ProjectID, r.Backend)
	if err != nil {
		return
	}
	if q, ok := b.(backend.QueueBackend); ok {
		q.Withdraw(r.ID)
	}
}

func (l *Ledger) create(ctx context.Context, it engine.Item, b backend.Backend, ops ops) (time.Time, error) {
	var r Record
	asked := false
	_, err := l.transact(ctx, it, func(tx *store.Tx, now *Record) (time.Time, error) {
		if what, _ := step(time.Now(), *now); what != create {
			return time.Time{}, nil
		}
		// In the transaction that makes it count as what may exist: who deletes the backend, or gives it
		// the credentials of another account, sees it in theirs, or is seen here.
		switch current, err := l.Current(ctx, tx, Account{now.ProjectID, now.Backend}, b); {
		case err != nil:
			return time.Time{}, err
		case !current:
			return time.Time{}, errChanged
		}
		now.asking(time.Now(), backend.AccountOf(b))
		r = *now
		tx.OnCommit(func() { asked = true })
		return time.Time{}, nil
	}, Intended)
	if err != nil || !asked {
		return time.Now(), err
	}
	// From here on money may be spent: the record must survive a loss of power too.
	if err := l.DB.Sync(); err != nil {
		return time.Time{}, err
	}
	call, cancel := context.WithTimeoutCause(ctx, createTimeout, errNoAnswer)
	defer cancel()
	inst, err := ops.create(call, r)
	log := l.Log.With("intent", r.ID, "kind", r.Kind, "backend", r.Backend, "region", r.Region, "project", r.ProjectID)
	switch {
	case err == nil:
		log.Info("resource created", "resource", inst.Ref.ID)
		l.absurd(r, inst.Price)
	case backend.Refused(err):
		log.Info("create refused", "err", err)
	default:
		log.Warn("create not answered clearly, looking for the resource", "err", err)
	}
	return l.store(ctx, it, func(r *Record) time.Time { return r.answered(time.Now(), inst, err) }, Unknown)
}

func (l *Ledger) lookup(ctx context.Context, it engine.Item, r Record, b backend.Backend) (time.Time, error) {
	began := time.Now()
	owned, unread, err := l.list(ctx, b, Account{r.ProjectID, r.Backend}, began)
	if err != nil {
		return time.Time{}, fmt.Errorf("look up intent %s: %w", r.ID, err)
	}
	w, err := l.witness(ctx, r, b)
	if err != nil {
		return time.Time{}, fmt.Errorf("look up intent %s: %w", r.ID, err)
	}
	found := find(owned, r)
	if found == nil && unread != nil && unread.Hidden {
		return time.Time{}, fmt.Errorf("look up intent %s: %w", r.ID, unread) // it may be among that
	}
	if found != nil {
		l.Log.Info("resource adopted", "intent", r.ID, "backend", r.Backend, "resource", found.Ref.ID)
	}
	settle := backend.Settle(b)
	return l.store(ctx, it, func(r *Record) time.Time { return r.searched(time.Now(), began, w, found, settle) }, Unknown)
}

// find picks the resource of an intent from a list: by tag, else by name, which is as unique.
func find(owned []backend.Owned, r Record) *backend.Owned {
	var found *backend.Owned
	for i, o := range owned {
		if o.Kind != r.Kind || !o.Of(r.ID, r.requested()) {
			continue
		}
		if found == nil || found.State == backend.StateGone {
			found = &owned[i]
		}
	}
	return found
}

func (l *Ledger) describe(ctx context.Context, it engine.Item, r Record, b backend.Backend, ops ops) (time.Time, error) {
	inst, err := ask(ctx, ops, r.Doc.Instance.Ref)
	if limit, ok := errors.AsType[*backend.RateLimitedError](err); ok {
		return time.Now().Add(min(max(limit.After, time.Second), longestLimit)), nil
	}
	if err != nil && !errors.Is(err, backend.ErrNotFound) {
		return time.Time{}, fmt.Errorf("describe %s %s: %w", r.Kind, r.Doc.Instance.Ref.ID, err)
	}
	l.absurd(r, inst.Price)
	return l.judge(ctx, it, r, b, func(r *Record, w witness) time.Time {
		return r.described(time.Now(), w, inst, err, backend.Settle(b))
	})
}

// judge stores what an answer means, weighed by who gave it.
func (l *Ledger) judge(ctx context.Context, it engine.Item, r Record, b backend.Backend, change func(*Record, witness) time.Time) (time.Time, error) {
	w, err := l.witness(ctx, r, b)
	if err != nil {
		return time.Time{}, fmt.Errorf("intent %s: %w", r.ID, err)
	}
	log := l.Log.With("intent", r.ID, "kind", r.Kind, "backend", r.Backend, "region", r.Region, "project", r.ProjectID, "resource", r.Doc.Instance.Ref.ID)
	return l.store(ctx, it, func(r *Record) time.Time {
		before := *r
		at := change(r, w)
		switch {
		case r.State == Unknown:
			log.Warn("the provider answered with what is not ours, looking for the resource")
		case r.Astray() && !before.Astray():
			log.Error("a resource that may cost money is not known to the present credentials of its backend, which may be of another account; it is kept until credentials of its account say that it is gone")
		}
		return at
	}, r.State)
}

func ask(ctx context.Context, ops ops, ref backend.Ref) (backend.Instance, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, describeTimeout, errNoAnswer)
	defer cancel()
	return ops.describe(ctx, ref)
}

func (l *Ledger) terminate(ctx context.Context, it engine.Item, r Record, b backend.Backend, ops ops) (time.Time, error) {
	ref := r.Doc.Instance.Ref
	switch w, err := l.witness(ctx, r, b); {
	case err != nil:
		return time.Time{}, fmt.Errorf("intent %s: %w", r.ID, err)
	case !r.proven(w):
		inst, err := ask(ctx, ops, ref)
		return l.judge(ctx, it, r, b, func(r *Record, w witness) time.Time {
			return r.verified(time.Now(), w, inst, err, backend.Settle(b))
		})
	}
	call, cancel := context.WithTimeoutCause(ctx, deleteTimeout, errNoAnswer)
	asked := ops.terminate(call, ref)
	cancel()
	inst, described := backend.Instance{}, asked
	if _, limited := errors.AsType[*backend.RateLimitedError](asked); !limited { // also when refused: somebody else may have ended it
		inst, described = ask(ctx, ops, ref)
	}
	log := l.Log.With("intent", r.ID, "kind", r.Kind, "backend", r.Backend, "region", r.Region, "resource", ref.ID)
	if asked != nil && !errors.Is(asked, backend.ErrNotFound) {
		log.Warn("deletion refused, will be repeated", "err", asked, "attempt", r.Doc.Tries+1)
	}
	settle := backend.Settle(b)
	return l.store(ctx, it, func(r *Record) time.Time {
		at := r.terminated(time.Now(), asked, inst, described, settle)
		if r.State == Gone {
			log.Info("resource gone")
		}
		return at
	}, Deleting)
}

// store is save for what a provider said: it happens even if ctx just ended.
func (l *Ledger) store(ctx context.Context, it engine.Item, change func(*Record) time.Time, from State) (time.Time, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return l.save(ctx, it, change, from)
}

// still is save of what was decided, if that would be decided now as well: somebody may have
// joined a group meanwhile.
func (l *Ledger) still(ctx context.Context, it engine.Item, decided effect, change func(*Record), from State) (time.Time, error) {
	return l.save(ctx, it, func(r *Record) time.Time {
		if what, at := step(time.Now(), *r); what != decided {
			return at
		}
		change(r)
		return time.Time{}
	}, from)
}

// save applies change to the record as it is now and returns when to look again. It does
// nothing when the record left the state from. The owner hears of what it can see.
func (l *Ledger) save(ctx context.Context, it engine.Item, change func(*Record) time.Time, from State) (time.Time, error) {
	return l.transact(ctx, it, func(_ *store.Tx, r *Record) (time.Time, error) { return change(r), nil }, from)
}

// transact is save with a change that takes more than the record.
func (l *Ledger) transact(ctx context.Context, it engine.Item, change func(*store.Tx, *Record) (time.Time, error), from State) (at time.Time, err error) {
	err = l.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		r, err := load(ctx, tx, it.ID)
		if err != nil {
			return err
		}
		if r.State != from {
			at = time.Now()
			return nil
		}
		before := r
		if at, err = change(tx, &r); err != nil {
			return err
		}
		what, next := step(time.Now(), r)
		r.idle = what == none && next.IsZero()
		if what != none && at.IsZero() {
			at = time.Now() // released or checked meanwhile
		}
		if err := update(ctx, tx, r); err != nil {
			return err
		}
		l.changed(tx, before, r)
		return l.spread(ctx, tx, before, r)
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("store intent %s: %w", it.ID, err)
	}
	return at, nil
}

// changed tells the owner after the commit, if it can see a difference.
func (l *Ledger) changed(tx *store.Tx, before, after Record) {
	same := before.State == after.State && before.Price == after.Price &&
		before.Doc.Message == after.Doc.Message && before.Doc.Outcome == after.Doc.Outcome &&
		before.Doc.Instance.Equal(after.Doc.Instance)
	if same || after.OwnerKind == "" {
		return
	}
	tx.OnCommit(func() { l.OnChange(after.OwnerKind, after.OwnerID) })
}

// markIdle keeps sweeps from looking at an intent that has nothing to do.
func (l *Ledger) markIdle(ctx context.Context, it engine.Item, r Record, at time.Time) error {
	if r.idle || !at.IsZero() {
		return nil
	}
	_, err := l.save(ctx, it, func(*Record) time.Time { return time.Time{} }, r.State)
	return err
}
