package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"
)

// rig is a server on the loopback interface and the system's OpenSSH as its client.
type rig struct {
	t       *testing.T
	server  *Server
	port    int
	dir     string
	private ed25519.PrivateKey
}

func newKey(t *testing.T, dir, name string) (ed25519.PrivateKey, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := gossh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	pub, err := gossh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return private, strings.TrimSpace(string(gossh.MarshalAuthorizedKey(pub)))
}

func newRig(t *testing.T) *rig {
	t.Helper()
	// As the runner does: below nohup, what it starts would ignore the signal.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	dir, err := os.MkdirTemp("", "sshd") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir}
	var user, server string
	r.private, user = newKey(t, dir, "user")
	_, server = newKey(t, dir, "server")
	newKey(t, dir, "stranger")
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	r.server, err = New(Config{Keys: []string{"not a key", user}, ServerKey: server, Log: slog.New(slog.DiscardHandler),
		Env: func() []string { return []string{"FROM_JOB=it's here", "PATH=" + os.Getenv("PATH")} }, Dir: func() string { return work }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.port = l.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) options(identity string) []string {
	return []string{"-F", "none", "-o", "IdentitiesOnly=yes", "-o", "IdentityFile=" + filepath.Join(r.dir, identity), "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", fmt.Sprintf("Port=%d", r.port)}
}

// cmd is a client's command as the user; "@" is the server.
func (r *rig) cmd(program string, args ...string) *exec.Cmd {
	all := r.options("user")
	for _, a := range args {
		all = append(all, strings.Replace(a, "@", "root@127.0.0.1", 1))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	r.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, all...)
	cmd.WaitDelay = time.Second
	return cmd
}

func (r *rig) ssh(args ...string) (string, error) {
	var errs bytes.Buffer
	cmd := r.cmd("ssh", args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return string(out), err
}

// until polls what a client's process does on its own.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not in time: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// background starts a client that stays connected until the end of the test.
func (r *rig) background(args ...string) *exec.Cmd {
	r.t.Helper()
	cmd := r.cmd("ssh", args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if r.t.Failed() {
			r.t.Logf("the client says: %s", out.String())
		}
	})
	return cmd
}

func TestCommands(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name, command, stdin, out, errs string
		code                            int
	}{
		{name: "output", command: "echo out; echo err >&2", out: "out\n", errs: "err\n"},
		{name: "exit code", command: "exit 7", code: 7},
		{name: "a signal", command: "kill -TERM $$", code: 128 + 15},
		{name: "the job's environment", command: `echo "$FROM_JOB"`, out: "it's here\n"},
		{name: "input to its end", command: "wc -c", stdin: strings.Repeat("x", 1<<20), out: "1048576\n"},
		{name: "binary", command: `printf '\000\001\377\r\n'`, out: "\x00\x01\xff\r\n"},
		{name: "no terminal", command: "test -t 0 || echo none", out: "none\n"},
		{name: "a background process does not hold the session", command: "sleep 100 & echo $!", out: "*"},
		{name: "no such command", command: "no-such-command-here", code: 127, errs: "*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			cmd := r.cmd("ssh", "@", c.command)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(c.stdin), &out, &errs
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != c.code {
				t.Errorf("exit code %d, want %d (%s)", code, c.code, errs.String())
			}
			if c.out != "*" && out.String() != c.out {
				t.Errorf("stdout %q, want %q", out.String(), c.out)
			}
			if c.errs != "*" && errs.String() != c.errs {
				t.Errorf("stderr %q, want %q", errs.String(), c.errs)
			}
			if c.out == "*" {
				_ = exec.Command("kill", strings.TrimSpace(out.String())).Run()
			}
		})
	}
}

