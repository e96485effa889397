//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fleetOf applies a fleet of one machine with further lines of YAML and waits until it is
// idle.
func (w *world) fleetOf(name string, m *machine, more string) {
	w.t.Helper()
	yaml := fmt.Sprintf("type: fleet\nname: %s\n%sssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n    - %s\n", name, more, w.key, m.Addr)
	w.must("apply", "-y", "-f", w.write(name+".dstack.yml", yaml))
	eventually(w.t, 60*time.Second, "the host is idle", func() bool { return strings.Contains(w.run("fleet").Out, "idle") })
}

// traces lists everything of ours on a machine.
func (m *machine) traces() string {
	m.t.Helper()
	return m.out("sh", "-c", `ls -d /var/lib/dstack /usr/local/bin/dstack* /etc/systemd/system/dstack* 2>/dev/null
ps -e -o args | grep -v grep | grep dstack-agent
cat /root/.ssh/authorized_keys
getent passwd | wc -l
if command -v dockerd >/dev/null && docker info >/dev/null 2>&1; then docker ps -aq; docker volume ls -q; fi; true`)
}

// TestUpgradeUnderTask replaces the agent while a job runs: the job goes on, its log has no
// gap and no repetition.
func TestUpgradeUnderTask(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleetOf("boxes", m, "")
	w.steady("survivor")
	ours := m.out("sha256sum", "/usr/local/bin/dstack-agent")
	container := m.containers()

	// Another build in its place, as after an upgrade of the server; then the agent dies.
	m.out("sh", "-c", "cd /usr/local/bin && cp dstack-agent new && echo other >>new && mv new dstack-agent && pkill -9 -f '[d]stack-agent shim'")
	eventually(t, 60*time.Second, "the server puts its own agent back", func() bool { return m.out("sha256sum", "/usr/local/bin/dstack-agent") == ours })
	if got := m.containers(); len(got) != 1 || got[0] != container[0] {
		t.Errorf("containers %v, before %v", got, container)
	}
	letGoAfter(t, []*machine{m}, 100, "survivor")
	w.checkSteady("survivor")
	if !strings.Contains(w.run("ps", "-a", "-v").Out, "exited (3)") {
		t.Errorf("the exit code is lost:\n%s", w.run("ps", "-a", "-v").Out)
	}
	noTraces(t, w, m)
}

// TestRemovalLeavesNothing adds a host, uses it, removes it, and compares.
func TestRemovalLeavesNothing(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	before := m.traces()
	w.fleetOf("boxes", m, "")
	w.write("task.dstack.yml", "type: task\nname: once\nimage: job:1\ncommands: [echo hello]\n"+anyResources)
	w.must("apply", "-y", "-f", "task.dstack.yml")
	if m.traces() == before {
		t.Error("nothing of ours is seen while the host is in the fleet")
	}
	w.must("fleet", "delete", "boxes", "-y")
	eventually(t, 60*time.Second, "the host is as it was", func() bool { return m.traces() == before })

	// The same when the agent has died meanwhile.
	w.fleetOf("boxes", m, "")
	m.out("pkill", "-9", "-f", "dstack-agent")
	w.must("fleet", "delete", "boxes", "-y")
	eventually(t, 60*time.Second, "the host is as it was, though no agent answered", func() bool { return m.traces() == before })
}

