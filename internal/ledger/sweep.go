package ledger

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// sweepEvery is the time between two comparisons of an account with the ledger. A machine
// that nobody knows of lives no longer than it and the settle time.
const sweepEvery = 5 * time.Minute

// accounts lists the accounts whose sweep belongs to this replica.
func (l *Ledger) accounts(ctx context.Context, _ store.Querier, shards []int) ([]string, error) {
	all, err := l.Clouds.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, a := range all {
		if id := a.id(); slices.Contains(shards, engine.Shard(id)) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (a Account) id() string { return a.ProjectID + "/" + a.Backend }

// Sweep asks for a comparison of an account with the ledger now, after its backend was
// configured, say.
func (l *Ledger) Sweep(a Account) { l.Engine.Wake(sweepKind, a.id()) }

func (l *Ledger) sweep(ctx context.Context, it engine.Item) (time.Time, error) {
	project, name, _ := strings.Cut(it.ID, "/")
	a := Account{project, name}
	if all, err := l.Clouds.Accounts(ctx); err != nil || !slices.Contains(all, a) {
		return time.Time{}, err // removed meanwhile
	}
	b, err := l.Clouds.Backend(ctx, project, name)
	if err != nil {
		return time.Time{}, fmt.Errorf("backend %s of project %s: %w", name, project, err)
	}
	began := time.Now()
	owned, _, unlisted := l.list(ctx, b, a, began)
	account := backend.AccountOf(b)
	records, err := scanAll(l.DB.Read().QueryContext(ctx, selectOpenOfAccount, a.ProjectID, a.Backend))
	if err != nil {
		return time.Time{}, fmt.Errorf("sweep %s: %w", it.ID, err)
	}
	if err := errors.Join(unlisted, l.takeUp(ctx, it, records)); err != nil {
		return time.Time{}, fmt.Errorf("sweep %s: %w", it.ID, err)
	}
	live := map[string]*Record{}
	for i := range records {
		live[records[i].ID] = &records[i]
	}
	var failed []error
	for _, o := range owned {
		if o.State == backend.StateGone {
			continue
		}
		if r := live[o.IntentID]; r != nil && r.explains(o, account) { // nearly all: no transaction for each
			l.absurd(*r, o.Price)
			continue
		}
		if err := l.explain(ctx, it, a, account, o, began.Add(-backend.Settle(b))); err != nil {
			failed = append(failed, fmt.Errorf("sweep %s %s: %w", o.Kind, o.Ref.ID, err))
		}
	}
	failed = append(failed, l.doubt(ctx, records, owned, began.Add(-backend.Settle(b))))
	if t, ok := b.(backend.TidyBackend); ok {
		failed = append(failed, l.tidy(ctx, a, t))
	}
	return time.Now().Add(sweepEvery - apart(it.ID)), errors.Join(failed...)
}

// apart is up to a tenth of the time between sweeps, another for each account, so that they
// do not stay together.
func apart(account string) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(account)) // a hash takes everything
	return time.Duration(h.Sum64() % uint64(sweepEvery/10))
}

// tidy has a backend remove what costs nothing and nothing uses any more.
func (l *Ledger) tidy(ctx context.Context, a Account, b backend.TidyBackend) error {
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, errNoAnswer)
	defer cancel()
	if err := b.Tidy(ctx, l.DB.ServerID()); err != nil {
		return fmt.Errorf("tidy %s: %w", a.Backend, err)
	}
	return nil
}

// explains says that there is nothing to do about what an account shows of an intent's resource.
func (r *Record) explains(o backend.Owned, account string) bool {
	return (r.State == Created || r.State == Deleting) && r.Doc.Instance.Ref.ID == o.Ref.ID && !r.repriced(o.Price) &&
		r.spoken(account) && (len(r.Doc.Accounts) > 0 || account == "") && !r.Astray() && r.Doc.Damage == ""
}

