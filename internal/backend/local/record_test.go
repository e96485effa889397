package local

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"dstack/internal/backend"
)

// Requests that repeat each other record an agent at once: whoever reads sees a whole record or none.
func TestRecordIsWhole(t *testing.T) {
	for range 300 {
		home := t.TempDir()
		var wg sync.WaitGroup
		for n := range 4 {
			wg.Go(func() {
				if err := record(home, meta{Token: "t", Name: strings.Repeat("n", 1+n*1000)}); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if _, err := readMeta(home); err != nil && !errors.Is(err, backend.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if m, err := readMeta(home); err != nil || m.Token != "t" {
			t.Fatalf("the record is %+v (%v)", m, err)
		}
	}
}
