package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestClusterThatIsToMove has a cluster wanted in another region while an instance with a job keeps it where it
// is: nothing is bought there any more, nor elsewhere.
func TestClusterThatIsToMove(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		w.addCloud(fake.Config{Name: cloudNames[0]})
		cloud := w.addCloud(fake.Config{Name: cloudNames[1], Offers: fake.SomeOffers(), Boot: 20 * time.Second, Deletion: 3 * time.Second})
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 2, "max": 2}, "placement": "cluster", "regions": []string{"north"}})
		time.Sleep(2 * time.Minute)
		w.applyRun("run", object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}, script{Run: 3 * time.Hour})
		time.Sleep(2 * time.Minute)
		w.applyFleet("nodes", object{"nodes": object{"min": 2, "max": 2}, "placement": "cluster", "regions": []string{"south"}})
		time.Sleep(time.Hour)
		if n := len(cloud.Invoice(w.serverID)); n != 2 {
			t.Errorf("%d machines were bought, want the first two", n)
		}
		w.holds()
	})
}
