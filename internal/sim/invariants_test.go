package sim

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// invariant is something that is true of every state.
type invariant struct {
	name   string
	broken func(s *state) []string // what is wrong, nothing when it holds
}

// always are the invariants of every moment, whatever goes wrong.
var always = []invariant{
	{"I1", recordedFirst}, {"I2", noDoubleCreate}, {"I3", noFalseDeath}, {"I4", staleOwnersHarmless}, {"I6", occupancyIsAssignments},
	{"I7", gangsAllOrNothing}, {"I8", outageKillsNoJob}, {"I10", noInversion}, {"I11", logsWhole}, {"I12", foreignUntouched},
	{"I14", groupsRight}, {"I16", sharesRight}, {"I18", limitsKept}, {"I20", placesFit}, {"I22", retriesRight},
}

// settled are the invariants of the time when the faults have stopped and everything had
// time to settle.
var settled = []invariant{{"I1", noOrphan}, {"I5", nothingInBetween}, {"I9", costsEqualBill}, {"I13", servicesWhole}, {"I14", groupsUsed}, {"I18", nothingTooDear}, {"I19", hostsWhole}, {"I21", idleGivenBack}}

// over are the invariants of the time when the user has ended everything and all had time to
// go.
var over = []invariant{{"I1", noOrphan}, {"I5", nothingInBetween}, {"I5", nothingLeft}, {"I9", costsEqualBill}, {"I11", logsWhole}}

func (s *state) intentsByID() map[string]intentRow {
	m := map[string]intentRow{}
	for _, in := range s.intents {
		m[in.id] = in
	}
	return m
}

func (s *state) instancesByID() map[string]instanceRow {
	m := map[string]instanceRow{}
	for _, inst := range s.instances {
		m[inst.id] = inst
	}
	return m
}

// recordedFirst is I1 at every moment: a machine that costs money, and a group, was recorded
// before it was asked for.
func recordedFirst(s *state) (bad []string) {
	intents := s.intentsByID()
	for _, m := range s.machines {
		if in, ok := intents[m.intent]; !ok || in.state == "intended" {
			bad = append(bad, fmt.Sprintf("machine %s costs money and its intent %.8s is not recorded as asked for", m.key(), m.intent))
		}
	}
	for _, g := range s.groups {
		if in, ok := intents[g.intent]; !ok || in.state == "intended" {
			bad = append(bad, fmt.Sprintf("group %s exists and its intent %.8s is not recorded as asked for", g.key(), g.intent))
		}
	}
	return bad
}

// noOrphan is I1 when all is calm: every machine that costs money is wanted and known, or on its way
// out, since runs that wait for capacity go on trying. See [nothingInBetween] for how long it may be
// that, and [nothingLeft] for the end of the world.
func noOrphan(s *state) (bad []string) {
	intents := s.intentsByID()
	for _, m := range s.machines {
		in := intents[m.intent]
		if in.state == "deleting" && in.resource == m.id {
			continue
		}
		if in.state != "created" || !in.wanted || in.resource != m.id {
			bad = append(bad, fmt.Sprintf("machine %s is left over: its intent %.8s is %q", m.key(), m.intent, in.state))
		}
	}
	return bad
}

// noDoubleCreate is I2: an intent has at most one machine (twins of the provider's own making
// aside), and an instance at most one intent that may become or is a machine.
func noDoubleCreate(s *state) (bad []string) {
	extra := 0
	count := map[string]int{}
	for _, name := range cloudNames {
		if s.w.clouds[name] == nil {
			continue
		}
		for _, charge := range lives(s.w.clouds[name].Invoice(s.w.serverID)) {
			if count[charge.Intent]++; count[charge.Intent] > 1 {
				extra++
			}
		}
	}
	if extra > s.twins {
		for id, n := range count {
			if n > 1 {
				bad = append(bad, fmt.Sprintf("%d machines were made for intent %.8s", n, id))
			}
		}
	}
	open := map[string]string{}
	for _, in := range s.intents {
		if in.kind != "instance" || in.owner == "" || !in.wanted || in.state == "gone" {
			continue
		}
		if other, twice := open[in.owner]; twice {
			bad = append(bad, fmt.Sprintf("instance %.8s has the intents %.8s and %.8s at a time", in.owner, other, in.id))
		}
		open[in.owner] = in.id
	}
	return bad
}

