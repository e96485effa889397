package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// Reservation implements backend.ReservationBackend.
func (a *account) Reservation(ctx context.Context, name string) ([]offer.Reserved, error) {
	if !a.p.alive() {
		return nil, errDead
	}
	return a.cloud.Reservation(ctx, name)
}

// TestReservation has two runs that ask for a reservation with room for one: the second waits until
// the first is done, though machines of other kinds and outside of the reservation could be had.
func TestReservation(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		offers := fake.SomeOffers()
		for i := range offers {
			offers[i].Zones = []string{"z1", "z2"}
		}
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: offers, Boot: 20 * time.Second, Latency: 200 * time.Millisecond, Deletion: 3 * time.Second})
		}
		cloud := w.clouds[cloudNames[1]]
		cloud.Reserve("r-1", offer.Reserved{Region: "south", Zone: "z2", Instance: "gpu.one", Left: 1})
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}, "idle_duration": 0})
		task := object{"type": "task", "commands": []string{"work"}, "reservation": "r-1", "resources": object{"cpu": "1..", "memory": "1GB.."}, "retry": object{"on_events": []string{"no-capacity"}, "duration": "2h"}}
		w.insist(func() int { return w.applyRun("first", task, script{Run: 5 * time.Minute}) })
		time.Sleep(2 * time.Minute)
		w.insist(func() int { return w.applyRun("second", task, script{Run: 5 * time.Minute}) })
		time.Sleep(time.Minute)

		made := func() (list []fake.Machine) {
			for _, name := range cloudNames {
				for _, m := range w.clouds[name].Live() {
					if m.Name != "" {
						list = append(list, m)
					}
				}
			}
			return list
		}
		if list := made(); len(list) != 1 || list[0].Reservation != "r-1" || list[0].Zone != "z2" || list[0].Price != 2.5 {
			t.Errorf("machines %+v, want one in the reservation", list)
		}
		var r api.Run
		w.call("project/main/runs/get", object{"run_name": "second"}, &r)
		if r.Waiting == nil {
			t.Errorf("the second run does not wait: %s", r.Status)
		}
		time.Sleep(20 * time.Minute)
		for _, name := range []string{"first", "second"} {
			w.call("project/main/runs/get", object{"run_name": name}, &r)
			if r.Status != api.RunDone {
				t.Errorf("run %s is %s", name, r.Status)
			}
		}
		w.holds()
	})
}