func TestTerminal(t *testing.T) {
	r := newRig(t)
	out, err := r.ssh("-tt", "@", "test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM; echo $SSH_TTY; stty size")
	if err != nil || !strings.Contains(out, "terminal ") || !strings.Contains(out, "/dev/pts/") {
		t.Errorf("%q %v", out, err)
	}
	// A login shell starts in the job's folder.
	cmd := r.cmd("ssh", "-tt", "@")
	cmd.Stdin = strings.NewReader("pwd; echo \"[$FROM_JOB]\"; exit 3\n")
	data, _ := cmd.Output()
	if got := string(data); cmd.ProcessState.ExitCode() != 3 || !strings.Contains(got, filepath.Join(r.dir, "work")) || !strings.Contains(got, "[it's here]") {
		t.Errorf("exit code %d: %q", cmd.ProcessState.ExitCode(), got)
	}
}

// TestTerminalBytes reads what a command writes on a terminal: what the terminal makes of it, and
// nothing else.
func TestTerminalBytes(t *testing.T) {
	r := newRig(t)
	var text strings.Builder
	for n := range 1 << 17 {
		fmt.Fprintf(&text, "%0*d\n", n%61, n)
	}
	odd := "\n\r\n\r\r\n\n\r\r\r\n\x00\xff\x1b[0m"
	for _, c := range []struct{ name, settings, file, want string }{
		{"lines", "true", text.String(), strings.ReplaceAll(text.String(), "\n", "\r\n")},
		{"odd ends of lines", "true", odd, strings.ReplaceAll(odd, "\n", "\r\n")},
		{"a program that sets it to raw", "stty raw", strings.Repeat(odd, 1<<10), strings.Repeat(odd, 1<<10)},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(r.dir, "text")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := r.ssh("-tt", "@", c.settings+"; cat "+file)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				same := 0
				for same < min(len(got), len(c.want)) && got[same] == c.want[same] {
					same++
				}
				t.Errorf("%d bytes, want %d; after %d come %.20q, want %.20q", len(got), len(c.want), same, got[same:], c.want[same:])
			}
		})
	}
}

