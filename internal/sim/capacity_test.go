package sim

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// TestWaitsForCapacity has a run wait while the instance of its fleet that would do is in use for long and the
// provider has no other: when it has one again, nobody tells, and the run gets it all the same.
func TestWaitsForCapacity(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		small := fake.SomeOffers()[0]
		of := small.Key()
		of.Backend = cloudNames[0]
		w.addCloud(fake.Config{Name: cloudNames[0], Offers: []offer.Offer{small}, Capacity: map[offer.Key]int{of: 2}, Boot: 10 * time.Second, Deletion: 5 * time.Second})
		w.addCloud(fake.Config{Name: cloudNames[1]})
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 2}, "idle_duration": 30})
		w.applyFleet("others", object{"nodes": object{"min": 0, "max": 1}, "idle_duration": 30})
		task := func(fleet string) object {
			return object{"type": "task", "commands": []string{"work"}, "fleets": []string{fleet}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil},
				"retry": object{"on_events": []string{"no-capacity"}, "duration": "1d"}}
		}
		w.applyRun("long", task("nodes"), script{Run: 24 * time.Hour})
		w.applyRun("other", task("others"), script{Run: 5 * time.Minute})
		time.Sleep(3 * time.Minute)
		w.applyRun("waits", task("nodes"), script{Run: time.Second})
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT j.status FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'waits'`); !slices.Equal(got, []string{"submitted"}) {
			t.Fatalf("the run that waits is %q", got)
		}
		time.Sleep(15 * time.Minute)
		if got := w.texts(`SELECT name || ' is ' || status FROM run ORDER BY submitted_at`); !slices.Equal(got, []string{"long is running", "other is done", "waits is done"}) {
			t.Errorf("runs: %q", got)
		}
	})
}