// noFalseDeath is I3: what is recorded as gone is gone, and a job fails for its machine only
// when that is true.
func noFalseDeath(s *state) (bad []string) {
	byIntent := map[string]machine{}
	for _, m := range s.machines {
		if s.stillThere[m.key()] {
			byIntent[m.intent] = m
		}
	}
	for _, in := range s.intents {
		m, there := byIntent[in.id]
		if in.state == "gone" && there && in.resource == m.id {
			bad = append(bad, fmt.Sprintf("intent %.8s is gone, its machine %s costs money", in.id, m.key()))
		}
	}
	intents := s.intentsByID()
	for _, g := range s.groups {
		if in := intents[g.intent]; in.state == "gone" && in.resource == g.id && s.stillThere[g.key()] {
			bad = append(bad, fmt.Sprintf("intent %.8s is gone, its group %s exists", in.id, g.key()))
		}
	}
	for _, inst := range s.instances {
		if m, there := byIntent[inst.intent]; there && inst.intent != "" && inst.status == "terminated" && s.twins == 0 {
			bad = append(bad, fmt.Sprintf("instance %s is terminated, its machine %s costs money", inst.name, m.key()))
		}
	}
	for _, j := range s.fresh() {
		f := s.facts[j.id]
		switch j.reason {
		case "done_by_runner":
			if f == nil || !f.ended || f.why != agentapi.DoneByRunner {
				bad = append(bad, fmt.Sprintf("job %s is done, its task is not", j.name))
			}
		case "container_exited_with_error", "max_duration_exceeded":
			if f == nil || !f.ended {
				bad = append(bad, fmt.Sprintf("job %s has ended (%s), its task has not", j.name, j.reason))
			}
		}
		if f != nil && (j.reason == "done_by_runner" || j.reason == "container_exited_with_error") && j.exit != f.exit {
			bad = append(bad, fmt.Sprintf("job %s has the exit code %q, its task had %q", j.name, j.exit, f.exit))
		}
		switch j.reason {
		case "instance_unreachable", "interrupted_by_no_capacity":
			if f != nil && !f.ended && !s.lost(f.host, j) {
				bad = append(bad, fmt.Sprintf("job %s ended with %s, its task runs on %s, which answers", j.name, j.reason, f.host.name))
			}
		}
	}
	return bad
}

// fresh are the jobs that have finished since the last look.
func (s *state) fresh() []jobRow {
	was := map[string]bool{}
	if s.prev != nil {
		for _, j := range s.prev.jobs {
			was[j.id] = j.finished()
		}
	}
	var list []jobRow
	for _, j := range s.jobs {
		if j.finished() && !was[j.id] {
			list = append(list, j)
		}
	}
	return list
}

// lost says that a job's machine is gone, about to go, or was out of reach for so long that
// it was given back.
func (s *state) lost(h *agent, j jobRow) bool {
	if strings.Contains(h.name, "/") && !s.stillThere[h.name] {
		return true
	}
	if at, cut := s.w.checks.disturbed[h]; cut && s.now.Sub(at) > 0 {
		return true
	}
	inst := s.instancesByID()[j.instance]
	return inst.status == "terminating" || inst.status == "terminated" // judged as such by noFalseDeath
}

// staleOwnersHarmless is I4: a server that was overtaken decides nothing any more.
func staleOwnersHarmless(s *state) (bad []string) {
	for _, name := range s.stale {
		bad = append(bad, "the overtaken server wrote "+strings.TrimPrefix(name, "stale/"))
	}
	return bad
}

// stuckAfter is how long an object may be on its way when nothing goes wrong: an instance is
// given back after 20 min without an answer.
const stuckAfter = 25 * time.Minute

// nothingInBetween is I5: when the faults have stopped, nothing stays on its way.
func nothingInBetween(s *state) (bad []string) {
	stuck := func(kind, id, status string) bool { return s.now.Sub(s.since[kind+id+status]) > stuckAfter }
	for _, in := range s.intents {
		if (in.state == "intended" || in.state == "unknown" || in.state == "deleting") && stuck("intent", in.id, in.state) {
			bad = append(bad, fmt.Sprintf("intent %.8s of %.8s is %s", in.id, in.owner, in.state))
		}
	}
	for _, inst := range s.instances {
		if !inst.deleted && (inst.status == "pending" || inst.status == "provisioning" || inst.status == "terminating") && stuck("instance", inst.id, inst.status) {
			bad = append(bad, fmt.Sprintf("instance %s is %s", inst.name, inst.status))
		}
	}
	for _, j := range s.jobs {
		f := s.facts[j.id]
		if (j.status == "provisioning" || j.status == "pulling" || j.status == "terminating") && stuck("job", j.id, j.status) {
			bad = append(bad, fmt.Sprintf("job %s is %s", j.name, j.status))
		}
		if f != nil && f.ended && j.status == "running" && s.now.Sub(f.at) > time.Minute {
			bad = append(bad, fmt.Sprintf("job %s is running, its task has ended (%s)", j.name, f.why))
		}
	}
	for _, r := range s.runs {
		if r.status == "terminating" && stuck("run", r.id, r.status) {
			bad = append(bad, fmt.Sprintf("run %s is terminating", r.name))
		}
	}
	return bad
}