// TestSlowClient lets a client read nothing for longer than its command runs: the end is not lost.
func TestSlowClient(t *testing.T) {
	r := newRig(t)
	signer, err := gossh.NewSignerFromKey(r.private)
	if err != nil {
		t.Fatal(err)
	}
	const size = 2<<20 + 8<<10 // the window of the client, and less than what may lie on the way to it
	for name, terminal := range map[string]bool{"with a terminal": true, "without one": false} {
		t.Run(name, func(t *testing.T) {
			client, err := gossh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port), &gossh.ClientConfig{User: "root", Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey()})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if terminal {
				if err := session.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
					t.Fatal(err)
				}
			}
			out, err := session.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			over := filepath.Join(r.dir, "over "+name)
			if err := session.Start(fmt.Sprintf("head -c %d /dev/zero; echo >'%s'", size, over)); err != nil {
				t.Fatal(err)
			}
			r.until("the command ends", func() bool { _, err := os.Stat(over); return err == nil })
			<-time.After(lingering + lingering/2)
			got, err := io.Copy(io.Discard, out)
			if got != size || err != nil {
				t.Errorf("%d of %d bytes (%v)", got, size, err)
			}
			if err := session.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What stays on a terminal after its session holds nothing of the server.
func TestSessionsLeaveNothing(t *testing.T) {
	r := newRig(t)
	serving := func() int {
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 2)
		return strings.Count(stacks.String(), "sshd.(*Server).terminal")
	}
	for range 5 {
		out, err := r.ssh("-tt", "@", `trap "" HUP; sleep 1000 & echo "pid $!"`)
		var pid int
		if _, scanErr := fmt.Sscanf(out, "pid %d", &pid); err != nil || scanErr != nil {
			t.Fatalf("%q %v", out, err)
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
		if err := syscall.Kill(pid, 0); err != nil {
			t.Fatalf("the process that should stay on the terminal: %v", err)
		}
	}
	r.until("the sessions' goroutines end", func() bool { return serving() == 0 })
}

// Who closes their terminal takes the processes on it along, and nothing else.
func TestDisconnect(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name string
		args []string
		dies bool
	}{
		{"with a terminal", []string{"-tt"}, true},
		{"without one", []string{"-T"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(r.dir, "pid-"+c.args[0])
			client := r.background(append(c.args, "@", "echo $$ >"+file+"; exec sleep 1000")...)
			var pid int
			r.until("the command runs", func() bool {
				data, err := os.ReadFile(file)
				n, _ := fmt.Sscan(string(data), &pid)
				return err == nil && n == 1
			})
			alive := func() bool { return syscall.Kill(pid, 0) == nil }
			_ = client.Process.Kill()
			r.until("the server notices", func() bool { return r.server.Active() == 0 })
			if c.dies {
				r.until("the command ends with its terminal", func() bool { return !alive() })
				return
			}
			if !alive() {
				t.Error("the command ended with its client")
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		})
	}
}

func TestFiles(t *testing.T) {
	r := newRig(t)
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	local, remote, back := filepath.Join(r.dir, "local"), filepath.Join(r.dir, "remote file"), filepath.Join(r.dir, "back")
	if err := os.WriteFile(local, data, 0o640); err != nil {
		t.Fatal(err)
	}
	same := func() {
		t.Helper()
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d of %d bytes came back (%v)", len(got), len(data), err)
		}
		_ = os.Remove(back)
	}
	batch := filepath.Join(r.dir, "batch")
	script := fmt.Sprintf("put %s \"%s\"\nget \"%s\" %s\nmkdir %s/d\nrename \"%s\" %s/d/x\nls -l %s/d\nrm %s/d/x\nrmdir %s/d\n", local, remote, remote, back, r.dir, remote, r.dir, r.dir, r.dir, r.dir)
	if err := os.WriteFile(batch, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.cmd("sftp", "-b", batch, "@").CombinedOutput(); err != nil {
		t.Fatalf("sftp: %v\n%s", err, out)
	}
	same()
	for _, args := range [][]string{{local, "@:" + remote}, {"@:" + remote, back}} {
		if out, err := r.cmd("scp", args...).CombinedOutput(); err != nil {
			t.Fatalf("scp %v: %v\n%s", args, err, out)
		}
	}
	same()
}

// echo answers every connection with what it says.
func echo(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l
}

// talk sends a lot through a connection, ends its side, and expects all of it back.
func (r *rig) talk(network, addr string) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	go func() {
		_, _ = c.Write(want)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%d of %d bytes: %w", len(got), len(want), err)
	}
	return nil
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestForwards(t *testing.T) {
	r := newRig(t)
	tcp := echo(t, "tcp", "127.0.0.1:0").Addr().(*net.TCPAddr).Port
	unix := filepath.Join(r.dir, "echo.sock")
	echo(t, "unix", unix)
	v6 := echo(t, "tcp", "[::1]:0").Addr().(*net.TCPAddr).Port
	r.server.Moved = map[int]int{1: tcp}
	for _, c := range []struct{ name, flag, from, to string }{
		{"local", "-L", "tcp", fmt.Sprintf("127.0.0.1:%d", tcp)},
		{"local to a server on either loopback", "-L", "tcp", fmt.Sprintf("localhost:%d", v6)},
		{"local to a port that moved", "-L", "tcp", "localhost:1"},
		{"local to a socket", "-L", "tcp", unix},
		{"local from a socket", "-L", "unix", fmt.Sprintf("127.0.0.1:%d", tcp)},
		{"remote", "-R", "tcp", fmt.Sprintf("127.0.0.1:%d", tcp)},
		{"remote from a socket", "-R", "unix", fmt.Sprintf("127.0.0.1:%d", tcp)},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, addr := "", ""
			if c.from == "tcp" {
				port := freePort(t)
				from, addr = fmt.Sprint("127.0.0.1:", port), fmt.Sprint("127.0.0.1:", port)
			} else {
				addr = filepath.Join(r.dir, strings.ReplaceAll(c.name, " ", "-"))
				from = addr
			}
			client := r.background("-N", c.flag, from+":"+c.to, "@")
			var err error
			r.until("bytes go through", func() bool { err = r.talk(c.from, addr); return err == nil })
			var answers int
			for range 20 {
				if r.talk(c.from, addr) == nil {
					answers++
				}
			}
			if answers != 20 {
				t.Errorf("%d of 20 connections went through", answers)
			}
			if c.flag == "-R" && c.from == "unix" {
				if st, err := os.Stat(addr); err != nil || st.Mode().Perm() != 0o600 {
					t.Errorf("the socket has mode %v (%v)", st.Mode(), err)
				}
			}
			_ = client.Process.Kill()
			if c.flag == "-R" { // the server's listener goes with the connection
				r.until("the listener is gone", func() bool {
					conn, err := net.Dial(c.from, addr)
					if err == nil {
						conn.Close()
					}
					return err != nil
				})
			}
		})
	}
	if _, err := r.ssh("-W", "127.0.0.1:2", "@"); err == nil {
		t.Error("a connection to nobody went through")
	}
}

