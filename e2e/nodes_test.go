//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// node is one node of a task: where its attempts were.
type node struct {
	Attempts []struct {
		Status       string `json:"status"`
		Provisioning struct {
			Hostname string `json:"hostname"`
		} `json:"job_provisioning_data"`
	} `json:"job_submissions"`
}

// nodes are those of a run.
func (w *world) nodes(run string) []node {
	w.t.Helper()
	var r struct {
		Jobs []node `json:"jobs"`
	}
	if status := w.api("/api/project/main/runs/get", map[string]any{"run_name": run}, &r); status != http.StatusOK {
		w.t.Fatalf("run %s: status %d", run, status)
	}
	return r.Jobs
}

// lastHosts are the addresses of the last attempts.
func lastHosts(nodes []node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Attempts[len(n.Attempts)-1].Provisioning.Hostname)
	}
	return all
}

// marked are the lines of a node's log that begin with a word, without it.
func (w *world) marked(run string, rank int, word string) []string {
	w.t.Helper()
	var found []string
	for line := range strings.Lines(w.must("logs", run, "--job", fmt.Sprint(rank)).Out) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), word+" "); ok {
			found = append(found, rest)
		}
	}
	return found
}

// clusterOf applies a fleet of machines that a task with several nodes may use and waits until all are idle.
func (w *world) clusterOf(name string, machines []*machine, more string) {
	w.t.Helper()
	hosts := ""
	for _, m := range machines {
		hosts += "    - " + m.Addr + "\n"
	}
	w.must("apply", "-y", "-f", w.write(name+".fleet.dstack.yml", fmt.Sprintf("type: fleet\nname: %s\nplacement: cluster\n%sssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n%s", name, more, w.key, hosts)))
	eventually(w.t, 60*time.Second, "all hosts of the fleet are idle", func() bool { return strings.Count(w.run("fleet").Out, "idle") >= len(machines) })
}

// TestNodeLost takes the host of one of three nodes away for good: the node alone is started
// anew, on another host. It is told the addresses of now; the others go on with those that they
// were told when they began.
func TestNodeLost(t *testing.T) {
	t.Parallel()
	w := prepareWorld(t)
	w.extra = []string{fmt.Sprintf("DSTACK_SERVER_UNREACHABLE_GRACE=%d", int(faultGrace.Seconds()))}
	w.startServer()
	w.login()
	machines := w.startHosts(4, hostOptions{NoImages: true})
	loadJobImage(t, machines)
	w.clusterOf("boxes", machines, "")
	w.must("apply", "-y", "-d", "-f", w.write("gang.dstack.yml", `
type: task
name: gang
nodes: 3
image: job:1
retry:
  on_events: [error]
  scope: node
commands:
  - echo "$DSTACK_NODES_IPS" | sed 's/^/node /'
  - echo master $DSTACK_MASTER_NODE_IP
  - while [ ! -e /tmp/go ]; do sleep 0.1; done
  - echo "$DSTACK_NODES_IPS" | sed 's/^/still /'
`+anyResources))
	for rank := range 3 {
		eventually(t, 60*time.Second, "all nodes have begun", func() bool { return len(w.marked("gang", rank, "master")) == 1 })
	}
	before := lastHosts(w.nodes("gang"))
	at := func(addr string) *machine {
		return machines[slices.IndexFunc(machines, func(m *machine) bool { return m.Addr == addr })]
	}
	lost := at(before[1])
	if out, err := exec.Command("docker", "rm", "-f", "-v", lost.ID).CombinedOutput(); err != nil {
		t.Fatalf("remove a host: %v\n%s", err, out)
	}
	eventually(t, 90*time.Second, "the node is started anew", func() bool { return len(w.nodes("gang")[1].Attempts) == 2 })
	eventually(t, 60*time.Second, "the new node has begun", func() bool { return len(w.marked("gang", 1, "master")) == 1 })
	after := lastHosts(w.nodes("gang"))
	if after[0] != before[0] || after[2] != before[2] || slices.Contains(before, after[1]) {
		t.Errorf("the nodes are on %v, before %s was lost on %v", after, lost.Addr, before)
	}
	machines = slices.DeleteFunc(machines, func(m *machine) bool { return m == lost })
	for _, addr := range after {
		m := at(addr)
		c := m.containers()
		if len(c) != 1 {
			t.Fatalf("containers on %s: %v, want one", addr, c)
		}
		m.out("docker", "exec", c[0], "touch", "/tmp/go")
	}
	if got := w.waitStatus("gang", "done", "failed", "terminated"); got != "done" {
		t.Errorf("status %q, want done", got)
	}
	for rank, want := range [][]string{before, after, before} {
		for _, word := range []string{"node", "still"} {
			if got := w.marked("gang", rank, word); !slices.Equal(got, want) {
				t.Errorf("node %d knows %s %v, want %v", rank, word, got, want)
			}
		}
		if got := w.marked("gang", rank, "master"); !slices.Equal(got, before[:1]) {
			t.Errorf("the master of node %d is %v, want %v", rank, got, before[:1])
		}
	}
	for rank, want := range []int{1, 2, 1} {
		if got := len(w.nodes("gang")[rank].Attempts); got != want {
			t.Errorf("node %d was started %d times, want %d", rank, got, want)
		}
	}
	noContainers(t, machines)
	startedOnce(t, machines)
}
