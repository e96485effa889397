package metrics

import (
	"log/slog"
	"testing"
	"time"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// What is too old goes in pieces, of whatever kind, so that nobody waits long for one.
func TestExpireInPieces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const old = 2*expireBatch + 7
		inserts := map[string]string{
			"job_metrics":     `INSERT INTO job_metrics (job_id, at, cpu_micros, memory, working_set, gpus) VALUES ($1, $2, 0, 0, 0, '[]')`,
			"instance_health": `INSERT INTO instance_health (instance_id, at, status, message, response) VALUES ($1, $2, 'healthy', '', '{}')`,
			"job_dcgm":        `INSERT INTO job_dcgm (job_id, at, packed, size) VALUES ($1, $2, $3, 0)`,
		}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for table, text := range inserts {
				for n := range old + 1 {
					at := int64(n)
					if n == old {
						at = store.Micros(time.Now())
					}
					args := []any{time.Unix(int64(n), 0).String(), at}
					if table == "job_dcgm" {
						args = append(args, []byte("x"))
					}
					if _, err := tx.ExecContext(t.Context(), text, args...); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		left := func(table string) (n int) {
			t.Helper()
			if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		s, err := New(Config{DB: db, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for table, text := range map[string]string{"job_metrics": expirePoints, "instance_health": expireHealth, "job_dcgm": expireTexts} {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := expireSome(t.Context(), tx, text, time.Now().Add(-time.Hour))
				return err
			})
			if n := left(table); err != nil || n != old+1-expireBatch {
				t.Errorf("%s: one transaction leaves %d rows, want %d (%v)", table, n, old+1-expireBatch, err)
			}
		}
		if err := s.expire(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		for table := range inserts {
			if n := left(table); n != 1 {
				t.Errorf("%s: %d rows are left, want that of now", table, n)
			}
		}
	})
}
