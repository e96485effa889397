//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServerAccess runs tasks with `dstack: true`: the command line works inside of them, whatever
// happens to the server and to the connection to the host, and nothing of it stays.
func TestServerAccess(t *testing.T) {
	t.Parallel()
	t.Run("Container", accessFromContainer)
	t.Run("Process", accessFromProcess)
	t.Run("Replicas", accessAfterTakeover)
}

func accessFromContainer(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleet("boxes", m)
	before := m.out("sh", "-c", "ls -A /run/dstack /tmp /root 2>&1 || true")
	m.out("mkdir", "/opt/cli")
	docker(t, "cp", w.dstack, m.ID+":/opt/cli/dstack")

	submitCaller(w, "caller", "image: job:1\nuser: dev\nvolumes: ['/opt/cli:/opt/cli']\n", "/opt/cli", "/opt/cli/dstack")
	w.waitOutput("caller", "call-1 0")
	logs := w.must("logs", "caller").Out
	for _, want := range []string{
		"url http+unix://%2Frun%2Fdstack%2Fserver.sock project main", "drwxr-xr-x", "srw-rw-rw-", // whoever the job's user is
		"refused 1", // without a token that counts
	} {
		if !strings.Contains(logs, want) {
			t.Errorf("no %q in the log:\n%s", want, logs)
		}
	}

	w.stopServer(syscall.SIGKILL)
	m.out("touch", "/opt/cli/go-2") // the call waits for the server
	w.startServer()
	w.waitOutput("caller", "call-2 0")

	m.out("pkill", "-f", "sshd: root") // the connection to the host
	m.out("touch", "/opt/cli/go-3")
	w.waitOutput("caller", "call-3 0")
	checkCaller(w, "caller")

	noContainers(t, []*machine{m})
	eventually(t, 30*time.Second, "no task is left on the host", func() bool { return m.out("ls", "-A", "/var/lib/dstack/tasks") == "" })
	if after := m.out("sh", "-c", "ls -A /run/dstack /tmp /root 2>&1 || true"); after != before {
		t.Errorf("left on the host:\n%s\nbefore:\n%s", after, before)
	}

	// An image without anything, and many calls in a row.
	calls := strings.Repeat(" call=/api/projects/list", 30)
	w.write("static.dstack.yml", "type: task\nname: static\nimage: static:1\ndstack: true\nenv: [DSTACK_TOKEN="+w.token+"]\nentrypoint: /probe"+calls+"\n"+anyResources)
	if out := w.must("apply", "-y", "-f", "static.dstack.yml").Out; strings.Count(out, "/api/projects/list 200 [{") != 30 {
		t.Errorf("calls from an image without anything:\n%s", out)
	}
	w.write("plain.dstack.yml", "type: task\nname: plain\nimage: job:1\ncommands: ['ls /run/dstack || echo nothing there']\n"+anyResources)
	if out := w.must("apply", "-y", "-f", "plain.dstack.yml").Out; !strings.Contains(out, "nothing there") {
		t.Errorf("a task that did not ask for access:\n%s", out)
	}
}

// accessFromProcess does the same on the server's own machine, without containers.
func accessFromProcess(t *testing.T) {
	w := prepareWorld(t)
	w.write("server/config.yml", "projects:\n  - name: main\n    backends:\n      - type: local\n")
	w.extra = []string{"DOCKER_HOST=unix:///nowhere.sock"}
	w.startServer()
	w.login()
	defer func() { // the agent would outlive the server
		w.must("fleet", "delete", "local", "-y")
		eventually(t, 30*time.Second, "the local agent is gone", func() bool {
			left, err := filepath.Glob(filepath.Join(w.dir, "server/local/*/meta.json"))
			return err == nil && len(left) == 0
		})
	}()
	submitCaller(w, "caller", "", w.dir, w.dstack)
	w.waitOutput("caller", "call-1 0")
	w.stopServer(syscall.SIGKILL)
	w.write("go-2", "")
	w.startServer()
	w.waitOutput("caller", "call-2 0")
	w.write("go-3", "")
	checkCaller(w, "caller")
	publishedInside(w)
	eventually(t, 30*time.Second, "the socket is gone", func() bool {
		left, err := filepath.Glob(filepath.Join(w.dir, "server/*/*/tasks/*/job/server.sock"))
		return err == nil && len(left) == 0
	})
}

