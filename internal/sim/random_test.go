package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

const (
	// chaosFor is how long things go wrong.
	chaosFor = 8 * time.Minute
	// settleFor is in how long everything must settle once they do not (I5): an instance that
	// does not answer is given back after 20 min, a machine boots in 10 or not at all, and a
	// deletion is repeated every 10.
	settleFor = 50 * time.Minute
)

// choose takes one of the list.
func choose[T any](rnd *rand.Rand, list ...T) T { return list[rnd.IntN(len(list))] }

func seconds(rnd *rand.Rand, from, to int) time.Duration {
	return time.Duration(from*1000+rnd.IntN((to-from)*1000)) * time.Millisecond
}

// idsFrom takes ids from the seed until the test ends: a failure has the same ids again, and
// what follows from them, like the jitter of passes. For that, the worlds of one process run
// one after the other.
func idsFrom(t *testing.T, seed uint64) *rand.ChaCha8 {
	t.Helper()
	source := rand.NewChaCha8([32]byte(fmt.Appendf(nil, "%032d", seed)))
	takeIDs(t, source)
	return source
}

func takeIDs(t *testing.T, source *rand.ChaCha8) {
	t.Helper()
	uuid.SetRand(source)
	t.Cleanup(func() { uuid.SetRand(nil) })
}

// live is the life of the world of a seed, from beginning to end.
func live(t *testing.T, seed uint64, tp template, spoil func(*world, *process), verbose bool) *world {
	t.Helper()
	idsFrom(t, seed)
	w := newWorld(t, seed, tp)
	w.spoil, w.trace.verbose = spoil, verbose
	rnd := rand.New(rand.NewPCG(seed, 1))
	w.populate(rnd)
	w.start()
	w.chaos(rnd)
	w.heal()
	w.settle(settled, 2)
	w.compareLists()
	w.endAll()
	w.settle(over, 1)
	w.compareLists()
	return w
}

// settle waits until invariants hold at several looks in a row, a sweep of the ledger apart.
// What does not hold at last is a violation.
func (w *world) settle(list []invariant, looks int) {
	const every = 6 * time.Minute
	good := 0
	for end := time.Now().Add(settleFor); time.Now().Before(end); {
		if good = good + 1; w.checks.holds(list) == false {
			good = 0
		}
		if good == looks {
			return
		}
		time.Sleep(every)
	}
	w.checks.check(list)
}

// populate draws clouds and hosts.
func (w *world) populate(rnd *rand.Rand) {
	own := rand.New(rand.NewPCG(w.seed, 3)) // of what was added later: other things stay as they were
	trade := rand.New(rand.NewPCG(w.seed, 5))
	traded := trade.IntN(2) == 0
	for _, name := range cloudNames {
		w.plain[name] = own.IntN(4) == 0
		c := fake.Config{
			Fabrics: map[string]string{"cpu.small": choose(own, "", "", "", fake.NoFabric), "gpu.eight": choose(own, "", "fast")},
			Name:    name, Offers: offersOf(rnd), Boot: seconds(rnd, 5, 60), Latency: seconds(rnd, 0, 1), Deletion: seconds(rnd, 0, 20),
			ListLag: time.Duration(rnd.IntN(3)) * seconds(rnd, 0, 20), Capacity: map[offer.Key]int{},
		}
		for _, o := range c.Offers {
			if rnd.IntN(4) == 0 {
				o.Backend = name
				c.Capacity[o.Key()] = rnd.IntN(3)
			}
		}
		if traded {
			w.markets[name] = newMarket(c.Offers, choose(trade, 0, 0, time.Minute, 10*time.Minute))
			c.Prices, c.Charges = w.markets[name], w.markets[name].charges
		}
		cloud := w.addCloud(c)
		mix := fake.EveryKind(0)
		mix.Life = 20 * time.Minute
		for _, k := range allKinds {
			if rnd.IntN(3) == 0 {
				mix.Shares[k] = rnd.Float64() * 0.15
			}
		}
		seed := rnd.Uint64()
		if seed%3 == 0 { // answers that name a stranger's machine, which has to live on
			mix.Shares[fake.Misnaming] = 0.1
		}
		cloud.Misbehave(seed, mix)
	}
	for n := range rnd.IntN(4) {
		name := fmt.Sprintf("host%d.example", n)
		w.hosts[name] = newHost(w, name, 1000+n, false)
	}
	if rnd.IntN(2) == 0 {
		w.netFaults = rnd.Float64() * 0.1
	}
	w.crashes = rnd.IntN(4)
}

