package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// Whose word counts. A resource is that of an intent once Describe or List has shown it with
// the intent's mark: what a Create answered may be somebody else's, and is neither used nor
// deleted before. And that something is not there is evidence from the account alone in which it
// was: another account never lists it.

const (
	// otherAccount is the message of an intent whose resource the present credentials do not
	// know, while others did.
	otherAccount = "the backend's present credentials do not show it, and may be of another account than those it was made with: put the old ones back, or ones of the same account"
	// accountPause is when to look again then; a change of the backend does not wake intents, the
	// sweep after it does.
	accountPause = 5 * time.Minute
	// maxAccounts bounds what an intent remembers: keys of one account that were changed.
	maxAccounts = 8
	// maxKin bounds the intents that tell whether two credentials are of one account.
	maxKin = 1000
)

var (
	errForeign   = errors.New("it is not marked as ours")
	errElsewhere = errors.New(otherAccount)
)

const selectMade = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND backend = $2 AND resource_id <> ''
ORDER  BY created_at DESC, id LIMIT $3`

// witness is who says something about a resource.
type witness struct {
	account string // [backend.AccountOf]
	kin     bool   // it has shown what an account of the intent has shown, so it is the same one
}

// witness weighs what a backend will say about r.
func (l *Ledger) witness(ctx context.Context, r Record, b backend.Backend) (witness, error) {
	w := witness{account: backend.AccountOf(b)}
	if r.spoken(w.account) {
		return w, nil
	}
	made, err := scanAll(l.DB.Read().QueryContext(ctx, selectMade, r.ProjectID, r.Backend, maxKin))
	w.kin = slices.ContainsFunc(made, func(m Record) bool { return kin(m, w.account, r.Doc.Accounts) })
	return w, err
}

// kin reports whether m was seen with an account and with one of others.
func kin(m Record, account string, others []string) bool {
	return slices.Contains(m.Doc.Accounts, account) &&
		slices.ContainsFunc(m.Doc.Accounts, func(a string) bool { return slices.Contains(others, a) })
}

// spoken reports whether an account asked for the resource or has shown it. Without accounts
// there is nothing to mix up.
func (r Record) spoken(account string) bool {
	return account == "" || len(r.Doc.Accounts) == 0 || slices.Contains(r.Doc.Accounts, account)
}

// heard remembers an account that asked for the resource or has shown it.
func (r *Record) heard(account string) {
	if account == "" || slices.Contains(r.Doc.Accounts, account) {
		return
	}
	all := append(slices.Clone(r.Doc.Accounts), account)
	r.Doc.Accounts = all[max(0, len(all)-maxAccounts):]
}

func (r Record) believes(w witness) bool { return w.kin || r.spoken(w.account) }

// proven reports whether the resource was shown as ours, by the account that is asked now.
func (r Record) proven(w witness) bool { return r.believes(w) && r.shown() }

// shown reports whether the resource that the record names is the one that was shown as ours. A row that
// somebody edited, or filled with what another has, may name a stranger's: it is asked for first.
func (r Record) shown() bool {
	return !r.Doc.SeenAt.IsZero() && r.Doc.Proof == r.proof()
}

// misnamed reports whether the record names another resource than the one that was shown as ours.
func (r Record) misnamed() bool { return !r.Doc.SeenAt.IsZero() && !r.shown() }

// proof is a digest of an intent and the ref of its resource.
func (r Record) proof() string {
	ref, _ := json.Marshal(r.Doc.Instance.Ref) // it has only texts
	sum := sha256.Sum256(append([]byte(r.ID+" "), ref...))
	return hex.EncodeToString(sum[:8])
}

// weigh turns the answer to a Describe into what it proves: errForeign and errElsewhere are no
// news of the resource.
func (r *Record) weigh(w witness, inst backend.Instance, err error) error {
	switch {
	case errors.Is(err, backend.ErrNotFound) && !r.believes(w):
		return errElsewhere
	case errors.Is(err, backend.ErrNotFound) && r.misnamed(): // says nothing of the one that is ours
		return errForeign
	case err != nil:
		return err
	case inst.Of(r.ID, r.requested()):
		r.heard(w.account)
		return nil
	case r.proven(w):
		return nil
	case r.believes(w):
		return errForeign
	}
	return errElsewhere
}

// requested is the name under which the resource was asked for.
func (r Record) requested() string {
	switch {
	case r.Doc.Create != nil:
		return r.Doc.Create.Name
	case r.Doc.Volume != nil:
		return r.Doc.Volume.Name
	case r.Doc.Placement != nil:
		return r.Doc.Placement.Name
	}
	return ""
}

// disown forgets what a Create named, or an edited record: whether there is something of ours has to be
// looked up. What was shown before has cost money since, and may turn up as late as what was just asked for.
func (r *Record) disown(now time.Time) time.Time {
	if r.Doc.SeenAt.IsZero() {
		r.Doc.Message = "the provider answered with " + r.Doc.Instance.Ref.ID + ", which is not marked as ours"
		r.BilledFrom = time.Time{}
	} else {
		r.Doc.Message = "the record names " + r.Doc.Instance.Ref.ID + ", which was not shown as ours"
		r.Doc.TriedAt = now
	}
	r.State, r.Doc.Instance = Unknown, backend.Instance{}
	r.Doc.DescribedAt, r.Doc.MissingAt, r.Doc.DeletingAt, r.Doc.Taken, r.Doc.Tries = time.Time{}, time.Time{}, time.Time{}, false, 1
	return now
}

// astray notes that only another account than the present one knows the resource.
func (r *Record) astray(now time.Time) time.Time {
	if !r.Astray() || r.Doc.AstrayAt.IsZero() {
		r.Doc.AstrayAt = now
	}
	r.Doc.Message = otherAccount
	return now.Add(accountPause)
}

// Astray reports whether the resource is unknown to the backend's present credentials, which may
// be of another account than those it was made with.
func (r Record) Astray() bool { return r.Doc.Message == otherAccount && r.State != Gone }

// verified stores what became of the question whose the resource is, before its deletion.
func (r *Record) verified(now time.Time, w witness, inst backend.Instance, err error, settle time.Duration) time.Time {
	switch err := r.weigh(w, inst, err); {
	case errors.Is(err, errForeign):
		return r.disown(now)
	case errors.Is(err, errElsewhere):
		return r.astray(now)
	case err == nil && inst.State != backend.StateGone:
		r.see(now, inst)
		return now
	default:
		return r.terminated(now, err, inst, err, settle)
	}
}

const selectOfAccount = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND backend = $2 AND state <> 'gone' AND state <> 'intended'
ORDER  BY created_at, id`

