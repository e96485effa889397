package fleet

import (
	"regexp"
	"testing"

	"dstack/internal/config"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// However many fleets have names that we made, the next gets another.
func TestFreeName(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		err := db.Write(ctx, func(tx *store.Tx) error {
			for range 500 {
				name, err := FreeName(func(name string) (bool, error) { return named(ctx, tx, "p", name) })
				if err != nil {
					return err
				}
				if err := config.CheckName(name); err != nil {
					t.Error(err)
				}
				_, err = tx.ExecContext(ctx, `INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ($1, 'p', $1, 'active', 0, 0, '{}')`, name)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Names that we make have the recorded format: at most 21 characters, so that an instance's or a
// run's name with its numbers stays a name.
func TestGeneratedName(t *testing.T) {
	format := regexp.MustCompile(`^[a-z]+-[a-z]+$`)
	for range 1000 {
		name := GeneratedName()
		if !format.MatchString(name) || len(name) > 21 {
			t.Errorf("name %q", name)
		}
		if err := config.CheckName(name + "-1"); err != nil {
			t.Error(err)
		}
	}
}
