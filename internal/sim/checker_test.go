package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/offer"
	"dstack/internal/store"
)

// checker looks at the world after every event and keeps what it saw wrong.
type checker struct {
	w       *world
	woken   chan struct{}
	done    chan struct{}
	wg      sync.WaitGroup
	foreign map[string][]string // ids of a machine and a group, by cloud

	// reading holds a token while somebody looks. It guards the fields up to mu. SQLite may wait
	// for a microsecond of virtual time, which stands still while others wait for a mutex: so
	// the database is read with the token and without mu.
	reading chan struct{}
	reader  *reader // nil before the first server
	stored  int64   // version of the database, for committed
	prev    *state

	mu         sync.Mutex
	since      map[string]time.Time // when an object came into the state in which it is
	steps      int
	violations []violation
	seen       map[string]bool // violations already told
	requests   map[string][]time.Time
	tasks      map[string]*fact
	disturbed  map[*agent]time.Time // when packets last did not pass
}

// violation is one sight of a broken invariant.
type violation struct {
	invariant string
	at        time.Duration // since the world began
	what      string
}

func (v violation) String() string {
	return fmt.Sprintf("%s at %.3fs: %s", v.invariant, v.at.Seconds(), v.what)
}

// fact is what truly became of a task, as only the world knows.
type fact struct {
	name  string
	host  *agent
	ended bool
	why   string
	exit  string // the code with which it ended by itself, "" for none
	at    time.Time
	asked agentapi.Terminate // its end was asked for, with this reason
	log   []byte
	gone  bool // deleted from its host
}

func newChecker(w *world) *checker {
	c := &checker{w: w, reading: make(chan struct{}, 1), woken: make(chan struct{}, 1), done: make(chan struct{}), foreign: map[string][]string{}, seen: map[string]bool{}, requests: map[string][]time.Time{},
		tasks: map[string]*fact{}, disturbed: map[*agent]time.Time{}}
	c.wg.Go(func() {
		for {
			select {
			case <-c.woken:
				c.check(always)
			case <-c.done:
				return
			}
		}
	})
	return c
}

// event asks for a look. Those of one moment may be one look.
func (c *checker) event() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

func (c *checker) stop() {
	close(c.done)
	c.wg.Wait()
	if c.reader != nil {
		c.reader.close()
	}
}

func (c *checker) violate(invariant, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.violateLocked(invariant, what)
}

func (c *checker) violateLocked(invariant, what string) {
	if c.seen[invariant+what] {
		return
	}
	c.seen[invariant+what] = true
	v := violation{invariant, time.Since(c.w.began), what}
	c.violations = append(c.violations, v)
	c.w.trace.add("VIOLATION", v.invariant, v.what)
}

// state is the world at one moment.
type state struct {
	now        time.Time
	w          *world
	facts      map[string]*fact
	machines   []machine     // that cost money and carry our tag
	groups     []placement   // of ours
	rows                     // read after clouds were looked at
	costs      []ledger.Cost // what the ledger says, for looks that ask for it
	costsErr   error
	stillThere map[string]bool // machines and groups that exist after the rows were read
	prev       *state
	twins      int
	version    int64 // of the database
	since      map[string]time.Time
}

// machine is a machine of ours at a cloud.
type machine struct {
	cloud, id, intent string
	what              offer.Key
	price, first      float64 // now and when it was made, US dollars per hour
	made              time.Time
}

func machineAt(cloud string, m fake.Machine) machine {
	return machine{cloud, m.ID, m.Tags[backend.TagIntent], m.What, m.Price, m.First, m.Since}
}

func (m machine) key() string { return m.cloud + "/" + m.id }

func (w *world) ours() []machine {
	w.mu.Lock()
	serverID := w.serverID
	w.mu.Unlock()
	var all []machine
	for _, name := range cloudNames {
		cloud := w.clouds[name]
		if cloud == nil {
			continue
		}
		for _, m := range cloud.Live() {
			if m.Tags[backend.TagServer] == serverID {
				all = append(all, machineAt(name, m))
			}
		}
	}
	return all
}

// busy says that something is on its way.
func (s *state) busy() bool {
	for _, in := range s.intents {
		if in.state == "intended" || in.state == "unknown" || in.state == "deleting" {
			return true
		}
	}
	for _, inst := range s.instances {
		if !inst.deleted && (inst.status == "pending" || inst.status == "provisioning" || inst.status == "terminating") {
			return true
		}
	}
	for _, j := range s.jobs {
		if j.status == "provisioning" || j.status == "pulling" || j.status == "terminating" {
			return true
		}
	}
	return false
}

