//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const anyResources = `
resources:
  cpu: 1..
  memory: 0..
  disk: 1GB..
`

// TestRuns drives one host through the life of every kind of run that a user has. One
// server and one machine serve all of them, as in real life; each leaves the host as it was.
func TestRuns(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleet("boxes", m)

	for _, c := range []struct {
		name string
		test func(*testing.T, *world, *machine)
	}{
		{"Task", task},
		{"FailingTask", failingTask},
		{"ImageWithoutShell", imageWithoutShell},
		{"UnknownImage", unknownImage},
		{"WrongCommand", wrongCommand},
		{"Stop", stop},
		{"Abort", abort},
		{"DetachAndAttach", detachAndAttach},
		{"DevEnvironment", devEnvironment},
		{"Ports", ports},
		{"Files", files},
		{"MaxDuration", maxDuration},
		{"Inactivity", inactivity},
		{"KillServer", killServer},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := w.t
			w.t, m.t = t, t
			defer func() { w.t, m.t = outer, outer }()
			c.test(t, w, m)
			noTraces(t, w, m)
		})
	}

	w.must("fleet", "delete", "boxes", "-y")
	eventually(t, 60*time.Second, "the agent is gone from the removed host", func() bool {
		return m.run("test", "-e", "/usr/local/bin/dstack-agent") != nil && !strings.Contains(m.try("ps", "-e", "-o", "args"), "dstack-agent shim")
	})
	noKeys(t, w, []*machine{m})
}

// noTraces checks that nothing of the runs is left on the host.
func noTraces(t *testing.T, w *world, m *machine) {
	t.Helper()
	eventually(t, 30*time.Second, "no job container is left on the host", func() bool { return len(m.containers()) == 0 })
	eventually(t, 30*time.Second, "the host is idle again", func() bool {
		out := w.run("fleet").Out
		return strings.Contains(out, "idle") || strings.Contains(out, "0/2 busy")
	})
}

func task(t *testing.T, w *world, m *machine) {
	w.write("task.dstack.yml", `
type: task
name: hello
image: job:1
env:
  - GREETING=good day
commands:
  - echo "$GREETING from $DSTACK_RUN_NAME"
  - echo rank $DSTACK_NODE_RANK of $DSTACK_NODES_NUM
  - for i in $(seq 1 2000); do echo line-$i; done
  - echo the-end
`+anyResources)
	r := w.must("apply", "-y", "-f", "task.dstack.yml")
	for _, want := range []string{"good day from hello", "rank 0 of 1", "line-1\n", "line-2000\n", "the-end"} {
		if !strings.Contains(r.Out, want) {
			t.Errorf("the attached apply did not print %q:\n%s", want, lastLines(r.both(), 20))
		}
	}
	if got := w.waitStatus("hello", "done", "failed", "terminated"); got != "done" {
		t.Errorf("status %q, want done", got)
	}
	logs := w.must("logs", "hello").Out
	if n := strings.Count(logs, "line-"); n != 2000 {
		t.Errorf("logs hold %d of 2000 lines", n)
	}
	if !strings.Contains(w.must("ps", "-a").Out, "hello") {
		t.Error("ps -a does not show the run")
	}
}

func failingTask(t *testing.T, w *world, m *machine) {
	w.write("fail.dstack.yml", "type: task\nname: fails\nimage: job:1\ncommands:\n  - echo before\n  - exit 7\n"+anyResources)
	r := w.run("apply", "-y", "-f", "fail.dstack.yml")
	if r.Code == 0 {
		t.Errorf("apply of a failing task exits with 0:\n%s", r.both())
	}
	if !strings.Contains(r.Out, "before") {
		t.Errorf("the output before the failure is missing:\n%s", r.both())
	}
	if got := w.waitStatus("fails", "done", "failed", "terminated"); got != "failed" {
		t.Errorf("status %q, want failed", got)
	}
	if ps := w.must("ps", "-a", "-v").Out; !strings.Contains(ps, "exited (7)") {
		t.Errorf("ps does not show the exit code 7:\n%s", ps)
	}

	// The image's shell, told to be interactive, answers a mistake with a prompt.
	w.write("prompt.dstack.yml", "type: task\nname: prompts\nimage: job:1\ncommands:\n  - echo before\n  - set -u; echo $NOSUCH\n"+anyResources)
	if r := w.run("apply", "-y", "-f", "prompt.dstack.yml"); r.Code == 0 || !strings.Contains(r.Out, "before") {
		t.Errorf("apply of a task whose shell gives up: exit code %d\n%s", r.Code, r.both())
	}
	if got := w.waitStatus("prompts", "done", "failed", "terminated"); got != "failed" {
		t.Errorf("status %q, want failed", got)
	}
}

func imageWithoutShell(t *testing.T, w *world, m *machine) {
	w.write("static.dstack.yml", "type: task\nname: static\nimage: static:1\nentrypoint: /probe no-shell-needed env=DSTACK_RUN_NAME\n"+anyResources)
	r := w.must("apply", "-y", "-f", "static.dstack.yml")
	for _, want := range []string{"no-shell-needed", "DSTACK_RUN_NAME=static"} {
		if !strings.Contains(r.Out, want) {
			t.Errorf("no %q in the output:\n%s", want, r.both())
		}
	}
}

func unknownImage(t *testing.T, w *world, m *machine) {
	w.write("noimage.dstack.yml", "type: task\nname: noimage\nimage: 127.0.0.1:1/no/such:image\ncommands: [\"true\"]\n"+anyResources)
	r := w.run("apply", "-y", "-f", "noimage.dstack.yml")
	if r.Code == 0 {
		t.Error("apply with an unknown image exits with 0")
	}
	if got := w.waitStatus("noimage", "done", "failed", "terminated"); got != "failed" {
		t.Errorf("status %q, want failed", got)
	}
	if !strings.Contains(r.both(), "no/such") {
		t.Errorf("the message does not name the image:\n%s", r.both())
	}
}

func wrongCommand(t *testing.T, w *world, m *machine) {
	w.write("wrong.dstack.yml", "type: task\nname: wrong\nimage: job:1\ncommands: [no-such-command]\n"+anyResources)
	r := w.run("apply", "-y", "-f", "wrong.dstack.yml")
	if r.Code == 0 || !strings.Contains(r.both(), "no-such-command") {
		t.Errorf("exit code %d:\n%s", r.Code, r.both())
	}
	w.waitStatus("wrong", "failed")
}

func stop(t *testing.T, w *world, m *machine) {
	w.write("stop.dstack.yml", `
