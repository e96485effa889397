package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"
	"golang.org/x/crypto/ssh"

	"dstack/internal/backend/fake"
	"dstack/internal/crypt"
	"dstack/internal/server"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

const adminToken = "11111111-1111-4111-8111-111111111111"

// world is a server with everything around it. It lives in a synctest bubble.
type world struct {
	t       testing.TB
	seed    uint64
	dir     string
	public  string            // a user's key
	keys    object            // of SSH hosts
	sshd    *ssh.ServerConfig // of tasks
	began   time.Time
	clouds  map[string]*fake.Cloud
	plain   map[string]bool    // clouds without placement groups
	hosts   map[string]*agent  // of the user, by address
	markets map[string]*market // by cloud, none where prices stay
	limits  map[string]float64 // what runs may cost an hour, by name
	drivers []time.Duration    // how long after machines answer their drivers list GPUs, in their order
	wants   map[string]want    // what runs ask for, by name
	// says is the address that a cloud tells of a machine instead of the true one; nil for the true one.
	says   func(machine, address string) string
	trace  *trace
	checks *checker
	spoil  func(w *world, p *process) // plants a defect into a process that starts; optional

	mu           sync.Mutex
	proc         *process // the newest one, also when it is dead
	serverID     string   // of the database, "" before the first process
	all          []*process
	machines     map[string]*agent // by cloud and machine id
	scripts      map[string]int    // attempts by job name
	boundary     int               // effects so far
	crashAt      int               // boundary at which the server dies, 0 for none
	exhaustive   bool              // passes that stored something count as effects: how many there are depends on chance, so seeds leave them out
	crashes      int               // how often it may still die at a call, as the seed decides
	crashed      chan struct{}     // holds a token after a crash at a boundary
	asked        map[string]uint64
	netFaults    float64 // share of calls to hosts that go wrong
	injected     map[string]int
	replicas     map[string]int // of services, when nobody asks them
	fleets       map[string]object
	hostRequests int            // about the fleet "hosts", so far
	wanted       []string       // hosts that it is to have, nil when nobody can say
	requests     sync.WaitGroup // of services
	calm         bool           // no faults any more
	overtakes    bool           // servers are overtaken in every world
}

// template is the database of a server that was started once, and its configuration: what
// every world begins with.
type template struct {
	db, config []byte
	public     string
	private    string
	sshd       *ssh.ServerConfig
}

// cloudNames are the backends of every world: names that the configuration knows.
var cloudNames = []string{"crusoe", "nebius"}

// made is the template of all tests of the process, and its source of ids as it was in the end.
var made struct {
	sync.Once
	template
	ids rand.ChaCha8
}

// newTemplate returns the template. The test goes on with the ids that come after those in it.
func newTemplate(t *testing.T) template {
	t.Helper()
	made.Do(func() {
		ids := idsFrom(t, 0) // of project, user and server: the same for every process
		made.template = makeTemplate(t)
		made.ids = *ids
	})
	if made.db == nil {
		t.Fatal("an earlier test could not make the template")
	}
	ids := made.ids
	takeIDs(t, &ids)
	return made.template
}

func makeTemplate(t *testing.T) (tp template) {
	t.Helper()
	pair, err := sshkey.Generate("sim")
	if err != nil {
		t.Fatal(err)
	}
	tp.public, tp.private = pair.Public, pair.Private
	key, err := sshkey.Signer(pair.Private)
	if err != nil {
		t.Fatal(err)
	}
	tp.sshd = &ssh.ServerConfig{NoClientAuth: true}
	tp.sshd.AddHostKey(key)
	tp.config = fmt.Appendf(nil, "projects:\n  - name: main\n    backends:\n      - type: crusoe\n      - type: nebius\nencryption:\n  keys:\n    - type: aes\n      name: key1\n      secret: %s\n", crypt.NewSecret())
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0, template{config: tp.config})
		for _, name := range cloudNames { // asked what they offer as soon as a server starts
			w.addCloud(fake.Config{Name: name})
		}
		w.start()
		if status := w.call("projects/create", object{"project_name": guests}, nil); status != http.StatusOK {
			t.Fatalf("create project %s: %d", guests, status)
		}
		w.checks.stop() // before the server: who closes the database last folds the log into it
		w.stop()
		if tp.db, err = os.ReadFile(w.database()); err != nil {
			t.Fatal(err)
		}
	})
	return tp
}

