//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// silence is for how long no packet comes through: longer than the 45 s after which a server
// takes a stream of events without a heartbeat for dead, and the 15 s until it says so.
const silence = 2 * time.Minute

// TestSilence takes the network of a host away while one task goes on and another ends. Nothing
// says that packets are lost, and what the host has of the old connection stays there beside
// the new one.
func TestSilence(t *testing.T) {
	t.Parallel() // it mostly waits
	w := newWorld(t)
	m := w.startHost(hostOptions{NoImages: true})
	machines := []*machine{m}
	loadJobImage(t, machines)
	w.must("apply", "-y", "-f", w.write("box.fleet.dstack.yml", fmt.Sprintf("type: fleet\nname: box\nssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n    - hostname: %s\n      blocks: 2\n", w.key, m.Addr)))
	w.steady("goes-on")
	w.steady("ends")
	old := m.sshPeers()
	if len(old) == 0 {
		t.Fatal("the server has no connection to the host")
	}

	heal := m.drop("INPUT -i eth0", "OUTPUT -o eth0")
	start := time.Now()
	letGo(t, machines, "ends")
	inTime(t, silence, "the host is said to be unreachable", func() bool { return w.unreachable("box") })
	wait(time.Until(start.Add(silence)))
	for _, name := range []string{"goes-on", "ends"} {
		if got := w.runStatus(name); got != "running" {
			t.Errorf("%s is %s while its host is away, want running", name, got)
		}
	}
	if n := len(m.containers()); n == 0 {
		t.Error("no container goes on without a server")
	}

	var rules []string
	for _, port := range old {
		rules = append(rules, "INPUT -p tcp --dport 22 --sport "+port, "OUTPUT -p tcp --sport 22 --dport "+port)
	}
	healOld := m.drop(rules...)
	heal()
	eventually(t, time.Minute, "the host is said to be reachable", func() bool { return !w.unreachable("box") })
	w.checkSteady("ends")
	peers := strings.Join(m.sshPeers(), " ")
	for _, port := range old {
		if !strings.Contains(peers, port) {
			t.Errorf("the host has given up the connection from port %s, it has those from %s", port, peers)
		}
	}
	healOld()
	letGo(t, machines, "goes-on")
	w.checkSteady("goes-on")
	noContainers(t, machines)
	startedOnce(t, machines)
	w.must("fleet", "delete", "box", "-y")
	noKeys(t, w, machines)
}

// unreachable is what the server says of the only instance of a fleet.
func (w *world) unreachable(fleet string) bool {
	w.t.Helper()
	return strings.Contains(w.must("fleet", "get", fleet, "--json").Out, `"unreachable": true`)
}

// sshPeers are the ports from which somebody is connected to the machine's sshd.
func (m *machine) sshPeers() []string {
	m.t.Helper()
	var ports []string
	for line := range strings.Lines(m.out("ss", "-Htn", "state", "established", "sport = :22")) {
		if f := strings.Fields(line); len(f) >= 4 {
			ports = append(ports, f[3][strings.LastIndex(f[3], ":")+1:])
		}
	}
	return ports
}

// drop drops packets that match rules of iptables until heal is called.
func (m *machine) drop(rules ...string) (heal func()) {
	m.t.Helper()
	apply := func(verb string) {
		m.t.Helper()
		for _, rule := range rules {
			m.out(append([]string{"iptables", "-w", verb}, append(strings.Fields(rule), "-j", "DROP")...)...)
		}
	}
	apply("-I")
	return func() { apply("-D") }
}
