//go:build e2e

package e2e

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dstack/internal/store/storetest"
)

// takeover is how long it may take until another server works for one that is gone: a lease
// of 15 s, and a third of that until the next look.
const takeover = 30 * time.Second

// sharing is how long it may take until a server that joins has its share: others count it when it has been there for
// a lease.
const sharing = 45 * time.Second

// TestReplicas runs two servers on one PostgreSQL. They share the work; one of them is killed,
// frozen, cut from the database and replaced by another version, while tasks run, and while a cloud
// makes a machine for it.
func TestReplicas(t *testing.T) {
	t.Parallel() // with TestFaults: both mostly wait
	r := prepareReplicas(t)
	cloud := r.rent(t)
	a, b := r.start(t)
	worlds := []*world{a, b}
	machines := a.startHosts(3, hostOptions{NoImages: true})
	loadJobImage(t, machines)
	a.fleet("boxes", machines...)
	next := buildVersion(t, nextVersion)

	for _, c := range []struct {
		name string
		test func(t *testing.T, a, b *world, machines []*machine)
	}{
		{"Share", replicasShare},
		{"Killed", replicaKilled},
		{"Frozen", replicaFrozen},
		{"Cut", func(t *testing.T, a, b *world, machines []*machine) { replicaCut(t, a, b, machines, r.ports[b]) }},
		{"RentedByKilled", func(t *testing.T, a, b *world, _ []*machine) { replicaRents(t, a, b, cloud, killed) }},
		{"RentedByFrozen", func(t *testing.T, a, b *world, _ []*machine) { replicaRents(t, a, b, cloud, frozen) }},
		{"RentedByCut", func(t *testing.T, a, b *world, _ []*machine) {
			replicaRents(t, a, b, cloud, func(w *world) (heal func()) { return cut(t, r.ports[w]) })
		}},
		{"Upgrade", func(t *testing.T, a, b *world, machines []*machine) { replicasUpgraded(t, a, b, machines, next) }},
	} {
		passed := within(t, c.name, worlds, machines, func(t *testing.T) {
			c.test(t, a, b, machines)
			noContainers(t, machines)
			startedOnce(t, machines)
		})
		if !passed {
			return // what it left would fail the others
		}
	}
	a.must("fleet", "delete", "boxes", "-y")
	noKeys(t, a, machines)
}

// nextVersion is what the servers are upgraded to.
const nextVersion = "v999.0.0"

// replicasConfig has the key that all servers of a database share.
const replicasConfig = `projects:
  - name: main
    backends: %s
encryption:
  keys:
    - type: aes
      name: key1
      secret: 5oPsdnStIvwPT3WYjtpvlm5eRDnoM2fNhxlBMQ0T3JE=
`

// replicas are two servers on one database. Each reaches it through a port of its own.
type replicas struct {
	a, b     *world
	ports    map[*world]string
	backends string // of config.yml
}

// newReplicas starts two servers on an empty database, without backends, so that every job goes to the hosts.
func newReplicas(t *testing.T) (a, b *world, r *replicas) {
	t.Helper()
	r = prepareReplicas(t)
	a, b = r.start(t)
	return a, b, r
}

func prepareReplicas(t *testing.T) *replicas {
	t.Helper()
	if os.Getenv("TEST_POSTGRES") == "" {
		t.Fatal("TEST_POSTGRES is not set; run make e2e")
	}
	database := storetest.PostgresURL(t)
	valves := []*storetest.Valve{storetest.NewValve(t, database), storetest.NewValve(t, database)} // before the servers: they end after them
	r := &replicas{a: prepareWorld(t), b: prepareWorld(t), ports: map[*world]string{}, backends: "[]"}
	r.b.key, r.b.publicKey = r.a.key, r.a.publicKey
	for i, w := range []*world{r.a, r.b} {
		way, err := url.Parse(valves[i].URL) // has a port of its own, that can be cut
		if err != nil {
			t.Fatal(err)
		}
		r.ports[w] = way.Port()
		w.extra = []string{"DSTACK_DATABASE_URL=" + valves[i].URL}
	}
	return r
}

