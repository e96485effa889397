package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// soldOut refuses whatever a cloud is asked for, though it offers it.
var soldOut = fake.Fault{Op: "Create", Before: fmt.Errorf("sold out: %w", backend.ErrNoCapacity)}

// TestRefusedIsSpared has a run that backs off ask for what a new fleet has more, and when that is refused
// too, for nothing that was refused before.
func TestRefusedIsSpared(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		c := fake.Config{Name: cloudNames[1]}
		for _, o := range fake.SomeOffers() {
			if len(o.Resources.GPUs) > 0 && o.Region == "north" && !o.Resources.Spot {
				c.Offers = append(c.Offers, o)
			}
		}
		w.addCloud(fake.Config{Name: cloudNames[0]})
		cloud := w.addCloud(c)
		cloud.Inject(soldOut)
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("one", object{"nodes": object{"min": 0, "max": 4}, "instance_types": []string{"gpu.one"}})
		w.applyRun("run", object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": "1.."},
			"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: time.Minute})
		time.Sleep(5 * time.Minute) // the last request was at 3:45, the next one is due at 8:45
		before := cloud.Calls("Create")
		w.applyFleet("any", object{"nodes": object{"min": 0, "max": 4}})
		time.Sleep(time.Minute)
		if n := cloud.Calls("Create") - before; before != 5 || n != 1 {
			t.Errorf("%d requests in five minutes and %d for a new fleet, want 5 and one, for gpu.eight", before, n)
		}
		w.holds()
	})
}

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
		w.holds()
	})
}

// TestGivenAgain has runs back off from a cloud that is sold out for half an hour. When one of them gets a
// machine again, the others have theirs soon, as far as there are some, and hardly a request is in vain.
func TestGivenAgain(t *testing.T) {
	const runs = 6
	tp := newTemplate(t)
	for _, capacity := range []int{3, 100} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1, tp)
			c := fake.Config{Name: cloudNames[1], Boot: 20 * time.Second, Capacity: map[offer.Key]int{}}
			for _, o := range fake.SomeOffers() {
				if o.Instance == "gpu.one" && o.Region == "north" && !o.Resources.Spot {
					c.Offers = append(c.Offers, o)
					o.Backend = c.Name
					c.Capacity[o.Key()] = capacity
				}
			}
			w.addCloud(fake.Config{Name: cloudNames[0]})
			cloud := w.addCloud(c)
			cloud.Inject(soldOut)
			w.start()
			defer w.end()
			time.Sleep(time.Second)
			w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 2 * runs}})
			for n := range runs { // at different times, so that their next requests are too
				w.applyRun(fmt.Sprint("run-", n), object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1},
					"retry": object{"on_events": []string{"no-capacity"}, "duration": "5h"}}, script{Run: 3 * time.Hour})
				time.Sleep(time.Minute)
			}
			time.Sleep(30 * time.Minute)
			cloud.Heal()
			before := cloud.Calls("Create")
			for range 660 { // one of them asks within ten minutes
				if cloud.Calls("Create") > before {
					break
				}
				time.Sleep(time.Second)
			}
			time.Sleep(time.Minute)
			asked, had := cloud.Calls("Create")-before, len(cloud.Invoice(w.serverID))
			if want := min(runs, capacity); had != want || asked > want+2 {
				t.Errorf("with room for %d: %d machines of %d requests, want %d", capacity, had, asked, want)
			}
			w.holds()
		})
	}
}