// newWorld returns a world in which nothing runs yet.
func newWorld(t *testing.T, seed uint64, tp template) *world {
	t.Helper()
	w := &world{
		t: t, seed: seed, dir: scratch(t), began: time.Now(), clouds: map[string]*fake.Cloud{}, plain: map[string]bool{}, markets: map[string]*market{}, limits: map[string]float64{}, wants: map[string]want{}, fleets: map[string]object{}, hosts: map[string]*agent{},
		machines: map[string]*agent{}, scripts: map[string]int{}, crashed: make(chan struct{}, 1),
		asked: map[string]uint64{}, injected: map[string]int{}, replicas: map[string]int{}, sshd: tp.sshd,
	}
	w.trace = &trace{began: w.began}
	w.checks = newChecker(w)
	w.public, w.keys = tp.public, object{"public": tp.public, "private": tp.private}
	w.write("config.yml", tp.config)
	if tp.db != nil {
		w.write("server.db", tp.db)
	}
	return w
}

// scratch is a directory in memory where there is one: a database in /dev/shm syncs for free.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (w *world) write(name string, data []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) database() string { return filepath.Join(w.dir, "server.db") }

// process is one server process.
type process struct {
	w      *world
	num    int
	db     *store.DB
	server *server.Server
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	dead   bool
	cutOff bool     // no way to hosts, when it was overtaken
	links  []func() // close its connections to hosts

	// Defects that are planted.
	retries, unfenced, pesters bool
}

func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.dead
}

// errDead is what a killed process gets for all it does. Nobody acts on it.
var errDead = errors.New("the process is dead")