func (r *replicas) start(t *testing.T) (a, b *world) {
	t.Helper()
	for _, w := range []*world{r.a, r.b} {
		w.write("server/config.yml", fmt.Sprintf(replicasConfig, r.backends))
		w.startServer()
		w.login()
	}
	return r.a, r.b
}

// account is a cloud that both servers use, each through a proxy that counts, and that knows whose calls it passes on.
type account struct {
	*cloud
	mu             sync.Mutex
	strike         func(w *world) // is called once, when a machine is launched and w has no answer yet
	launched, ends int
}

// rent gives the servers, which have not been started, the account.
func (r *replicas) rent(t *testing.T) *account {
	t.Helper()
	extra := r.a.extra
	c := &account{cloud: newCloud(t, r.a)}
	target, err := url.Parse(strings.TrimPrefix(r.a.extra[len(r.a.extra)-1], "DSTACK_ENDPOINT_LAMBDA="))
	if err != nil {
		t.Fatal(err)
	}
	r.a.extra = extra
	r.backends = "[{type: lambda, creds: {type: api_key, api_key: secret_e2e_0123456789}}]"
	for _, w := range []*world{r.a, r.b} {
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.ErrorLog = log.New(io.Discard, "", 0) // a server that is not there any more takes no answer
		proxy.ModifyResponse = func(resp *http.Response) error {
			c.passed(w, resp)
			return nil
		}
		srv := httptest.NewServer(proxy)
		t.Cleanup(srv.Close)
		w.extra = append(w.extra, "DSTACK_ENDPOINT_LAMBDA="+srv.URL)
	}
	return c
}

// passed is told of an answer that is on its way to a server.
func (c *account) passed(w *world, resp *http.Response) {
	if resp.StatusCode != http.StatusOK {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch path.Base(resp.Request.URL.Path) {
	case "launch":
		c.launched++
		if c.strike != nil {
			c.strike(w)
			c.strike = nil
		}
	case "terminate":
		c.ends++
	}
}

func (c *account) onLaunch(strike func(w *world)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strike = strike
}

// counts are the machines that were launched and ended so far.
func (c *account) counts() [2]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return [2]int{c.launched, c.ends}
}

// killed and frozen are what may become of a server. What they return undoes it.
func killed(w *world) (heal func()) {
	_ = w.server.Process.Kill()
	return func() {
		w.stopServer(syscall.SIGKILL) // it has to be waited for
		w.startServer()
	}
}

func frozen(w *world) (heal func()) {
	_ = w.server.Process.Signal(syscall.SIGSTOP)
	return func() { _ = w.server.Process.Signal(syscall.SIGCONT) }
}

