//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// faultGrace is how long a host may be unreachable before its jobs count as lost.
	faultGrace = 5 * time.Second
	// shortCut is a failure of the network that is over before anybody is sure of it: a stream of
	// events counts as dead when it has been silent for 45 s. TestSilence has a longer one.
	shortCut = 20 * time.Second
	// outage is as much output as a task that prints 20 lines a second makes in 30 minutes.
	outage = 30 * 60 * 20
)

// TestFaults runs tasks on three hosts while everything around them fails. Whatever happens,
// they lose no line and no exit code, and leave no container and no key behind.
func TestFaults(t *testing.T) {
	t.Parallel() // with TestReplicas: both mostly wait
	w := prepareWorld(t)
	disk := smallDisk(t, w)
	w.extra = []string{"DSTACK_SERVER_DIR=" + disk, fmt.Sprintf("DSTACK_SERVER_UNREACHABLE_GRACE=%d", int(faultGrace.Seconds()))}
	w.startServer()
	w.login()
	machines := w.startHosts(2, hostOptions{NoImages: true, Reboots: true})
	machines = append(machines, w.startHosts(1, hostOptions{NoImages: true, SmallDisk: true})...)
	loadJobImage(t, machines)
	for i, m := range machines {
		w.fleet(fmt.Sprintf("box-%d", i), m)
	}
	var keys []string
	for _, m := range machines {
		keys = append(keys, m.keys())
	}

	t.Run("Hosts", func(t *testing.T) { // at the same time, one after the other on each
		for i, tests := range [][]hostFault{
			{{"ShortCut", shortlyCut}, {"AgentKilled", agentKilled}, {"DockerRestarts", dockerRestarts}, {"DockerKilled", dockerKilled}},
			{{"LongCut", longCut}},
			{{"DiskFull", diskFull}, {"StopDuringPull", stopDuringPull}, {"AgentDiskFull", agentDiskFull}, {"DockerDiskFull", dockerDiskFull}, {"DockerKilledLive", dockerKilledLive}},
		} {
			t.Run(fmt.Sprintf("box-%d", i), func(t *testing.T) {
				t.Parallel()
				runFaults(t, *w, *machines[i], fmt.Sprintf("box-%d", i), tests)
			})
		}
	})
	for _, c := range []struct {
		name string
		test func(t *testing.T, w *world, machines []*machine)
	}{
		{"ServerKilled", serverKilled},
		{"Outage", serverAway},
		{"ServerDiskFull", func(t *testing.T, w *world, machines []*machine) { serverDiskFull(t, w, machines, disk) }},
		{"Reboot", hostReboots},
	} {
		if t.Failed() {
			return // what it left would fail the others
		}
		within(t, c.name, []*world{w}, machines, func(t *testing.T) {
			c.test(t, w, machines)
			noContainers(t, machines)
			startedOnce(t, machines)
		})
	}
	for i, m := range machines {
		if got := m.keys(); got != keys[i] {
			t.Errorf("keys on box-%d:\n%s\nbefore the runs:\n%s", i, got, keys[i])
		}
		w.must("fleet", "delete", fmt.Sprintf("box-%d", i), "-y")
	}
	noKeys(t, w, machines)
}

// hostFault is a test of one machine, which is the only one of its fleet.
type hostFault struct {
	name string
	test func(t *testing.T, w *world, m *machine, fleet string)
}

func runFaults(t *testing.T, w world, m machine, fleet string, tests []hostFault) {
	for _, c := range tests {
		passed := within(t, c.name, []*world{&w}, []*machine{&m}, func(t *testing.T) {
			c.test(t, &w, &m, fleet)
			noContainers(t, []*machine{&m})
			startedOnce(t, []*machine{&m})
		})
		if !passed {
			return
		}
	}
}

// on is the YAML that keeps a run on one fleet.
func on(fleet string) string { return "fleets: [" + fleet + "]\n" }

