package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dstack/internal/offer"
)

// market is what a cloud sells: its prices rise and fall, and what is made costs what it costs then. The
// list tells that later at some clouds.
type market struct {
	lag    time.Duration // of the list
	mu     sync.Mutex
	offers []offer.Offer
	past   map[offer.Key][]quote // by offer, oldest first, the present one included
}

// quote is a price from a time on.
type quote struct {
	at    time.Time
	price float64 // US dollars per hour
}

func newMarket(offers []offer.Offer, lag time.Duration) *market {
	m := &market{lag: lag, offers: offers, past: map[offer.Key][]quote{}}
	for _, o := range offers {
		m.past[goods(o)] = []quote{{time.Now(), o.Price}}
	}
	return m
}

// goods are what a price is of. A market is of one cloud.
func goods(o offer.Offer) offer.Key {
	k := o.Key()
	k.Backend = ""
	return k
}

// Offers implements backend.Prices.
func (m *market) Offers(_ string, q offer.Query) (all []offer.Offer, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.offers {
		if !q.Region(o.Region) || q.Spot != nil && *q.Spot != o.Resources.Spot {
			continue
		}
		for _, p := range m.past[goods(o)] {
			if time.Since(p.at) >= m.lag {
				o.Price = p.price
			}
		}
		all = append(all, o)
	}
	return all, nil
}

// charges is what a machine costs that is made now.
func (m *market) charges(o offer.Offer) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	past := m.past[goods(o)]
	return past[len(past)-1].price
}

// change multiplies the prices of an instance type.
func (m *market) change(instance string, by float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.offers {
		if past := m.past[goods(o)]; o.Instance == instance {
			m.past[goods(o)] = append(past, quote{time.Now(), past[len(past)-1].price * by})
		}
	}
}

// above is for how long something had been listed at more than a limit at a time.
func (m *market) above(o offer.Key, limit float64, at time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	o.Backend, at = "", at.Add(-m.lag)
	var since time.Time
	for _, q := range m.past[o] {
		switch {
		case q.at.After(at):
		case q.price <= limit:
			since = time.Time{}
		case since.IsZero():
			since = q.at
		}
	}
	if since.IsZero() {
		return 0
	}
	return at.Sub(since)
}

// planPrices draws how prices change, in the market and of what is there, and runs that pay up to a limit.
func (w *world) planPrices(rnd *rand.Rand, add plan) {
	if len(w.markets) == 0 {
		return
	}
	own := rand.New(rand.NewPCG(w.seed, 10)) // of what was added later: other things stay as they were
	for n := range 1 + rnd.IntN(3) {
		name := fmt.Sprintf("bid-%d", n)
		// Between what is asked for at first and what that becomes.
		instance, resources, limit := "cpu.small", object{"cpu": "1..", "memory": "1GB..", "disk": nil}, choose(rnd, 0.17, 0.21, 0.5)
		if rnd.IntN(3) == 0 {
			instance, resources, limit = "gpu.one", object{"gpu": "1", "cpu": "1..", "memory": "1GB.."}, choose(rnd, 2.7, 4.0)
		}
		c := object{"type": "task", "commands": []string{"work"}, "resources": resources, "max_price": limit, "env": object{"CLASS": fmt.Sprint(resources, limit)}}
		if rnd.IntN(4) > 0 {
			c["retry"] = object{"on_events": retryEvents, "duration": choose(rnd, "10m", "30m")}
		}
		drawRetry(own, c)
		w.limits[name] = limit
		s := script{Pull: seconds(rnd, 0, 20), Run: seconds(rnd, 2, 240), Stop: seconds(rnd, 0, 10), Lines: rnd.IntN(12)}
		at := time.Duration(rnd.Int64N(int64(chaosFor * 2 / 3)))
		add(at, at+time.Second, w.again(func() int { return w.applyRun(name, c, s) }))
		if rnd.IntN(2) == 0 { // between the choice and the request, or a little later
			add(at, at+10*time.Second, w.changePrice(instance, choose(rnd, 2.0, 10)))
		}
	}
	for range rnd.IntN(4) {
		add(0, chaosFor, w.changePrice(choose(rnd, "cpu.small", "cpu.small", "gpu.one", "gpu.eight"), choose(rnd, 0.2, 0.5, 1.4, 2)))
	}
	for range rnd.IntN(4) {
		n, by := rnd.IntN(1<<20), choose(rnd, 0.5, 2, 10)
		add(time.Minute, chaosFor, func() { w.reprice(n, by) })
	}
}