// replicaRents has the server that asks a cloud for a machine be struck before it has the answer. The other goes on with
// that machine, which is the only one, also when the first is back, and is ended once.
func replicaRents(t *testing.T, a, b *world, c *account, strike func(w *world) (heal func())) {
	before := c.counts()
	struck, heal := make(chan *world, 1), func() {}
	c.onLaunch(func(w *world) {
		heal = strike(w)
		struck <- w
	})
	defer c.onLaunch(nil) // also when the test fails before
	a.must("apply", "-y", "-f", a.write("rented.fleet.dstack.yml", "type: fleet\nname: rented\nnodes: 0..1\nbackends: [lambda]\nidle_duration: 1h\nresources: {gpu: 1}\n"))
	// The machine here has no GPU: a job that needs one would wait for it.
	a.start("apply", "-y", "-d", "-f", a.write("rent.dstack.yml", "type: task\nname: rent\nimage: job:1\nfleets: [rented]\nresources: {gpu: 0.., cpu: 1.., memory: 0.., disk: 1GB..}\ncommands: [echo hello from a cloud, sleep 600]\n")) // what it says may be lost
	var gone *world
	select {
	case gone = <-struck:
	case <-time.After(30 * time.Second):
		t.Fatal("no machine was asked for within 30 s")
	}
	defer func() { heal() }() // also when the test fails before
	other := map[*world]*world{a: b, b: a}[gone]
	waitOwned(t, takeover, other, 64)
	other.waitStatus("rent", "running")
	other.waitOutput("rent", "hello from a cloud")
	if got := c.counts(); got != [2]int{before[0] + 1, before[1]} || c.billed() != 1 {
		t.Errorf("launched and ended: %v, before %v; %d machines cost money", got, before, c.billed())
	}
	heal()
	heal = func() {}
	waitShared(t, a, b)
	eventually(t, 30*time.Second, "the server answers again", func() bool { return gone.run("ps").Code == 0 })
	if got := gone.runStatus("rent"); got != "running" {
		t.Errorf("the run is %s once the server is back", got)
	}
	gone.must("stop", "-x", "-y", "rent")
	gone.waitStatus("rent", "terminated")
	other.must("fleet", "delete", "-y", "rented")
	eventually(t, 60*time.Second, "the machine is given back", func() bool { return c.billed() == 0 && c.counts()[1] > before[1] })
	if got := c.counts(); got != [2]int{before[0] + 1, before[1] + 1} {
		t.Errorf("launched and ended: %v, before %v", got, before)
	}
	eventually(t, 60*time.Second, "the fleet is gone", func() bool { return !strings.Contains(other.run("fleet").Out, "rented") })
}

// owned is how many shards a server owns, as its process of now has logged it last.
func (w *world) owned() int {
	log := w.serverLog.String()[w.logFrom:]
	at := strings.LastIndex(log, `msg="shards changed"`)
	if at < 0 {
		return 0
	}
	var n int
	_, _ = fmt.Sscanf(log[at:], `msg="shards changed" owned=%d`, &n) // 0 when it is not there
	return n
}

// readiness is the status that a load balancer gets.
func (w *world) readiness() int {
	w.t.Helper()
	resp, err := http.Get(w.url() + "/readyz")
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func waitOwned(t *testing.T, limit time.Duration, w *world, n int) {
	t.Helper()
	inTime(t, limit, fmt.Sprintf("a server owns %d shards", n), func() bool { return w.owned() == n })
}

func waitShared(t *testing.T, a, b *world) {
	t.Helper()
	waitOwned(t, sharing, a, 32)
	waitOwned(t, sharing, b, 32)
}

// replicasShare submits to either server and follows on the other.
func replicasShare(t *testing.T, a, b *world, machines []*machine) {
	waitShared(t, a, b)
	a.submitSteady("of-a", "")
	b.submitSteady("of-b", "")
	followA, followB := b.start("logs", "-f", "of-a"), a.start("logs", "-f", "of-b")
	followA.waitFor("tick-30-")
	followB.waitFor("tick-30-")
	letGo(t, machines, "of-a", "of-b")
	for name, p := range map[string]*process{"of-a": followA, "of-b": followB} {
		p.wait()
		if !strings.Contains(p.out.String(), "end-") {
			t.Errorf("logs -f of %s on the other server ended before the log did:\n%s", name, lastLines(p.out.String(), 5))
		}
	}
	for _, w := range []*world{a, b} {
		w.checkSteady("of-a")
		w.checkSteady("of-b")
		if !strings.Contains(w.serverLog.String(), "msg=pass kind=") {
			t.Errorf("the server on port %d did nothing", w.port)
		}
	}
	// Uploads reach the job through either server.
	b.write("data/a.txt", "alpha\n")
	b.write("files.dstack.yml", "type: task\nname: filesy\nimage: job:1\nfiles:\n  - ./data:/opt/data\ncommands:\n  - cat /opt/data/a.txt\n"+anyResources)
	if r := b.must("apply", "-y", "-f", "files.dstack.yml"); !strings.Contains(r.Out, "alpha") {
		t.Errorf("the files are not there:\n%s", r.both())
	}
}

// replicaKilled kills the second server: the first has its work within the time of takeover,
// the tasks go on.
func replicaKilled(t *testing.T, a, b *world, machines []*machine) {
	names := []string{"kill-1", "kill-2", "kill-3"}
	for i, name := range names {
		[]*world{a, b}[i%2].submitSteady(name, "")
	}
	for _, name := range names {
		a.waitOutput(name, "tick-3-")
	}
	b.stopServer(syscall.SIGKILL)
	waitOwned(t, takeover, a, 64)
	letGo(t, machines, names...)
	for _, name := range names {
		a.checkSteady(name)
	}
	b.startServer()
	waitShared(t, a, b)
}

// replicaFrozen stops the second server for longer than its lease. Meanwhile one task ends
// and another starts. Continued, it does no harm.
func replicaFrozen(t *testing.T, a, b *world, machines []*machine) {
	for _, name := range []string{"ice-1", "ice-2"} {
		b.steady(name)
	}
	b.submitSteady("ice-3", "") // somewhere on its way
	if err := b.server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.server.Process.Signal(syscall.SIGCONT) }() // also when the test fails before
	waitOwned(t, takeover, a, 64)
	a.waitOutput("ice-3", "tick-3-")
	letGo(t, machines, "ice-1")
	a.checkSteady("ice-1")
	a.steady("ice-4")
	if err := b.server.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitShared(t, a, b)
	eventually(t, 30*time.Second, "the continued server answers", func() bool { return b.run("ps").Code == 0 })
	letGo(t, machines, "ice-2", "ice-3", "ice-4")
	for _, name := range []string{"ice-1", "ice-2", "ice-3", "ice-4"} {
		b.checkSteady(name)
	}
}