// nothingLeft is the rest of I5: nothing that was ended leaves anything behind.
func nothingLeft(s *state) (bad []string) {
	for _, m := range s.machines {
		bad = append(bad, fmt.Sprintf("machine %s is left", m.key()))
	}
	for _, g := range s.groups {
		bad = append(bad, fmt.Sprintf("group %s is left", g.key()))
	}
	for _, inst := range s.instances {
		if !inst.deleted {
			bad = append(bad, fmt.Sprintf("instance %s is left: %s", inst.name, inst.status))
		}
	}
	for _, r := range s.runs {
		if r.status != "terminated" && r.status != "failed" && r.status != "done" {
			bad = append(bad, fmt.Sprintf("run %s is %s", r.name, r.status))
		}
	}
	for _, h := range s.holds {
		bad = append(bad, fmt.Sprintf("job %.8s still holds instance %.8s", h.job, h.instance))
	}
	for id, f := range s.facts {
		if !f.ended && !f.gone && !f.host.isOff() {
			bad = append(bad, fmt.Sprintf("task %s %.8s still runs on %s", f.name, id, f.host.name))
		}
	}
	return bad
}

// hostsWhole is I19: at rest, the fleet of the user's hosts has those that the user wants, each once. One
// that could not be added in time is shown as terminated.
func hostsWhole(s *state) (bad []string) {
	s.w.mu.Lock()
	wanted := s.w.wanted
	s.w.mu.Unlock()
	if wanted == nil {
		return nil
	}
	has := map[string]int{}
	for _, inst := range s.instances {
		if host, _, ssh := strings.Cut(inst.host, ":"); ssh && !inst.deleted {
			has[host]++
		}
	}
	for _, h := range wanted {
		if has[h] != 1 {
			bad = append(bad, fmt.Sprintf("%d instances are host %s, which the user wants once", has[h], h))
		}
		delete(has, h)
	}
	for h, n := range has {
		bad = append(bad, fmt.Sprintf("%d instances are host %s, which the user does not want", n, h))
	}
	return bad
}

// idleGivenBack is I21: when all is calm, a machine without jobs is kept for as long as it may be, unless its
// fleet shall have it anyway.
func idleGivenBack(s *state) (bad []string) {
	const looks = 3 * time.Minute // until somebody looks
	fleets, err := s.w.checks.reader.limits()
	if err != nil {
		return []string{err.Error()}
	}
	live := map[string]int{}
	for _, inst := range s.instances {
		switch inst.status {
		case "pending", "provisioning", "idle", "busy":
			live[inst.fleet]++
		}
	}
	for _, inst := range s.instances {
		may, known := fleets[inst.fleet]
		if !known || inst.status != "idle" || inst.host != "" || may.idle < 0 || live[inst.fleet] <= may.least {
			continue
		}
		if since := s.now.Sub(s.since["instance"+inst.id+inst.status]); since > may.idle+looks {
			bad = append(bad, fmt.Sprintf("instance %s, which may be idle for %v, is idle for %v", inst.name, may.idle, since))
		}
	}
	return bad
}

// occupancyIsAssignments is I6: who holds blocks is a job that has its place there, each such
// job holds some, and nobody holds more than there is.
func occupancyIsAssignments(s *state) (bad []string) {
	jobs := map[string]jobRow{}
	for _, j := range s.jobs {
		jobs[j.id] = j
	}
	instances := s.instancesByID()
	used, held := map[string]int{}, map[string]string{}
	for _, h := range s.holds {
		used[h.instance] += h.blocks
		held[h.job] = h.instance
		switch j := jobs[h.job]; {
		case j.id == "":
			bad = append(bad, fmt.Sprintf("instance %s is held by an unknown job %.8s", instances[h.instance].name, h.job))
		case j.finished() || j.instance != h.instance:
			bad = append(bad, fmt.Sprintf("instance %s is held by job %s, which is %s on %.8s", instances[h.instance].name, j.name, j.status, j.instance))
		}
	}
	for _, j := range s.jobs {
		if j.placed() && held[j.id] != j.instance {
			bad = append(bad, fmt.Sprintf("job %s is %s on instance %s and holds nothing there", j.name, j.status, instances[j.instance].name))
		}
	}
	for id, n := range used {
		if inst := instances[id]; inst.blocks > 0 && n > inst.blocks {
			bad = append(bad, fmt.Sprintf("%d of %d blocks of instance %s are held", n, inst.blocks, inst.name))
		}
	}
	for _, inst := range s.instances {
		if inst.deleted || inst.status != "idle" && inst.status != "busy" {
			continue
		}
		if busy := used[inst.id] > 0; busy != (inst.status == "busy") && inst.status == "idle" {
			bad = append(bad, fmt.Sprintf("instance %s is %s with %d blocks held", inst.name, inst.status, used[inst.id]))
		}
	}
	return bad
}

