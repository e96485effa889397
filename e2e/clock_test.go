//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClockJump sets the clocks of a host and of the server three hours ahead and back while
// tasks run that may take an hour. The clock is not what they took.
func TestClockJump(t *testing.T) {
	t.Parallel() // mostly waits
	w := prepareWorld(t)
	w.dstack = filepath.Join(filepath.Dir(w.dstack), "dstack-clock")
	if _, err := os.Stat(w.dstack); err != nil {
		t.Fatalf("%v; run e2e/clock/build", err)
	}
	clock := filepath.Join(w.dir, "clock")
	w.extra = []string{"E2E_CLOCK=" + clock}
	w.startServer()
	w.login()
	m := w.startHost(hostOptions{NoImages: true})
	loadJobImage(t, []*machine{m})
	w.fleet("box", m)
	keys := m.keys()

	server := func(seconds int) { w.write("clock", fmt.Sprint(seconds)) }
	host := func(seconds int) { // and what runs on it: containers have the clock of their host
		set := fmt.Sprintf("mkdir -p /run && echo %d >/run/e2e-clock", seconds)
		m.out("sh", "-c", set)
		for _, c := range m.containers() {
			m.out("docker", "exec", c, "sh", "-c", set)
		}
	}
	const ahead = 3 * 60 * 60
	for _, c := range []struct {
		name          string
		before, after int
		set           func(seconds int)
	}{
		{"host-ahead", 0, ahead, host},
		{"host-back", ahead, 0, host},
		{"server-ahead", 0, ahead, server},
		{"server-back", ahead, 0, server},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := *w
			w.t = t
			c.set(c.before)
			w.submitSteady(c.name, on("box")+"max_duration: 1h\n")
			w.waitOutput(c.name, "tick-3-")
			c.set(c.after)
			ticks := strings.Count(w.must("logs", c.name).Out, "tick-")
			w.waitOutput(c.name, fmt.Sprintf("tick-%d-", ticks+100)) // 5 s of them
			letGo(t, []*machine{m}, c.name)
			w.checkSteady(c.name)
			submitted, first, last := w.times(c.name)
			if strings.HasPrefix(c.name, "server") {
				first, last = submitted, submitted // the log has the host's times
				c.after = c.before
			}
			for _, x := range []struct {
				at   time.Time
				want int
			}{{first, c.before}, {last, max(c.before, c.after)}} { // else no clock moved; the times of a log never go back
				if off := time.Until(x.at).Round(10 * time.Minute); off != time.Duration(x.want)*time.Second {
					t.Errorf("a time is %v off, want %d s", off, x.want)
				}
			}
			noContainers(t, []*machine{m})
			startedOnce(t, []*machine{m})
			c.set(0)
		})
	}
	if out := w.must("fleet").Out; !strings.Contains(out, "idle") {
		t.Errorf("the host is not idle:\n%s", out)
	}
	if got := m.keys(); got != keys {
		t.Errorf("keys on the host:\n%s\nbefore the runs:\n%s", got, keys)
	}
}

// times are those of a run's submission, and of its first and last output.
func (w *world) times(name string) (submitted, first, last time.Time) {
	w.t.Helper()
	var run struct {
		SubmittedAt time.Time `json:"submitted_at"`
		Jobs        []struct {
			JobSubmissions []struct{ ID string } `json:"job_submissions"`
		}
	}
	var logs struct {
		Logs []struct{ Timestamp time.Time }
	}
	w.api("/api/project/main/runs/get", map[string]any{"run_name": name}, &run)
	entry := func(descending bool) time.Time {
		w.api("/api/project/main/logs/poll", map[string]any{"run_name": name, "job_submission_id": run.Jobs[0].JobSubmissions[0].ID, "descending": descending, "limit": 1}, &logs)
		if len(logs.Logs) != 1 {
			w.t.Fatalf("%d entries of the log of %s", len(logs.Logs), name)
		}
		return logs.Logs[0].Timestamp
	}
	return run.SubmittedAt, entry(false), entry(true)
}