// replicaCut drops every packet between the second server and the database.
func replicaCut(t *testing.T, a, b *world, machines []*machine, port string) {
	for _, name := range []string{"cut-1", "cut-2"} {
		b.steady(name)
	}
	b.submitSteady("cut-3", "") // somewhere on its way
	heal := cut(t, port)
	waitOwned(t, takeover, a, 64)
	waitOwned(t, takeover, b, 0)
	if ra, rb := a.readiness(), b.readiness(); ra != http.StatusOK || rb != http.StatusServiceUnavailable {
		t.Errorf("ready: %d, and %d of the one that is cut", ra, rb)
	}
	a.waitOutput("cut-3", "tick-3-")
	letGo(t, machines, "cut-1")
	a.checkSteady("cut-1")
	a.steady("cut-4")
	heal()
	waitShared(t, a, b)
	eventually(t, 30*time.Second, "the server answers again", func() bool { return b.run("ps").Code == 0 })
	letGo(t, machines, "cut-2", "cut-3", "cut-4")
	for _, name := range []string{"cut-1", "cut-2", "cut-3", "cut-4"} {
		b.checkSteady(name)
	}
}

// cut drops what is sent to and from a port of the loopback interface until heal is called,
// or the test ends.
func cut(t *testing.T, port string) (heal func()) {
	t.Helper()
	rules := [][]string{{"OUTPUT", "-o", "lo", "-p", "tcp", "--dport", port, "-j", "DROP"}, {"OUTPUT", "-o", "lo", "-p", "tcp", "--sport", port, "-j", "DROP"}}
	apply := func(verb string) {
		for _, rule := range rules {
			if out, err := exec.Command("iptables", append([]string{"-w", verb}, rule...)...).CombinedOutput(); err != nil {
				t.Errorf("iptables %s %v: %v\n%s", verb, rule, err, out)
			}
		}
	}
	heal = sync.OnceFunc(func() { apply("-D") })
	t.Cleanup(heal)
	apply("-I")
	return heal
}