func (w *world) steadyOn(name, fleet string) {
	w.t.Helper()
	w.submitSteady(name, on(fleet))
	w.waitOutput(name, "tick-3-")
}

// sshPort are rules for what is sent to and from a machine's SSH port.
var sshPort = []string{"INPUT -p tcp --dport 22", "OUTPUT -p tcp --sport 22"}

// shortlyCut drops every packet of the SSH port for a while.
func shortlyCut(t *testing.T, w *world, m *machine, fleet string) {
	w.steadyOn("short-cut", fleet)
	heal := m.drop(sshPort...)
	wait(shortCut)
	heal()
	letGo(t, []*machine{m}, "short-cut")
	w.checkSteady("short-cut")
}

// longCut drops every packet of the SSH port until the job counts as lost. The host cleans up
// when it is back.
func longCut(t *testing.T, w *world, m *machine, fleet string) {
	w.steadyOn("long-cut", fleet)
	heal := m.drop(sshPort...)
	if got := w.waitStatus("long-cut", "failed", "done", "terminated"); got != "failed" {
		t.Errorf("status %q, want failed", got)
	}
	if ps := w.must("ps", "-a", "-v").Out; !strings.Contains(ps, "unreachable") {
		t.Errorf("ps does not say why the run ended:\n%s", ps)
	}
	if n := len(m.containers()); n != 1 {
		t.Errorf("%d containers on the host that nobody reaches, want 1", n)
	}
	heal()
	noContainers(t, []*machine{m})
	eventually(t, time.Minute, "the host takes jobs again", func() bool { // when nothing is left over there
		return !w.unreachable(fleet)
	})
	w.steadyOn("after-cut", fleet)
	letGo(t, []*machine{m}, "after-cut")
	w.checkSteady("after-cut")
}

// wait lets real time pass, for what cannot be seen from outside: that nothing happens.
func wait(d time.Duration) { <-time.After(d) }

func agentKilled(t *testing.T, w *world, m *machine, fleet string) {
	w.steadyOn("killed", fleet)
	m.signalAgent("KILL")
	letGo(t, []*machine{m}, "killed") // while nobody watches
	w.checkSteady("killed")
}

// dockerRestarts ends the engine as an upgrade of its package does: containers end with it.
func dockerRestarts(t *testing.T, w *world, m *machine, fleet string) {
	containersLost(t, w, m, fleet, "engine", "TERM")
}

// dockerKilled kills the engine. Containers go on until there is one again, which ends them.
func dockerKilled(t *testing.T, w *world, m *machine, fleet string) {
	containersLost(t, w, m, fleet, "no-engine", "KILL")
}

// containersLost ends the engine with a signal and starts it again.
func containersLost(t *testing.T, w *world, m *machine, fleet, name, signal string) {
	w.steadyOn(name, fleet)
	m.endDocker(signal)
	m.startDocker()
	if got := w.waitStatus(name, "failed", "done", "terminated"); got != "failed" {
		t.Errorf("status %q of a run whose container was ended, want failed", got)
	}
	if why := w.must("event", "--within-run", name).Out; !strings.Contains(why, "CONTAINER_EXITED_WITH_ERROR") {
		t.Errorf("it did not fail as one that is retried where errors are:\n%s", why)
	}
	if logs := w.must("logs", name).Out; !strings.Contains(logs, "tick-3-") {
		t.Errorf("the log is gone:\n%s", logs)
	}
	w.steadyOn("after-"+name, fleet)
	letGo(t, []*machine{m}, "after-"+name)
	w.checkSteady("after-" + name)
}

// dockerKilledLive kills an engine that leaves containers alone when it starts: they have missed
// nothing, and one has ended meanwhile.
func dockerKilledLive(t *testing.T, w *world, m *machine, fleet string) {
	m.endDocker("TERM")
	m.startDocker("--live-restore")
	w.steadyOn("live", fleet)
	m.endDocker("KILL")
	wait(3 * time.Second) // the agent has noticed
	m.startDocker("--live-restore")
	letGo(t, []*machine{m}, "live")
	w.checkSteady("live")
	noContainers(t, []*machine{m})
	m.endDocker("TERM")
	m.startDocker()
}

