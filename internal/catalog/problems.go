package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dstack/internal/backend"
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
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Problem
	for _, a := range accounts {
		if k := c.known[a]; k != nil {
			if text := k.problem(time.Now()); text != "" {
				list = append(list, Problem{Backend: a.Backend, Text: text, At: k.heard})
			}
		}
	}
	return list, nil
}

// problem says what keeps offers from being new, "" for nothing.
func (k *answer) problem(now time.Time) string {
	pause := now.Sub(k.asked)
	why := ""
	switch {
	case k.err != nil:
		why = reason(k.err)
	case k.asking && k.at.IsZero():
		return fmt.Sprintf("was asked for the first time %v ago and has not answered yet; its offers are missing, look again soon", pause.Round(time.Second))
	case k.asking && (pause > slow || !k.valid(now) && pause >= coldWait):
		why = fmt.Sprintf("has not answered for %v", pause.Round(time.Second))
	default:
		return ""
	}
	if k.heard.IsZero() {
		return why + "; its offers are missing"
	}
	return fmt.Sprintf("%s; its offers are those of %v ago", why, now.Sub(k.heard).Round(time.Second))
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
