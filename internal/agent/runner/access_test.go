package runner

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"dstack/internal/agentapi"
)

// dial connects to a socket in the job's folder, whose path may be long.
func (j *job) dial(name string) net.Conn {
	j.t.Helper()
	var c net.Conn
	j.until(name+" is open", func() bool {
		short, done, err := ShortPath(filepath.Join(j.dir, name))
		if err != nil {
			return false
		}
		defer done()
		c, err = net.Dial("unix", short)
		return err == nil
	})
	j.t.Cleanup(func() { c.Close() })
	return c
}

// pending is a request of a server that waits for a call.
type pending struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (j *job) offer() *pending {
	j.t.Helper()
	c := j.dial(ControlFile)
	fmt.Fprintf(c, "POST /accept HTTP/1.1\r\nHost: runner\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", agentapi.Joined)
	return &pending{c, j.t, bufio.NewReader(c)}
}

func (p *pending) status() int {
	p.t.Helper()
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode
}

// answers reads a line of the call and writes one.
func (p *pending) answers(call net.Conn) {
	p.t.Helper()
	if got := p.status(); got != http.StatusSwitchingProtocols {
		p.t.Fatalf("status %d, want a call", got)
	}
	fmt.Fprintln(call, "hello server")
	if line, err := p.r.ReadString('\n'); line != "hello server\n" || err != nil {
		p.t.Errorf("the server reads %q, %v", line, err)
	}
	fmt.Fprintln(p, "hello job")
	if line, err := bufio.NewReader(call).ReadString('\n'); line != "hello job\n" || err != nil {
		p.t.Errorf("the job reads %q, %v", line, err)
	}
	p.Close()
	if n, err := call.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		p.t.Errorf("after the server's end: %d, %v", n, err)
	}
}

func TestServerAccess(t *testing.T) {
	spec := sh(`echo "url $DSTACK_SERVER_URL"; while [ ! -e go ]; do sleep 0.02; done`)
	spec.ServerAccess = true
	spec.Env = map[string]string{"DSTACK_SERVER_URL": agentapi.ServerURL}
	j := start(t, spec)
	socket := filepath.Join(j.dir, ServerFile)

	early := j.dial(ServerFile)
	if s, err := ReadState(j.dir); err != nil || s.Phase != Setup {
		t.Errorf("without a server: %+v, %v", s, err)
	}
	j.offer().answers(early)                                               // a call that came before the server
	j.printed("url http+unix://" + strings.ReplaceAll(socket, "/", "%2F")) // the command has started
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o666 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	for range 2 { // the server offers again, before a call or after it
		next := j.offer()
		next.answers(j.dial(ServerFile))
		waits := j.dial(ServerFile)
		j.offer().answers(waits)
	}
	if err := os.WriteFile(filepath.Join(j.dir, "work", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, log := j.wait(); s.Reason != agentapi.DoneByRunner {
		t.Errorf("%+v: %s", s, log)
	}
	j.until("the socket is gone", func() bool { _, err := os.Lstat(socket); return os.IsNotExist(err) })
}

// The name of the socket is one that every client can connect to, wherever the job's folder is.
func TestServerAccessFromAfar(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	spec := sh(`echo "url $DSTACK_SERVER_URL"; while [ ! -e go ]; do sleep 0.02; done`)
	spec.ServerAccess = true
	spec.Env = map[string]string{"DSTACK_SERVER_URL": agentapi.ServerURL}
	writeSpec(t, dir, spec)
	j := startIn(t, dir)
	waits := j.offer()
	j.printed("url http+unix://")
	_, name, _ := strings.Cut(strings.TrimSpace(read(t, dir, JobLogFile)), "http+unix://")
	path, err := url.PathUnescape(name)
	if err != nil || len(path) > maxSocketPath {
		t.Fatalf("the socket is %q, %v", path, err)
	}
	call, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	waits.answers(call)
	if err := os.WriteFile(filepath.Join(dir, "work", "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j.wait()
}

// A job does not start without what it was promised.
func TestNoServerAccess(t *testing.T) {
	spec := sh("echo started")
	spec.ServerAccess = true
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ServerFile, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeSpec(t, dir, spec)
	s, log := startIn(t, dir).wait()
	if s.Reason != agentapi.TerminatedByServer || s.Message != "Could not establish dstack server access" || log != "" {
		t.Errorf("%+v: %q", s, log)
	}
	synctest.Test(t, func(t *testing.T) {
		if err := newAccess().ready(t.Context(), accessPatience); err == nil || err.Error() != "the server did not connect within 2m0s" {
			t.Errorf("without a server: %v", err)
		}
	})
}

// A call that no server takes ends, and the next one is taken all the same.
func TestCallWithoutServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess()
		job, call := net.Pipe()
		go a.pass(t.Context(), call)
		if _, err := job.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("a call without a server: %v", err)
		}
		stale := a.offer()
		a.withdraw(a.offer()) // of a server that has taken over, and gave up
		<-stale.replaced
		o := a.offer()
		a.withdraw(stale)
		job, call = net.Pipe()
		a.pass(t.Context(), call)
		if <-o.call != call {
			t.Error("another call")
		}
		job.Close()
	})
}
