//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// world is one server and one user with a home of their own.
type world struct {
	t         *testing.T
	dir       string
	home      string
	dstack    string // the binary
	key       string // path of the user's private key for the hosts
	publicKey string
	listen    string // the address at which the server listens
	port      int
	token     string
	extra     []string // more of the environment of the server and the client
	server    *exec.Cmd
	serverLog *lockedBuffer
	logFrom   int // where the log of the process of now begins
}

// newWorld starts a server with an empty database and sets the client up for it.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := prepareWorld(t)
	w.startServer()
	w.login()
	return w
}

// prepareWorld makes all that a server and a client need, and starts neither.
func prepareWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, home: filepath.Join(dir, "home"), listen: "127.0.0.1", token: "e2e-admin-token", serverLog: &lockedBuffer{}}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	w.dstack = filepath.Join(root, "bin", "dstack")
	if _, err := os.Stat(w.dstack); err != nil {
		t.Fatalf("%v; run make build", err)
	}
	if err := os.MkdirAll(filepath.Join(w.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.key, w.publicKey = newKey(t, dir)
	w.write("server/config.yml", "projects:\n  - name: main\n    backends: []\n") // every job goes to the hosts
	w.port = freePort(t)
	t.Cleanup(func() {
		w.stopServer(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", lastLines(w.serverLog.String(), 60))
		}
	})
	return w
}

// login makes the server's project the client's.
func (w *world) login() {
	w.t.Helper()
	w.must("project", "add", "--name", "main", "--url", w.url(), "--token", w.token, "-y")
}

func (w *world) url() string { return fmt.Sprintf("http://%s:%d", w.listen, w.port) }

func (w *world) env() []string {
	env := []string{
		"HOME=" + w.home, "PATH=" + os.Getenv("PATH"), "TERM=dumb", "LANG=C.UTF-8", "COLUMNS=250",
		"DSTACK_SERVER_DIR=" + filepath.Join(w.dir, "server"),
		"DSTACK_SERVER_ADMIN_TOKEN=" + w.token,
	}
	return append(env, w.extra...)
}

// startServer starts the server and waits until it answers.
func (w *world) startServer() {
	w.t.Helper()
	cmd := exec.Command(w.dstack, "server", "--host", w.listen, "--port", fmt.Sprint(w.port), "--token", w.token, "--log-level", "debug")
	cmd.Env = w.env()
	cmd.Stdout, cmd.Stderr = w.serverLog, w.serverLog
	w.logFrom = len(w.serverLog.String())
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.server = cmd
	eventually(w.t, 15*time.Second, "the server answers", func() bool {
		resp, err := http.Get(w.url() + "/healthcheck")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// stopServer sends a signal and waits for the process to end.
func (w *world) stopServer(sig syscall.Signal) {
	if w.server == nil || w.server.Process == nil {
		return
	}
	_ = w.server.Process.Signal(sig)
	done := make(chan struct{})
	go func() { _ = w.server.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = w.server.Process.Kill()
		<-done
		w.t.Errorf("the server did not end within 20 s of %v", sig)
	}
	w.server = nil
}

// result is what a command gave.
type result struct {
	Out, Err string
	Code     int
	Took     time.Duration
}

func (r result) both() string { return r.Out + r.Err }

// run runs the CLI to its end.
func (w *world) run(args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.dstack, args...)
	cmd.Env, cmd.Dir = w.env(), w.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	r := result{Out: out.String(), Err: errs.String(), Took: time.Since(start)}
	if err != nil {
		r.Code = cmd.ProcessState.ExitCode()
	}
	if ctx.Err() != nil {
		w.t.Fatalf("dstack %s did not end\n%s%s", strings.Join(args, " "), r.Out, r.Err)
	}
	return r
}

// must runs the CLI and fails the test when it fails.
func (w *world) must(args ...string) result {
	w.t.Helper()
	r := w.run(args...)
	if r.Code != 0 {
		w.t.Fatalf("dstack %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return r
}

// start runs the CLI in the background; its output goes to the returned process.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, out: &lockedBuffer{}}
	p.cmd = exec.Command(w.dstack, args...)
	p.cmd.Env, p.cmd.Dir = w.env(), w.dir
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// process is a command that runs beside the test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *lockedBuffer
	done chan struct{}
}

func (p *process) waitFor(text string) {
	p.t.Helper()
	deadline := time.Now().Add(patience * time.Minute)
	for !strings.Contains(p.out.String(), text) {
		select {
		case <-p.done:
			if !strings.Contains(p.out.String(), text) {
				p.t.Fatalf("the command ended without printing %q:\n%s", text, p.out.String())
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("no %q after %v:\n%s", text, patience*time.Minute, p.out.String())
		}
	}
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience * time.Minute):
		p.t.Fatalf("the command does not end:\n%s", p.out.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// write puts a file into the user's working folder and returns its path.
func (w *world) write(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// fleet applies an SSH fleet of the machines and waits until all are idle.
func (w *world) fleet(name string, hosts ...*machine) {
	w.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "type: fleet\nname: %s\nssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n", name, w.key)
	for _, h := range hosts {
		fmt.Fprintf(&b, "    - %s\n", h.Addr)
	}
	w.must("apply", "-y", "-f", w.write(name+".fleet.dstack.yml", b.String()))
	eventually(w.t, 60*time.Second, "all hosts of the fleet are idle", func() bool {
		return strings.Count(w.run("fleet").Out, "idle") >= len(hosts)
	})
}

// runStatus is the status of a run as the API gives it, "" when there is none.
func (w *world) runStatus(name string) string {
	w.t.Helper()
	var r struct {
		Status string `json:"status"`
	}
	if w.api("/api/project/main/runs/get", map[string]any{"run_name": name}, &r) != http.StatusOK {
		return ""
	}
	return r.Status
}

func (w *world) waitStatus(name string, want ...string) string {
	w.t.Helper()
	var got string
	eventually(w.t, 90*time.Second, "run "+name+" is "+strings.Join(want, " or "), func() bool {
		got = w.runStatus(name)
		for _, s := range want {
			if s == got {
				return true
			}
		}
		return false
	})
	return got
}

// api posts to the server and decodes the answer.
func (w *world) api(path string, in, out any) int {
	w.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url()+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK && out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			w.t.Fatalf("%s: %v\n%s", path, err, data)
		}
	}
	return resp.StatusCode
}

// patience is how many times longer than elsewhere something may take on a machine that runs this suite: it
// starts a dozen hosts at once.
const patience = 3

// eventually polls what only the outside can show. That it comes is all that matters, see [inTime].
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience * limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience*limit, what)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// inTime is eventually for what users are promised to have within the limit.
func inTime(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	began := time.Now()
	eventually(t, limit, what, ok)
	if took := time.Since(began); took > limit {
		t.Errorf("only after %v, want within %v: %s", took, limit, what)
	}
}

// portsGiven counts the ports that were given away. Suites beside each other begin in different places.
var portsGiven atomic.Uint32

func init() { portsGiven.Store(uint32(os.Getpid()) * 100) }

// freePort is one that nobody has, and nobody gets while a server that has it is down: systems give out higher
// ones, and no other test gets the same.
func freePort(t *testing.T) int {
	t.Helper()
	const first, n = 11000, 9000
	for range n {
		port := first + int(portsGiven.Add(1)%n)
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue // taken
		}
		l.Close()
		return port
	}
	t.Fatalf("no port of %d is free", n)
	return 0
}

func lastLines(s string, n int) string {
	var lines []string
	sc := bufio.NewScanner(strings.NewReader(s))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// lockedBuffer is a buffer that a process writes and the test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