// changePrice has an instance type cost something else everywhere.
func (w *world) changePrice(instance string, by float64) func() {
	return func() {
		w.count("market: price changed")
		w.trace.add("market", instance, fmt.Sprintf("costs %g times as much", by))
		for _, m := range w.markets {
			m.change(instance, by)
		}
	}
}

// reprice has one of our machines cost something else from now on.
func (w *world) reprice(n int, by float64) {
	all := w.ours()
	if len(all) == 0 {
		return
	}
	m := all[n%len(all)]
	w.count("market: machine repriced")
	w.trace.add("market", m.key(), fmt.Sprintf("costs %g times as much", by))
	w.clouds[m.cloud].Reprice(m.id, m.price*by)
}

// staleOffer bounds for how long a cloud may have asked for more than a run allows when a machine is made
// for it: answers of a cloud are believed for seconds, and a request arrives late when it hangs.
const staleOffer = 2 * time.Minute

// limitsKept is I18 at every moment: no job is given a machine, and none begins on one, of which its cloud
// has said that it costs more than the run allows. One that becomes dearer later is kept.
func limitsKept(s *state) (bad []string) {
	if len(s.w.limits) == 0 || s.prev == nil {
		return nil
	}
	was, before, now := map[string]jobRow{}, s.prev.instancesByID(), s.instancesByID()
	for _, j := range s.prev.jobs {
		was[j.id] = j
	}
	for _, j := range s.jobs {
		limit, limited := s.w.limits[s.runs[j.run].name]
		if !limited || was[j.id].status == j.status {
			continue
		}
		switch inst := before[j.instance]; {
		case was[j.id].status == "submitted" && j.placed() && inst.price > limit && now[j.instance].price > limit:
			bad = append(bad, fmt.Sprintf("job %s, which may cost $%g, was given %s at $%g", j.name, limit, inst.name, inst.price))
		case was[j.id].status == "provisioning" && (j.status == "pulling" || j.status == "running") && inst.job == j.id:
			if m := s.machineOf(inst); m != nil && m.madeAbove(limit) {
				bad = append(bad, fmt.Sprintf("job %s, which may cost $%g, begins on %s, which was made at $%g", j.name, limit, m.key(), m.first))
			}
		}
	}
	for _, m := range s.machines {
		if slices.ContainsFunc(s.prev.machines, func(o machine) bool { return o.key() == m.key() }) {
			continue // judged when it was new
		}
		if name, limit := s.limitOf(m); limit > 0 {
			if late := s.w.markets[m.cloud].above(m.what, limit, m.made); late > staleOffer {
				bad = append(bad, fmt.Sprintf("machine %s was made for %s, which may cost $%g, when it had cost more for %v", m.key(), name, limit, late))
			}
		}
	}
	return bad
}

// nothingTooDear is I18 when all is calm: a machine that turned out to cost more than its run allows was
// given back.
func nothingTooDear(s *state) (bad []string) {
	for _, m := range s.machines {
		if name, limit := s.limitOf(m); limit > 0 && m.madeAbove(limit) {
			bad = append(bad, fmt.Sprintf("machine %s, made at $%g, is kept for %s, which may cost $%g", m.key(), m.first, name, limit))
		}
	}
	return bad
}

// madeAbove says that a machine has always cost more than a limit.
func (m machine) madeAbove(limit float64) bool { return m.first > limit && m.price == m.first }

// limitOf is the job that a machine was made for and what it may cost, 0 for anything.
func (s *state) limitOf(m machine) (job string, limit float64) {
	for _, inst := range s.instances {
		if inst.intent != m.intent || inst.job == "" {
			continue
		}
		for _, j := range s.jobs {
			if j.id == inst.job {
				return j.name, s.w.limits[s.runs[j.run].name]
			}
		}
	}
	return "", 0
}

// machineOf is an instance's machine, nil when there is none.
func (s *state) machineOf(inst instanceRow) *machine {
	i := slices.IndexFunc(s.machines, func(m machine) bool { return m.intent == inst.intent })
	if i < 0 {
		return nil
	}
	return &s.machines[i]
}
