package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend/fake"
	"dstack/internal/cli/cost"
	clifleet "dstack/internal/cli/fleet"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/offer"
)

// costs is what the server says was paid for, grouped.
func (w *world) costs(by ...api.CostBy) (c api.Costs) {
	w.t.Helper()
	if status := w.call("costs/get", object{"by": by}, &c); status != 200 {
		w.t.Fatalf("costs: %d", status)
	}
	return c
}

// billed is the sum of all invoices in US dollars.
func (w *world) billed() (sum float64) {
	for _, c := range w.clouds {
		sum += c.Bill(w.serverID)
	}
	return sum
}

// command runs one of the client's in the real client, over HTTP.
func (w *world) command(run func(p *program.Program) error) string {
	w.t.Helper()
	srv := httptest.NewServer(w.current().server.Handler())
	defer srv.Close()
	var out bytes.Buffer
	streams := term.New(strings.NewReader(""), &out, io.Discard)
	streams.Getenv = func(name string) string {
		return map[string]string{"DSTACK_SERVER_URL": srv.URL, "DSTACK_TOKEN": adminToken, "DSTACK_PROJECT": "main"}[name]
	}
	if err := run(&program.Program{IO: streams, Home: w.t.TempDir()}); err != nil {
		w.t.Fatal(err)
	}
	return out.String()
}

// TestCosts follows what a fleet and its runs cost, through the API and the client: a machine is idle,
// is held by one run after another, becomes dearer and ends while its cloud is away.
func TestCosts(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: []offer.Offer{fake.SomeOffers()[1]}, Latency: 100 * time.Millisecond, Boot: time.Minute})
		}
		cloud := w.clouds[cloudNames[0]]
		w.start()
		defer w.end()
		about := func(what string, got, want, slack float64) {
			t.Helper()
			if math.Abs(got-want) > slack {
				t.Errorf("%s: $%.4f, want $%.4f", what, got, want)
			}
		}
		runCost := func(name string) float64 {
			t.Helper()
			var r api.Run
			w.call("project/main/runs/get", object{"run_name": name}, &r)
			if r.MachineCost == nil {
				t.Fatalf("run %s has no cost of machines: %+v", name, r.Status)
			}
			if r.Cost < *r.MachineCost-0.01 {
				t.Errorf("run %s: the published cost $%.2f is less than that of machines, $%.2f", name, r.Cost, *r.MachineCost)
			}
			return *r.MachineCost
		}

		// One machine at $2.50 an hour, an hour with nothing to do.
		w.applyFleet("nodes", object{"nodes": object{"min": 1, "max": 1}, "backends": []string{cloudNames[0]}, "resources": object{"gpu": 1}})
		time.Sleep(time.Hour)
		if n := len(cloud.Live()); n != 2 { // one is a stranger's
			t.Fatalf("%d machines, want 2: %v", n, cloud.Live())
		}
		about("idle", w.costs().CostUSD, 2.5, 0.02)

		// Two runs of two hours after each other: the second waits, which costs it nothing.
		task := object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "fleets": []string{"nodes"}, "retry": object{"on_events": []string{"no-capacity"}, "duration": "1d"}}
		for _, name := range []string{"one", "two"} {
			if status := w.applyRun(name, task, script{Run: 2 * time.Hour, Lines: 1}); status != 200 {
				t.Fatalf("run %s: %d", name, status)
			}
		}
		time.Sleep(4*time.Hour + 10*time.Minute)
		about("the first run", runCost("one"), 5, 0.1)
		about("all", w.costs().CostUSD, w.billed(), 0.01)

		// It becomes twice as dear. The next sweep hears of that.
		mine := w.ours()[0]
		cloud.Reprice(mine.id, 5)
		time.Sleep(2 * time.Hour)
		about("the dearer machine", w.costs().CostUSD, w.billed(), 2.5*6/60)
		held := runCost("one") + runCost("two")

		// It ends while its cloud is away. As long as nobody says so, it costs money, which
		// is in doubt since the cloud did not answer.
		cloud.Inject(fake.Fault{Before: errors.New("bad gateway")})
		cloud.Kill(mine.id)
		time.Sleep(time.Hour)
		away := w.costs(api.CostByFleet)
		if away.HourlyUSD != 5 || away.UnconfirmedUSD < 4.5 || away.UnconfirmedUSD > 5 || away.CostUSD < w.billed()+4.5 {
			t.Errorf("while the cloud is away: %+v, the bill is $%.2f", away.CostSum, w.billed())
		}
		if out := w.command(func(p *program.Program) error {
			return cost.Run(t.Context(), cost.Options{Program: p, By: []string{"fleet"}})
		}); !strings.Contains(out, "UNCONFIRMED") {
			t.Errorf("dstack cost does not mark it:\n%s", out)
		}
		cloud.Heal()
		time.Sleep(time.Hour)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "backends": []string{cloudNames[0]}, "resources": object{"gpu": 1}})
		for _, inst := range w.checks.now().instances { // what the fleet had brought in the place of the lost one
			var num int
			if _, err := fmt.Sscanf(inst.name, "nodes-%d", &num); err == nil && inst.status == "idle" {
				w.deleteInstance("nodes", num)
			}
		}
		time.Sleep(30 * time.Minute)

		// All ways to group it are the same money, and the ended machine is a part of its live fleet's.
		all := w.costs()
		for _, by := range [][]api.CostBy{{api.CostByFleet}, {api.CostByInstance, api.CostByDay}, {api.CostByRun}, {api.CostByUser, api.CostByBackend}, {api.CostByProject}} {
			sum := 0.0
			for _, r := range w.costs(by...).Rows {
				sum += r.CostUSD
			}
			about("by "+string(by[0]), sum, all.CostUSD, 1e-4)
		}
		if all.HourlyUSD != 0 || all.UnconfirmedUSD != 0 {
			t.Errorf("after the end %+v", all.CostSum)
		}
		runs := 0.0
		for _, r := range w.costs(api.CostByRun).Rows {
			if r.Run != nil {
				runs += r.CostUSD
			}
		}
		about("the runs", runs, held, 0.01)
		var f api.Fleet
		w.call("project/main/fleets/get", object{"name": "nodes"}, &f)
		if f.MachineCost == nil {
			t.Fatal("the fleet has no cost")
		}
		about("the fleet", *f.MachineCost, all.CostUSD, 1e-4)
		out := w.command(func(p *program.Program) error {
			return clifleet.List(t.Context(), clifleet.Options{Program: p, Verbose: true})
		})
		if !strings.Contains(out, "COST") {
			t.Errorf("dstack fleet -v has no costs:\n%s", out)
		}
	})
}

