package sshd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/gliderlabs/ssh"
	"github.com/pkg/sftp"
	gossh "golang.org/x/crypto/ssh"
)

// login is who a session runs as.
type login struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32
}

func ownedBy(st os.FileInfo, uid uint32) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && (sys.Uid == uid || sys.Uid == 0)
}

// lookup reads the user database; root exists without one.
func lookup(name string) (login, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if name == "root" {
			return login{name: "root", home: "/root", shell: "/bin/sh"}, nil
		}
		if uid, perr := strconv.ParseUint(name, 10, 32); perr == nil {
			return login{name: name, home: "/", shell: "/bin/sh", uid: uint32(uid)}, nil
		}
		return login{}, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return login{}, err
	}
	l := login{name: u.Username, home: u.HomeDir, uid: uint32(uid), gid: uint32(gid), shell: shellOf(u.Username)}
	if ids, err := u.GroupIds(); err == nil {
		for _, id := range ids {
			if g, err := strconv.ParseUint(id, 10, 32); err == nil {
				l.groups = append(l.groups, uint32(g))
			}
		}
	}
	return l, nil
}

func shellOf(name string) string {
	data, _ := os.ReadFile("/etc/passwd") // an image may have none
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Split(line, ":")
		if len(f) >= 7 && f[0] == name && f[6] != "" {
			return f[6]
		}
	}
	return "/bin/sh"
}

// who finds the account of a session: the one asked for in a container, our own outside.
func (s *Server) who(name string) (login, error) {
	if s.Container {
		l, err := lookup(name)
		if err == nil && os.Getuid() != 0 && l.uid != uint32(os.Getuid()) {
			return login{}, fmt.Errorf("cannot become %s: the job does not run as root", name)
		}
		if err != nil {
			return login{}, fmt.Errorf("no user %s in this container", name)
		}
		return l, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	shell := os.Getenv("SHELL")
	if shell == "" {
		shell = "/bin/sh"
	}
	return login{name: name, home: home, shell: shell, uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}, nil
}

func (s *Server) session(sess ssh.Session) {
	l, err := s.who(sess.User())
	if err != nil {
		fmt.Fprintln(sess.Stderr(), err)
		_ = sess.Exit(1)
		return
	}
	cmd, err := s.command(sess, l)
	if err != nil {
		fmt.Fprintln(sess.Stderr(), err)
		_ = sess.Exit(127)
		return
	}
	if ssh.AgentRequested(sess) {
		if agent, err := ssh.NewAgentListener(); err == nil {
			defer agent.Close()
			_ = os.Chown(agent.Addr().String(), int(l.uid), int(l.gid))
			_ = os.Chown(filepath.Dir(agent.Addr().String()), int(l.uid), int(l.gid))
			go ssh.ForwardAgentConnections(agent, sess)
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+agent.Addr().String())
		}
	}
	if req, changes, ok := sess.Pty(); ok {
		s.terminal(sess, cmd, l, req, changes)
		return
	}
	s.pipes(sess, cmd)
}

// command builds the process of a session: the login shell, or the shell with -c.
func (s *Server) command(sess ssh.Session, l login) (*exec.Cmd, error) {
	if _, err := os.Stat(l.shell); err != nil {
		return nil, fmt.Errorf("no shell in this container (%s); use sftp or port forwarding", l.shell)
	}
	cmd := exec.Command(l.shell)
	if raw := sess.RawCommand(); raw != "" {
		cmd.Args = append(cmd.Args, "-c", raw)
	} else {
		cmd.Args = []string{"-" + filepath.Base(l.shell)}
	}
	cmd.Dir = l.home
	if dir := s.Dir(); dir != "" && sess.RawCommand() == "" {
		cmd.Dir = dir
	}
	if st, err := os.Stat(cmd.Dir); err != nil || !st.IsDir() {
		cmd.Dir = "/"
	}
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	add := func(list []string) {
		for _, kv := range list {
			if k, v, ok := strings.Cut(kv, "="); ok {
				env[k] = v
			}
		}
	}
	add(s.Env())
	for _, kv := range sess.Environ() {
		if k, _, _ := strings.Cut(kv, "="); k == "LANG" || strings.HasPrefix(k, "LC_") || k == "COLORTERM" || k == "NO_COLOR" {
			add([]string{kv})
		}
	}
	env["HOME"], env["USER"], env["LOGNAME"], env["SHELL"] = l.home, l.name, l.name, l.shell
	remote, rport, _ := net.SplitHostPort(sess.RemoteAddr().String())
	local, lport, _ := net.SplitHostPort(sess.LocalAddr().String())
	env["SSH_CLIENT"] = remote + " " + rport + " " + lport
	env["SSH_CONNECTION"] = remote + " " + rport + " " + local + " " + lport
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.Container && os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: l.uid, Gid: l.gid, Groups: l.groups}
	}
	return cmd, nil
}