// TestHostWithoutDocker runs jobs as plain processes where the fleet's owner allows it, and
// gives them the fleet's variables.
func TestHostWithoutDocker(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{NoDocker: true})
	before := m.traces()
	w.fleetOf("bare", m, "env:\n  DSTACK_AGENT_RUNTIME: process\n  GREETING: \"good \\\"day\\\" $HOME\"\n")
	w.write("task.dstack.yml", "type: task\nname: plain\nimage: job:1\nworking_dir: /tmp/plain\ncommands:\n  - echo \"$GREETING from $DSTACK_RUN_NAME\"\n  - pwd\n  - exit 4\n"+anyResources)
	r := w.run("apply", "-y", "-f", "task.dstack.yml")
	if !strings.Contains(r.Out, "good \"day\" $HOME from plain") || !strings.Contains(r.Out, "/tmp/plain") {
		t.Errorf("the output is not there:\n%s", r.both())
	}
	w.waitStatus("plain", "failed")

	w.write("long.dstack.yml", "type: task\nname: long\nimage: job:1\ncommands:\n  - echo up; sleep 4321 & sleep 4321\n"+anyResources)
	w.must("apply", "-y", "-d", "-f", "long.dstack.yml")
	w.waitStatus("long", "running")
	eventually(t, 20*time.Second, "the processes run", func() bool { return strings.Count(m.try("ps", "-e", "-o", "args"), "sleep 4321") >= 2 })
	w.must("stop", "-x", "-y", "long")
	w.waitStatus("long", "terminated")
	eventually(t, 20*time.Second, "no process of the job is left", func() bool { return !strings.Contains(m.try("ps", "-e", "-o", "args"), "sleep 4321") })
	w.must("fleet", "delete", "bare", "-y")
	eventually(t, 60*time.Second, "the host is as it was", func() bool { return m.traces() == before })
}

// TestProxyJump reaches a host through another one alone.
func TestProxyJump(t *testing.T) {
	w := newWorld(t)
	jump := w.startHost(hostOptions{NoDocker: true})
	m := w.startHost(hostOptions{})
	w.write("far.dstack.yml", fmt.Sprintf("type: fleet\nname: far\nssh_config:\n  user: root\n  identity_file: %s\n  proxy_jump:\n    hostname: %s\n    user: root\n    identity_file: %s\n  hosts:\n    - %s\n", w.key, jump.Addr, w.key, m.Addr))
	w.must("apply", "-y", "-f", "far.dstack.yml")
	eventually(t, 60*time.Second, "the host is idle", func() bool { return strings.Contains(w.run("fleet").Out, "idle") })
	peers := m.out("sh", "-c", "ss -Htn state established '( sport = :22 )' | awk '{print $4}'")
	for _, p := range strings.Fields(peers) {
		if !strings.HasPrefix(strings.TrimPrefix(p, "[::ffff:"), jump.Addr) {
			t.Errorf("a connection that does not come from the jump host: %s", p)
		}
	}
	if peers == "" {
		t.Error("nobody is connected")
	}
	w.write("task.dstack.yml", "type: task\nname: distant\nimage: job:1\ncommands: [echo hello from afar]\n"+anyResources)
	w.must("apply", "-y", "-d", "-f", "task.dstack.yml")
	w.waitStatus("distant", "done")
	if logs := w.must("logs", "distant").Out; !strings.Contains(logs, "hello from afar") {
		t.Errorf("logs:\n%s", logs)
	}
	w.must("fleet", "delete", "far", "-y")
	eventually(t, 60*time.Second, "the agent is gone from the host", func() bool { return m.run("test", "-e", "/usr/local/bin/dstack-agent") != nil })
	if jump.run("test", "-e", "/usr/local/bin/dstack-agent") == nil {
		t.Error("an agent is on the jump host")
	}
}

// TestChangedHostKey shows that a machine that answers with another key gets no jobs, and
// that the fleet says why.
func TestChangedHostKey(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{NoImages: true})
	w.fleetOf("boxes", m, "")
	m.out("sh", "-c", "rm /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null; kill -HUP 1; pkill -f '[s]shd: root'; true")
	eventually(t, 60*time.Second, "the reason is shown", func() bool {
		return strings.Contains(w.run("fleet", "get", "boxes", "--json").both()+w.run("fleet", "-v").both()+w.run("event", "list", "--target-fleet", "boxes").both(), "host key")
	})
}

