//go:build e2e

package e2e

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
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
// frozen, cut from the database and replaced by another version, while tasks run.
func TestReplicas(t *testing.T) {
	t.Parallel() // with TestFaults: both mostly wait
	a, b, port := newReplicas(t)
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
		{"Cut", func(t *testing.T, a, b *world, machines []*machine) { replicaCut(t, a, b, machines, port) }},
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

// replicasConfig has no backends, so that every job goes to the hosts, and the key that all
// servers of a database share.
const replicasConfig = `projects:
  - name: main
    backends: []
encryption:
  keys:
    - type: aes
      name: key1
      secret: 5oPsdnStIvwPT3WYjtpvlm5eRDnoM2fNhxlBMQ0T3JE=
`

// newReplicas starts two servers on an empty database. The second reaches it through a port of its own.
func newReplicas(t *testing.T) (a, b *world, port string) {
	t.Helper()
	if os.Getenv("TEST_POSTGRES") == "" {
		t.Fatal("TEST_POSTGRES is not set; run make e2e")
	}
	database := storetest.PostgresURL(t)
	valve := storetest.NewValve(t, database) // has a port of its own, that can be cut
	way, err := url.Parse(valve.URL)
	if err != nil {
		t.Fatal(err)
	}
	a, b = prepareWorld(t), prepareWorld(t)
	b.key, b.publicKey = a.key, a.publicKey
	for w, url := range map[*world]string{a: database, b: valve.URL} {
		w.write("server/config.yml", replicasConfig)
		w.extra = []string{"DSTACK_DATABASE_URL=" + url}
	}
	for _, w := range []*world{a, b} {
		w.startServer()
		w.login()
	}
	return a, b, way.Port()
}

// owned is how many shards a server owns, as it has logged it last.
func (w *world) owned() int {
	log := w.serverLog.String()
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
	eventually(t, limit, fmt.Sprintf("a server owns %d shards", n), func() bool { return w.owned() == n })
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
// another agent. The tasks go on in their containers.
func replicasUpgraded(t *testing.T, a, b *world, machines []*machine, next string) {
	names := []string{"up-1", "up-2", "up-3"}
	for _, name := range names {
		a.steady(name)
	}
	before := strings.Join(allContainers(machines), " ")
	for _, w := range []*world{a, b} {
		other := map[*world]*world{a: b, b: a}[w]
		w.stopServer(syscall.SIGTERM)
		waitOwned(t, takeover, other, 64)
		w.dstack = next
		w.startServer()
		waitShared(t, a, b)
	}
	eventually(t, 60*time.Second, "the agents are of the new version", func() bool {
		for _, m := range machines {
			if !strings.Contains(m.try("/usr/local/bin/dstack-agent", "--version"), nextVersion) {
				return false
			}
		}
		return true
	})
	if got := strings.Join(allContainers(machines), " "); got != before {
		t.Errorf("containers %s, before the upgrade %s", got, before)
	}
	letGo(t, machines, names...)
	for _, name := range names {
		b.checkSteady(name)
	}
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