// terminal runs a session on a pty.
func (s *Server) terminal(sess ssh.Session, cmd *exec.Cmd, l login, req ssh.Pty, changes <-chan ssh.Window) {
	master, slave, err := OpenTerminal()
	if err != nil {
		fmt.Fprintln(sess.Stderr(), err)
		_ = sess.Exit(1)
		return
	}
	defer master.Close()
	_ = slave.Chown(int(l.uid), int(l.gid)) // as far as we may
	resize := func(w ssh.Window) {
		_ = pty.Setsize(master, &pty.Winsize{Rows: uint16(w.Height), Cols: uint16(w.Width)})
	}
	resize(req.Window)
	cmd.Env = append(cmd.Env, "TERM="+req.Term, "SSH_TTY="+slave.Name())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	slave.Close()
	if err != nil {
		fmt.Fprintln(sess, err)
		_ = sess.Exit(127)
		return
	}
	go func() {
		for w := range changes {
			resize(w)
		}
	}()
	go func() {
		_, _ = io.Copy(master, sess) // ends with the client or the terminal
	}()
	out := NewOutput(master)
	copied := make(chan struct{})
	go func() {
		_, _ = io.Copy(channelOf(sess), out)
		close(copied)
	}()
	done := follow(sess, cmd, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP) })
	err = cmd.Wait()
	close(done)
	out.CommandEnded()
	<-copied
	exit(sess, err)
}

// pipes runs a session without terminal: stdin, stdout and stderr stay apart.
func (s *Server) pipes(sess ssh.Session, cmd *exec.Cmd) {
	stdin, err := cmd.StdinPipe()
	if err != nil {
		_ = sess.Exit(1)
		return
	}
	outR, outW, err1 := os.Pipe()
	errR, errW, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		_ = sess.Exit(1)
		return
	}
	defer outR.Close()
	defer errR.Close()
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	outW.Close()
	errW.Close()
	if err != nil {
		fmt.Fprintln(sess.Stderr(), err)
		_ = sess.Exit(127)
		return
	}
	go func() {
		_, _ = io.Copy(stdin, sess) // until the client says that it is over
		stdin.Close()
	}()
	out, errs := NewOutput(outR), NewOutput(errR)
	var copied sync.WaitGroup
	copied.Go(func() { _, _ = io.Copy(sess.Stderr(), errs) })
	copied.Go(func() { _, _ = io.Copy(sess, out) })
	// As with OpenSSH, a command without terminal notices that its client is gone by its
	// pipes alone: remote editors leave servers running that way.
	done := follow(sess, cmd, func() {
		outR.Close()
		errR.Close()
	})
	err = cmd.Wait()
	close(done)
	out.CommandEnded()
	errs.CommandEnded()
	copied.Wait()
	exit(sess, err)
}

// follow passes the client's signals on until done is closed, and calls gone when the
// client is.
func follow(sess ssh.Session, cmd *exec.Cmd, gone func()) (done chan struct{}) {
	done = make(chan struct{})
	signals := make(chan ssh.Signal, 8)
	sess.Signals(signals)
	go func() {
		for {
			select {
			case <-done:
				return
			case sig := <-signals:
				if n, ok := signalNumbers()[sig]; ok {
					_ = syscall.Kill(-cmd.Process.Pid, n)
				}
			case <-sess.Context().Done():
				gone()
				return
			}
		}
	}()
	return done
}