// explain compares one listed resource with the intent that should explain it, and begins
// to delete it when none does. Lists may still show what has ended later than at the time ended.
func (l *Ledger) explain(ctx context.Context, it engine.Item, a Account, account string, o backend.Owned, ended time.Time) error {
	return l.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		r, err := l.owner(ctx, tx, a, o)
		if err == nil {
			l.absurd(r, o.Price)
		}
		now := time.Now()
		switch {
		case errors.Is(err, store.ErrNotFound):
			return l.reap(ctx, tx, a, account, o)
		case err != nil:
			return err
		case r.State == Unknown:
			tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
		case r.State == Gone && r.Doc.GoneAt.Before(ended):
			l.Log.Warn("resource of a finished intent found, deleting it", "intent", r.ID, "backend", a.Backend, "resource", o.Ref.ID)
			before := r
			r.heard(account)
			r.revived(now, o)
			r.idle = false
			if err := update(ctx, tx, r); err != nil {
				return err
			}
			l.changed(tx, before, r)
			tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
		case !r.spoken(account) || len(r.Doc.Accounts) == 0 && account != "" || r.Astray() || r.Doc.Damage != "":
			return l.vouch(ctx, tx, r, account)
		case (r.State == Created || r.State == Deleting) && r.repriced(o.Price):
			before := r
			r.costs(now, o.Price)
			if err := update(ctx, tx, r); err != nil {
				return err
			}
			l.changed(tx, before, r)
		}
		return nil
	})
}

// vouch notes that an account shows the resource of an intent.
func (l *Ledger) vouch(ctx context.Context, tx *store.Tx, r Record, account string) error {
	before := r
	r.heard(account)
	if r.Astray() || r.Doc.Damage != "" { // a look at it brings back what there is to know
		r.Doc.Message, r.idle = "", false
		tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
	}
	if r.State == Deleting { // the credentials of before may have been refused
		tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
	}
	if err := update(ctx, tx, r); err != nil {
		return err
	}
	l.changed(tx, before, r)
	return nil
}

// owner finds the intent of a resource: by its tag, if that has it or may get it; else the one that has
// it; else one that was given up without any, by the tag; else the one that had it, which those have that
// an earlier sweep found; else by its name, where the provider keeps no tag. An intent that has or had
// another is no answer: the provider made two for one request, or mixes up tags.
func (l *Ledger) owner(ctx context.Context, q store.Querier, a Account, o backend.Owned) (Record, error) {
	has := func(r Record) bool { return r.Doc.Instance.Ref.ID == o.Ref.ID }
	none := func(r Record) bool { return r.Doc.Instance.Ref.ID == "" || r.misnamed() }
	tagged, unknown := Record{}, error(store.ErrNotFound)
	if o.IntentID != "" {
		tagged, unknown = Get(ctx, q, o.IntentID)
		switch {
		case unknown == nil && (has(tagged) || none(tagged) && tagged.State != Gone):
			return tagged, nil
		case unknown != nil && !errors.Is(unknown, store.ErrNotFound):
			return tagged, unknown
		}
	}
	r, err := scan(q.QueryRowContext(ctx, selectByResource, a.Backend, o.Ref.ID, string(o.Kind)))
	err = store.One(err)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound), err == nil && r.State != Gone:
		return r, err
	case unknown == nil && none(tagged):
		return tagged, nil
	case err == nil || o.IntentID != "":
		return r, err
	}
	live, err := scanAll(q.QueryContext(ctx, selectOfAccount, a.ProjectID, a.Backend))
	if err != nil {
		return Record{}, err
	}
	for _, r := range live {
		if r.Kind == o.Kind && o.Of(r.ID, r.requested()) && (has(r) || none(r)) {
			return r, nil
		}
	}
	return Record{}, store.ErrNotFound
}

