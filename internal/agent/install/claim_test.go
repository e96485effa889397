package install

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dstack/internal/agentapi"
)

// Of servers that add a host at a time, one gets it; another may have it when that is gone for long.
func TestClaim(t *testing.T) {
	home, now := t.TempDir(), time.Now()
	var wg sync.WaitGroup
	errs := map[string]error{}
	var mu sync.Mutex
	for _, server := range []string{"a", "b", "c"} {
		wg.Go(func() {
			err := claim(home, server, now)
			mu.Lock()
			defer mu.Unlock()
			errs[server] = err
		})
	}
	wg.Wait()
	winner := ""
	for server, err := range errs {
		if err == nil && winner == "" {
			winner = server
			continue
		}
		if refused, ok := errors.AsType[*agentapi.Error](err); !ok || refused.Code != agentapi.InUse {
			t.Errorf("%s has it beside %s: %v", server, winner, err)
		}
	}
	if winner == "" {
		t.Fatalf("nobody has it: %v", errs)
	}
	old := now.Add(-agentapi.ServerGrace - time.Second)
	age := func() {
		t.Helper()
		if err := os.Chtimes(filepath.Join(home, agentapi.OwnerFile), old, old); err != nil {
			t.Fatal(err)
		}
	}
	age()
	if err := claim(home, winner, now); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := claim(home, "later", now); err == nil {
		t.Error("another has it while it is added again")
	}
	if err := claim(home, "", now); err != nil {
		t.Errorf("nobody in particular: %v", err)
	}
	age()
	if err := claim(home, "later", now); err != nil {
		t.Errorf("when it is gone: %v", err)
	}
	if err := claim(home, winner, now); err == nil {
		t.Error("it has it back although somebody else has it now")
	}
}