// selectOpenOfAccount is selectOfAccount with what was not asked for.
const selectOpenOfAccount = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND backend = $2 AND state <> 'gone'
ORDER  BY created_at, id`

// A Cover is what credentials show of an account.
type Cover struct {
	of      Account
	account string          // [backend.AccountOf]
	owned   []backend.Owned // none when all was asked for or shown with the same
}

// Cover asks b, with other credentials, what it shows of an account, if that matters. It changes nothing.
func (l *Ledger) Cover(ctx context.Context, a Account, b backend.Backend) (Cover, error) {
	c := Cover{of: a, account: backend.AccountOf(b)}
	missed, err := c.Missed(ctx, l.DB.Read())
	if err != nil || len(missed) == 0 {
		return c, err
	}
	c.owned, _, err = l.list(ctx, b, a, time.Now()) // what cannot be read does not show it
	return c, err
}

// Missed lists what may cost money in the account and what the credentials do not show, unless they
// show something else of the same account. What was asked for after the [Ledger.Cover] is missed too.
func (c Cover) Missed(ctx context.Context, q store.Querier) ([]Record, error) {
	if c.account == "" {
		return nil, nil
	}
	live, err := scanAll(q.QueryContext(ctx, selectOfAccount, c.of.ProjectID, c.of.Backend))
	if err != nil {
		return nil, fmt.Errorf("list what exists in %s: %w", c.of.id(), err)
	}
	own := func(r Record) bool { return r.Doc.Accounts != nil && r.spoken(c.account) }
	return missed(live, func(r Record) bool { return own(r) || find(c.owned, r) != nil }), nil
}

// missed leaves of live what an account does not answer for: it does for what is shown, and for
// what was made in the account of that, which is gone when it lacks it. Several accounts may be
// mixed up in live.
func missed(live []Record, shown func(Record) bool) []Record {
	var accounts []string
	for _, r := range live {
		if shown(r) {
			accounts = append(accounts, r.Doc.Accounts...)
		}
	}
	return slices.DeleteFunc(live, func(r Record) bool {
		return shown(r) || slices.ContainsFunc(r.Doc.Accounts, func(a string) bool { return slices.Contains(accounts, a) })
	})
}