// look reads clouds and database, on request what the ledger says of costs too; nil before there
// is a database. It wants the token.
func (c *checker) look(costs bool) *state {
	if c.reader == nil {
		return nil
	}
	s := &state{now: time.Now(), w: c.w, machines: c.w.ours(), groups: c.w.groups()}
	var err error
	if s.rows, err = c.reader.read(); err != nil {
		c.violate("I0", "the database cannot be read: "+err.Error())
		return nil
	}
	s.version = c.reader.version
	if costs {
		s.costs, s.costsErr = ledger.Costs(context.Background(), c.w.current().db.Read(), ledger.Which{To: s.now})
	}
	return s
}

// complete adds what is known beside a look. It wants the token and the mutex held.
func (c *checker) complete(s *state) {
	s.stillThere = map[string]bool{}
	for _, m := range c.w.ours() {
		s.stillThere[m.key()] = true
	}
	for _, g := range c.w.groups() {
		s.stillThere[g.key()] = true
	}
	for _, cloud := range c.w.clouds {
		s.twins += cloud.Injected()[fake.Twin]
	}
	s.facts, s.prev = c.tasks, c.prev
	c.note(s)
}

// holds says that nothing breaks an invariant of the list now, and that nothing is on its way.
func (c *checker) holds(list []invariant) bool {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	s := c.look(true)
	if s == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete(s)
	if s.busy() {
		return false
	}
	for _, inv := range list {
		if len(inv.broken(s)) > 0 {
			return false
		}
	}
	return true
}

