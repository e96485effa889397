package sim

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// TestBootingMachineOfAnEndedRun stops a run while its machine boots, which is the last that the cloud has: a run
// that waits for such gets it; it is given back at once when nobody does, when who waits could not use it, when
// nobody waits any more, and when it may not be idle.
func TestBootingMachineOfAnEndedRun(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		gpus    any    // that the run which waits needs, nil for none
		idle    string // idle_duration
		leaves  bool   // and is stopped soon
		others  int    // that boot and are stopped as well
		kept    bool   // one machine
		expects string // the status of who waits, in the end
	}{
		"somebody waits":           {gpus: 1, idle: "5m", kept: true, expects: "running"},
		"of two, one is kept":      {gpus: 1, idle: "5m", others: 1, kept: true, expects: "running"},
		"nobody waits":             {idle: "5m"},
		"for something else":       {gpus: 8, idle: "5m", expects: "submitted"},
		"somebody waits for a bit": {gpus: 1, idle: "5m", leaves: true, expects: "terminated"},
		"the machine may not idle": {gpus: 1, idle: "0s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				c := fake.Config{Name: cloudNames[0], Boot: 7 * time.Minute, Deletion: 3 * time.Second, Capacity: map[offer.Key]int{}}
				for _, o := range fake.SomeOffers() {
					if o.Instance == "gpu.one" && o.Region == "north" && !o.Resources.Spot {
						c.Offers = append(c.Offers, o)
						o.Backend = c.Name
						c.Capacity[o.Key()] = 1 + tt.others
					}
				}
				cloud := w.addCloud(c)
				w.addCloud(fake.Config{Name: cloudNames[1]})
				w.start()
				defer w.end()
				time.Sleep(time.Second)
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}, "idle_duration": "1h"})
				run := func(name string, gpus any) {
					w.applyRun(name, object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": gpus}, "idle_duration": tt.idle,
						"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: 10 * time.Minute, Lines: 1})
				}
				run("first", 1)
				for n := range tt.others {
					run(fmt.Sprint("other", n), 1)
				}
				time.Sleep(30 * time.Second)
				if tt.gpus != nil {
					run("second", tt.gpus)
				}
				time.Sleep(30 * time.Second)
				w.stopRun("first", false)
				for n := range tt.others {
					w.stopRun(fmt.Sprint("other", n), false)
				}
				time.Sleep(30 * time.Second)
				if tt.leaves {
					w.stopRun("second", false)
					time.Sleep(30 * time.Second)
				}
				live := 0
				for _, charge := range cloud.Invoice(w.serverID) {
					if charge.Live {
						live++
					}
				}
				if live > 1 || (live == 1) != tt.kept {
					t.Errorf("soon after, %d machines live, want the machine kept: %v", live, tt.kept)
				}
				time.Sleep(9 * time.Minute)
				if bill := cloud.Invoice(w.serverID); tt.kept && tt.others == 0 && len(bill) != 1 { // what others give back can be bought again
					t.Errorf("%d machines were bought, want one", len(bill))
				}
				var second []string // its attempts: one was refused
				for _, j := range w.checks.now().jobs {
					if j.name == "second-0-0" {
						second = append(second, j.status)
					}
				}
				if tt.expects != "" && !slices.Contains(second, tt.expects) {
					t.Errorf("who waits is %s, want %s", second, tt.expects)
				}
				time.Sleep(time.Hour)
				for _, charge := range cloud.Invoice(w.serverID) {
					if charge.Live {
						t.Error("a machine is left")
					}
				}
				w.holds()
			})
		})
	}
}