// replicasUpgraded replaces the servers one after the other by another version, which brings
// another agent. The tasks go on in their containers. While there are two versions, users act through both: what one
// takes, the other shows and ends, on hosts whose agents are of the one version and of the other.
func replicasUpgraded(t *testing.T, a, b *world, machines []*machine, next string) {
	for _, name := range []string{"up-1", "up-2", "up-3"} {
		a.steady(name)
	}
	upgrade := func(w, other *world) {
		t.Helper()
		before := strings.Join(allContainers(machines), " ")
		w.stopServer(syscall.SIGTERM)
		waitOwned(t, takeover, other, 64)
		w.dstack = next
		w.startServer()
		waitShared(t, a, b)
		if got := strings.Join(allContainers(machines), " "); got != before {
			t.Errorf("containers %s, before the upgrade %s", got, before)
		}
	}
	upgrade(a, b)
	t.Logf("agents while the versions are mixed: %v", agents(machines))
	// One host becomes free by a stop, one by an end.
	b.must("stop", "-y", "up-1")
	a.waitStatus("up-1", "terminated")
	letGo(t, machines, "up-2")
	b.checkSteady("up-2")
	noJobs(t, machines, 2)
	for i, w := range []*world{a, b} {
		other := []*world{b, a}[i]
		stops, stays := fmt.Sprintf("mixed-%d", i), fmt.Sprintf("stays-%d", i)
		w.submitSteady(stops, "")
		follow := other.start("logs", "-f", stops)
		follow.waitFor("tick-30-")
		other.must("stop", "-x", "-y", stops)
		w.waitStatus(stops, "terminated")
		follow.wait()
		noJobs(t, machines, 2-i)
		w.steady(stays)
		other.waitOutput(stays, "tick-10-")
	}
	t.Logf("agents then: %v", agents(machines))
	upgrade(b, a)
	eventually(t, 60*time.Second, "the agents are of the new version", func() bool {
		for _, version := range agents(machines) {
			if !strings.Contains(version, nextVersion) {
				return false
			}
		}
		return true
	})
	letGo(t, machines, "up-3", "stays-0", "stays-1")
	for _, name := range []string{"up-3", "stays-0", "stays-1"} {
		b.checkSteady(name)
	}
}

// agents are the versions of the machines' agents.
func agents(machines []*machine) (versions []string) {
	for _, m := range machines {
		versions = append(versions, strings.TrimSpace(m.try("/usr/local/bin/dstack-agent", "--version")))
	}
	return versions
}

// noJobs waits until a number of machines have no containers of ours.
func noJobs(t *testing.T, machines []*machine, n int) {
	t.Helper()
	eventually(t, 30*time.Second, fmt.Sprintf("%d machines have no job", n), func() bool {
		free := 0
		for _, m := range machines {
			if len(m.containers()) == 0 {
				free++
			}
		}
		return free == n
	})
}

func allContainers(machines []*machine) []string {
	var all []string
	for _, m := range machines {
		all = append(all, strings.Fields(m.out("docker", "ps", "--format", "{{.ID}}"))...)
	}
	return all
}

// buildVersion builds the program under another version, with an agent of that version.
func buildVersion(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	build := func(args ...string) {
		t.Helper()
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w -X dstack/internal/version.Version=" + version}, args...)...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", version, err, out)
		}
	}
	agent, packed := filepath.Join(dir, "dstack-agent"), filepath.Join(dir, "dstack-agent.gz")
	build("-o", agent, "./cmd/dstack-agent")
	pack(t, agent, packed)
	embedded, err := filepath.Glob(filepath.Join(root, "internal/agentbin/bin/*.gz"))
	if err != nil || len(embedded) == 0 {
		t.Fatalf("no agents in the tree: %v; run make build", err)
	}
	replace := map[string]string{}
	for _, path := range embedded { // hosts are of this machine's architecture
		replace[path] = packed
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "dstack")
	build("-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./cmd/dstack")
	return program
}

func pack(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zw := gzip.NewWriter(f)
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
}