// latest are the last attempts of the jobs, by run and replica.
func (s *state) latest() map[string][]jobRow {
	last := map[string]jobRow{}
	var order []string
	for _, j := range s.jobs {
		key := fmt.Sprint(j.run, "/", j.replica, "/", j.num)
		if _, ok := last[key]; !ok {
			order = append(order, key)
		}
		last[key] = j
	}
	groups := map[string][]jobRow{}
	for _, key := range order {
		j := last[key]
		g := fmt.Sprint(j.run, "/", j.replica)
		groups[g] = append(groups[g], j)
	}
	return groups
}

// gangsAllOrNothing is I7: while a node of a replica waits for a place, none of the same
// replica has one.
func gangsAllOrNothing(s *state) (bad []string) {
	for _, g := range s.latest() {
		var waiting, placed string
		for _, j := range g {
			switch j.status {
			case "submitted":
				waiting = j.name
			case "provisioning", "pulling", "running":
				placed = j.name
			}
		}
		if waiting != "" && placed != "" {
			bad = append(bad, fmt.Sprintf("%s has a place while %s of the same replica waits", placed, waiting))
		}
	}
	return bad
}

// outageKillsNoJob is I8: a job ends early only because the user, its own limits, its run or
// its machine ended it, not because a server was away. (See also terminating in the checker.)
func outageKillsNoJob(s *state) (bad []string) {
	for _, j := range s.fresh() {
		f := s.facts[j.id]
		if f == nil || f.ended && f.asked.Reason == "" {
			continue
		}
		switch j.reason {
		case "executor_error", "waiting_runner_limit_exceeded", "creating_container_error":
			if f.host.isOff() || s.w.checks.recently(f.host, s.now, 15*time.Minute) {
				continue
			}
			bad = append(bad, fmt.Sprintf("job %s ended with %s while its task was well on %s", j.name, j.reason, f.host.name))
		}
	}
	return bad
}

// noInversion is I10: of two waiting runs that ask for the same, the one that comes first in
// the queue is placed first, but for one that may not have a new instance yet, since providers have
// refused it, and for one that came, as the next cycle of a schedule, while the queue was looked at.
func noInversion(s *state) (bad []string) {
	if s.prev == nil {
		return nil
	}
	waited := map[string]bool{}
	for _, j := range s.prev.jobs {
		waited[j.id] = j.status == "submitted"
	}
	for _, j := range s.jobs {
		if !waited[j.id] || j.status != "provisioning" {
			continue
		}
		r := s.runs[j.run]
		for _, k := range s.jobs {
			o := s.runs[k.run]
			if k.run == j.run || !waited[k.id] || k.status != "submitted" || o.class != r.class || o.class == "" || o.status == "terminating" || k.buyFrom != "" || k.since >= s.now.UnixMicro() {
				continue
			}
			if p := s.prev.runs[o.id]; p.priority != o.priority || s.prev.runs[r.id].priority != r.priority {
				continue // just changed
			}
			if o.priority > r.priority || o.priority == r.priority && o.submitted < r.submitted {
				bad = append(bad, fmt.Sprintf("run %s (priority %d) was placed before %s (priority %d), which asks for the same", r.name, r.priority, o.name, o.priority))
			}
		}
	}
	return bad
}

// logsWhole is I11: the stored log of a job is what it printed, in order, from the first byte
// on; of a job that ended by itself it is all of it.
func logsWhole(s *state) (bad []string) {
	for _, j := range s.fresh() {
		f := s.facts[j.id]
		if f == nil {
			continue
		}
		stored := s.w.storedLog(j.id)
		switch {
		case !bytes.HasPrefix(f.log, stored):
			bad = append(bad, fmt.Sprintf("the log of %s is not what was printed: %q, printed %q", j.name, stored, f.log))
		case (j.reason == "done_by_runner" || j.reason == "container_exited_with_error") && len(stored) != len(f.log):
			bad = append(bad, fmt.Sprintf("the log of %s (%s) ends after %d of %d bytes", j.name, j.reason, len(stored), len(f.log)))
		}
	}
	return bad
}

