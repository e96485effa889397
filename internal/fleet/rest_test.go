package fleet

import (
	"fmt"
	"log/slog"
	"testing"

	"dstack/internal/engine"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A fleet of hosts, which is as its configuration says, costs nothing at rest: its instances are not read,
// however many there are.
func TestFleetsOfHostsReadNoInstances(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		s := &Service{Config: Config{DB: db, Log: slog.New(slog.DiscardHandler)}, known: newKnown()}
		err := db.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ('f', 'p', 'f', 'active', 1, 0, $1)`,
				`{"configuration": {"type": "fleet", "ssh_config": {"hosts": ["10.0.0.1"]}}, "profile": {"name": "default"}}`)
			for n := range 200 {
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, `INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, created_at, shard, data) VALUES ($1, 'p', 'f', $2, $1, 'idle', 'remote', 1, 0, '{}')`, fmt.Sprint("i", n), n)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		n := testing.AllocsPerRun(5, func() {
			if _, err := s.reconcile(ctx, engine.Item{ID: "f"}); err != nil {
				t.Fatal(err)
			}
		})
		if n > 200 {
			t.Errorf("%v allocations, as if each of 200 instances were read", n)
		}
	})
}
