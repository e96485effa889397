// Package sshd is the SSH server inside a job's container. It needs nothing from the
// image and offers what OpenSSH clients and remote editors use: shell, exec, sftp,
// forwards of TCP and Unix sockets in both directions, agent forwarding.
//
// Test it with go test ./internal/agent/sshd; the tests drive it with the system's ssh.
package sshd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// Config is what New needs.
type Config struct {
	// Keys are lines of authorized_keys that may log in as any user. ServerKey may too, but
	// its connections do not count as somebody being there.
	Keys      []string
	ServerKey string
	// Container says that logins may become other users and read /etc/passwd.
	Container bool
	Env       func() []string // of the job, for every session
	Dir       func() string   // where sessions start, "" for the home directory
	Log       *slog.Logger
	// Moved are ports of the loopback that are somewhere else: who asks for a key gets its
	// value. Where jobs share ports, a service of one cannot have the port that clients know.
	Moved map[int]int
}

// Server is an SSH server. It is safe for concurrent use.
type Server struct {
	Config
	srv    *ssh.Server
	mu     sync.Mutex
	keys   [][]byte
	server []byte
	ownKey func(user string, wire []byte) bool // whether a key is one of the user's own
	active atomic.Int64
}

type contextKey string

const (
	isServer   contextKey = "server"     // set when the server's key was used
	connection contextKey = "connection" // *counted
)

// New makes a server with fresh host keys.
func New(c Config) (*Server, error) {
	s := &Server{Config: c, ownKey: ownKey}
	for _, line := range c.Keys {
		s.AddKey(line)
	}
	if c.ServerKey != "" {
		if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(c.ServerKey)); err == nil {
			s.server = key.Marshal()
		}
	}
	signers, err := hostKeys()
	if err != nil {
		return nil, err
	}
	forward := &forwards{owner: s.who, listeners: map[string]net.Listener{}}
	s.srv = &ssh.Server{
		Version:           "dstack",
		Handler:           s.session,
		SubsystemHandlers: map[string]ssh.SubsystemHandler{"sftp": s.sftp},
		ChannelHandlers: map[string]ssh.ChannelHandler{
			"session":                        openSession,
			"direct-tcpip":                   s.directTCP,
			"direct-streamlocal@openssh.com": directUnix,
		},
		RequestHandlers: map[string]ssh.RequestHandler{
			"tcpip-forward":                          forward.tcp,
			"cancel-tcpip-forward":                   forward.cancelTCP,
			"streamlocal-forward@openssh.com":        forward.unix,
			"cancel-streamlocal-forward@openssh.com": forward.cancelUnix,
			"keepalive@openssh.com":                  func(ssh.Context, *ssh.Server, *gossh.Request) (bool, []byte) { return false, nil },
		},
		PublicKeyHandler: s.authorize,
		ConnCallback:     s.connected,
		ServerConfigCallback: func(ctx ssh.Context) *gossh.ServerConfig {
			return &gossh.ServerConfig{MaxAuthTries: 20, AuthLogCallback: func(_ gossh.ConnMetadata, _ string, err error) {
				if c, ok := ctx.Value(connection).(*counted); ok && err == nil {
					c.authenticated(ctx.Value(isServer) == nil)
				}
			}}
		},
	}
	for _, k := range signers {
		s.srv.AddHostKey(k)
	}
	return s, nil
}

func hostKeys() ([]ssh.Signer, error) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a host key: %w", err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a host key: %w", err)
	}
	var signers []ssh.Signer
	for _, k := range []any{ed, ec} {
		s, err := gossh.NewSignerFromKey(k)
		if err != nil {
			return nil, fmt.Errorf("use a host key: %w", err)
		}
		signers = append(signers, s)
	}
	return signers, nil
}

// AddKey lets one more key in.
func (s *Server) AddKey(line string) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		s.Log.Warn("an authorized key cannot be read", "err", err)
		return
	}
	s.mu.Lock()
	s.keys = append(s.keys, key.Marshal())
	s.mu.Unlock()
}

// Active is how many users' connections are open.
func (s *Server) Active() int { return int(s.active.Load()) }

// Serve answers connections until ctx ends; then it closes them all.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { s.close(l) })
	defer stop()
	err := s.srv.Serve(l)
	if ctx.Err() != nil || errors.Is(err, ssh.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve SSH: %w", err)
}

// close ends the service on l, also before it has begun.
func (s *Server) close(l net.Listener) {
	s.srv.Close()
	// The library forgets that it was closed when it begins to listen after that, as with a job
	// that is over within milliseconds: it would go on accepting, and the container with it.
	l.Close()
}

// authorize compares with the keys of the job, then with those of the user who logs in.
func (s *Server) authorize(ctx ssh.Context, key ssh.PublicKey) bool {
	wire := key.Marshal()
	if s.server != nil && bytes.Equal(wire, s.server) {
		ctx.SetValue(isServer, true)
		return true
	}
	s.mu.Lock()
	known := slices.ContainsFunc(s.keys, func(k []byte) bool { return bytes.Equal(wire, k) })
	s.mu.Unlock()
	return known || s.Container && s.ownKey(ctx.User(), wire) // a home that hangs keeps nobody else out
}

// maxAuthorized bounds a user's authorized_keys, in bytes.
const maxAuthorized = 1 << 20

// ownKey looks into ~/.ssh/authorized_keys of the user, when nobody else can write it.
// Lines with options are refused: we would not enforce them.
func ownKey(user string, wire []byte) bool {
	u, err := lookup(user)
	if err != nil {
		return false
	}
	return keyIn(u.home, u.uid, wire)
}

func keyIn(home string, uid uint32, wire []byte) bool {
	path := home + "/.ssh/authorized_keys"
	for _, p := range []string{home, home + "/.ssh", path} {
		st, err := os.Stat(p)
		if err != nil || st.Mode().Perm()&0o022 != 0 || !ownedBy(st, uid) {
			return false
		}
		if p == path && (!st.Mode().IsRegular() || st.Size() > maxAuthorized) {
			return false // a pipe, for example, that nobody ever writes to
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for _, line := range strings.Split(string(data), "\n") {
		key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err == nil && len(options) == 0 && bytes.Equal(key.Marshal(), wire) {
			return true
		}
	}
	return false
}

// loginGrace is how long somebody may take to log in, as with OpenSSH. The nodes of a cluster listen to
// everybody, and many only open a connection.
const loginGrace = 2 * time.Minute

// connected counts users' connections and notices dead peers.
func (s *Server) connected(ctx ssh.Context, c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 30 * time.Second, Count: 4}) // best effort
	}
	counted := &counted{Conn: c, server: s, late: time.AfterFunc(loginGrace, func() { c.Close() })}
	ctx.SetValue(connection, counted)
	return counted
}

// counted tells the server when a user's connection comes and goes.
type counted struct {
	net.Conn
	server *Server
	late   *time.Timer  // ends it when nobody has logged in
	state  atomic.Int32 // 0 new, 1 counted, 2 closed
}

func (c *counted) authenticated(user bool) {
	c.late.Stop()
	if user && c.state.CompareAndSwap(0, 1) {
		c.server.active.Add(1)
	}
}

func (c *counted) Close() error {
	c.late.Stop()
	if c.state.Swap(2) == 1 {
		c.server.active.Add(-1)
	}
	return c.Conn.Close()
}
