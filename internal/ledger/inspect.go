package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// inspectTimeout is how long somebody who looks waits for the list of one account: the others are shown
// without it.
const inspectTimeout = 45 * time.Second

// maxInspected bounds the resources of one inspection.
const maxInspected = 20_000

const selectLive = `
SELECT ` + columns + ` FROM intent
WHERE  state <> 'gone'
ORDER  BY created_at, id LIMIT $1`

// Verdict says how sure the ledger is of a resource.
type Verdict string

// The verdicts.
const (
	Confirmed   Verdict = "confirmed"   // the provider lists it
	Expected    Verdict = "expected"    // just asked for, or about to be
	Unconfirmed Verdict = "unconfirmed" // the provider does not list it, or could not be asked
	Broken      Verdict = "broken"      // the ledger's row cannot be read as a whole
	Ending      Verdict = "ending"      // deletion was asked for, the provider has not confirmed it
	Unexplained Verdict = "unexplained" // carries our tag without a live intent; it is deleted
)

// Found is one resource that costs or may cost money.
type Found struct {
	Record  // of an unexplained one only what the provider says
	Verdict Verdict
	Project string // id
	Debt    bool   // unknown or not deleted for longer than normal
	// Forgettable says that nobody can be asked about it, see [Ledger.Forget].
	Forgettable bool
}

// Inspection is what exists now, by what the ledger knows and the providers list.
type Inspection struct {
	Found    []Found
	Accounts []AccountState
}

// AccountState says whether an account could be asked.
type AccountState struct {
	Account
	Err    error                // nil: it was listed
	Unread *backend.UnreadError // what of the list could not be read, nil for nothing
}

// Inspect lists every account now and compares it with the ledger. It changes nothing.
func (l *Ledger) Inspect(ctx context.Context, q store.Querier) (Inspection, error) {
	records, err := scanAll(q.QueryContext(ctx, selectLive, maxInspected))
	if err != nil {
		return Inspection{}, fmt.Errorf("list what the ledger knows: %w", err)
	}
	accounts, err := l.Clouds.Accounts(ctx)
	if err != nil {
		return Inspection{}, err
	}
	states, listed := l.listAll(ctx, accounts)
	out := Inspection{Accounts: states}
	now := time.Now()
	known := map[string]bool{} // intents, and resources: a sweep records those without an intent by what they are
	for _, r := range records {
		a := Account{r.ProjectID, r.Backend}
		list, asked := listed[a]
		known[r.ID] = true
		if ref := r.Doc.Instance.Ref.ID; ref != "" {
			known[resource(r.Backend, r.Kind, ref)] = true
		}
		out.Found = append(out.Found, Found{Record: r, Project: r.ProjectID, Verdict: verdict(r, list, asked), Debt: r.debt(now), Forgettable: r.forgettable(now, asked || slices.Contains(accounts, a), asked, list)})
	}
	for a, list := range listed {
		for _, o := range list.owned {
			if !known[o.IntentID] && !known[resource(a.Backend, o.Kind, o.Ref.ID)] && o.State != backend.StateGone {
				r := Record{Kind: o.Kind, Backend: a.Backend, Region: o.Ref.Region, ProjectID: a.ProjectID, Price: o.Price, CreatedAt: o.CreatedAt}
				r.Doc.Instance = backend.Instance{Ref: o.Ref, State: o.State}
				out.Found = append(out.Found, Found{Record: r, Project: a.ProjectID, Verdict: Unexplained, Debt: true})
			}
		}
	}
	slices.SortStableFunc(out.Found, func(a, b Found) int {
		return cmp.Or(cmp.Compare(b.Price, a.Price), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// resource names what a provider lists, unlike any intent.
func resource(name string, kind backend.ResourceKind, id string) string {
	return name + "/" + string(kind) + "/" + id
}

// accountList is what an account listed.
type accountList struct {
	account string // [backend.AccountOf]
	owned   []backend.Owned
	partial bool // there may be more, which could not be read
}

// listAll asks all accounts at the same time; those that do not answer are missing.
func (l *Ledger) listAll(ctx context.Context, accounts []Account) ([]AccountState, map[Account]accountList) {
	states := make([]AccountState, len(accounts))
	lists := make([]accountList, len(accounts))
	var wg sync.WaitGroup
	for i, a := range accounts {
		states[i].Account = a
		wg.Go(func() {
			b, err := l.Clouds.Backend(ctx, a.ProjectID, a.Backend)
			if err == nil {
				lists[i].account = backend.AccountOf(b)
				call, cancel := context.WithTimeoutCause(ctx, inspectTimeout, errNoAnswer)
				defer cancel()
				lists[i].owned, states[i].Unread, err = l.list(call, b, a, time.Now())
				lists[i].partial = states[i].Unread != nil && states[i].Unread.Hidden
			}
			states[i].Err = err
		})
	}
	wg.Wait()
	listed := map[Account]accountList{}
	for i, s := range states {
		if s.Err == nil {
			listed[s.Account] = lists[i]
		}
	}
	return states, listed
}

// verdict compares a live intent with what its account listed.
func verdict(r Record, list accountList, asked bool) Verdict {
	there := r.listed(list)
	switch {
	case r.Doc.Damage != "":
		return Broken
	case r.Astray() && !there:
		return Unconfirmed
	case !r.Wanted || r.State == Deleting:
		return Ending
	case there:
		return Confirmed
	case r.State == Intended, asked && r.State == Created && r.spoken(list.account) && time.Since(r.CreatedAt) < backend.DefaultSettle:
		return Expected
	}
	return Unconfirmed
}

// listed says that an account shows the resource.
func (r Record) listed(list accountList) bool {
	return slices.ContainsFunc(list.owned, func(o backend.Owned) bool {
		return o.State != backend.StateGone && (o.IntentID == r.ID || o.Ref.ID != "" && o.Ref.ID == r.Doc.Instance.Ref.ID)
	})
}

// debt says that the record is unknown or cannot be deleted for longer than normal.
func (r Record) debt(now time.Time) bool {
	switch r.State {
	case Unknown:
		return now.Sub(r.Doc.TriedAt) > debtAfter
	case Deleting:
		return now.Sub(r.Doc.DeletingAt) > debtAfter
	}
	return false
}

// Problem is why an account could not be listed, "" when it was.
func (a AccountState) Problem() string {
	switch {
	case a.Err == nil:
		return ""
	case errors.Is(a.Err, backend.ErrAuth):
		return "the credentials were rejected"
	}
	return a.Err.Error()
}
