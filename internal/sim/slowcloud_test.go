package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestSlowClouds has clouds take seconds to say what they offer, after a minute in which nobody asked.
// A run that fits on a host does not wait for them, also when it comes while one waits that does not.
func TestSlowClouds(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 10 * time.Second, Latency: 2500 * time.Millisecond})
		}
		w.hosts["host0.example"] = newHost(w, "host0.example", 1000, false)
		w.start()
		defer w.end()
		w.applyFleet("hosts", object{"ssh_config": object{"user": "root", "ssh_key": w.keys, "hosts": []string{"host0.example"}}, "blocks": 2})
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "resources": object{"gpu": 1}})
		time.Sleep(2 * time.Minute)
		work := script{Run: time.Minute, Lines: 1}
		waits := func(want string, after time.Duration) {
			t.Helper()
			time.Sleep(after)
			got := ""
			for _, j := range w.checks.now().jobs {
				if j.status == "submitted" {
					got += j.name + " "
				}
			}
			if got != want {
				t.Errorf("jobs without a place: %q, want %q", got, want)
			}
		}
		w.applyRun("gpu", object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}}, work)
		w.applyRun("cpu", object{"type": "task", "commands": []string{"work"}}, work)
		waits("gpu-0-0 ", 100*time.Millisecond)
		time.Sleep(time.Second)
		w.applyRun("late", object{"type": "task", "commands": []string{"work"}}, work)
		waits("gpu-0-0 ", 100*time.Millisecond)
		waits("", 5*time.Second)
		time.Sleep(5 * time.Minute)
		w.checks.check(settled)
		w.holds()
	})
}