// allKinds are the clouds' ways to misbehave, in the order in which seeds draw them.
var allKinds = []fake.Kind{
	fake.ErrorBefore, fake.ErrorAfter, fake.HangBefore, fake.HangAfter, fake.Throttle, fake.Redelivery, fake.Twin, fake.StaleList, fake.PartialList,
	fake.NoCapacity, fake.SlowBoot, fake.BrokenBoot, fake.SuddenDeath, fake.Interruption, fake.AddressReuse,
}

func offersOf(rnd *rand.Rand) []offer.Offer {
	all := fake.SomeOffers()
	for i := range all {
		all[i].Price += float64(rnd.IntN(100)) / 1000
	}
	return all
}

// deed is something that happens at a time.
type deed struct {
	at time.Duration
	do func()
}

// chaos draws what users do and what goes wrong, and lets it happen.
func (w *world) chaos(rnd *rand.Rand) {
	var deeds []deed
	add := func(rnd *rand.Rand) plan {
		return func(from, to time.Duration, do func()) {
			deeds = append(deeds, deed{from + time.Duration(rnd.Int64N(int64(to-from))), do})
		}
	}
	own := rand.New(rand.NewPCG(w.seed, 2)) // of what was added later: other things stay as they were
	w.planFleets(rnd, add(rnd))
	w.planRuns(rnd, add(rnd))
	w.planServices(own, add(own))
	visits := rand.New(rand.NewPCG(w.seed, 4)) // later still
	w.planShares(visits, add(visits))
	trade, removals := rand.New(rand.NewPCG(w.seed, 6)), rand.New(rand.NewPCG(w.seed, 7))
	w.planPrices(trade, add(trade))
	w.planRemovals(removals, add(removals))
	w.planTrouble(rnd, add(rnd))
	places := rand.New(rand.NewPCG(w.seed, 9))
	w.planAddresses(places, add(places))
	slices.SortStableFunc(deeds, func(a, b deed) int { return int(a.at - b.at) })
	begin := time.Now()
	for _, d := range deeds {
		w.sleepUntil(begin.Add(d.at))
		d.do()
	}
	w.sleepUntil(begin.Add(chaosFor))
}

// sleepUntil waits, and starts the server again when it died meanwhile.
func (w *world) sleepUntil(at time.Time) {
	for {
		select {
		case <-w.crashed:
			w.restart(time.Duration(w.dice("outage").IntN(60)) * time.Second)
		case <-time.After(time.Until(at)):
			return
		}
	}
}

type plan func(from, to time.Duration, do func())

// again repeats what a user does until the server takes it: it may be down.
func (w *world) again(do func() int) func() {
	return func() {
		if do() == 0 {
			w.trace.add("user", "finds no server")
		}
	}
}

