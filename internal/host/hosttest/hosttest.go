// Package hosttest is a host on the loopback interface: an SSH server that runs commands
// in a folder of its own, and an agent that says what a test wants.
package hosttest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// Host is a machine that a server can onboard. Its commands run on the test's machine, but
// the paths that matter are below Root, and programs of Root/bin come first.
type Host struct {
	Root  string // holds bin/, agent (the pushed binary) and home/ (the login user's)
	Agent *Agent
	// NoStreamlocal refuses to forward Unix sockets, as some administrators set it.
	NoStreamlocal bool

	t        testing.TB
	mu       sync.Mutex
	srv      *ssh.Server
	listener net.Listener
	addr     *net.TCPAddr
	key      ssh.Signer
	commands []string
	// installed is called after a successful installation, nil for nothing.
	installed func()
}

// New starts a host that lets a key in.
func New(t testing.TB, user ssh.PublicKey) *Host {
	t.Helper()
	h := &Host{Root: t.TempDir(), Agent: newAgent(), t: t, key: newKey(t)}
	for _, dir := range []string{"bin", "home"} {
		if err := os.Mkdir(filepath.Join(h.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A container engine is there, sudo is allowed.
	h.Program("dockerd", "exit 0")
	h.Program("sudo", `[ "$1" = -n ] && shift; exec "$@"`)
	h.listen(user, reserve(t))
	t.Cleanup(h.Down)
	return h
}

// reserve takes a port of the loopback interface until the test ends. Otherwise that of a host that is
// down goes to whoever connects to something next, and Up finds it in use.
func reserve(t testing.TB) *net.TCPAddr {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // it was never connected
	at := net.IPv4(127, 0, 0, 1)
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1), // one more may listen there
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte(at.To4())}),
	)
	name, nameErr := syscall.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		t.Fatal(err)
	}
	return &net.TCPAddr{IP: at, Port: name.(*syscall.SockaddrInet4).Port}
}

func newKey(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// NewUser makes a key for a login.
func NewUser(t testing.TB) ssh.Signer { return newKey(t) }

// Addr is the address of the host's SSH server.
func (h *Host) Addr() string { return h.addr.IP.String() }

// Port is the port of the host's SSH server.
func (h *Host) Port() int { return h.addr.Port }

// Key is the host's own key, a line of authorized_keys.
func (h *Host) Key() string {
	return strings.TrimSpace(string(gossh.MarshalAuthorizedKey(h.key.PublicKey())))
}

// Program puts a shell script in the place of a program.
func (h *Host) Program(name, script string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.Root, "bin", name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// Commands lists what was run so far.
func (h *Host) Commands() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.commands...)
}

// File reads a file below Root, "" when there is none.
func (h *Host) File(name string) string {
	data, _ := os.ReadFile(filepath.Join(h.Root, name))
	return string(data)
}

// Remove deletes a file or a folder below Root.
func (h *Host) Remove(name string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.Root, name)); err != nil {
		h.t.Fatal(err)
	}
}

// OnInstall has f called when the pushed agent has installed itself, which answers from then on.
func (h *Host) OnInstall(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.installed = f
}

// Down ends the SSH server and all of its connections.
func (h *Host) Down() {
	h.listener.Close() // the server may not have taken it yet
	h.srv.Close()
}

// Up starts the host again at its address, with a new key when it was reinstalled.
func (h *Host) Up(user ssh.PublicKey, reinstalled bool) {
	h.t.Helper()
	if reinstalled {
		h.key = newKey(h.t)
	}
	h.listen(user, h.addr)
}

func (h *Host) listen(user ssh.PublicKey, at *net.TCPAddr) {
	h.t.Helper()
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		h.t.Fatal(err)
	}
	h.listener, h.addr = l, l.Addr().(*net.TCPAddr)
	h.srv = &ssh.Server{
		Handler:          h.session,
		PublicKeyHandler: func(_ ssh.Context, k ssh.PublicKey) bool { return ssh.KeysEqual(k, user) },
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session":                        ssh.DefaultSessionHandler,
			"direct-tcpip":                   ssh.DirectTCPIPHandler,
			"direct-streamlocal@openssh.com": h.streamlocal,
		},
		LocalPortForwardingCallback: func(ssh.Context, string, uint32) bool { return true },
	}
	h.srv.AddHostKey(h.key)
	srv := h.srv
	go func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, ssh.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			slog.Error("host of a test", "err", err)
		}
	}()
}

func (h *Host) session(s ssh.Session) {
	h.mu.Lock()
	h.commands = append(h.commands, s.RawCommand())
	h.mu.Unlock()
	if strings.Contains(s.RawCommand(), " connect ") {
		near, far := net.Pipe()
		go h.Agent.serve(far)
		go func() {
			_, _ = io.Copy(near, s)
			near.Close()
		}()
		_, _ = io.Copy(s, near)
		return
	}
	command := strings.NewReplacer("/usr/local/bin/dstack-agent", h.Root+"/agent", "/var/lib/dstack", h.Root+"/var", "/var/run/docker.sock", h.Root+"/docker.sock",
		"/run/cloud-init", h.Root+"/cloud-init", "/var/lib/cloud/", h.Root+"/cloud/").Replace(s.RawCommand())
	cmd := exec.CommandContext(s.Context(), "/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=" + h.Root + "/bin:" + os.Getenv("PATH"), "HOME=" + h.Root + "/home", "ROOT=" + h.Root}
	cmd.Dir = h.Root
	cmd.Stdout, cmd.Stderr = s, s.Stderr()
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(s.Stderr(), err)
		_ = s.Exit(126)
		return
	}
	go func() {
		_, _ = io.Copy(stdin, s) // to the client's end of input
		stdin.Close()
	}()
	code := 0
	if err := cmd.Wait(); err != nil {
		code = max(1, cmd.ProcessState.ExitCode())
	}
	if code == 0 && strings.Contains(s.RawCommand(), " install ") {
		h.Agent.appear()
		h.mu.Lock()
		f := h.installed
		h.mu.Unlock()
		if f != nil {
			f()
		}
	}
	_ = s.Exit(code)
}