func (m *machine) endDocker(signal string) {
	m.t.Helper()
	m.out("sh", "-c", "pkill -"+signal+" -x dockerd; while pgrep -x dockerd >/dev/null; do sleep 0.1; done; rm -f /var/run/docker.pid")
}

func (m *machine) startDocker(flags ...string) {
	m.t.Helper()
	if err := m.run("sh", "-c", "dockerd --iptables=true "+strings.Join(flags, " ")+" >>/var/log/dockerd.log 2>&1 &"); err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, 30*time.Second, "Docker on the host answers", func() bool { return m.run("docker", "info") == nil })
}

// diskFull fills the disk on which the agent keeps logs and states. What the task prints
// meanwhile waits.
func diskFull(t *testing.T, w *world, m *machine, fleet string) {
	w.steadyOn("full", fleet)
	m.out("mount", "-o", "remount,size=16m", "/var/lib/dstack")
	if err := m.run("sh", "-c", "cat /dev/zero >/var/lib/dstack/fill"); err == nil {
		t.Error("the disk is not full")
	}
	wait(3 * time.Second)
	m.out("rm", "/var/lib/dstack/fill")
	letGo(t, []*machine{m}, "full")
	w.checkSteady("full")
}

// agentDiskFull fills the disk of the agent before it gets a task: the task waits for room, and its run says so.
func agentDiskFull(t *testing.T, w *world, m *machine, fleet string) {
	room := m.fill("/var/lib/dstack")
	w.submitSteady("sent", on(fleet))
	eventually(t, 30*time.Second, "the run says that its host has no room", func() bool {
		return strings.Contains(w.must("event", "--within-run", "sent").Out, "no space left on device")
	})
	if got := w.runStatus("sent"); got != "provisioning" {
		t.Errorf("status %q of a run whose host has no room for it, want provisioning", got)
	}
	room()
	w.waitOutput("sent", "tick-3-")
	letGo(t, []*machine{m}, "sent")
	w.checkSteady("sent")
}

// fill fills a file system of a machine that lies in memory until room is called.
func (m *machine) fill(dir string) (room func()) {
	m.t.Helper()
	m.out("mount", "-o", "remount,size=64m", dir)
	if err := m.run("sh", "-c", "cat /dev/zero >"+dir+"/fill"); err == nil {
		m.t.Error("the disk is not full")
	}
	return func() {
		m.t.Helper()
		m.out("rm", dir+"/fill")
		m.out("mount", "-o", "remount,size=4g", dir)
	}
}

// dockerDiskFull fills Docker's disk while an image is pulled, and before a container is made.
// Both runs say so, and leave nothing that is in the way of the next.
func dockerDiskFull(t *testing.T, w *world, m *machine, fleet string) {
	r := newRegistry(t, w.key, m)
	w.write("big.dstack.yml", "type: task\nname: big\nimage: "+slowImage+"\ncommands: [echo pulled]\n"+on(fleet)+anyResources)
	w.must("apply", "-y", "-d", "-f", "big.dstack.yml")
	r.waitAsked(t)
	room := m.fill("/var/lib/docker")
	r.open()
	noSpace(t, w, "big")
	w.submitSteady("made", on(fleet))
	noSpace(t, w, "made")
	noContainers(t, []*machine{m})
	room()
	w.must("apply", "-y", "-d", "-f", "big.dstack.yml")
	w.waitStatus("big", "done")
	m.out("docker", "rmi", "-f", slowImage) // others pull it
	w.steadyOn("made", fleet)
	letGo(t, []*machine{m}, "made")
	w.checkSteady("made")
}