func signalNumbers() map[ssh.Signal]syscall.Signal {
	return map[ssh.Signal]syscall.Signal{
		ssh.SIGABRT: syscall.SIGABRT, ssh.SIGALRM: syscall.SIGALRM, ssh.SIGFPE: syscall.SIGFPE, ssh.SIGHUP: syscall.SIGHUP,
		ssh.SIGILL: syscall.SIGILL, ssh.SIGINT: syscall.SIGINT, ssh.SIGKILL: syscall.SIGKILL, ssh.SIGPIPE: syscall.SIGPIPE,
		ssh.SIGQUIT: syscall.SIGQUIT, ssh.SIGSEGV: syscall.SIGSEGV, ssh.SIGTERM: syscall.SIGTERM, ssh.SIGUSR1: syscall.SIGUSR1, ssh.SIGUSR2: syscall.SIGUSR2,
	}
}

func exit(sess ssh.Session, err error) {
	var e *exec.ExitError
	switch {
	case err == nil:
		_ = sess.Exit(0)
	case errors.As(err, &e) && e.ExitCode() >= 0:
		_ = sess.Exit(e.ExitCode())
	case errors.As(err, &e):
		_ = sess.Exit(128 + int(e.Sys().(syscall.WaitStatus).Signal()))
	default:
		_ = sess.Exit(1)
	}
}

// sftp serves files as the login user: in this process when it is the same, else through a
// child of our own binary.
func (s *Server) sftp(sess ssh.Session) {
	l, err := s.who(sess.User())
	if err != nil {
		return
	}
	if l.uid == uint32(os.Getuid()) {
		err := ServeSFTP(stayOpen{sess}, l.home)
		exit(sess, err)
		return
	}
	cmd := exec.Command("/proc/self/exe", "sftp", l.home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: l.uid, Gid: l.gid, Groups: l.groups}}
	cmd.Stdin, cmd.Stdout = sess, sess
	exit(sess, cmd.Run())
}

// stayOpen leaves the session open when the server is done, for the exit code: scp fails
// without one.
type stayOpen struct{ io.ReadWriter }

func (stayOpen) Close() error { return nil }

// ServeSFTP speaks SFTP on a connection, starting in dir.
func ServeSFTP(rw io.ReadWriteCloser, dir string) error {
	srv, err := sftp.NewServer(rw, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		return fmt.Errorf("serve sftp: %w", err)
	}
	if err := srv.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("serve sftp: %w", err)
	}
	return srv.Close()
}

// directTCP forwards to an address as seen from the container. "localhost" is both loopback
// addresses, since servers listen on either.
func (s *Server) directTCP(_ *ssh.Server, _ *gossh.ServerConn, ch gossh.NewChannel, ctx ssh.Context) {
	var req struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := gossh.Unmarshal(ch.ExtraData(), &req); err != nil {
		_ = ch.Reject(gossh.ConnectionFailed, "cannot read the request")
		return
	}
	hosts := []string{req.Host}
	if req.Host == "localhost" {
		hosts = []string{"127.0.0.1", "::1"}
	}
	if to, ok := s.Moved[int(req.Port)]; ok && (req.Host == "localhost" || req.Host == "127.0.0.1") {
		req.Port = uint32(to)
	}
	var conn net.Conn
	var err error
	d := net.Dialer{Timeout: 15 * time.Second}
	for _, h := range hosts {
		if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(h, strconv.Itoa(int(req.Port)))); err == nil {
			break
		}
	}
	if err != nil {
		_ = ch.Reject(gossh.ConnectionFailed, err.Error())
		return
	}
	join(ch, conn)
}

func directUnix(_ *ssh.Server, _ *gossh.ServerConn, ch gossh.NewChannel, ctx ssh.Context) {
	var req struct {
		Path      string
		Reserved0 string
		Reserved1 uint32
	}
	if err := gossh.Unmarshal(ch.ExtraData(), &req); err != nil {
		_ = ch.Reject(gossh.ConnectionFailed, "cannot read the request")
		return
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", req.Path)
	if err != nil {
		_ = ch.Reject(gossh.ConnectionFailed, err.Error())
		return
	}
	join(ch, conn)
}

func join(newChannel gossh.NewChannel, conn net.Conn) {
	ch, reqs, err := newChannel.Accept()
	if err != nil {
		conn.Close()
		return
	}
	go gossh.DiscardRequests(reqs)
	pipe(ch, conn)
}

// pipe copies both ways and passes the end of each direction on by itself.
func pipe(ch gossh.Channel, conn net.Conn) {
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.Copy(ch, conn)
		_ = ch.CloseWrite()
		done <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(conn, ch)
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		done <- struct{}{}
	}()
	go func() {
		<-done
		<-done
		ch.Close()
		conn.Close()
	}()
}