func (h *Host) streamlocal(_ *ssh.Server, _ *gossh.ServerConn, ch gossh.NewChannel, _ ssh.Context) {
	switch {
	case h.NoStreamlocal:
		_ = ch.Reject(gossh.Prohibited, "no forwarding here")
		return
	case h.Agent.isAbsent():
		_ = ch.Reject(gossh.ConnectionFailed, "open failed")
		return
	}
	c, reqs, err := ch.Accept()
	if err != nil {
		return
	}
	go gossh.DiscardRequests(reqs)
	near, far := net.Pipe()
	go h.Agent.serve(far)
	go func() {
		_, _ = io.Copy(near, c)
		near.Close()
	}()
	_, _ = io.Copy(c, near)
	c.Close()
}

// Agent is the agent of a host, as far as a server talks to it.
type Agent struct {
	mu      sync.Mutex
	absent  bool
	info    agentapi.HostInfo
	tasks   []agentapi.Task
	acked   agentapi.Ack
	streams int
	events  chan agentapi.Event
	calls   chan net.Conn
}

func newAgent() *Agent {
	return &Agent{info: agentapi.HostInfo{Protocol: agentapi.Version, Arch: "x86", Hash: "old"}, events: make(chan agentapi.Event, 1000), calls: make(chan net.Conn)}
}

// Set changes what the agent says about its host.
func (a *Agent) Set(change func(*agentapi.HostInfo)) {
	a.mu.Lock()
	change(&a.info)
	a.mu.Unlock()
}

// Runs changes which tasks the agent has.
func (a *Agent) Runs(tasks ...agentapi.Task) {
	a.mu.Lock()
	a.tasks = tasks
	a.mu.Unlock()
}

// Absent says that there is no agent until one is installed.
func (a *Agent) Absent() {
	a.mu.Lock()
	a.absent = true
	a.mu.Unlock()
}

func (a *Agent) isAbsent() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.absent
}

func (a *Agent) appear() {
	a.mu.Lock()
	a.absent = false
	a.mu.Unlock()
}

// Emit puts an event into the stream.
func (a *Agent) Emit(e agentapi.Event) { a.events <- e }

// Call connects to the server as the job "job" does, nil when nobody waits until ctx ends.
func (a *Agent) Call(ctx context.Context) net.Conn {
	near, far := net.Pipe()
	select {
	case a.calls <- far:
		return near
	case <-ctx.Done():
		return nil
	}
}

// accept waits for a call.
func (a *Agent) accept(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("id") != "job" {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(agentapi.Error{Code: agentapi.CodeConflict, Message: "the task has ended"})
		return
	}
	select {
	case call := <-a.calls:
		server, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			a.calls <- call
			return
		}
		fmt.Fprintf(server, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", agentapi.Joined)
		go func() {
			_, _ = io.Copy(call, buffered)
			call.Close()
		}()
		_, _ = io.Copy(server, call)
		server.Close()
	case <-r.Context().Done():
	}
}

// Acked is up to where the last acknowledgement was, for some tasks perhaps not.
func (a *Agent) Acked() (seq int64, except []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked.Seq, a.acked.Except
}

// Streams counts the event streams that were opened so far.
func (a *Agent) Streams() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.streams
}

// serve answers one connection.
func (a *Agent) serve(c net.Conn) {
	l := &once{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- &closing{Conn: c, done: l.done}
	srv := &http.Server{Handler: a.handler()}
	_ = srv.Serve(l) // ends with the connection
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /v1/host", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		answer(w, a.info)
	})
	mux.HandleFunc("GET /v1/tasks", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		answer(w, append([]agentapi.Task{}, a.tasks...))
	})
	mux.HandleFunc("POST /v1/tasks/{id}/accept", a.accept)
	mux.HandleFunc("POST /v1/events/ack", func(w http.ResponseWriter, r *http.Request) {
		var ack agentapi.Ack
		_ = json.NewDecoder(r.Body).Decode(&ack)
		a.mu.Lock()
		a.acked = ack
		a.mu.Unlock()
		answer(w, struct{}{})
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.streams++
		a.mu.Unlock()
		answer(w, agentapi.Event{Kind: agentapi.HeartbeatEvent})
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case e := <-a.events:
				answer(w, e)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	return mux
}

// once is a listener of one connection.
type once struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.UnixAddr{Name: "agent", Net: "unix"} }

// closing tells its listener that it was closed.
type closing struct {
	net.Conn
	end  sync.Once
	done chan struct{}
}

func (c *closing) Close() error {
	c.end.Do(func() { close(c.done) })
	return c.Conn.Close()
}