func (w *world) planFleets(rnd *rand.Rand, add plan) {
	for n := range 1 + rnd.IntN(2) {
		name := fmt.Sprintf("fleet-%d", n)
		minimum, maximum := rnd.IntN(2), 1+rnd.IntN(4)
		config := func() object {
			c := object{"nodes": object{"min": min(minimum, maximum), "max": maximum}, "idle_duration": rnd.IntN(600)}
			return c
		}
		c := config()
		if rnd.IntN(2) == 0 {
			c["placement"] = "cluster"
		}
		if rnd.IntN(3) == 0 {
			c["blocks"] = choose[any](rnd, 2, "auto")
		}
		again := object{}
		for k, v := range c {
			again[k] = v
		}
		again["nodes"] = object{"min": rnd.IntN(2), "max": 1 + rnd.IntN(4)}
		add(0, 5*time.Second, w.again(func() int { return w.applyFleet(name, c) }))
		if rnd.IntN(4) == 0 {
			add(time.Minute, chaosFor, w.again(func() int { return w.applyFleet(name, again) }))
		}
		if rnd.IntN(8) == 0 {
			add(3*time.Minute, chaosFor, w.again(func() int { return w.deleteFleets(name) }))
		}
		if rnd.IntN(4) == 0 {
			num := rnd.IntN(2)
			add(2*time.Minute, chaosFor, w.again(func() int { return w.deleteInstance(name, num) }))
		}
	}
	if len(w.hosts) == 0 {
		return
	}
	hosts := []string{}
	for name := range w.hosts {
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	c := object{"ssh_config": object{"user": "root", "ssh_key": w.keys, "hosts": hosts}}
	if rnd.IntN(2) == 0 {
		c["blocks"] = choose[any](rnd, 2, 4, "auto")
	}
	if rnd.IntN(2) == 0 {
		c["placement"] = "cluster"
	}
	add(0, 5*time.Second, w.again(func() int { return w.applyFleet("hosts", c) }))
}

// planRemovals draws single instances that are removed, and what the user wants instead while they go: the
// same again, or, of hosts, some of them and then all. Hosts take longer to go when they are out of reach.
func (w *world) planRemovals(rnd *rand.Rand, add plan) {
	if rnd.IntN(2) == 0 {
		return
	}
	for range 1 + rnd.IntN(3) {
		name, num, pause := choose(rnd, "fleet-0", "fleet-1"), rnd.IntN(3), seconds(rnd, 0, 30)
		cut, left := rnd.IntN(2) == 0, rnd.IntN(3)
		if len(w.hosts) > 0 && rnd.IntN(3) > 0 {
			name, num = "hosts", rnd.IntN(len(w.hosts))
		}
		add(time.Minute, chaosFor, func() {
			w.mu.Lock()
			c := w.fleets[name]
			w.mu.Unlock()
			if c == nil { // of another world
				return
			}
			ssh, _ := c["ssh_config"].(object)
			if ssh != nil && cut {
				for _, h := range w.every() {
					if w.hosts[h.name] != nil {
						w.trace.add("trouble", h.name, "cut off for", (2 * pause).String())
						h.cut(2 * pause)
					}
				}
			}
			if w.deleteInstance(name, num) == http.StatusOK {
				w.count("instance removed")
			}
			if ssh != nil && left > 0 {
				fewer, hosts := maps.Clone(ssh), ssh["hosts"].([]string)
				fewer["hosts"] = hosts[:min(left, len(hosts))]
				some := maps.Clone(c)
				some["ssh_config"] = fewer
				time.AfterFunc(pause/2, w.again(func() int { return w.submitFleet(name, some) }))
			}
			time.AfterFunc(pause, w.again(func() int { return w.submitFleet(name, c) }))
		})
	}
}

func (w *world) planRuns(rnd *rand.Rand, add plan) {
	own := rand.New(rand.NewPCG(w.seed, 8)) // of what was added later: other things stay as they were
	for n := range 1 + rnd.IntN(5) {
		name := fmt.Sprintf("run-%d", n)
		c, class := runConfig(rnd)
		events := drawRetry(own, c)
		c["env"] = object{"CLASS": fmt.Sprint(class, events)}
		exit := 0
		if c["retry"] == nil {
			exit = rnd.IntN(2) // one that is tried again for ever would never settle
		} else if !slices.Contains(events, "error") {
			exit = own.IntN(2)
		}
		c["priority"] = rnd.IntN(3) * 10
		s := script{
			Pull: seconds(rnd, 0, 20), Run: seconds(rnd, 2, 240), Stop: seconds(rnd, 0, 10), Exit: exit, Fails: choose(rnd, 0, 0, 1), Lines: rnd.IntN(12),
		}
		at := time.Duration(rnd.Int64N(int64(chaosFor * 2 / 3)))
		add(at, at+time.Second, w.again(func() int { return w.applyRun(name, c, s) }))
		switch rnd.IntN(6) {
		case 0:
			add(at+time.Second, at+5*time.Minute, w.again(func() int { return w.stopRun(name, false) }))
		case 1:
			add(at+time.Second, at+5*time.Minute, w.again(func() int { return w.stopRun(name, true) }))
		case 2:
			add(at+time.Minute, at+5*time.Minute, w.again(func() int { return w.deleteRun(name) }))
		case 3:
			changed := object{}
			for k, v := range c {
				changed[k] = v
			}
			changed["priority"] = 50
			add(at+time.Second, at+5*time.Minute, w.again(func() int { return w.applyRun(name, changed, s) }))
		}
	}
}

// runConfig draws what a run asks for; runs of one class ask for the same.
func runConfig(rnd *rand.Rand) (c object, class string) {
	c = object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil}}
	class = "small"
	switch rnd.IntN(8) {
	case 0:
		c["nodes"], class = 2, "pair"
	case 1:
		c["nodes"], class = 3, "three"
	case 2:
		c["resources"], class = object{"gpu": "1", "cpu": "1..", "memory": "1GB.."}, "gpu"
	case 3:
		c = object{"type": "dev-environment", "ide": "vscode", "resources": c["resources"]}
		class = "dev"
	}
	if rnd.IntN(4) > 0 {
		c["retry"] = object{"on_events": retryEvents, "duration": choose(rnd, "10m", "30m", "2h")}
		class += " retried"
	}
	if rnd.IntN(6) == 0 {
		c["max_duration"] = "60s"
	}
	if rnd.IntN(6) == 0 {
		c["stop_duration"] = "5s"
	}
	if rnd.IntN(12) == 0 {
		c["schedule"] = object{"cron": "*/5 * * * *"}
		class += " scheduled"
	}
	if rnd.IntN(4) == 0 {
		c["spot_policy"], class = "auto", class+" spot"
	}
	return c, class
}