func TestAgentForwarding(t *testing.T) {
	r := newRig(t)
	keyring := sshagent.NewKeyring()
	if err := keyring.Add(sshagent.AddedKey{PrivateKey: r.private, Comment: "the user's key"}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(r.dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = sshagent.ServeAgent(keyring, c) }()
		}
	}()
	cmd := r.cmd("ssh", "-A", "@", "ssh-add -l")
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the user's key") {
		t.Errorf("%q %v", out, err)
	}
}

func TestWhoMayLogIn(t *testing.T) {
	r := newRig(t)
	for identity, allowed := range map[string]bool{"user": true, "server": true, "stranger": false} {
		cmd := exec.Command("ssh", append(r.options(identity), "anybody@127.0.0.1", "true")...)
		if err := cmd.Run(); (err == nil) != allowed {
			t.Errorf("%s: %v", identity, err)
		}
	}
	cmd := exec.Command("ssh", append(r.options("stranger"), "-v", "-o", "PreferredAuthentications=password,keyboard-interactive", "root@127.0.0.1", "true")...)
	if err := cmd.Run(); err == nil {
		t.Error("passwords are asked for")
	}
	_, added := newKey(t, r.dir, "added")
	r.server.AddKey(added)
	if err := exec.Command("ssh", append(r.options("added"), "root@127.0.0.1", "true")...).Run(); err != nil {
		t.Errorf("a key that was added later: %v", err)
	}
}

// Users' connections count as somebody being there, the server's do not.
func TestActive(t *testing.T) {
	r := newRig(t)
	if n := r.server.Active(); n != 0 {
		t.Errorf("%d before anybody came", n)
	}
	first := r.background("-N", "@")
	r.until("one user is there", func() bool { return r.server.Active() == 1 })
	r.background("-N", "@")
	r.until("two users are there", func() bool { return r.server.Active() == 2 })
	port := freePort(t)
	server := exec.Command("ssh", append(r.options("server"), "-N", "-R", fmt.Sprintf("127.0.0.1:%d:127.0.0.1:1", port), "root@127.0.0.1")...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	r.until("the server is connected", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if n := r.server.Active(); n != 2 {
		t.Errorf("%d with the server", n)
	}
	_ = server.Process.Kill()
	_ = server.Wait()
	_ = first.Process.Kill()
	r.until("one is left", func() bool { return r.server.Active() == 1 })
}

// Garbage instead of SSH harms nobody.
func TestGarbage(t *testing.T) {
	r := newRig(t)
	for _, junk := range []string{"", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n\xff\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("x", 1<<20)} {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.WriteString(c, junk)
		c.Close()
	}
	if out, err := r.ssh("@", "echo fine"); err != nil || out != "fine\n" {
		t.Errorf("%q %v", out, err)
	}
}
