package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// statusOf is the status of a run's last job.
func (w *world) statusOf(run string) string {
	_, status := w.tries(run)
	return status
}

// TestKeptForOneThatIsOver has two hosts of which one is busy for long, a run of two nodes that waits for both, and one
// behind it that needs only one. It gets the free host as soon as the first run does not wait for it any more, for
// whatever reason: nobody else would look at the queue for a day.
func TestKeptForOneThatIsOver(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		retry  string // of the first run
		happen func(w *world)
		within time.Duration
	}{
		"stopped":                 {"1d", func(w *world) { w.stopRun("head", false) }, 5 * time.Second},
		"stopped by force":        {"1d", func(w *world) { w.stopRun("head", true) }, 5 * time.Second},
		"has waited for too long": {"10m", func(*world) { time.Sleep(9 * time.Minute) }, 5 * time.Second},
		"lacks a host that is lost": {"1d", func(w *world) {
			busy := w.hosts["x.example"]
			if busy.had() == 0 {
				busy = w.hosts["y.example"]
			}
			busy.cut(12 * time.Hour)
			busy.dropLinks()
		}, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				for _, cloud := range cloudNames {
					w.addCloud(fake.Config{Name: cloud})
				}
				for n, host := range []string{"x.example", "y.example"} {
					w.hosts[host] = newHost(w, host, 1+n, false)
				}
				w.start()
				defer w.end()
				time.Sleep(time.Second)
				w.call("project/main/backends/delete", object{"backends_names": cloudNames}, nil) // their answers would wake the queue
				fleet := w.sshFleet("x.example", "y.example")
				fleet["placement"] = "cluster"
				w.applyFleet("hosts", fleet)
				time.Sleep(time.Minute)
				task := func(nodes int, retry string) object {
					return object{"type": "task", "nodes": nodes, "commands": []string{"work"}, "creation_policy": "reuse", "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil},
						"retry": object{"on_events": []string{"no-capacity"}, "duration": retry}}
				}
				w.applyRun("busy", task(1, "1d"), script{Run: 24 * time.Hour})
				time.Sleep(30 * time.Second)
				w.applyRun("head", task(2, tt.retry), script{Run: time.Minute})
				time.Sleep(30 * time.Second)
				w.applyRun("behind", task(1, "1d"), script{Run: time.Hour})
				time.Sleep(30 * time.Second)
				if busy, head, behind := w.statusOf("busy"), w.statusOf("head"), w.statusOf("behind"); busy != "running" || head != "submitted" || behind != "submitted" {
					t.Fatalf("at first they are %s, %s and %s", busy, head, behind)
				}
				tt.happen(w)
				time.Sleep(tt.within)
				if got := w.statusOf("behind"); got == "submitted" {
					t.Errorf("the run behind it still waits after %v", tt.within)
				}
				w.holds()
			})
		})
	}
}

// TestRoomWakesTheHead has a fleet of one instance, which does not fit the run that waits: it gets one of its own as
// soon as that instance is given up, not at the next look.
func TestRoomWakesTheHead(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: 5 * time.Second})
		w.addCloud(fake.Config{Name: cloudNames[1]})
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "idle_duration": "1h"})
		task := func(gpus int) object {
			return object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil, "gpu": gpus}, "idle_duration": "1h",
				"retry": object{"on_events": []string{"no-capacity"}, "duration": "1d"}}
		}
		w.applyRun("small", task(0), script{Run: time.Second})
		time.Sleep(3 * time.Minute)
		w.applyRun("large", task(1), script{Run: time.Second})
		time.Sleep(40 * time.Second) // it looks again at 60
		if small, large := w.statusOf("small"), w.statusOf("large"); small != "done" || large != "submitted" {
			t.Fatalf("at first they are %s and %s", small, large)
		}
		w.deleteInstance("nodes", 0)
		time.Sleep(2 * time.Second)
		if got := w.statusOf("large"); got == "submitted" {
			t.Error("the run still waits 2 s after the instance of its fleet was given up")
		}
		w.holds()
	})
}
