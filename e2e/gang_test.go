//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestGang runs tasks with several nodes on three hosts: the nodes start together, know and
// reach each other, wait for capacity as a whole, and are placed when it is free.
func TestGang(t *testing.T) {
	w := newWorld(t)
	machines := w.startHosts(3, hostOptions{})
	w.clusterOf("trio", machines, "")
	keys := machines[0].keys()

	for _, c := range []struct {
		name string
		test func(*testing.T, *world, []*machine)
	}{
		{"NodesKnowEachOther", nodesKnowEachOther},
		{"SSH", nodesOverSSH},
		{"Groups", nodeGroups},
		{"Queue", gangQueue},
		{"OneFails", oneNodeFails},
		{"MasterDone", masterDone},
		{"NodeIsReplaced", nodeIsReplaced},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			c.test(t, w, machines)
			for _, m := range machines {
				eventually(t, 30*time.Second, "no job container is left", func() bool { return len(m.containers()) == 0 })
			}
		})
	}
	for _, m := range machines {
		if got := m.keys(); got != keys {
			t.Errorf("keys on a host:\n%s\nbefore the runs:\n%s", got, keys)
		}
	}
	w.must("fleet", "delete", "trio", "-y")
	noKeys(t, w, machines)
}

// own prints the address of the host whose network a container uses.
const own = "ip -4 -o addr show eth0 | awk '{print \"own \" $4}' | cut -d/ -f1"

func nodesKnowEachOther(t *testing.T, w *world, machines []*machine) {
	w.write("gang.dstack.yml", `
type: task
name: gang
nodes: 3
image: job:1
commands:
  - `+own+`
  - echo rank $DSTACK_NODE_RANK of $DSTACK_NODES_NUM
  - echo master $DSTACK_MASTER_NODE_IP
  - echo "$DSTACK_NODES_IPS" | sed 's/^/node /'
  - sed 's/^/mpi /' $DSTACK_MPI_HOSTFILE
`+anyResources)
	w.must("apply", "-y", "-f", "gang.dstack.yml")
	w.waitStatus("gang", "done")
	var nodes, addrs []string
	for rank := range 3 {
		nodes = append(nodes, w.marked("gang", rank, "own")...)
	}
	for _, m := range machines {
		addrs = append(addrs, m.Addr)
	}
	if !slices.Equal(slices.Sorted(slices.Values(nodes)), slices.Sorted(slices.Values(addrs))) {
		t.Fatalf("the nodes have the addresses %v, the hosts %v", nodes, addrs)
	}
	for rank := range 3 {
		for word, want := range map[string][]string{"rank": {fmt.Sprintf("%d of 3", rank)}, "master": nodes[:1], "node": nodes, "mpi": nodes} {
			if got := w.marked("gang", rank, word); !slices.Equal(got, want) {
				t.Errorf("node %d knows %s %v, want %v", rank, word, got, want)
			}
		}
	}
}

// nodesOverSSH lets each node run a command on every node by its address. It ends when all have been to it.
func nodesOverSSH(t *testing.T, w *world, machines []*machine) {
	image := sshImage(t)
	for _, m := range machines {
		m.load(image, "ssh:1")
	}
	w.write("mesh.dstack.yml", `
type: task
name: mesh
nodes: 3
image: ssh:1
max_duration: 1m
commands:
  - for ip in $DSTACK_NODES_IPS; do until ssh -n -o BatchMode=yes $ip "test \$DSTACK_NODE_RANK && echo from $DSTACK_NODE_RANK to \$DSTACK_NODE_RANK >>/tmp/met"; do sleep 0.3; done; done
  - while [ $(wc -l </tmp/met) -lt $DSTACK_NODES_NUM ]; do sleep 0.1; done
  - sleep 5; sort /tmp/met # the last visitor learns that it was here only after that is written
`+anyResources)
	w.must("apply", "-y", "-d", "-f", "mesh.dstack.yml")
	if got := w.waitStatus("mesh", "done", "failed", "terminated"); got != "done" {
		t.Errorf("status %q, want done", got)
	}
	for rank := range 3 {
		var want []string
		for from := range 3 {
			want = append(want, fmt.Sprintf("%d to %d", from, rank))
		}
		if got := w.marked("mesh", rank, "from"); !slices.Equal(got, want) {
			t.Errorf("to node %d came %v, want %v:\n%s", rank, got, want, w.must("logs", "mesh", "--job", fmt.Sprint(rank)).Out)
		}
	}
}

func nodeGroups(t *testing.T, w *world, _ []*machine) {
	w.write("groups.dstack.yml", `
type: task
name: groups
image: job:1
groups:
  - name: head
    nodes: 1
    commands:
      - echo head sees ${{ groups[1].nodes[1].IP_ADDRESS }}
    resources: {cpu: 1.., memory: 0.., disk: 1GB..}
  - name: workers
    nodes: 2
    commands:
      - echo worker of ${{ groups[0].nodes[0].IP_ADDRESS }}
    resources: {cpu: 1.., memory: 0.., disk: 1GB..}
`)
	w.must("apply", "-y", "-f", "groups.dstack.yml")
	w.waitStatus("groups", "done")
	if logs := w.must("logs", "groups").Out; !strings.Contains(logs, "head sees 10.") {
		t.Errorf("the head's log:\n%s", logs)
	}
	if logs := w.must("logs", "groups", "--job", "2").Out; !strings.Contains(logs, "worker of 10.") {
		t.Errorf("a worker's log:\n%s", logs)
	}
}

