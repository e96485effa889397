package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/host"
	"dstack/internal/store/storetest"
)

// silent is the way to hosts that never answer: what is placed on them stays there.
type silent struct{}

func (silent) Open(ctx context.Context, _ host.Target) (*agentapi.Client, string, func(), error) {
	<-ctx.Done()
	return nil, "", nil, ctx.Err()
}

func (silent) Onboard(context.Context, host.OnboardRequest) (host.Onboarded, error) {
	return host.Onboarded{}, errors.New("not now")
}

func (silent) Settle(context.Context, host.Target) error {
	return errors.New("the host does not answer")
}

func (silent) Uninstall(context.Context, host.UninstallRequest) error { return nil }

// newSilent opens a server on the database at url whose hosts never answer.
func newSilent(t *testing.T, url string) *Server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(empty), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{Dir: dir, DBURL: url, Host: "127.0.0.1", Token: adminToken, Hosts: silent{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// eventually polls what the engine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// A fleet that is deleted is exported no more.
func TestDeletedFleetIsNotExported(t *testing.T) {
	s := newSilent(t, "")
	w := newSharing(t, s, "lab", "team")
	w.sshFleet(t, "lab", "rack", "10.0.0.1")
	s.must(t, "/api/project/lab/exports/create", about("shared", "exported_fleets", of("rack"), "importer_projects", of("team")), nil)
	r := start(t, s)
	s.must(t, "/api/project/lab/fleets/delete", map[string]any{"names": of("rack")}, nil)
	eventually(t, "the export is empty", func() bool { return w.exports(t, "lab", "lab")[0] == "shared false [] [{team}]" })
	if got := w.fleets(t, "team", "team", true); len(got) != 0 {
		t.Errorf("team still sees %v", got)
	}
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	s.shut(t)
}

// However a run and the end of its project's access meet, no job stays where it may not be.
func TestAccessEndsWhilePlacing(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		s := newSilent(t, url)
		w := newSharing(t, s, "lab", "team")
		const rounds = 15
		var hosts []string // a job that may have been sent to one keeps it
		for i := range rounds {
			hosts = append(hosts, fmt.Sprintf("10.0.0.%d", i+1))
		}
		w.sshFleet(t, "lab", "rack", hosts...)
		r := start(t, s)
		number := func(query string) (n int) {
			t.Helper()
			if err := s.db.Read().QueryRowContext(t.Context(), query).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		count := func(statuses string) int {
			return number(`SELECT count(*) FROM job WHERE status IN (` + statuses + `)`)
		}
		const placed = `'provisioning', 'pulling', 'running'`
		for i := range rounds {
			s.must(t, "/api/project/lab/exports/create", about("shared", "exported_fleets", of("rack"), "importer_projects", of("team")), nil)
			apply := func() {
				plan := applyPlan(spec(fmt.Sprintf("job-%d", i), `"type": "task", "commands": ["x"], "resources": {"cpu": "1..", "memory": "0..", "disk": "1GB.."}`), nil, false)
				if a := s.call(t, "POST", "/api/project/team/runs/apply", adminToken, plan); a.Status != http.StatusOK {
					t.Errorf("apply: %d %s", a.Status, a.Body)
				}
			}
			end := func() {
				if a := s.call(t, "POST", "/api/project/lab/exports/delete", adminToken, about("shared")); a.Status != http.StatusOK {
					t.Errorf("delete: %d %s", a.Status, a.Body)
				}
			}
			switch i % 3 {
			case 0: // together
				var both sync.WaitGroup
				both.Go(apply)
				both.Go(end)
				both.Wait()
			case 1: // while the queue looks at it
				apply()
				end()
			default: // when it has its place
				apply()
				eventually(t, "the job is placed", func() bool { return count(placed) > 0 })
				end()
			}
			eventually(t, "the queue decides", func() bool { return count(`'submitted'`) == 0 })
			if n := count(placed); n != 0 {
				t.Errorf("%d: %d jobs are placed where their project may not be", i, n)
			}
		}
		if n := number(`SELECT count(*) FROM job WHERE data LIKE '%instance_access_revoked%'`); n < rounds/3 {
			t.Errorf("%d jobs were ended, want at least %d", n, rounds/3)
		}
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		s.shut(t)
	})
}