// noSpace waits until a run has failed and checks that it says why.
func noSpace(t *testing.T, w *world, name string) {
	t.Helper()
	if got := w.waitStatus(name, "failed", "done", "terminated"); got != "failed" {
		t.Errorf("status %q of %s on a full disk, want failed", got, name)
	}
	if why := w.must("event", "--within-run", name).Out; !strings.Contains(why, "no space left on device") {
		t.Errorf("the events of %s do not say that the disk is full:\n%s", name, why)
	}
}

// stopDuringPull stops a run whose image comes slowly: it does not wait for that.
func stopDuringPull(t *testing.T, w *world, m *machine, fleet string) {
	r := newRegistry(t, w.key, m)
	w.write("pull.dstack.yml", "type: task\nname: pull\nimage: "+slowImage+"\ncommands: [echo pulled]\n"+on(fleet)+anyResources)
	w.must("apply", "-y", "-d", "-f", "pull.dstack.yml")
	r.waitAsked(t)
	start := time.Now()
	w.must("stop", "-y", "pull")
	w.waitStatus("pull", "terminated")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("stop during the pull took %v", took)
	}
}

// serverKilled kills the server while it has an image pulled and follows a task, when it has
// stored a run and the client does not know that, and again while it gives a task to a host and
// stops one.
func serverKilled(t *testing.T, w *world, machines []*machine) {
	r := newRegistry(t, w.key, machines[2])
	w.steadyOn("runs", "box-0")
	w.write("pulls.dstack.yml", "type: task\nname: pulls\nimage: "+slowImage+"\ncommands: [echo pulled; exit 3]\n"+on("box-2")+anyResources)
	w.must("apply", "-y", "-d", "-f", "pulls.dstack.yml")
	r.waitAsked(t)
	w.writeSteady("submits", on("box-1"))
	t.Run("AnswerLost", func(t *testing.T) {
		w.through(t, front{path: "/runs/apply", answered: func() { w.stopServer(syscall.SIGKILL) }})
		submits := w.run("apply", "-y", "-d", "-f", "submits.dstack.yml")
		if submits.Code == 0 || !strings.Contains(submits.Err, "Failed to connect") {
			t.Errorf("apply whose answer is lost ends with %d:\n%s", submits.Code, submits.both())
		}
		w.startServer()
	})
	w.waitOutput("submits", "tick-3-")
	letGo(t, machines, "submits")
	w.checkSteady("submits")
	r.open()
	w.waitStatus("pulls", "failed")
	if got := w.exitStatus("pulls"); got != 3 {
		t.Errorf("exit status %d after the pull, want 3", got)
	}
	if logs := w.must("logs", "pulls").Out; !strings.Contains(logs, "pulled") {
		t.Errorf("the log of the run that was pulled for:\n%s", logs)
	}

	w.write("stops.dstack.yml", "type: task\nname: stops\nimage: job:1\ncommands:\n  - trap 'sleep 2; echo caught; exit 0' INT\n  - echo ready\n  - while true; do sleep 0.1; done\n"+on("box-2")+anyResources)
	w.must("apply", "-y", "-d", "-f", "stops.dstack.yml")
	w.waitOutput("stops", "ready")
	machines[1].signalAgent("STOP") // takes what is sent, and does nothing yet
	w.submitSteady("places", on("box-1"))
	w.waitStatus("places", "provisioning")
	w.must("stop", "-y", "stops")
	w.stopServer(syscall.SIGKILL)
	w.startServer()
	machines[1].signalAgent("CONT")
	if got := w.waitStatus("stops", "terminated", "done", "failed"); got != "terminated" {
		t.Errorf("status %q of the run that was stopped, want terminated", got)
	}
	if logs := w.must("logs", "stops").Out; !strings.Contains(logs, "caught") {
		t.Errorf("the last words of the run that was stopped are lost:\n%s", logs)
	}
	w.waitOutput("places", "tick-3-")
	letGo(t, machines, "places", "runs")
	w.checkSteady("places")
	w.checkSteady("runs")
}