// TestUserOfImage works in a container as another user than root.
func TestUserOfImage(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleetOf("boxes", m, "")
	w.write("dev.dstack.yml", "type: dev-environment\nname: mine\nimage: job:1\nide: vscode\nuser: dev\nworking_dir: ~/code\n"+anyResources)
	p := w.start("apply", "-y", "-f", "dev.dstack.yml")
	w.waitStatus("mine", "running")
	config := filepath.Join(w.home, ".dstack", "ssh", "config")
	client := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, append([]string{"-F", config}, args...)...)
		cmd.Env = w.env()
		out, err := cmd.Output() // ssh warns on stderr
		return string(out), err
	}
	var out string
	eventually(t, 30*time.Second, "ssh reaches the container", func() bool {
		var err error
		out, err = client("ssh", "mine", "id -un; id -gn; echo $HOME $DSTACK_WORKING_DIR; stat -c %U $DSTACK_WORKING_DIR")
		return err == nil
	})
	if want := "dev\ndev\n/home/dev /home/dev/code\ndev\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	file := w.write("up", "uploaded\n")
	if out, err := client("scp", "-q", file, "mine:code/up"); err != nil {
		t.Errorf("scp: %v\n%s", err, out)
	}
	if out, err := client("ssh", "mine", "stat -c %U code/up; cat code/up"); err != nil || out != "dev\nuploaded\n" {
		t.Errorf("%q %v", out, err)
	}
	if out, err := client("ssh", "-tt", "mine", "tty >/dev/null && echo terminal"); err != nil || !strings.Contains(out, "terminal") {
		t.Errorf("%q %v", out, err)
	}
	w.must("stop", "-x", "-y", "mine")
	p.wait()
	noTraces(t, w, m)
}

// TestRepo runs a job on the user's commit and their changes since. The repository needs a
// key, and the image has no git.
func TestRepo(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleetOf("boxes", m, "")
	m.out("sh", "-ec", `useradd -m git; mkdir -m 0700 /home/git/.ssh; cp /root/.ssh/authorized_keys /home/git/.ssh/
cd /home/git; git init -q -b main work; cd work; echo committed >tracked
git -c user.name=T -c user.email=t@example.com add -A; git -c user.name=T -c user.email=t@example.com commit -qm first
git clone -q --bare . ../code.git; chown -R git:git /home/git`)
	clone := filepath.Join(w.dir, "code")
	w.git(w.dir, "clone", "-q", fmt.Sprintf("ssh://git@%s/home/git/code.git", m.Addr), clone)
	w.write("code/tracked", "changed\n")
	w.write("code/new/file", "new\n")
	w.git(clone, "add", "-N", "new/file")
	w.write("code/task.dstack.yml", "type: task\nname: repo\nimage: job:1\nrepos:\n  - .:code\ncommands:\n  - cd code && cat tracked new/file && cat .git/HEAD\n"+anyResources)
	outer := w.dir
	w.dir = clone
	defer func() { w.dir = outer }()
	w.must("init", "--git-identity", w.key)
	r := w.must("apply", "-y", "-f", "task.dstack.yml")
	if !strings.Contains(r.Out, "changed\nnew\nref: refs/heads/main") {
		t.Errorf("the output:\n%s", r.both())
	}
}

// git runs git with the user's key for the hosts.
func (w *world) git(dir string, args ...string) {
	w.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(w.env(), "GIT_SSH_COMMAND=ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i "+w.key)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// TestIdleAgent keeps an eye on what an idle agent costs a host.
func TestIdleAgent(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{NoImages: true})
	w.fleetOf("boxes", m, "")
	status := m.out("sh", "-c", "cat /proc/$(pgrep -f '[d]stack-agent shim' | tail -1)/status")
	var kib int
	for _, line := range strings.Split(status, "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	t.Logf("an idle agent holds %d MiB", kib>>10)
	if kib == 0 || kib > 40<<10 {
		t.Errorf("an idle agent holds %d KiB", kib)
	}
}
