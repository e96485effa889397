package local

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/singleflight"

	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/offer"
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

// A record that cannot be read says nothing of its agent, and nothing else of the others: they are listed.
func TestSpoiledRecord(t *testing.T) {
	l := &local{dir: t.TempDir()}
	for token, spoil := range map[string]string{"11111111": "", "22222222": `{"token": 5}`} {
		home := l.home(token)
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		err := record(home, meta{Token: token, Tags: map[string]string{backend.TagServer: "s"}})
		if err == nil && spoil != "" {
			err = os.WriteFile(filepath.Join(home, "meta.json"), []byte(spoil), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	owned, err := l.List(t.Context(), "s")
	unread, part := errors.AsType[*backend.UnreadError](err)
	if len(owned) != 1 || owned[0].Ref.ID != "11111111" || !part || !unread.Hidden {
		t.Errorf("List = %+v, %v, want the other agent, and to be told of one", owned, err)
	}
	if inst, err := l.Describe(t.Context(), backend.Ref{Region: Name, ID: "22222222"}); err == nil || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Describe = %+v, %v, want an error that proves nothing", inst, err)
	}
}

// exits is a backend in a folder whose agents end as soon as they are started.
func exits(dir string) *local {
	return &local{dir: dir, agents: agentbin.Of(map[string][]byte{goruntime.GOARCH: []byte("#!/bin/sh\nexit 1\n")}), starts: &singleflight.Group{}}
}

func wish(token string) backend.CreateRequest {
	return backend.CreateRequest{Token: token, Name: "x", Tags: map[string]string{backend.TagServer: "s"}, Offer: offer.Offer{Region: Name}}
}

// An agent whose socket would have too long a path is not recorded, which it would be for good.
func TestLongFolder(t *testing.T) {
	dir := t.TempDir()
	dir = filepath.Join(dir, strings.Repeat("d", max(1, 100-len(dir))))
	l := exits(dir)
	_, err := l.Create(t.Context(), wish("11111111"))
	if _, invalid := errors.AsType[*backend.InvalidError](err); !invalid || !strings.Contains(err.Error(), "DSTACK_SERVER_DIR") {
		t.Errorf("Create = %v, want an *InvalidError", err)
	}
	if owned, err := l.List(t.Context(), "s"); err != nil || len(owned) != 0 {
		t.Errorf("List = %+v, %v, want nothing", owned, err)
	}
}

// An agent that cannot be started, from a folder that is mounted noexec, say, has nothing to leave and is
// ended, unless one has run there and had tasks, or runs.
func TestEndOfWhatNeverStarted(t *testing.T) {
	dir, err := os.MkdirTemp("", "local") // a socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := exits(dir)
	ref := backend.Ref{Region: Name, ID: "11111111"}
	if _, err := l.Create(t.Context(), wish(ref.ID)); err == nil || backend.Refused(err) {
		t.Fatalf("Create = %v, want that the agent does not start", err)
	}
	home := l.home(ref.ID)
	task := filepath.Join(home, "tasks", "t")
	if err := os.MkdirAll(task, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Terminate(t.Context(), ref); err == nil {
		t.Error("what its task has left is forgotten")
	}
	if err := os.Remove(task); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, free := lock(home)
	if !free {
		t.Fatal("the place of an agent is not free")
	}
	if err := discard(home, errors.New("it does not answer")); err == nil {
		t.Error("an agent that is slow to answer has lost its folder")
	}
	unlock()
	if err := l.Terminate(t.Context(), ref); err != nil {
		t.Errorf("Terminate = %v", err)
	}
	if owned, err := l.List(t.Context(), "s"); err != nil || len(owned) != 0 {
		t.Errorf("List = %+v, %v, want nothing", owned, err)
	}
}