// check looks at the world and keeps what it sees broken.
func (c *checker) check(list []invariant) {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	moment := len(list) == len(always)
	s := c.look(!moment)
	if s == nil || moment && c.prev != nil && c.prev.version == s.version && slices.Equal(c.prev.machines, s.machines) && sameGroups(c.prev.groups, s.groups) {
		return // nothing has changed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete(s)
	c.steps++
	for _, inv := range list {
		for _, what := range inv.broken(s) {
			c.violateLocked(inv.name, what)
		}
	}
	s.prev = nil
	c.prev = s
}

// note remembers since when objects are as they are.
func (c *checker) note(s *state) {
	now := map[string]time.Time{}
	keep := func(kind, id, status string) {
		key := kind + id + status
		at, ok := c.since[key]
		if !ok {
			at = s.now
		}
		now[key] = at
	}
	for _, v := range s.intents {
		keep("intent", v.id, v.state)
	}
	for _, v := range s.instances {
		keep("instance", v.id, v.status)
	}
	for _, v := range s.jobs {
		keep("job", v.id, v.status)
	}
	for _, v := range s.runs {
		keep("run", v.id, v.status)
	}
	for _, g := range s.groups {
		if len(g.members) == 0 {
			keep("group", g.key(), "empty")
		}
	}
	c.since, s.since = now, now
}

// The methods below are told by the hosts what truly happens. They are called with the
// host's mutex held.

func (c *checker) arrived(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.tasks[t.spec.ID]; f != nil {
		c.violateLocked("I2", fmt.Sprintf("task %s %s was given to %s, and again to %s", f.name, t.spec.ID, f.host.name, t.h.name))
		return
	}
	c.tasks[t.spec.ID] = &fact{name: t.spec.Name, host: t.h}
	c.w.trace.add("task", t.spec.Name+" "+t.spec.ID[:8], "arrives at "+t.h.name)
}

func (c *checker) printed(id string, log []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks[id].log = log
}

func (c *checker) finished(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.tasks[t.spec.ID]
	f.ended, f.why, f.at = true, t.state.Reason, time.Now()
	if t.state.ExitStatus != nil {
		f.exit = strconv.Itoa(*t.state.ExitStatus)
	}
	c.w.trace.add("task", f.name+" "+t.spec.ID[:8], "ends: "+f.why)
}

func (c *checker) forgotten(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tasks[t.spec.ID].gone = true
}

// cut is told until when no packets pass.
func (c *checker) cut(h *agent, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.disturbed[h].Before(until) {
		c.disturbed[h] = until
	}
}

// recently says that a host was out of reach within a time. It wants the mutex held.
func (c *checker) recently(h *agent, now time.Time, d time.Duration) bool {
	at, ok := c.disturbed[h]
	return ok && now.Sub(at) < d
}

// elsewhere are the tasks that run on other hosts, in their order by id.
func (c *checker) elsewhere(h *agent) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, f := range c.tasks {
		if f.host != h && !f.ended {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// terminating is told when a process asks a host to end a task.
func (c *checker) terminating(p *process, h *agent, id string, how agentapi.Terminate) {
	var status string
	err := p.db.Read().QueryRowContext(context.Background(), `SELECT status FROM job WHERE id = $1`, id).Scan(&status)
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.tasks[id]
	if f == nil || f.ended {
		return
	}
	f.asked = how
	if err == nil && (status == "pulling" || status == "running") {
		c.violateLocked("I8", fmt.Sprintf("%s is asked to end task %s (%s), whose job is %s", h.name, f.name, how.Reason, status))
	}
}

// asked is told when a process asks a cloud to end a machine or a group.
func (c *checker) asked(cloud, id string) {
	if slices.Contains(c.foreign[cloud], id) {
		c.violate("I12", fmt.Sprintf("the foreign %s/%s was asked to end", cloud, id))
	}
}

// watchStale has the database note what a process still decides once another has taken its
// shards.
func (c *checker) watchStale(p *process) {
	err := p.db.Write(context.Background(), func(tx *store.Tx) error {
		var epoch int64
		if err := tx.QueryRowContext(context.Background(), `SELECT max(epoch) FROM shard`).Scan(&epoch); err != nil {
			return err
		}
		for _, table := range []string{"intent", "instance", "job", "run", "fleet"} {
			column := "status"
			if table == "intent" {
				column = "state"
			}
			// Temporary: it fires for what this connection writes alone.
			_, err := tx.ExecContext(context.Background(), fmt.Sprintf(
				`CREATE TEMP TRIGGER stale_%[1]s AFTER UPDATE OF %[2]s ON main.%[1]s
				 WHEN OLD.%[2]s <> NEW.%[2]s AND (SELECT max(epoch) FROM main.shard) > %[3]d BEGIN INSERT INTO setting (name, value) VALUES ('stale/' || NEW.id || '/' || NEW.%[2]s, '%[1]s') ON CONFLICT DO NOTHING; END`, table, column, epoch))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && p.alive() {
		c.violate("I0", "watch a stale server: "+err.Error())
	}
}

// storedLog is what the server has stored of a job's output: read beside it, so that the
// look changes nothing.
func (w *world) storedLog(id string) []byte {
	data, err := os.ReadFile(filepath.Join(w.dir, "logs", id[:2], id, "job.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
	return data
}

// result is what became of a world.
type result struct {
	Seed       uint64
	Steps      int
	Injected   map[string]int
	Violations []string
	Trace      string
}

func (w *world) result(withTrace bool) result {
	r := result{Seed: w.seed, Injected: map[string]int{}}
	w.mu.Lock()
	for k, n := range w.injected {
		r.Injected[k] += n
	}
	w.mu.Unlock()
	for _, cloud := range w.clouds {
		for k, n := range cloud.Injected() {
			r.Injected["cloud: "+string(k)] += n
		}
	}
	w.checks.mu.Lock()
	r.Steps = w.checks.steps
	for _, v := range w.checks.violations {
		r.Violations = append(r.Violations, v.String())
	}
	w.checks.mu.Unlock()
	if p := w.current(); p != nil && p.alive() && (withTrace || len(r.Violations) > 0) {
		r.Trace = w.trace.text(p.db)
	}
	slices.Sort(r.Violations)
	return r
}

// holds fails the test for whatever a check has found.
func (w *world) holds() {
	w.t.Helper()
	for _, v := range w.result(false).Violations {
		w.t.Error(v)
	}
}

// committed says that something was stored since it was asked last.
func (c *checker) committed() bool {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	was := c.stored
	var err error
	if c.stored, err = c.reader.changed(); err != nil {
		c.violate("I0", "the database cannot be read: "+err.Error())
	}
	return was != c.stored
}

// now is a picture for a test that looks by itself.
func (c *checker) now() *state {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	s := c.look(false)
	if s != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.complete(s)
	}
	return s
}
