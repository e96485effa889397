//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// published is a released client of the original, which drives our server unchanged.
type published struct {
	*world
	version string
	home    string
	bin     string // of its virtual environment
	desk    *desk  // where its user sits; nil is here
}

// publishedClient returns the release, with a home of its own that knows no project.
func (w *world) publishedClient(version string) *published {
	w.t.Helper()
	c := &published{world: w, version: version, home: filepath.Join(w.dir, "home-"+version)}
	c.bin = filepath.Join(filepath.Dir(w.dstack), "original-"+version, "bin")
	if version == newestPublished {
		c.bin = filepath.Join(filepath.Dir(w.dstack), "original", "bin")
	}
	if _, err := os.Stat(filepath.Join(c.bin, "dstack")); err != nil {
		w.t.Fatalf("%v; run make e2e, which installs it", err)
	}
	if err := os.MkdirAll(filepath.Join(c.home, ".ssh"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// on is the client in a subtest.
func (c *published) on(t *testing.T) *published {
	w, sub := *c.world, *c
	w.t, sub.world = t, &w
	return &sub
}

// at is the client of a subtest whose user sits at a desk of their own.
func (c *published) at(t *testing.T) *published {
	sub := c.on(t)
	sub.desk = newDesk(t)
	return sub
}

const newestPublished = "0.22.5"

// cmd is a program as the client's user runs it. OpenSSH takes "~" from the list of users and not from HOME,
// so the program sees one in which the user lives in the client's home.
func (c *published) cmd(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	const lives = `sed "s#^\($(id -un):[^:]*:[^:]*:[^:]*:[^:]*\):[^:]*:#\1:$HOME:#" /etc/passwd >"$HOME/passwd"
mount --bind "$HOME/passwd" /etc/passwd
exec "$0" "$@"`
	args = append([]string{"unshare", "-m", "sh", "-ec", lives, program}, args...)
	if c.desk != nil {
		args = append([]string{"ip", "netns", "exec", c.desk.namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + c.home, "PATH=" + os.Getenv("PATH"), "TERM=dumb", "LANG=C.UTF-8", "COLUMNS=200"}
	return cmd
}

// runIn runs a command to its end, answering its questions with input.
func (c *published) runIn(dir, input string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := c.cmd(ctx, dir, filepath.Join(c.bin, "dstack"), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	err := cmd.Run()
	r := result{Out: out.String(), Err: errs.String()}
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	if r.Code = cmd.ProcessState.ExitCode(); strings.Contains(r.both(), "Traceback") {
		c.t.Errorf("dstack %s: a traceback\n%s", strings.Join(args, " "), r.both())
	}
	return r
}

// expect runs a command and checks its exit code and that its output has all the words.
func (c *published) expect(code int, args []string, words ...string) result {
	c.t.Helper()
	r := c.runIn(c.dir, "", args...)
	if r.Code != code {
		c.t.Errorf("dstack %s: exit code %d, want %d\n%s", strings.Join(args, " "), r.Code, code, r.both())
	}
	for _, word := range words {
		if !strings.Contains(r.both(), word) {
			own, _ := os.ReadFile(filepath.Join(c.home, ".dstack", "logs", "cli", "latest.log"))
			c.t.Errorf("dstack %s does not print %q:\n%s\nthe client's own log:\n%s", strings.Join(args, " "), word, r.both(), lastLines(string(own), 40))
		}
	}
	return r
}

// begin runs a command beside the test.
func (c *published) begin(program string, args ...string) *process {
	c.t.Helper()
	p := &process{t: c.t, out: &lockedBuffer{}, done: make(chan struct{})}
	p.cmd = c.cmd(c.t.Context(), c.dir, filepath.Join(c.bin, program), args...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	c.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// login makes the server's project the client's.
func (c *published) login() {
	c.t.Helper()
	c.expect(0, []string{"project", "add", "--name", "main", "--url", c.url(), "--token", c.token, "-y"}, "Configuration updated")
}

func words(s string) []string { return strings.Fields(s) }

// publishedHosts are one for each of three groups beside each other, and one for the rollout of a
// service.
const publishedHosts = 4

// TestPublished has the published original's client drive our server with three hosts.
func TestPublished(t *testing.T) {
	t.Parallel()
	w := prepareWorld(t)
	w.listen = hostsSubnet(t).Addr().Next().String() // the desks reach it there
	w.startServer()
	w.login()
	c := w.publishedClient(newestPublished)
	var hosts []*machine
	for range publishedHosts {
		hosts = append(hosts, w.startHost(hostOptions{}))
	}
	t.Run("Access", func(t *testing.T) { publishedAccess(c.on(t)) })
	t.Run("Fleet", func(t *testing.T) { publishedFleet(c.on(t), hosts...) })
	t.Run("Beside", func(t *testing.T) { // each group has at most one run at a time, one of which is rolled out
		t.Run("Lists", func(t *testing.T) {
			t.Parallel()
			c := c.on(t)
			publishedLists(c)
		})
		t.Run("Refusals", func(t *testing.T) {
			t.Parallel()
			publishedRefusals(c.on(t))
		})
		t.Run("Runs", func(t *testing.T) {
			t.Parallel()
			c := c.on(t)
			publishedTask(c)
			publishedLong(c)
			publishedAttach(c)
		})
		t.Run("Others", func(t *testing.T) {
			t.Parallel()
			c := c.at(t)
			publishedRepo(c, hosts[0])
			publishedDevEnvironment(c)
			publishedService(c)
			publishedAPI(c)
		})
		t.Run("Older", func(t *testing.T) {
			t.Parallel()
			c := c.at(t)
			for _, version := range []string{"0.21.5", "0.20.29", "0.19.40"} {
				older := c.world.publishedClient(version)
				older.desk = c.desk
				publishedOlder(older)
			}
		})
	})
	t.Run("Delete", func(t *testing.T) {
		c := c.on(t)
		c.expect(0, words("delete -y -f boxes.yml"), "deleted")
		if out := c.expect(0, words("fleet")).Out; strings.Contains(out, "boxes") {
			t.Errorf("the fleet is still listed:\n%s", out)
		}
	})
}

func publishedAccess(c *published) {
	add := func(name, token string) []string {
		return []string{"project", "add", "--name", name, "--url", c.url(), "--token", token, "-y"}
	}
	c.expect(1, add("main", "wrong"), "denied", "check your access token")
	c.expect(1, add("nope", c.token), "404")
	c.login()
	c.expect(0, words("project list"), "main", c.url())
	c.expect(1, words("ps --project nope"), "nope is not configured")
}

func publishedFleet(c *published, hosts ...*machine) {
	var b strings.Builder
	fmt.Fprintf(&b, "type: fleet\nname: boxes\nssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n", c.key)
	for _, m := range hosts {
		fmt.Fprintf(&b, "    - %s\n", m.Addr)
	}
	c.write("boxes.yml", b.String())
	if r := c.runIn(c.dir, "n\n", "apply", "-f", "boxes.yml"); r.Code != 0 || !strings.Contains(r.Out, "does not exist yet") {
		c.t.Errorf("apply refused: exit code %d\n%s", r.Code, r.both())
	}
	if out := c.expect(0, words("fleet")).Out; strings.Contains(out, "boxes") {
		c.t.Fatalf("a fleet that was not confirmed exists:\n%s", out)
	}
	if r := c.runIn(c.dir, "y\n", "apply", "-f", "boxes.yml"); r.Code != 0 || strings.Count(r.Out, "idle") != len(hosts) {
		c.t.Fatalf("apply: exit code %d\n%s", r.Code, r.both())
	}
	c.expect(0, words("apply -y -f boxes.yml"), "No configuration changes detected")
	c.expect(0, words("fleet -v"), "boxes", "ssh (remote)", "idle", "instance=1", "cpu=")
	var fleet struct {
		Name, Status string
		Instances    []struct{ Status string }
	}
	c.decode(&fleet, words("fleet get boxes --json"))
	if fleet.Name != "boxes" || fleet.Status != "active" || len(fleet.Instances) != len(hosts) {
		c.t.Errorf("fleet get: %+v", fleet)
	}
}

// decode runs a command whose output is JSON.
func (c *published) decode(out any, args []string) {
	c.t.Helper()
	r := c.expect(0, args)
	if err := json.Unmarshal([]byte(r.Out), out); err != nil {
		c.t.Errorf("dstack %s: %v\n%s", strings.Join(args, " "), err, r.both())
	}
}

func publishedLists(c *published) {
	c.expect(0, words("offer"), "ssh (remote)", "cpu=1..")
	c.expect(0, words("offer --gpu A100"), "No matching instance offers")
	var offers struct {
		Offers []struct{ Backend string }
		Total  int `json:"total_offers"`
	}
	c.decode(&offers, words("offer --json"))
	if len(offers.Offers) != publishedHosts || offers.Total != publishedHosts || offers.Offers[0].Backend != "remote" {
		c.t.Errorf("offer --json: %+v", offers)
	}
	var groups struct {
		GroupBy []string `json:"group_by"`
		GPUs    []any
	}
	c.decode(&groups, words("offer --group-by gpu,backend --json"))
	if len(groups.GroupBy) != 2 || len(groups.GPUs) != 0 { // the hosts have none
		c.t.Errorf("offer --group-by: %+v", groups)
	}
	c.expect(0, words("secret set token abc"), "OK")
	c.expect(0, words("secret list"), "token", "******")
	c.expect(0, words("secret get token"), "abc")
	c.expect(0, words("secret delete token -y"), "OK")
	c.expect(0, words("volume"), "NAME", "BACKEND")
	c.expect(0, words("gateway"), "NAME", "HOSTNAME")
	c.expect(0, words("event"), "[instance boxes-0]") // the latest only: other clients work beside this one
	c.expect(0, words("event --include-target-type project"), "[project main] Project created")
	c.expect(0, words("event --target-fleet boxes"), "[fleet boxes] Fleet created")
	c.expect(0, words("event --within-fleet boxes"), "[instance boxes-0] Instance status changed", ", instance boxes-0] Job assigned to instance. Instance blocks: 1/1 busy")
}

// publishedRefusals are what the server does not have yet, and what users get wrong.
func publishedRefusals(c *published) {
	for _, missing := range []string{"logs", "stop -y", "attach", "metrics", "run get --json"} {
		c.expect(1, append(words(missing), "nosuch"), "not found")
	}
	c.expect(1, words("fleet delete nosuch -y"), "does not exist")
	c.expect(1, words("volume delete nosuch -y"), "does not exist")
	c.expect(1, words("export delete nosuch -y"), "Export 'nosuch' not found in project 'main'")
	for name, r := range map[string]struct{ yml, words string }{
		"service": {"type: service\nname: svc\nimage: job:1\nport: 8000\ngateway: gw\ncommands: [\"true\"]\n", "Gateway gw does not exist in project main"},
		"volume":  {"type: volume\nname: vol\nbackend: aws\nregion: us-east-1\nsize: 100GB\n", "Backend aws not available. Available backends with volumes support: []"},
		"gateway": {"type: gateway\nname: gw\nbackend: aws\nregion: us-east-1\ndomain: example.com\n", "Backend aws not available. Available backends with gateways support: []"},
		"name":    {"type: task\nname: x\nimage: job:1\ncommands: [\"true\"]\n", "^[a-z][a-z0-9-]{1,40}$"},
		"secret":  {"type: task\nname: needy\nimage: job:1\nenv:\n  - A=${{ secrets.nosuch }}\ncommands: [\"true\"]\n", "nosuch"},
		"fields":  {"type: task\nname: typo\nimage: job:1\ncomands: [\"true\"]\n", "comands"},
	} {
		c.write(name+".yml", r.yml)
		c.expect(1, []string{"apply", "-y", "-f", name + ".yml"}, r.words)
	}
}

func publishedTask(c *published) {
	c.write("hello.yml", "type: task\nname: hello\nimage: job:1\ncommands:\n  - echo hello from $DSTACK_RUN_NAME\n  - for i in $(seq 1 500); do echo line-$i; done\n"+anyResources)
	c.write("fails.yml", "type: task\nname: fails\nimage: job:1\ncommands:\n  - echo before\n  - exit 7\n"+anyResources)
	if r := c.runIn(c.dir, "n\n", "apply", "-f", "hello.yml"); r.Code != 0 || c.runStatus("hello") != "" {
		c.t.Errorf("a plan that was refused: exit code %d, run %q\n%s", r.Code, c.runStatus("hello"), r.both())
	}
	r := c.runIn(c.dir, "y\n", "apply", "-f", "hello.yml")
	for _, want := range []string{"task (nodes=1)", "ssh (remote)", "hello from hello", "line-1\r\n", "line-500\r\n", "Exited (0)"} {
		if !strings.Contains(r.Out, want) || r.Code != 0 {
			c.t.Errorf("exit code %d, no %q:\n%s", r.Code, want, lastLines(r.both(), 20))
		}
	}
	c.expect(1, words("apply -y -f fails.yml"), "before", "Exited (7)")
	if logs := c.expect(0, words("logs hello")).Out; strings.Count(logs, "line-") != 500 {
		c.t.Errorf("the logs hold %d of 500 lines", strings.Count(logs, "line-"))
	}
	c.expect(0, words("ps -a"), "hello", "exited (0)", "fails", "exited (7)")
	c.expect(0, words("ps -a -v"), "exited (7)", "INSTANCE TYPE", "cpu=")
	var run struct {
		Status string
		Spec   struct {
			Name string `json:"run_name"`
		} `json:"run_spec"`
	}
	c.decode(&run, words("run get hello --json"))
	if run.Status != "done" || run.Spec.Name != "hello" {
		c.t.Errorf("run get: %+v", run)
	}
	c.expect(0, words("event --target-run hello"), "Run submitted")
}

// publishedLong is the life of a detached run: applied again, changed, stopped.
func publishedLong(c *published) {
	task := func(extra string) string {
		return c.write("long.yml", "type: task\nname: long\nimage: job:1\ncommands:\n  - echo begun; while true; do sleep 0.2; done\n"+extra+anyResources)
	}
	task("")
	c.expect(0, words("apply -y -d -f long.yml"), "submitted, detaching")
	c.waitStatus("long", "running")
	c.expect(0, words("apply -y -d -f long.yml"), "already exists. Detected no changes")
	task("priority: 7\n")
	c.expect(0, words("apply -y -d -f long.yml"), "priority", "updated, detaching")
	c.expect(0, words("ps"), "long", "running")
	c.expect(0, words("metrics long"), "cpu")
	c.expect(0, words("logs long"), "begun")
	task("env: [A=b]\n")
	r := c.runIn(c.dir, "n\n", "apply", "-d", "-f", "long.yml")
	if !strings.Contains(r.Out, "env") || c.runStatus("long") != "running" {
		c.t.Errorf("a change that needs another run, refused: exit code %d, run %q\n%s", r.Code, c.runStatus("long"), r.both())
	}
	c.expect(0, words("stop -y long"), "Stopped")
	if got := c.waitStatus("long", "terminated", "done", "failed"); got != "terminated" {
		c.t.Errorf("a stopped run is %q", got)
	}
	c.expect(0, words("ps -a"), "stopped")
}

// publishedService is the life of a service: published, asked, changed in place, stopped.
func publishedService(c *published) {
	service := func(greeting string) string {
		return c.write("svc.yml", "type: service\nname: svc\nimage: static:1\nentrypoint: /probe web=:8010\nport: 8010\nmodel: parrot\nprobes:\n  - type: http\n    url: /health\n    interval: 1s\nenv:\n  - GREETING="+greeting+"\n"+anyResources)
	}
	service("one")
	p := c.begin("dstack", words("apply -y -f svc.yml")...)
	p.waitFor("Service is published at:")
	p.waitFor("/proxy/services/main/svc/")
	p.waitFor("Model parrot is published at:")
	p.waitFor("serving") // its log
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		c.t.Fatal(err)
	}
	p.wait()
	answers := func(greeting string) func() bool {
		return func() bool {
			status, body, err := c.get("/proxy/services/main/svc/hello")
			return err == nil && status == http.StatusOK && strings.HasPrefix(body, greeting+" ") && strings.HasSuffix(body, " /hello")
		}
	}
	eventually(c.t, 30*time.Second, "the service answers", answers("one"))
	c.expect(0, words("ps -v"), "svc", "deployment=0", "✓")
	service("two")
	c.expect(0, words("apply -y -d -f svc.yml"), "updated in-place", "- env", "updated, detaching")
	eventually(c.t, 60*time.Second, "the changed service answers", answers("two"))
	c.expect(0, words("stop -y svc"), "Stopped")
	c.waitStatus("svc", "terminated")
}

// publishedAttach follows a run with a port, detaches, attaches again, and aborts it.
func publishedAttach(c *published) {
	first, second := freePort(c.t), freePort(c.t) // of the first, connections may linger in the kernel
	c.write("port.yml", fmt.Sprintf("type: task\nname: porty\nimage: static:1\nentrypoint: /probe serve=127.0.0.1:8123\nports:\n  - %d:8123\n", first)+anyResources)
	for _, step := range []struct {
		command string
		port    int
	}{
		{"apply -y -f port.yml", first},
		{fmt.Sprintf("attach --logs porty -p %d:8123", second), second},
	} {
		p := c.begin("dstack", words(step.command)...)
		p.waitFor("serving") // a live log
		eventually(c.t, 20*time.Second, "the forwarded port answers after "+step.command, func() bool { return greets(step.port) })
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
			c.t.Fatal(err)
		}
		p.wait()
		if !strings.Contains(p.out.String(), "Detached") || c.runStatus("porty") != "running" {
			c.t.Errorf("%s interrupted: the run is %q\n%s", step.command, c.runStatus("porty"), p.out.String())
		}
	}
	c.expect(0, words("stop -x -y porty"), "Aborted")
	c.waitStatus("porty", "terminated")
}

// greets says that the probe answers on a local port.
func greets(port int) bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	buf := make([]byte, 64)
	n, _ := conn.Read(buf)
	return strings.Contains(string(buf[:n]), "hello from the probe")
}

// publishedRepo runs a job on the user's commit and their changes since.
func publishedRepo(c *published, m *machine) {
	m.out("sh", "-ec", `useradd -m git; mkdir -m 0700 /home/git/.ssh; cp /root/.ssh/authorized_keys /home/git/.ssh/
cd /home/git; git init -q -b main work; cd work; echo committed >tracked
git -c user.name=T -c user.email=t@example.com add -A; git -c user.name=T -c user.email=t@example.com commit -qm first
git clone -q --bare . ../code.git; chown -R git:git /home/git`)
	clone := filepath.Join(c.dir, "published-code")
	c.git(c.dir, "clone", "-q", fmt.Sprintf("ssh://git@%s/home/git/code.git", m.Addr), clone)
	c.write("published-code/tracked", "changed\n")
	c.write("published-code/task.yml", "type: task\nname: repo\nimage: job:1\nrepos:\n  - .:code\ncommands:\n  - cat code/tracked\n"+anyResources)
	if r := c.runIn(clone, "", "init", "--git-identity", c.key); r.Code != 0 || !strings.Contains(r.Out, "OK") {
		c.t.Errorf("init: exit code %d\n%s", r.Code, r.both())
	}
	if r := c.runIn(clone, "", "apply", "-y", "-f", "task.yml"); r.Code != 0 || !strings.Contains(r.Out, "changed\r\n") {
		c.t.Errorf("apply: exit code %d\n%s", r.Code, r.both())
	}
}

func publishedDevEnvironment(c *published) {
	c.write("dev.yml", "type: dev-environment\nname: dev\nimage: job:1\nide: vscode\nenv:\n  - COLOUR=green\n"+anyResources)
	p := c.begin("dstack", words("apply -y -f dev.yml")...)
	p.waitFor("vscode://vscode-remote/ssh-remote+dev/")
	ssh := c.cmd(c.t.Context(), c.dir, "ssh", "-F", filepath.Join(c.home, ".dstack", "ssh", "config"), "dev", "echo $COLOUR from $(id -un)")
	if out, err := ssh.CombinedOutput(); err != nil || !strings.Contains(string(out), "green from root") {
		c.t.Errorf("ssh dev: %v\n%s", err, out)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		c.t.Fatal(err)
	}
	p.wait()
	c.expect(0, words("stop -y dev"), "Stopped")
	c.waitStatus("dev", "terminated", "done")
}

func publishedAPI(c *published) {
	script, err := filepath.Abs("testdata/published_api.py")
	if err != nil {
		c.t.Fatal(err)
	}
	p := c.begin("python3", script, c.url(), c.token)
	code := p.wait()
	for _, want := range []string{fmt.Sprint("api-short offers ", publishedHosts), "said by a job\r\n", "api-short done", "stored: 1", "ticks", "api-long terminated", "listed ['api-long', 'api-short']"} {
		if !strings.Contains(p.out.String(), want) || code != 0 {
			c.t.Errorf("exit code %d, no %q:\n%s", code, want, p.out.String())
		}
	}
}

// publishedOlder is the core of what the last releases of older minor versions do.
func publishedOlder(c *published) {
	c.login()
	name := "old-" + strings.ReplaceAll(c.version, ".", "-")
	file := c.write(name+".yml", "type: task\nname: "+name+"\nimage: job:1\ncommands:\n  - echo old hello\n"+anyResources)
	c.expect(0, []string{"apply", "-y", "-f", filepath.Base(file)}, "old hello", "Exited (0)")
	c.expect(0, []string{"logs", name}, "old hello")
	long := c.write(name+"-long.yml", "type: task\nname: "+name+"-long\nimage: job:1\ncommands:\n  - sleep 1000\n"+anyResources)
	c.expect(0, []string{"apply", "-y", "-d", "-f", filepath.Base(long)}, "submitted, detaching")
	c.waitStatus(name+"-long", "running")
	c.expect(0, words("ps"), name+"-long", "running")
	c.expect(0, []string{"stop", "-y", name + "-long"}, "Stopped")
	c.waitStatus(name+"-long", "terminated")
}