// gangQueue keeps one host busy: a gang that needs all three waits at the head and says so,
// what comes behind it does not pass it, and both run when the host is free.
func gangQueue(t *testing.T, w *world, _ []*machine) {
	long := "type: task\nname: %s\nimage: job:1\nretry: true\ncommands:\n  - %s\n" + anyResources
	w.write("busy.dstack.yml", fmt.Sprintf(long, "busy", "while true; do sleep 0.2; done"))
	w.write("wide.dstack.yml", fmt.Sprintf(long, "wide", "echo wide done")+"nodes: 3\npriority: 50\n")
	w.write("small.dstack.yml", fmt.Sprintf(long, "small", "echo small done"))
	w.must("apply", "-y", "-d", "-f", "busy.dstack.yml")
	w.waitStatus("busy", "running")
	w.must("apply", "-y", "-d", "-f", "wide.dstack.yml")
	w.must("apply", "-y", "-d", "-f", "small.dstack.yml")
	eventually(t, 20*time.Second, "both say why they wait", func() bool {
		wide, small := w.must("run", "get", "wide", "--json").Out, w.must("run", "get", "small", "--json").Out
		return strings.Contains(wide, `"position": 1`) && strings.Contains(small, `"position": 2`) && strings.Contains(wide, "3 instances")
	})
	w.must("stop", "-x", "-y", "busy")
	w.waitStatus("wide", "done")
	w.waitStatus("small", "done")
}

func oneNodeFails(t *testing.T, w *world, _ []*machine) {
	w.write("one.dstack.yml", `
type: task
name: one
nodes: 3
image: job:1
commands:
  - if [ $DSTACK_NODE_RANK = 1 ]; then exit 3; fi
  - while true; do sleep 0.2; done
`+anyResources)
	w.run("apply", "-y", "-f", "one.dstack.yml")
	if got := w.waitStatus("one", "failed", "done", "terminated"); got != "failed" {
		t.Errorf("status %q, want failed", got)
	}
}

func masterDone(t *testing.T, w *world, _ []*machine) {
	w.write("master.dstack.yml", `
type: task
name: master
nodes: 3
stop_criteria: master-done
image: job:1
commands:
  - if [ $DSTACK_NODE_RANK = 0 ]; then sleep 1; exit 0; fi
  - while true; do sleep 0.2; done
`+anyResources)
	w.must("apply", "-y", "-f", "master.dstack.yml")
	w.waitStatus("master", "done")
}

// nodeIsReplaced lets one node of three fail once: it alone is started anew, while the others wait.
func nodeIsReplaced(t *testing.T, w *world, machines []*machine) {
	w.write("replace.dstack.yml", `
type: task
name: replace
nodes: 3
image: job:1
retry:
  on_events: [error]
  scope: node
volumes:
  - /var/tmp:/mark
commands:
  - if [ $DSTACK_NODE_RANK = 1 ] && [ ! -e /mark/tried ]; then touch /mark/tried; exit 3; fi
  - echo node $DSTACK_NODE_RANK goes on
  - while [ ! -e /mark/go ]; do sleep 0.1; done
`+anyResources)
	w.must("apply", "-y", "-d", "-f", "replace.dstack.yml")
	eventually(t, 60*time.Second, "the node has begun anew", func() bool { return len(w.marked("replace", 1, "node")) == 1 })
	for _, m := range machines {
		m.out("touch", "/var/tmp/go")
	}
	if got := w.waitStatus("replace", "done", "failed", "terminated"); got != "done" {
		t.Fatalf("status %q, want done", got)
	}
	var r struct {
		Jobs []struct {
			Submissions []struct{} `json:"job_submissions"`
		}
	}
	if err := json.Unmarshal([]byte(w.must("run", "get", "replace", "--json").Out), &r); err != nil {
		t.Fatal(err)
	}
	for rank, want := range []int{1, 2, 1} {
		if got := len(r.Jobs[rank].Submissions); got != want {
			t.Errorf("node %d was started %d times, want %d", rank, got, want)
		}
	}
}

// TestNodeSlots has hosts with two GPUs and one: a node knows how many every other has.
func TestNodeSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	two, one := w.startGPUHost(firstGPU, secondGPU), w.startGPUHost(thirdGPU)
	w.clusterOf("hoppers", []*machine{two, one}, "env:\n  DSTACK_AGENT_RUNTIME: process\n")
	w.must("apply", "-y", "-f", w.write("slots.dstack.yml", `
type: task
name: slots
nodes: 2
commands:
  - sed 's/^/mpi /' $DSTACK_MPI_HOSTFILE
  - echo gpus $DSTACK_GPUS_PER_NODE of $DSTACK_GPUS_NUM
resources:
  gpu: H100:1..
  cpu: 0..
  memory: 0..
  disk: 1GB..
`))
	w.waitStatus("slots", "done")
	gpus := map[string]int{two.Addr: 2, one.Addr: 1}
	nodes := lastHosts(w.nodes("slots"))
	var hostfile []string
	for _, addr := range nodes {
		hostfile = append(hostfile, fmt.Sprintf("%s slots=%d", addr, gpus[addr]))
	}
	for rank, addr := range nodes {
		for word, want := range map[string][]string{"mpi": hostfile, "gpus": {fmt.Sprintf("%d of 3", gpus[addr])}} {
			if got := w.marked("slots", rank, word); !slices.Equal(got, want) {
				t.Errorf("node %d knows %s %v, want %v", rank, word, got, want)
			}
		}
	}
}