// TestBootingMachineIsWaitedFor has the cloud sell again what it refused to a run that waits for a machine which boots,
// since its own run was stopped: the one machine is enough, unless it dies, or would come too late.
func TestBootingMachineIsWaitedFor(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		dies     bool   // while it boots
		patience string // of the run that waits
		waits    bool
		bought   int
	}{
		"it boots":             {patience: "3h", waits: true, bought: 1},
		"it dies":              {dies: true, patience: "3h", waits: true, bought: 2},
		"it would be too late": {patience: "8m", bought: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				c := fake.Config{Name: cloudNames[0], Boot: 7 * time.Minute, Deletion: 3 * time.Second}
				for _, o := range fake.SomeOffers() {
					if o.Instance == "gpu.one" && o.Region == "north" && !o.Resources.Spot {
						c.Offers = append(c.Offers, o)
					}
				}
				cloud := w.addCloud(c)
				w.addCloud(fake.Config{Name: cloudNames[1]})
				w.start()
				defer w.end()
				time.Sleep(time.Second)
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}, "idle_duration": "1h"})
				run := func(name, patience string) {
					w.applyRun(name, object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "idle_duration": "5m",
						"retry": object{"on_events": []string{"no-capacity"}, "duration": patience}}, script{Run: 10 * time.Minute, Lines: 1})
				}
				run("first", "3h")
				time.Sleep(30 * time.Second)
				cloud.Inject(fake.Fault{Op: "Create", Before: backend.ErrNoCapacity})
				run("second", tt.patience)
				time.Sleep(30 * time.Second)
				w.stopRun("first", false)
				time.Sleep(5 * time.Second)
				cloud.Heal()
				time.Sleep(4 * time.Minute)
				var second api.Run
				w.call("project/main/runs/get", object{"run_name": "second"}, &second)
				if wants := second.Waiting != nil && second.Waiting.Reason == "Waits until instance 'nodes-0' has booted"; wants != tt.waits {
					t.Errorf("the second run waits for %+v, want that it waits for the machine: %v", second.Waiting, tt.waits)
				}
				if tt.dies {
					for _, charge := range cloud.Invoice(w.serverID) {
						cloud.Kill(charge.ID)
					}
				}
				time.Sleep(12 * time.Minute)
				if n := len(cloud.Invoice(w.serverID)); n != tt.bought {
					t.Errorf("%d machines were bought, want %d", n, tt.bought)
				}
				w.call("project/main/runs/get", object{"run_name": "second"}, &second)
				if second.Status != api.RunRunning && second.Status != api.RunDone {
					t.Errorf("the second run is %s, want it to run", second.Status)
				}
				w.endAll()
				time.Sleep(5 * time.Minute)
				w.checks.check(over)
				w.holds()
			})
		})
	}
}

// TestBootingMachineIsForTheNext stops the run that waits for a machine which boots: the next in the queue waits for it
// at once, and is told so.
func TestBootingMachineIsForTheNext(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		cloud := w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 7 * time.Minute, Deletion: 3 * time.Second})
		w.addCloud(fake.Config{Name: cloudNames[1]})
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 4}, "idle_duration": "1h"})
		run := func(name string) {
			w.applyRun(name, object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "idle_duration": "5m",
				"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: 10 * time.Minute, Lines: 1})
		}
		waits := func(name string) bool {
			var r api.Run
			w.call("project/main/runs/get", object{"run_name": name}, &r)
			return r.Waiting != nil && r.Waiting.Reason == "Waits until instance 'nodes-0' has booted"
		}
		run("first")
		time.Sleep(30 * time.Second)
		cloud.Inject(fake.Fault{Op: "Create", Before: backend.ErrNoCapacity})
		run("second")
		time.Sleep(2 * time.Second)
		run("third")
		time.Sleep(30 * time.Second)
		w.stopRun("first", false)
		time.Sleep(5 * time.Second)
		if !waits("second") || waits("third") {
			t.Errorf("the second run waits for the machine: %v, the third: %v; want the second", waits("second"), waits("third"))
		}
		w.stopRun("second", false)
		time.Sleep(5 * time.Second)
		if !waits("third") {
			t.Error("the third run does not wait for the machine, which is left to it")
		}
		time.Sleep(10 * time.Minute)
		var third api.Run
		if w.call("project/main/runs/get", object{"run_name": "third"}, &third); third.Status != api.RunRunning {
			t.Errorf("the third run is %s, want it to run", third.Status)
		}
		w.endAll()
		time.Sleep(5 * time.Minute)
		w.checks.check(over)
		w.holds()
	})
}
