package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
)

// slow is how long a backend may take to answer before it is said that it does not.
const slow = 5 * time.Second

// A Problem is a backend whose offers are missing or old.
type Problem struct {
	Backend string
	// Text says what is wrong, for people. It has nothing of what the provider said, which
	// may not be for everybody; the log has that.
	Text string
	At   time.Time // when the offers were heard that stand, zero when there are none
}

// Problems lists the project's backends that do not answer, or with errors.
func (c *Catalog) Problems(ctx context.Context, projectID string) ([]Problem, error) {
	return c.problems(ctx, projectID, func(a ledger.Account, k *answer, say func(text string, at time.Time)) {
		if text := k.problem(time.Now(), "offers"); text != "" {
			say(text, k.heard)
		}
		if k.absurd > 0 {
			say(absurd(k.absurd), k.heard)
		}
		for _, s := range c.reservationsAsked(a) {
			k := c.known[s]
			if text := k.problem(time.Now(), fmt.Sprintf("facts about reservation %q", s.reservation)); text != "" {
				say(text, k.heard)
			}
		}
	})
}

// Silent lists the project's backends on whose offers nothing can be bought, since they do not say
// which they have. Its texts do not change with time alone.
func (c *Catalog) Silent(ctx context.Context, projectID string) ([]Problem, error) {
	return c.problems(ctx, projectID, func(_ ledger.Account, k *answer, say func(text string, at time.Time)) {
		switch {
		case k.valid(time.Now()):
		case k.err != nil:
			say(reason(k.err), k.heard)
		default:
			say("has not answered yet", k.heard)
		}
	})
}

// problems are what look says of the project's backends that were asked for their offers. It holds the
// mutex meanwhile.
func (c *Catalog) problems(ctx context.Context, projectID string, look func(a ledger.Account, k *answer, say func(text string, at time.Time))) ([]Problem, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Problem
	for _, a := range accounts {
		if k := c.known[subject{Account: a}]; k != nil {
			look(a, k, func(text string, at time.Time) { list = append(list, Problem{Backend: a.Backend, Text: text, At: at}) })
		}
	}
	return list, nil
}

// absurd tells of offers that were left out.
func absurd(n int) string {
	if n == 1 {
		return "made an offer that nobody can mean, which is left out"
	}
	return fmt.Sprintf("made %d offers that nobody can mean, which are left out", n)
}

// reservationsAsked are those that an account was asked about lately, by name. It wants the mutex held.
func (c *Catalog) reservationsAsked(a ledger.Account) []subject {
	var list []subject
	for s, k := range c.known {
		if s.Account == a && s.reservation != "" && time.Since(k.wanted) < fresh {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b subject) int { return strings.Compare(a.reservation, b.reservation) })
	return list
}

// problem says what keeps things that were asked for from being new, "" for nothing.
func (k *answer) problem(now time.Time, things string) string {
	pause := now.Sub(k.asked)
	why := ""
	switch {
	case k.err != nil:
		why = reason(k.err)
	case k.asking && k.at.IsZero():
		return fmt.Sprintf("was asked for the first time %v ago and has not answered yet; its %s are missing, look again soon", pause.Round(time.Second), things)
	case k.asking && (pause > slow || !k.valid(now) && pause >= coldWait):
		why = fmt.Sprintf("has not answered for %v", pause.Round(time.Second))
	default:
		return ""
	}
	if k.heard.IsZero() {
		return why + "; its " + things + " are missing"
	}
	return fmt.Sprintf("%s; its %s are those of %v ago", why, things, now.Sub(k.heard).Round(time.Second))
}

// reason is the kind of an error.
func reason(err error) string {
	if _, ok := errors.AsType[*backend.RateLimitedError](err); ok {
		return "limits how often it can be asked"
	}
	switch {
	case errors.Is(err, backend.ErrAuth):
		return "does not take the credentials"
	case silent(err):
		return fmt.Sprintf("did not answer within %v", deadline)
	}
	return "cannot say what it offers"
}
