package store_test

import (
	"testing"
	"time"

	"dstack/internal/store/storetest"
)

// TestSilentTransactionsEnd checks the bound and not its effect, which is the database's: a
// replica that is frozen inside a transaction must not keep its locks until its successor
// needs them.
func TestSilentTransactionsEnd(t *testing.T) {
	db := storetest.Open(t, storetest.PostgresURL(t))
	var ms int64
	err := db.Read().QueryRowContext(t.Context(), `SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'`).Scan(&ms)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Duration(ms) * time.Millisecond; d <= 0 || d >= 15*time.Second {
		t.Errorf("Postgres waits %v for the owner of a transaction, want less than a lease of 15 s", d)
	}
}
