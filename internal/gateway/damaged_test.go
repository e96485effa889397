package gateway

import (
	"strings"
	"testing"

	"dstack/internal/api"
	"dstack/internal/store"
)

// TestDamaged edits rows by hand: each is shown with what is wrong, and can be deleted.
func TestDamaged(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		edits := []string{`data = '{bad'`, `data = '{}'`, `data = '[]', version = -7`}
		if w.DB.Engine() == store.SQLite {
			edits = append(edits, `created_at = 'now'`, `version = 'two', created_at = 'now'`)
		}
		for _, edit := range edits {
			w.must(t, "gw", "")
			w.must(t, "other", "")
			check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), `UPDATE gateway SET `+edit+` WHERE name = 'gw'`)
				return err
			}))
			g := w.get(t, "gw")
			if g.StatusMessage == nil || !strings.Contains(*g.StatusMessage, "cannot be read") || *g.Configuration.Name != "gw" {
				t.Errorf("%s: %+v", edit, g)
			}
			list, err := w.List(t.Context(), w.scopes["main"], api.ListGatewaysRequest{})
			check(t, err)
			if len(list) != 2 {
				t.Errorf("%s: %d gateways, want 2", edit, len(list))
			}
			_, err = w.Delete(t.Context(), w.scopes["main"], api.NamesRequest{Names: []string{"gw", "other"}})
			check(t, err)
		}
	})
}