// planTrouble draws what goes wrong beside the faults of the clouds.
func (w *world) planTrouble(rnd *rand.Rand, add plan) {
	pick := func(do func(h *agent)) func() {
		n := rnd.IntN(1 << 20)
		return func() {
			if all := w.every(); len(all) > 0 {
				do(all[n%len(all)])
			}
		}
	}
	if w.overtakes {
		for range 3 {
			add(0, chaosFor, w.overtaken)
		}
	}
	for range rnd.IntN(6) {
		switch d := seconds(rnd, 1, 90); rnd.IntN(8) {
		case 0:
			d *= time.Duration(choose(rnd, 1, 3, 15))
			add(0, chaosFor, pick(func(h *agent) {
				w.trace.add("trouble", h.name, "cut off for", d.String())
				w.count("host cut off")
				h.cut(d)
			}))
		case 1:
			add(0, chaosFor, pick(func(h *agent) {
				w.trace.add("trouble", h.name, "restarts")
				w.count("host restarted")
				h.reboot(d)
			}))
		case 2:
			add(0, chaosFor, pick(func(h *agent) {
				w.trace.add("trouble", h.name, "agent killed")
				w.count("agent killed")
				h.dropLinks()
			}))
		case 3:
			add(0, chaosFor, pick(func(h *agent) {
				w.count("events lag")
				h.late(d / 20)
			}))
		case 4:
			add(0, chaosFor, func() {
				w.count("server killed")
				w.current().kill("between two events")
				w.restart(d)
			})
		case 5:
			add(0, chaosFor, w.overtaken)
		case 6:
			add(0, chaosFor, func() {
				w.killMachine(rnd.IntN(1 << 20))
			})
		case 7:
			add(0, chaosFor, func() {
				if !w.current().alive() {
					return
				}
				w.count("server restarted")
				w.stop()
				w.trace.add("server", "stopped")
				w.restart(d / 10)
			})
		}
	}
}

// overtaken starts a second server beside the first, which goes on for a while without
// knowing.
func (w *world) overtaken() {
	if !w.current().alive() {
		return
	}
	w.count("server overtaken")
	old := w.overtake(w.dice("overtaken").IntN(2) == 0)
	time.AfterFunc(3*time.Minute, func() { old.kill("after it was overtaken") })
}

// killMachine ends a machine behind the server's back.
func (w *world) killMachine(n int) {
	p := w.current()
	if !p.alive() {
		return
	}
	all := w.ours()
	if len(all) == 0 {
		return
	}
	m := all[n%len(all)]
	w.count("machine killed")
	w.trace.add("trouble", m.key(), "killed")
	w.clouds[m.cloud].Kill(m.id)
}

// heal ends all faults.
func (w *world) heal() {
	w.trace.add("world", "heals")
	w.mu.Lock()
	w.calm = true
	w.crashes = 0
	w.mu.Unlock()
	for _, c := range w.clouds {
		c.Heal()
	}
	for _, h := range w.every() {
		h.late(0)
		h.cut(0)
	}
	select {
	case <-w.crashed:
	default:
	}
	if !w.current().alive() {
		w.restart(time.Second)
	}
}
