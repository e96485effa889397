package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// TestRefusedGang has two nodes wanted of a cloud that has one machine left and offers it each time
// that it is given back: it is not bought again and again.
func TestRefusedGang(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		name := cloudNames[1]
		c := fake.Config{Name: name, Boot: 20 * time.Second, Deletion: 3 * time.Second, Capacity: map[offer.Key]int{}}
		for _, o := range fake.SomeOffers() {
			if o.Instance == "gpu.one" && o.Region == "north" && !o.Resources.Spot {
				c.Offers = append(c.Offers, o)
				o.Backend = name
				c.Capacity[o.Key()] = 1
			}
		}
		for _, other := range cloudNames {
			if other != name {
				w.addCloud(fake.Config{Name: other})
			}
		}
		cloud := w.addCloud(c)
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}, "placement": "cluster"})
		w.applyRun("gang", object{"type": "task", "nodes": 2, "commands": []string{"work"}, "resources": object{"gpu": 1},
			"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: time.Minute})
		time.Sleep(time.Hour)
		// Back-offs of 15 s, 30 s, 1, 2, 5 and then 10 minutes make eleven attempts in an hour.
		if n := len(cloud.Invoice(w.serverID)); n < 5 || n > 12 {
			t.Errorf("%d machines were bought in an hour, want 5 to 12", n)
		}
		if n := cloud.Calls("Terminate"); n > 50 {
			t.Errorf("the cloud was asked %d times to delete them, want some 3 for each", n)
		}
		w.checks.check(settled)
		for _, v := range w.result(false).Violations {
			t.Error(v)
		}
	})
}