// reap records a resource of ours that nothing explains, for deletion.
func (l *Ledger) reap(ctx context.Context, tx *store.Tx, a Account, account string, o backend.Owned) error {
	now := time.Now()
	r := Record{
		ID: uuid.NewString(), Version: 1, Kind: o.Kind, Backend: a.Backend, Region: o.Ref.Region, ProjectID: a.ProjectID,
		CreatedAt: now,
	}
	if r.mayBegin(now, o.CreatedAt) {
		r.Doc.TriedAt = o.CreatedAt
	}
	r.heard(account)
	r.revived(now, o)
	if err := insert(ctx, tx, r); err != nil {
		return err
	}
	l.Log.Warn("resource without intent found, deleting it",
		"intent", r.ID, "tagged", o.IntentID, "backend", a.Backend, "resource", o.Ref.ID, "name", o.Name)
	tx.OnCommit(func() { l.Engine.Wake(Kind, r.ID) })
	return nil
}

// doubt has created resources of an account looked at that the list lacks, if they are older than
// limit, and what waits for other credentials: the present ones may be new.
func (l *Ledger) doubt(ctx context.Context, records []Record, owned []backend.Owned, limit time.Time) error {
	listed := map[string]bool{}
	for _, o := range owned {
		if o.State != backend.StateGone {
			listed[string(o.Kind)+"/"+o.Ref.ID] = true
		}
	}
	for _, r := range records {
		if r.Astray() {
			l.Engine.Wake(Kind, r.ID)
		}
		if r.State != Created || listed[string(r.Kind)+"/"+r.Doc.Instance.Ref.ID] || r.Doc.TriedAt.After(limit) {
			continue
		}
		if err := l.DB.Write(ctx, func(tx *store.Tx) error { return l.Check(ctx, tx, r.ID) }); err != nil {
			return err
		}
	}
	return nil
}

// lists shares listings: when many intents of an account are unknown, one call answers all.
type lists struct {
	mu  sync.Mutex
	all map[source]*listing
}

type listing struct {
	turn   chan struct{} // holds a token while nobody lists
	began  time.Time
	owned  []backend.Owned
	unread *backend.UnreadError // what of it could not be read, nil for nothing
	failed time.Time            // when the last call ended that was not answered, err is why
	err    error
}

// list returns what the account lists, as of a call that began at or after since, and what of that could
// not be read, nil for nothing. A call that fails does so for all who wait for it: each of them may take
// minutes.
func (l *Ledger) list(ctx context.Context, b backend.Backend, a Account, since time.Time) ([]backend.Owned, *backend.UnreadError, error) {
	l.lists.mu.Lock()
	if l.lists.all == nil {
		l.lists.all = map[source]*listing{}
	}
	from := sourceOf(a, b)
	s := l.lists.all[from]
	if s == nil {
		s = &listing{turn: make(chan struct{}, 1)}
		s.turn <- struct{}{}
		l.lists.all[from] = s
	}
	l.lists.mu.Unlock()

	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	defer func() { s.turn <- struct{}{} }()
	switch {
	case !s.began.Before(since):
		return s.owned, s.unread, nil
	case s.failed.After(since):
		return nil, nil, s.err
	}
	began := time.Now()
	call, cancel := context.WithTimeoutCause(ctx, listTimeout, errNoAnswer)
	defer cancel()
	owned, err := b.List(call, l.DB.ServerID())
	unread, part := errors.AsType[*backend.UnreadError](err)
	if err != nil && !part {
		err = fmt.Errorf("list %s: %w", a.Backend, err)
		if ctx.Err() == nil { // else this caller has given up, which says nothing to others
			s.failed, s.err = time.Now(), err
		}
		return nil, nil, err
	}
	if part && (s.unread == nil || s.unread.Error() != unread.Error()) {
		l.Log.Warn("an account is not listed as it should be", "backend", a.Backend, "project", a.ProjectID, "err", unread)
	}
	s.began, s.owned, s.unread = began, owned, unread
	return owned, unread, nil
}
