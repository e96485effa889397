package logstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// A large log goes in pieces, so that nobody waits long for one; what is known of it goes last.
func TestDeleteInPieces(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		const id, chunks = "01f0c5e8-0000-4000-8000-000000000001", 2*deleteBatch + 7
		d := NewDB(db)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for n := range chunks {
				if _, err := tx.ExecContext(t.Context(), insertChunk+`($1, 'job', $2, $2, $3)`, id, n, []byte("x")); err != nil {
					return err
				}
			}
			_, err := tx.ExecContext(t.Context(), `INSERT INTO log_stream (job_id, source, size, last_at, written_at) VALUES ($1, 'job', $2, $2, 1)`, id, chunks)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		left := func() (chunks, streams int) {
			t.Helper()
			err := db.Read().QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM log_chunk), (SELECT count(*) FROM log_stream)`).Scan(&chunks, &streams)
			if err != nil {
				t.Fatal(err)
			}
			return chunks, streams
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			more, err := deleteSome(t.Context(), tx, id)
			if !more {
				t.Error("there is no more")
			}
			return err
		})
		if n, streams := left(); err != nil || n != chunks-deleteBatch || streams != 1 {
			t.Errorf("one transaction leaves %d chunks of %d streams, want %d of one (%v)", n, streams, chunks-deleteBatch, err)
		}
		if n, err := d.Expire(t.Context(), time.Now()); n != 1 || err != nil {
			t.Errorf("%d logs have expired: %v", n, err)
		}
		if n, streams := left(); n != 0 || streams != 0 {
			t.Errorf("%d chunks of %d streams are left", n, streams)
		}
	})
}

// What cannot be removed keeps no others, unless it is so much that nothing can.
func TestRemoveAll(t *testing.T) {
	ids := make([]string, 3*maxFailures)
	for n := range ids {
		ids[n] = fmt.Sprint(n)
	}
	for name, tt := range map[string]struct{ bad, removed, tried int }{
		"all well":        {0, len(ids), len(ids)},
		"the first fails": {1, len(ids) - 1, len(ids)},
		"all fail":        {len(ids), 0, maxFailures},
	} {
		tried := 0
		n, err := removeAll(t.Context(), ids, func(id string) (bool, error) {
			if tried++; tried <= tt.bad {
				return false, errors.New("no log " + id)
			}
			return true, nil
		})
		if n != tt.removed || tried != tt.tried || (err != nil) != (tt.bad > 0) || err != nil && !strings.Contains(err.Error(), "no log 0") {
			t.Errorf("%s: %d removed of %d tried, want %d of %d (%v)", name, n, tried, tt.removed, tt.tried, err)
		}
	}
}