type: task
name: stopme
image: job:1
commands:
  - trap 'echo caught; exit 0' INT
  - echo ready
  - while true; do sleep 0.1; done
stop_duration: 20s
`+anyResources)
	w.must("apply", "-y", "-d", "-f", "stop.dstack.yml")
	w.waitStatus("stopme", "running")
	eventually(t, 20*time.Second, "the job is ready", func() bool { return strings.Contains(w.run("logs", "stopme").Out, "ready") })
	w.must("stop", "-y", "stopme")
	if got := w.waitStatus("stopme", "terminated", "done", "failed"); got != "terminated" {
		t.Errorf("status %q, want terminated", got)
	}
	if logs := w.must("logs", "stopme").Out; !strings.Contains(logs, "caught") {
		t.Errorf("the job did not get its interrupt, or its last line is lost:\n%s", logs)
	}
}

func abort(t *testing.T, w *world, m *machine) {
	w.write("abort.dstack.yml", "type: task\nname: abortme\nimage: job:1\ncommands:\n  - trap '' INT TERM\n  - while true; do sleep 1; done\n"+anyResources)
	w.must("apply", "-y", "-d", "-f", "abort.dstack.yml")
	w.waitStatus("abortme", "running")
	start := time.Now()
	w.must("stop", "-x", "-y", "abortme")
	w.waitStatus("abortme", "terminated")
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("abort took %v", took)
	}
}

func detachAndAttach(t *testing.T, w *world, m *machine) {
	w.write("long.dstack.yml", "type: task\nname: long\nimage: job:1\ncommands:\n  - i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo tick-$i; sleep 0.2; done; echo over\n"+anyResources)
	p := w.start("apply", "-y", "-f", "long.dstack.yml")
	p.waitFor("tick-3")
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	p.wait()
	if got := w.runStatus("long"); got != "running" {
		t.Fatalf("after Ctrl+C without a terminal the run is %q, want running\n%s", got, p.out.String())
	}
	again := w.start("attach", "--logs", "long")
	again.waitFor("tick-10")
	w.must("stop", "-x", "-y", "long")
	again.wait()
}

func devEnvironment(t *testing.T, w *world, m *machine) {
	w.write("dev.dstack.yml", "type: dev-environment\nname: dev\nimage: job:1\nide: vscode\nenv:\n  - COLOUR=green\n"+anyResources)
	p := w.start("apply", "-y", "-f", "dev.dstack.yml")
	w.waitStatus("dev", "running")
	config := filepath.Join(w.home, ".dstack", "ssh", "config")
	eventually(t, 30*time.Second, "the SSH configuration names the run", func() bool {
		data, _ := os.ReadFile(config)
		return strings.Contains(string(data), "Host dev\n")
	})
	sshRun := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Env = w.env()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	var out string
	eventually(t, 30*time.Second, "ssh reaches the container", func() bool {
		var err error
		out, err = sshRun("ssh", "-F", config, "dev", "echo $COLOUR from $(id -un)")
		return err == nil
	})
	if !strings.Contains(out, "green from root") {
		t.Errorf("ssh: %q", out)
	}
	if _, err := sshRun("ssh", "-F", config, "dev", "exit 5"); err == nil || err.(*exec.ExitError).ExitCode() != 5 {
		t.Errorf("the exit code of a remote command: %v", err)
	}
	big := filepath.Join(w.dir, "big")
	if err := os.WriteFile(big, []byte(strings.Repeat("0123456789abcdef", 1<<18)), 0o644); err != nil {
		t.Fatal(err)
	}
	batch := w.write("batch", fmt.Sprintf("put %s /tmp/big\nget /tmp/big %s.back\n", big, big))
	if out, err := sshRun("sftp", "-F", config, "-b", batch, "dev"); err != nil {
		t.Errorf("sftp: %v\n%s", err, out)
	}
	a, _ := os.ReadFile(big)
	b, _ := os.ReadFile(big + ".back")
	if string(a) != string(b) {
		t.Errorf("sftp returned %d of %d bytes", len(b), len(a))
	}
	w.must("stop", "-y", "dev")
	p.wait()
	w.waitStatus("dev", "terminated", "done")
}

func ports(t *testing.T, w *world, m *machine) {
	port := freePort(t)
	w.write("port.dstack.yml", fmt.Sprintf("type: task\nname: porty\nimage: static:1\nentrypoint: /probe serve=127.0.0.1:8123\nports:\n  - %d:8123\n", port)+anyResources)
	p := w.start("apply", "-y", "-f", "port.dstack.yml")
	p.waitFor("serving")
	eventually(t, 20*time.Second, "the forwarded port answers", func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		return strings.Contains(string(buf[:n]), "hello from the probe")
	})
	w.must("stop", "-x", "-y", "porty")
	p.wait()
}

func files(t *testing.T, w *world, m *machine) {
	w.write("data/a.txt", "alpha\n")
	w.write("data/sub/b.txt", "beta\n")
	w.write("files.dstack.yml", "type: task\nname: filesy\nimage: job:1\nfiles:\n  - ./data:/opt/data\ncommands:\n  - cat /opt/data/a.txt /opt/data/sub/b.txt\n"+anyResources)
	r := w.must("apply", "-y", "-f", "files.dstack.yml")
	if !strings.Contains(r.Out, "alpha") || !strings.Contains(r.Out, "beta") {
		t.Errorf("the files are not there:\n%s", r.both())
	}
}

func maxDuration(t *testing.T, w *world, m *machine) {
	w.write("max.dstack.yml", "type: task\nname: maxy\nimage: job:1\nmax_duration: 2s\nstop_duration: 1s\ncommands:\n  - while true; do sleep 0.1; done\n"+anyResources)
	r := w.run("apply", "-y", "-f", "max.dstack.yml")
	if r.Code == 0 {
		t.Error("a run that exceeds max_duration exits with 0")
	}
	if ps := w.must("ps", "-a", "-v").Out; !strings.Contains(ps, "max duration") {
		t.Errorf("ps does not say why the run ended:\n%s", ps)
	}
}

// inactivity ends a dev environment that nobody is connected to.
func inactivity(t *testing.T, w *world, m *machine) {
	w.write("idle.dstack.yml", "type: dev-environment\nname: idler\nimage: job:1\ninactivity_duration: 3s\n"+anyResources)
	w.must("apply", "-y", "-d", "-f", "idle.dstack.yml")
	w.waitStatus("idler", "terminated", "failed", "done")
	if ps := w.must("ps", "-a", "-v").Out; !strings.Contains(ps, "inactivity duration") {
		t.Errorf("ps does not say why the run ended:\n%s", ps)
	}
}

// killServer kills the server in the middle of a task: the task goes on, and afterwards its
// log has no gap and no repetition.
func killServer(t *testing.T, w *world, m *machine) {
	w.steady("survivor")
	w.stopServer(syscall.SIGKILL)
	eventually(t, 10*time.Second, "the container lives without a server", func() bool { return len(m.containers()) == 1 })
	<-time.After(2 * time.Second)
	w.startServer()
	letGoAfter(t, []*machine{m}, 100, "survivor")
	w.checkSteady("survivor")
}
