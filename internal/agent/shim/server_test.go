package shim

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
)

// TestServes writes down which server listens: at once, then once a minute.
func TestServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Shim{Config: Config{Home: t.TempDir()}}
		path := filepath.Join(s.Home, agentapi.OwnerFile)
		if s.serves("", time.Time{}); exists(path) {
			t.Error("nobody in particular is written down")
		}
		last := s.serves("one", time.Time{})
		for range 8 { // heartbeats of two minutes
			if data, err := os.ReadFile(path); err != nil || string(data) != "one\n" {
				t.Errorf("%q, %v; want one", data, err)
			}
			time.Sleep(agentapi.HeartbeatEvery)
			was := last
			if last = s.serves("one", last); last != was && last.Sub(was) != agentapi.OwnerFileEvery {
				t.Errorf("written again after %v", last.Sub(was))
			}
		}
		if time.Since(last) >= agentapi.OwnerFileEvery {
			t.Errorf("last written %v ago", time.Since(last))
		}
	})
}

// TestStreamOfServer has servers listen that say who they are, or what cannot be a name.
func TestStreamOfServer(t *testing.T) {
	home := newHome(t)
	a := run(t, home, newEngine())
	named := func() string {
		data, _ := os.ReadFile(filepath.Join(home, agentapi.OwnerFile)) // not written yet
		return string(data)
	}
	for _, server := range []string{"", "../odd name", "one", "two"} {
		e := a.wish(agentapi.Wish{Server: server})
		s := a.running()
		e.until("the stream", func() bool { return len(e.heard()) > 0 })
		want := map[string]string{"one": "one\n", "two": "two\n"}[server]
		if got := named(); got != want {
			t.Errorf("after %q listened, %q is written down, want %q", server, got, want)
		}
		e.close()
		a.finish(s.ID, 0)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
