package logstore_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dstack/internal/logstore"
	"dstack/internal/logstore/logstoretest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func TestDB(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		logstoretest.Run(t, func(t *testing.T) logstore.Store {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.ExecContext(t.Context(), `DELETE FROM log_chunk`)
				if err == nil {
					_, err = tx.ExecContext(t.Context(), `DELETE FROM log_stream`)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return logstore.NewDB(db)
		})
	})
}

// TestDBServersRace has two servers with connections of their own deliver the same two
// streams in pieces of any size, as happens while one takes a host over from the other.
func TestDBServersRace(t *testing.T) {
	url := storetest.PostgresURL(t)
	servers := []*logstore.DB{logstore.NewDB(storetest.Open(t, url)), logstore.NewDB(storetest.Open(t, url))}
	text := make([]byte, 20_000)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(text) // never fails
	sources := []logstore.Source{logstore.Job, logstore.Runner}
	var wg sync.WaitGroup
	for i, server := range servers {
		for _, src := range sources {
			wg.Go(func() { deliver(t, server, src, text, uint64(i)) })
		}
	}
	wg.Wait()
	for _, server := range servers {
		for _, src := range sources {
			page, err := server.Poll(t.Context(), logstore.Query{JobID: job, Source: src, Limit: logstore.MaxEvents})
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			for _, e := range page.Events {
				if e.Offset != int64(len(got)) {
					t.Errorf("%s: an event at %d behind %d bytes", src, e.Offset, len(got))
				}
				got = append(got, e.Data...)
			}
			if !bytes.Equal(got, text) {
				t.Errorf("%s: %d bytes, want %d the same", src, len(got), len(text))
			}
		}
	}
}

// deliver sends text in batches, of which each begins somewhere in what was sent before.
func deliver(t *testing.T, s *logstore.DB, src logstore.Source, text []byte, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	for at := 0; at < len(text); {
		var chunks []logstore.Chunk
		next := max(0, at-rnd.IntN(50))
		for range 1 + rnd.IntN(4) {
			end := min(next+rnd.IntN(200), len(text))
			chunks = append(chunks, logstore.Chunk{Offset: int64(next), At: time.Unix(int64(next), 0), Data: text[next:end]})
			next = end
		}
		at = next
		if _, err := s.Append(context.Background(), job, src, chunks...); err != nil {
			t.Errorf("Append at %d: %v", at, err)
			return
		}
	}
}

func BenchmarkDBAppend(b *testing.B) {
	s := logstore.NewDB(storetest.Open(b, storetest.PostgresURL(b)))
	line := bytes.Repeat([]byte("x"), 200)
	var size int64
	for b.Loop() {
		var err error
		if size, err = s.Append(b.Context(), job, logstore.Job, logstore.Chunk{Offset: size, At: time.Now(), Data: line}); err != nil {
			b.Fatal(err)
		}
	}
}
