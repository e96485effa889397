package catalog

import (
	"context"
	"slices"

	"dstack/internal/ledger"
)

// Warm begins to ask the backends that were never asked, so that their answers are there when
// somebody wants to know. It waits for none.
func (c *Catalog) Warm(ctx context.Context) error {
	accounts, err := c.Clouds.Accounts(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	accounts = slices.DeleteFunc(slices.Clone(accounts), func(a ledger.Account) bool { return c.known[subject{Account: a}] != nil })
	c.mu.Unlock()
	c.refreshStale(offersOf(accounts), fresh, false)
	return nil
}