// TestMachineTooDear has a cloud tell while a machine boots that it costs more than the run allows. Until
// then the run shows where it is and at what price; then the machine is given back, and the run says why.
func TestMachineTooDear(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: []offer.Offer{fake.SomeOffers()[1]}, Latency: 100 * time.Millisecond, Boot: 8 * time.Minute})
		}
		w.start()
		defer w.end()
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "backends": []string{cloudNames[0]}, "resources": object{"gpu": 1}})
		task := object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "fleets": []string{"nodes"}, "max_price": 3}
		if status := w.applyRun("one", task, script{Run: time.Hour, Lines: 1}); status != 200 {
			t.Fatalf("apply: %d", status)
		}
		latest := func() *api.JobSubmission {
			var r api.Run
			w.call("project/main/runs/get", object{"run_name": "one"}, &r)
			return r.LatestJobSubmission
		}
		time.Sleep(time.Minute)
		sub := latest()
		if p := sub.JobProvisioningData; sub.Status != api.JobProvisioning || p == nil || string(p.Backend) != cloudNames[0] || p.Price != 2.5 || !p.Dockerized || p.InstanceID == "" || *p.Hostname != "" {
			t.Fatalf("while its machine boots, the job is %s on %+v", sub.Status, p)
		}
		w.clouds[cloudNames[0]].Reprice(w.ours()[0].id, 9)
		time.Sleep(10 * time.Minute)
		sub = latest()
		if m := sub.TerminationReasonMessage; !sub.Status.Finished() || m == nil || *m != "It costs $9 an hour, more than the max_price of $3" {
			t.Errorf("the job is %s: %v", sub.Status, m)
		}
		if left := w.ours(); len(left) != 0 {
			t.Errorf("machines that cost too much: %v", left)
		}
	})
}
