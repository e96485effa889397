package local

import (
	"errors"
	"os"
	"path/filepath"
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

// A record that is empty, as one may be after a loss of power, is none: other agents are listed, what it
// was for does not exist, and it can be written.
func TestEmptyRecord(t *testing.T) {
	l := &local{dir: t.TempDir()}
	for _, token := range []string{"11111111", "22222222"} {
		home := l.home(token)
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := record(home, meta{Token: token, Tags: map[string]string{backend.TagServer: "s"}}); err != nil {
			t.Fatal(err)
		}
	}
	empty := l.home("22222222")
	if err := os.WriteFile(filepath.Join(empty, "meta.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if owned, err := l.List(t.Context(), "s"); err != nil || len(owned) != 1 || owned[0].Ref.ID != "11111111" {
		t.Errorf("List = %+v, %v, want the other agent", owned, err)
	}
	if err := l.Terminate(t.Context(), backend.Ref{Region: Name, ID: "22222222"}); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Terminate = %v, want ErrNotFound", err)
	}
	if err := record(empty, meta{Token: "22222222"}); err != nil {
		t.Fatal(err)
	}
	if m, err := readMeta(empty); err != nil || m.Token != "22222222" {
		t.Errorf("written again, the record is %+v, %v", m, err)
	}
}
