package sim

import (
	"slices"
	"testing"
	"time"
)

// TestStaleAddress has a cloud tell of a new machine that it is where another host is: a host of the user, or the machine
// that it made before, on which a job runs. The job goes on, and the machine is had once it is where the cloud says.
func TestStaleAddress(t *testing.T) {
	for name, stale := range map[string]time.Duration{"for a while": 5 * time.Minute, "for ever": 24 * time.Hour} {
		for place, of := range map[string]string{"of a host": "hosts", "of a machine": "rented"} {
			t.Run(place+" "+name, func(t *testing.T) {
				tp := newTemplate(t)
				withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
					taken := h.name
					w.applyFleet(of, map[string]object{"hosts": w.sshFleet(h.name), "rented": {"nodes": object{"min": 1, "max": 1}}}[of])
					time.Sleep(2 * time.Minute)
					old := w.ours()
					if of == "rented" {
						taken = w.addressOf(old[0])
					}
					w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Hour, Lines: 3})
					time.Sleep(time.Minute)
					end := time.Now().Add(stale)
					w.says = func(machine, address string) string {
						if time.Now().After(end) || len(old) > 0 && old[0].key() == machine {
							return address
						}
						return taken
					}
					w.applyFleet("more", object{"nodes": object{"min": 1, "max": 1}})
					time.Sleep(3 * time.Minute)
					const why = "the host is in use under another name: instance "
					const more = `SELECT status || ' ' || coalesce(data ->> '$.problem', '') FROM instance WHERE name = 'more-0' AND NOT deleted`
					if got := w.texts(more); len(got) != 1 || got[0] != "provisioning the backend says that the machine is at "+taken+", but "+why+of+"-0" {
						t.Errorf("%q; want that it waits, and why", got)
					}
					time.Sleep(5 * time.Minute)
					if got := w.texts(more); name == "for a while" && !slices.Equal(got, []string{"idle "}) {
						t.Errorf("%q; want that it is had at its true address", got)
					}
					time.Sleep(time.Hour)
					s := w.checks.now()
					if len(s.jobs) != 1 || s.jobs[0].reason != "done_by_runner" {
						t.Errorf("jobs %+v, want one that is done", s.jobs)
					}
					w.holds()
				})
			})
		}
	}
}

// addressOf is where a machine is.
func (w *world) addressOf(m machine) string {
	for _, live := range w.clouds[m.cloud].Live() {
		if live.ID == m.id {
			return m.cloud + "." + live.Address
		}
	}
	return ""
}