// signalAgent sends a signal to the agent of a machine.
func (m *machine) signalAgent(signal string) {
	m.t.Helper()
	m.out("pkill", "-"+signal, "-f", "[d]stack-agent shim")
}

// serverAway leaves the hosts alone for an outage's worth of output, and tasks that end.
func serverAway(t *testing.T, w *world, machines []*machine) {
	names := []string{"away-0", "away-1", "away-2"}
	for i, name := range names {
		w.submitSteady(name, on(fmt.Sprintf("box-%d", i)))
	}
	for _, name := range names {
		w.waitOutput(name, "tick-3-")
	}
	w.stopServer(syscall.SIGKILL)
	letGoAfter(t, machines, outage, names...)
	for _, m := range machines {
		eventually(t, 60*time.Second, "the task ends without a server", func() bool { return m.out("docker", "ps", "-q") == "" })
	}
	w.startServer()
	for _, name := range names {
		w.checkSteady(name)
	}
}

// serverDiskFull takes the server's disk away while tasks go on and end. It says so, and goes
// on by itself when there is space.
func serverDiskFull(t *testing.T, w *world, machines []*machine, disk string) {
	names := []string{"disk-0", "disk-1"}
	for i, name := range names {
		w.steadyOn(name, fmt.Sprintf("box-%d", i))
	}
	fill := filepath.Join(disk, "fill")
	if err := fillDisk(fill); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	letGoAfter(t, machines, 20_000, names[0])
	w.writeSteady("asked", on("box-2"))
	asked := w.run("apply", "-y", "-d", "-f", "asked.dstack.yml") // the journal may have room for it
	if strings.Contains(asked.both(), "goroutine") {
		t.Errorf("apply on a full disk:\n%s", asked.both())
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	w.checkSteady(names[0])
	letGo(t, machines, names[1])
	w.checkSteady(names[1])
	if asked.Code != 0 { // a refusal stores nothing
		if got := w.runStatus("asked"); got != "" {
			t.Errorf("a run that was refused is %s:\n%s", got, asked.both())
		}
		w.must("apply", "-y", "-d", "-f", "asked.dstack.yml")
	}
	w.waitOutput("asked", "tick-3-")
	letGo(t, machines, "asked")
	w.checkSteady("asked")
}

// fillDisk writes until the disk is full.
func fillDisk(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 64<<10); len(block) > 0; block = block[:len(block)/2] { // to the last byte
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
	}
	return err
}

// hostReboots restarts a host with a task: the task has ended with it, its log is kept, and
// the host works again.
func hostReboots(t *testing.T, w *world, machines []*machine) {
	m := machines[1]
	w.steadyOn("reboot", "box-1")
	m.reboot()
	if got := w.waitStatus("reboot", "failed", "done", "terminated"); got != "failed" {
		t.Errorf("status %q of a run whose host was restarted, want failed", got)
	}
	if logs := w.must("logs", "reboot").Out; !strings.Contains(logs, "tick-3-") {
		t.Errorf("the log is gone:\n%s", logs)
	}
	w.steadyOn("after-reboot", "box-1")
	letGo(t, machines, "after-reboot")
	w.checkSteady("after-reboot")
}

// reboot restarts a machine with what lies on its disks, keys among it, which the start of
// the container makes anew.
func (m *machine) reboot() {
	m.t.Helper()
	keys := m.keys()
	docker(m.t, "restart", "-t", "0", m.ID)
	m.out("sh", "-c", "cat >/root/.ssh/authorized_keys <<'END'\n"+keys+"END\n")
	eventually(m.t, 30*time.Second, "Docker on the host answers", func() bool { return m.run("docker", "info") == nil })
}

// smallDisk is a file system of its own for the server, of 64 MiB.
func smallDisk(t *testing.T, w *world) string {
	t.Helper()
	dir := filepath.Join(w.dir, "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	config, err := os.ReadFile(filepath.Join(w.dir, "server/config.yml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
