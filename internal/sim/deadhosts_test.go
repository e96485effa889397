package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestDeadHosts adds hundreds of hosts that do not answer, and one that does: machines of clouds are
// made meanwhile as if they were not there, the one is added, and to take the others away holds up
// nobody either.
func TestDeadHosts(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: time.Second})
		w.addCloud(fake.Config{Name: cloudNames[1]})
		w.hosts["alive.example"] = newHost(w, "alive.example", 1000, false)
		w.start()
		defer w.end()
		time.Sleep(time.Minute)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}})
		var hosts []string
		for n := range 300 {
			hosts = append(hosts, fmt.Sprintf("dead%d.example", n))
		}
		ran := func(run string) {
			t.Helper()
			w.applyRun(run, object{"type": "task", "commands": []string{"work"}, "creation_policy": "reuse-or-create"}, script{Run: time.Minute, Lines: 1})
			time.Sleep(45 * time.Second)
			for _, j := range w.checks.now().jobs {
				if j.name == run+"-0-0" && j.status != "running" {
					t.Errorf("after 45 s job %s is %s, want it to be running", j.name, j.status)
				}
			}
			w.stopRun(run, true)
			time.Sleep(10 * time.Second)
			w.deleteInstance("nodes", 0)
			w.deleteInstance("nodes", 1)
		}
		w.applyFleet("hosts", w.sshFleet(append(hosts, "alive.example")...))
		time.Sleep(20 * time.Second) // whoever can is on the way to a host
		ran("added")
		time.Sleep(5 * time.Minute)
		for _, inst := range w.checks.now().instances {
			if inst.host == "alive.example:22" && inst.status != "idle" {
				t.Errorf("the host that answers is %s", inst.status)
			}
		}
		w.deleteFleets("hosts")
		time.Sleep(20 * time.Second)
		ran("removed")
		time.Sleep(20 * time.Minute)
		w.endAll()
		time.Sleep(10 * time.Minute)
		w.checks.check(over)
		w.holds()
	})
}