// publishedInside runs the original's client in a job: it finds the server by the job's variables alone.
func publishedInside(w *world) {
	w.t.Helper()
	client := filepath.Join(w.publishedClient(newestPublished).bin, "dstack")
	w.write("published.dstack.yml", fmt.Sprintf(`
type: task
name: published
dstack: true
env: [DSTACK_TOKEN=%s, COLUMNS=200]
commands:
  - export HOME=%s/home-inside && mkdir $HOME
  - %[3]s ps && %[3]s fleet && %[3]s run get published --json
%[4]s`, w.token, w.dir, client, anyResources))
	out := w.must("apply", "-y", "-f", "published.dstack.yml").Out
	for _, want := range []string{" published  ssh (local)", "instance=0", `"run_name": "published"`, "Exited (0)"} {
		if !strings.Contains(out, want) {
			w.t.Errorf("no %q in what the original's client prints in a job:\n%s", want, out)
		}
	}
}

// accessAfterTakeover kills one of two servers, then the other: each time somebody serves the job,
// whoever held the connection to its host.
func accessAfterTakeover(t *testing.T) {
	a, b, _ := newReplicas(t)
	m := a.startHost(hostOptions{})
	a.fleet("boxes", m)
	m.out("mkdir", "/opt/cli")
	docker(t, "cp", a.dstack, m.ID+":/opt/cli/dstack")
	submitCaller(a, "caller", "image: job:1\nvolumes: ['/opt/cli:/opt/cli']\n", "/opt/cli", "/opt/cli/dstack")
	a.waitOutput("caller", "call-1 0")
	for i, w := range [][2]*world{{a, b}, {b, a}} {
		ends, stays := w[0], w[1]
		waitShared(t, a, b)
		ends.stopServer(syscall.SIGKILL)
		waitOwned(t, takeover, stays, 64)
		call := fmt.Sprint(i + 2)
		m.out("touch", "/opt/cli/go-"+call)
		stays.waitOutput("caller", "call-"+call+" 0")
		ends.startServer()
	}
	checkCaller(a, "caller")
	noContainers(t, []*machine{m})
}

// submitCaller submits a task that calls the server three times with its command line: at once,
// and when the files go-2 and go-3 are in a folder.
func submitCaller(w *world, name, yaml, folder, dstack string) {
	w.t.Helper()
	w.write(name+".dstack.yml", fmt.Sprintf(`
type: task
name: %s
dstack: true
%senv: [DSTACK_TOKEN=%s, HOME=/tmp, COLUMNS=200]
commands:
  - echo "url $DSTACK_SERVER_URL project $DSTACK_PROJECT"
  - ls -ld /run/dstack /run/dstack/server.sock || true
  - DSTACK_TOKEN=wrong %[4]s ps; echo "refused $?"
  - for n in 1 2 3; do while [ $n != 1 ] && [ ! -e %[5]s/go-$n ]; do sleep 0.1; done; %[4]s ps; echo "call-$n $?"; done
%[6]s`, name, yaml, w.token, dstack, folder, anyResources))
	w.must("apply", "-y", "-d", "-f", name+".dstack.yml")
}

// checkCaller waits for the end of such a task: each call has listed the task itself.
func checkCaller(w *world, name string) {
	w.t.Helper()
	if got := w.waitStatus(name, "done", "failed", "terminated"); got != "done" {
		w.t.Errorf("status %q, want done", got)
	}
	logs := w.must("logs", name).Out
	if n := strings.Count(logs, " caller  "); n != 3 {
		w.t.Errorf("%d of 3 calls have listed the task:\n%s", n, logs)
	}
}
