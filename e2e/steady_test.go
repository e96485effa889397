//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A steady task counts aloud until it is let go, then a number of steps at once, says how far
// it came, and exits with 3. What went wrong with it on the way shows: a gap or a repetition in its log, a second start (it
// would count from 1 again), a lost exit code.

const steadyExit = 3

// steady submits a steady task and waits until the server has some of its output.
func (w *world) steady(name string) {
	w.t.Helper()
	w.submitSteady(name, "")
	w.waitOutput(name, "tick-3-")
}

// submitSteady submits a steady task with further lines of YAML.
func (w *world) submitSteady(name, more string) {
	w.t.Helper()
	w.writeSteady(name, more)
	w.must("apply", "-y", "-d", "-f", name+".dstack.yml")
}

func (w *world) writeSteady(name, more string) {
	w.t.Helper()
	w.write(name+".dstack.yml", fmt.Sprintf(`
type: task
name: %s
image: job:1
commands:
  - i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo tick-$i-; sleep 0.05; done
  - n=$((i+$(cat /tmp/go))); while [ $i -lt $n ]; do i=$((i+1)); echo tick-$i-; done
  - echo end-$i; exit %d
%s`, name, steadyExit, more)+anyResources)
}

func (w *world) waitOutput(name, text string) {
	w.t.Helper()
	eventually(w.t, 60*time.Second, name+" has printed "+text, func() bool { return strings.Contains(w.run("logs", name).Out, text) })
}

// letGo ends steady tasks, wherever they run.
func letGo(t *testing.T, machines []*machine, names ...string) {
	t.Helper()
	letGoAfter(t, machines, 0, names...)
}

// letGoAfter ends steady tasks after some more lines, which they print at once.
func letGoAfter(t *testing.T, machines []*machine, lines int, names ...string) {
	t.Helper()
	for _, name := range names {
		found := 0
		for _, m := range machines {
			for _, c := range m.containers() {
				if strings.HasPrefix(c, name+"-0-") {
					m.out("docker", "exec", c, "sh", "-c", fmt.Sprintf("echo %d >/tmp/new; mv /tmp/new /tmp/go", lines))
					found++
				}
			}
		}
		if found != 1 {
			t.Errorf("%d containers of %s, want 1", found, name)
		}
	}
}

var steadyEnd = regexp.MustCompile(`(?s)tick-1-\n.*\nend-(\d+)\n$`)

// checkSteady waits for the end of a steady task that was let go and checks what is left of it.
func (w *world) checkSteady(name string) {
	w.t.Helper()
	if status := w.waitStatus(name, "done", "failed", "terminated"); status != "failed" {
		w.t.Errorf("%s is %s, want failed (it exits with %d)", name, status, steadyExit)
	}
	if got := w.exitStatus(name); got != steadyExit {
		w.t.Errorf("exit status %d of %s, want %d", got, name, steadyExit)
	}
	got := w.must("logs", name).Out
	end := steadyEnd.FindStringSubmatch(got)
	if end == nil {
		w.t.Errorf("the log of %s has no begin or no end: %d bytes, it ends with\n%s", name, len(got), lastLines(got, 5))
		return
	}
	n, _ := strconv.Atoi(end[1]) // digits, by the expression
	var want strings.Builder
	for i := range n {
		fmt.Fprintf(&want, "tick-%d-\n", i+1)
	}
	fmt.Fprintf(&want, "end-%d\n", n)
	// An interactive BusyBox greets before the first line.
	if greeting, ok := strings.CutSuffix(got, want.String()); !ok || strings.Contains(greeting, "tick-") {
		w.t.Errorf("the log of %s is not what it printed: %d bytes, want %d; it ends with\n%s", name, len(got), want.Len(), lastLines(got, 5))
	}
}

// exitStatus is the exit status of a run's last attempt, -1 when there is none.
func (w *world) exitStatus(name string) int {
	w.t.Helper()
	var r struct {
		Jobs []struct {
			Submissions []struct {
				Exit *int `json:"exit_status"`
			} `json:"job_submissions"`
		} `json:"jobs"`
	}
	w.api("/api/project/main/runs/get", map[string]any{"run_name": name}, &r)
	if len(r.Jobs) == 0 || len(r.Jobs[0].Submissions) == 0 {
		return -1
	}
	subs := r.Jobs[0].Submissions
	if exit := subs[len(subs)-1].Exit; exit != nil {
		return *exit
	}
	return -1
}

// startHosts starts machines at the same time.
func (w *world) startHosts(n int, o hostOptions) []*machine {
	w.t.Helper()
	machines := make([]*machine, n)
	var wg sync.WaitGroup
	for i := range machines {
		wg.Go(func() { machines[i] = w.startHost(o) })
	}
	wg.Wait()
	if w.t.Failed() {
		w.t.FailNow()
	}
	return machines
}

// loadJobImage gives machines the image of steady tasks.
func loadJobImage(t *testing.T, machines []*machine) {
	t.Helper()
	var wg sync.WaitGroup
	for _, m := range machines {
		wg.Go(func() { m.load("dstack-e2e-job:"+tag(t), "job:1") })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// noContainers waits until no container of ours is left.
func noContainers(t *testing.T, machines []*machine) {
	t.Helper()
	for _, m := range machines {
		eventually(t, 30*time.Second, "no job container is left on "+m.Addr, func() bool { return len(m.containers()) == 0 })
	}
}

// noKeys waits until machines let nobody in but the user, as before there was a fleet.
func noKeys(t *testing.T, w *world, machines []*machine) {
	t.Helper()
	for _, m := range machines {
		eventually(t, 60*time.Second, "no key of ours is left on "+m.Addr, func() bool { return m.keys() == w.publicKey+"\n" })
	}
}

// keys are those with which somebody may log in as root.
func (m *machine) keys() string {
	m.t.Helper()
	return m.out("cat", "/root/.ssh/authorized_keys")
}

// startedOnce checks that no container was made twice on a machine.
func startedOnce(t *testing.T, machines []*machine) {
	t.Helper()
	for _, m := range machines {
		out := m.out("docker", "events", "--since", "1h", "--until", "0s", "--filter", "event=create", "--format", "{{.Actor.Attributes.name}}")
		seen := map[string]bool{}
		for _, name := range strings.Fields(out) {
			if seen[name] {
				t.Errorf("container %s was made twice on %s", name, m.Addr)
			}
			seen[name] = true
		}
	}
}

// within runs a subtest with the worlds and machines reporting to it.
func within(t *testing.T, name string, worlds []*world, machines []*machine, test func(t *testing.T)) (passed bool) {
	t.Helper()
	return t.Run(name, func(t *testing.T) {
		outer := worlds[0].t
		report := func(to *testing.T) {
			for _, w := range worlds {
				w.t = to
			}
			for _, m := range machines {
				m.t = to
			}
		}
		report(t)
		defer report(outer)
		test(t)
	})
}
