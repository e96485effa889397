package volume

import (
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/store"
)

// TestDamaged edits rows by hand: each is shown with what is wrong, is not cleaned up, and can be deleted
// with its disk.
func TestDamaged(t *testing.T) {
	hour := config.IdleDuration(3600)
	each(t, func(t *testing.T, w *world) {
		edits := []string{`data = '{bad'`, `data = '{}'`, `data = '[]', version = -7`}
		if w.DB.Engine() == store.SQLite {
			edits = append(edits, `created_at = 'now'`, `version = 'two', created_at = 'now'`, `unwanted = 'no'`, `deleted = 'no'`)
		}
		for _, edit := range edits {
			w.must(conf("disk", func(c *config.Volume) { c.AutoCleanupDuration = &hour }))
			w.after(time.Minute)
			w.disks(1)
			check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), `UPDATE volume SET `+edit+` WHERE NOT deleted`)
				return err
			}))
			w.after(3 * time.Hour)
			list, err := w.List(t.Context(), w.scope.User, api.ListVolumesRequest{OnlyActive: true})
			check(t, err)
			if len(list) != 1 || list[0].StatusMessage == nil || !strings.Contains(*list[0].StatusMessage, "cannot be read") || *list[0].Configuration.Name != "disk" || list[0].Cost > 1 {
				t.Fatalf("%s: %+v", edit, list)
			}
			w.disks(1)
			check(t, w.remove("disk"))
			w.after(time.Minute)
			if w.disks(0); !w.gone("disk") {
				t.Errorf("%s: it cannot be deleted", edit)
			}
		}
	})
}

// TestLostDisk edits which disk a volume has: it gets its own again, which is deleted with it, and one whose
// disk nobody knows any more fails and can be deleted.
func TestLostDisk(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		exec := func(text string) {
			t.Helper()
			check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), text)
				return err
			}))
		}
		for _, edit := range []string{`intent_id = 'nosuch'`, `intent_id = ''`} {
			w.must(conf("disk", nil))
			w.after(time.Minute)
			exec(`UPDATE volume SET ` + edit + ` WHERE NOT deleted`)
			w.after(3 * time.Minute)
			if v := w.get("disk"); v.Status != api.VolumeActive {
				t.Errorf("%s: %s", edit, v.Status)
			}
			check(t, w.remove("disk"))
			w.after(time.Minute)
			if w.disks(0); !w.gone("disk") {
				t.Errorf("%s: it cannot be deleted", edit)
			}
		}
		w.must(conf("lost", nil))
		w.after(time.Minute)
		exec(`DELETE FROM intent WHERE state <> 'gone'`)
		w.after(3 * time.Minute)
		if v := w.get("lost"); v.Status != api.VolumeFailed || v.StatusMessage == nil || *v.StatusMessage != "The record of its disk is lost" {
			t.Errorf("without a record: %s", v.Status)
		}
		check(t, w.remove("lost"))
		w.after(time.Minute)
		if !w.gone("lost") {
			t.Error("one without a record of its disk cannot be deleted")
		}
	})
}