// foreignUntouched is I12: machines and groups of others live on. (See also asked in the
// checker.)
func foreignUntouched(s *state) (bad []string) {
	for name, ids := range s.w.checks.foreign {
		alive := map[string]bool{}
		for _, m := range s.w.clouds[name].Live() {
			alive[m.ID] = true
		}
		for _, g := range s.w.clouds[name].Groups() {
			alive[g.ID] = true
		}
		for _, id := range ids {
			if !alive[id] {
				bad = append(bad, fmt.Sprintf("the foreign %s/%s is gone", name, id))
			}
		}
	}
	return bad
}

// lateKnown bounds how much later than its provider the ledger ends an interval: where the
// provider does not say when a machine ended, it is when that was noticed, at the latest after
// the next sweep once no call fails any more.
const lateKnown = 20 * time.Minute

// neverSeen bounds the life of a machine of which no call ever told: the time that the answer
// to a request is waited for, and that lists may lag.
const neverSeen = 8 * time.Minute

// charge is for the whole time of a machine, at its last price.
type charge struct {
	fake.Charge
	late []float64 // prices before, of the time that the ledger may be late
}

// known says that a price is the one that the ledger has in the end: of a machine that ended soon after a
// new price, nobody may have heard of that.
func (c charge) known(price float64) bool {
	return price == c.Price || !c.Live && slices.Contains(c.late, price)
}

// lives are the charges of an invoice, one for each machine.
func lives(invoice []fake.Charge) (all []charge) {
	for i, h := range invoice {
		c := charge{Charge: h}
		if n := len(all); n > 0 && all[n-1].ID == h.ID {
			c.From = all[n-1].From
			for _, e := range invoice[:i] {
				if e.ID == h.ID && h.To.Sub(e.To) < lateKnown {
					c.late = append(c.late, e.Price)
				}
			}
			all = all[:n-1]
		}
		all = append(all, c)
	}
	return all
}

// costsEqualBill is I9: for every machine that was charged there is an interval of the ledger
// with its price and time, for every interval a charge, and the sum is what ledger.Costs
// says.
func costsEqualBill(s *state) (bad []string) {
	paid, intents := map[string]intentRow{}, s.intentsByID()
	sum := 0.0
	for _, in := range s.intents {
		if in.billedFrom == 0 || in.kind != "instance" {
			continue
		}
		paid[in.backend+"/"+in.resource] = in
		for _, part := range (ledger.Billed{From: store.Time(in.billedFrom), To: store.Time(in.billedTo), Price: in.price, Earlier: in.earlier}).In(time.Time{}, s.now) {
			sum += part.USD()
		}
	}
	for _, name := range cloudNames {
		for _, h := range lives(s.w.clouds[name].Invoice(s.w.serverID)) {
			in, ok := paid[name+"/"+h.ID]
			delete(paid, name+"/"+h.ID)
			switch in := intents[h.Intent]; {
			case ok || h.Live:
			case s.twins > 0 && in.resource != h.ID:
				continue // one of two that were made for one request, gone before any list showed it
			case in.state == "gone" && in.resource == "" && h.To.Sub(h.From) < neverSeen:
				continue // gone before the silence after the request was over
			}
			if !ok {
				bad = append(bad, fmt.Sprintf("machine %s/%s was charged from %v to %v, the ledger has no interval: %+v", name, h.ID, h.From, h.To, intents[h.Intent]))
				continue
			}
			late := time.Duration(0)
			if in.billedTo != 0 {
				late = store.Time(in.billedTo).Sub(h.To)
			}
			if !h.known(in.price) || store.Time(in.billedFrom).Sub(h.From).Abs() > time.Second || h.Live != (in.billedTo == 0) || late < -time.Second || late > lateKnown {
				bad = append(bad, fmt.Sprintf("machine %s/%s: the ledger has $%.3f from %v to %v, the bill $%.3f from %v to %v", name, h.ID,
					in.price, store.Time(in.billedFrom), store.Time(in.billedTo), h.Price, h.From, h.To))
			}
		}
	}
	for key := range paid {
		bad = append(bad, fmt.Sprintf("the ledger has an interval of %s, which was not charged", key))
	}
	if s.costsErr != nil {
		return append(bad, s.costsErr.Error())
	}
	for _, c := range s.costs {
		if c.Kind != backend.VolumeResource { // no machine
			sum -= c.USD()
		}
	}
	if math.Abs(sum) > 1e-6 {
		bad = append(bad, fmt.Sprintf("the ledger's costs are off by $%.6f from its intervals", sum))
	}
	return bad
}