// start starts a server process beside those that run.
func (w *world) start() *process {
	w.t.Helper()
	w.mu.Lock()
	p := &process{w: w, num: len(w.all) + 1, ended: make(chan struct{})}
	w.all = append(w.all, p)
	w.mu.Unlock()
	var err error
	if p.db, err = store.Open(context.Background(), store.Config{URL: w.doorOf(p), Log: slog.New(slog.DiscardHandler)}); err != nil {
		w.t.Fatal(err)
	}
	p.server, err = server.New(context.Background(), server.Config{
		Dir: w.dir, Store: p.db, Token: adminToken, Backends: p.backends(), Hosts: &wire{p}, Log: slog.New(&ear{p: p}),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.checks.reader == nil {
		if w.checks.reader, err = openReader(w.database()); err != nil {
			w.t.Fatal(err)
		}
	}
	if w.spoil != nil {
		w.spoil(w, p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	w.mu.Lock()
	w.proc, w.serverID = p, p.db.ServerID()
	w.mu.Unlock()
	go func() {
		defer close(p.ended)
		_ = p.server.Work(ctx) // a killed one complains of its closed database
	}()
	go p.stayWarm()
	w.trace.add("server", fmt.Sprint(p.num), "started")
	return p
}

// stayWarm uses a connection of the database's readers before they are closed for being idle:
// in a world, where a minute takes a millisecond, nearly every look would open one anew.
func (p *process) stayWarm() {
	for {
		select {
		case <-time.After(14 * time.Second):
			var one int
			_ = p.db.Read().QueryRowContext(context.Background(), `SELECT 1`).Scan(&one) // fails once the process is dead
		case <-p.ended:
			return
		}
	}
}

// doorOf is the path by which a process opens the database. Each has its own, so that two
// can be there at a time: the lock is beside the path, the database behind it is one.
func (w *world) doorOf(p *process) string {
	dir := filepath.Join(w.dir, fmt.Sprintf("door-%d", p.num))
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(dir, "server.db")
	if err := os.Symlink(w.database(), path); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// kill ends a process between two instructions: what it did is done, the rest never happens.
func (p *process) kill(why string) {
	p.mu.Lock()
	was := p.dead
	p.dead = true
	p.mu.Unlock()
	if was {
		return
	}
	p.w.trace.add("server", fmt.Sprint(p.num), "killed "+why)
	_ = p.db.Close()
	if p.cancel != nil {
		p.cancel()
	}
}

// stop ends the server as SIGTERM does.
func (w *world) stop() {
	p := w.current()
	p.cancel()
	<-p.ended
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
}

// current is the newest process.
func (w *world) current() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.proc
}

// restart starts a server after an outage in place of one that was killed, unless that was done meanwhile.
func (w *world) restart(after time.Duration) {
	time.Sleep(after)
	if !w.current().alive() {
		w.start()
	}
}

// overtake starts a second server while the first still runs: it has the database and the
// clouds, and its connections to hosts if it keeps them, as after a pause. It returns the first.
func (w *world) overtake(connected bool) *process {
	time.Sleep(time.Second) // the first has its shards by now
	old := w.current()
	if !old.alive() {
		return old
	}
	if connected {
		w.trace.add("server", fmt.Sprint(old.num), "overtaken, and connected to its hosts")
		w.count("overtaken server with hosts")
	} else {
		old.mu.Lock()
		old.cutOff = true
		old.mu.Unlock()
		w.trace.add("server", fmt.Sprint(old.num), "overtaken")
		w.closeLinks(old)
	}
	if old.unfenced {
		old.sql(`CREATE TEMP TABLE shard AS SELECT * FROM main.shard`)
	}
	w.checks.watchStale(old)
	w.start()
	return old
}

// end stops everything.
func (w *world) end() {
	w.mu.Lock()
	all := w.all
	w.mu.Unlock()
	for _, p := range all {
		p.kill("at the end")
		<-p.ended
	}
	w.requests.Wait()
	w.hostsOff()
	w.checks.stop()
}

// effect is told of each point at which the server has done something outside of its memory
// or is about to. The process may die there.
func (p *process) effect(what string) error {
	if !p.alive() {
		return errDead
	}
	p.w.checks.event()
	p.w.mu.Lock()
	p.w.boundary++
	n := p.w.boundary
	crash := p.w.proc == p && (n == p.w.crashAt || p.w.crashes > 0)
	p.w.mu.Unlock()
	if !crash || n != p.w.crashAt && !p.w.unlucky(what) {
		return nil
	}
	p.kill(what)
	p.w.count("crash at an effect")
	select {
	case p.w.crashed <- struct{}{}:
	default:
	}
	return errDead
}

// unlucky says that a server dies at a call.
func (w *world) unlucky(what string) bool {
	if w.dice("crash "+what).IntN(40) > 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashes--
	return true
}

// senseless begins what is said of a statement that SQLite does not understand: it names what is not there, or a
// document is none.
const senseless = "a statement makes no sense to the database"

// ear hears from the log of a process when its engine has made a pass: a commit may lie
// behind it.
type ear struct {
	p     *process
	attrs []slog.Attr
}

func (e *ear) Enabled(context.Context, slog.Level) bool { return true }
func (e *ear) WithGroup(string) slog.Handler            { return e }

func (e *ear) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &ear{e.p, append(e.attrs[:len(e.attrs):len(e.attrs)], attrs...)}
}

func (e *ear) Handle(_ context.Context, r slog.Record) error {
	if !e.p.alive() {
		return nil
	}
	if r.Level >= slog.LevelInfo || e.p.w.trace.verbose {
		e.p.w.trace.log(r, e.attrs)
	}
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && errors.Is(err, sqlite3.ERROR) {
			e.p.w.checks.violate("I0", senseless+": "+err.Error())
		}
		return true
	})
	switch {
	case strings.HasPrefix(r.Message, "pass panicked"), strings.HasPrefix(r.Message, "handler failed"):
		e.p.w.checks.violate("I0", r.Message+" "+attrsText(r, e.attrs))
	case strings.HasPrefix(r.Message, "pass"):
		e.p.w.checks.event()
		if e.p.w.exhaustive && e.p.w.checks.committed() {
			_ = e.p.effect("after a pass " + attrsText(r, e.attrs)) // the pass itself is over
		}
	}
	return nil
}

// call sends a request to the server's API. The status is 0 when no server answers.
func (w *world) call(path string, body, out any) int {
	p := w.current()
	if p == nil || !p.alive() {
		return 0
	}
	data, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/"+path, bytes.NewReader(data))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+adminToken)
	a := httptest.NewRecorder()
	p.server.Handler().ServeHTTP(a, r)
	if !p.alive() {
		return 0
	}
	if a.Code >= 500 {
		w.checks.violate("I0", fmt.Sprintf("%s: %d %s", path, a.Code, a.Body))
	}
	if a.Code == http.StatusOK && out != nil {
		if err := json.Unmarshal(a.Body.Bytes(), out); err != nil {
			w.t.Fatalf("%s: %v", path, err)
		}
	}
	if a.Code >= 400 {
		w.trace.add("user", path, fmt.Sprintf("%d %.200s", a.Code, a.Body))
	}
	w.checks.event()
	return a.Code
}

// dice are random numbers that depend on the seed, a name and how often it was asked for:
// never on the order in which goroutines come.
func (w *world) dice(name string) *rand.Rand {
	w.mu.Lock()
	w.asked[name]++
	n := w.asked[name]
	w.mu.Unlock()
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", name, n)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// step is a little time, another for everything that waits at a time: events of one moment
// would have no order that the seed decides.
func (w *world) step(name string) time.Duration {
	return time.Duration(w.dice("step "+name).IntN(1_000_000)) * time.Nanosecond
}

// count notes a fault that took place.
func (w *world) count(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.injected[kind]++
}
