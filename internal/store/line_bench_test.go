package store_test

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"

	"dstack/internal/store"
)

// BenchmarkWriteShared is a write as a job makes them, an update and two events, by one and by many
// writers at a time.
func BenchmarkWriteShared(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			db, err := store.Open(b.Context(), store.Config{URL: filepath.Join(b.TempDir(), "db"), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var n atomic.Int64
			doc := fmt.Sprintf(`{"text": "%01500d"}`, 0)
			write := func() error {
				i := n.Add(1)
				return db.Write(b.Context(), func(tx *store.Tx) error {
					_, err := tx.ExecContext(b.Context(), `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data) VALUES ($1, $1, 'p', 0, 0, 0, 'running', $2, 1, $3)
ON CONFLICT (id) DO UPDATE SET data = excluded.data, version = job.version + 1`, fmt.Sprint(i%1000), i, doc)
					for e := range 2 {
						if err == nil {
							_, err = tx.ExecContext(b.Context(), `INSERT INTO event (id, message, recorded_at) VALUES ($1, 'Job status changed', $2)`, fmt.Sprintf("%x-%d-%d", i*2654435761%4294967296, i, e), i)
						}
					}
					return err
				})
			}
			b.SetParallelism(max(1, writers/2))
			b.ReportAllocs()
			if writers == 1 {
				for b.Loop() {
					if err := write(); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := write(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
