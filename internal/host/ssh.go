package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/sshkey"
)

const (
	dialTimeout = 10 * time.Second
	// binaryPath is where the agent lies on hosts.
	binaryPath = "/usr/local/bin/dstack-agent"
)

// Codes of OnboardError.
const (
	CodeUnreachable = "unreachable"
	CodeAuth        = "auth"
	CodeHostKey     = "host_key_changed"
	CodeNoSudo      = "no_sudo"
	CodeNoDocker    = "no_docker"
	CodeArch        = "unsupported_arch"
	CodeOS          = "unsupported_os"
	CodeUpload      = "upload_failed"
	CodeClock       = "clock_skew"
	CodeInstall     = "install_failed"
	CodeInUse       = agentapi.InUse
)

// OnboardError says what is wrong with a host and what to do about it.
type OnboardError struct{ Code, Message string }

func (e *OnboardError) Error() string { return e.Message }

func problem(code, format string, args ...any) error {
	return &OnboardError{Code: code, Message: printable(fmt.Sprintf(format, args...))}
}

// maxMessage bounds what is told of a host, in bytes.
const maxMessage = 4 << 10

// printable makes a text of what a host says: databases and terminals take nothing else.
func printable(s string) string {
	if len(s) > maxMessage {
		s = s[:maxMessage] + "…"
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// keys are the host keys that were seen, lines of authorized_keys; Jump is "" without one.
type keys struct{ Host, Jump string }

// open opens an SSH connection, through a jump host if there is one, and returns the
// host keys that were seen.
func (g gate) open(ctx context.Context, e Endpoint, jump *Endpoint) (*ssh.Client, keys, error) {
	if jump == nil {
		var d net.Dialer
		client, key, err := g.handshake(ctx, e, func(ctx context.Context) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", net.JoinHostPort(e.Addr, strconv.Itoa(e.Port)))
		})
		return client, keys{Host: key}, err
	}
	via, seen, err := g.open(ctx, *jump, nil)
	if err != nil {
		var refused *OnboardError
		if errors.As(err, &refused) {
			return nil, keys{}, problem(refused.Code, "jump host: %s", refused.Message)
		}
		return nil, keys{}, fmt.Errorf("jump host: %w", err)
	}
	client, key, err := g.through(ctx, via, e)
	return client, keys{Host: key, Jump: seen.Host}, err
}

// through opens a connection by way of a jump host, whose own ends with it.
func (g gate) through(ctx context.Context, via *ssh.Client, e Endpoint) (*ssh.Client, string, error) {
	client, key, err := g.handshake(ctx, e, func(ctx context.Context) (net.Conn, error) {
		c, err := via.DialContext(ctx, "tcp", net.JoinHostPort(e.Addr, strconv.Itoa(e.Port)))
		return forwarded{c, via}, err
	})
	if err != nil {
		via.Close()
	}
	return client, key, err
}

// forwarded is the forwarding that its jump host is there for. To close a forwarding alone is to ask the
// jump host for it, and whoever reads waits for the answer.
type forwarded struct {
	net.Conn
	via *ssh.Client
}

func (f forwarded) Close() error { return f.via.Close() }

// maxHandshakes bounds the key exchanges at a time. Each takes a millisecond of a processor and
// some kilobytes, so that more would not be faster when thousands of hosts are to be connected
// again; it takes some round trips too, so that fewer would wait for distant hosts.
const maxHandshakes = 256

// gate lets key exchanges begin in the order in which they come, so many at a time as it has
// room for. Their deadlines begin behind it.
type gate struct {
	room    chan struct{}
	connect time.Duration // how long it may take until there is something to exchange keys on
}

func newGate(room int, connect time.Duration) gate { return gate{make(chan struct{}, room), connect} }

func (g gate) enter(ctx context.Context) error {
	select {
	case g.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g gate) leave() { <-g.room }

// handshake connects with dial, and when it is its turn exchanges keys and logs in.
func (g gate) handshake(ctx context.Context, e Endpoint, dial func(context.Context) (net.Conn, error)) (*ssh.Client, string, error) {
	dialing, cancel := context.WithTimeout(ctx, g.connect)
	raw, err := dial(dialing)
	cancel()
	if err != nil {
		return nil, "", problem(CodeUnreachable, "cannot connect to %s: %v. Check the address, the port and that sshd runs", e, err)
	}
	if err := g.enter(ctx); err != nil {
		raw.Close()
		return nil, "", problem(CodeUnreachable, "cannot connect to %s: %v", e, err)
	}
	defer g.leave()
	ctx, cancel = context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	seen := ""
	cfg := &ssh.ClientConfig{
		User: e.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(e.Keys...)}, Timeout: dialTimeout,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			seen = sshkey.Line(key)
			if e.HostKey != "" && e.HostKey != seen {
				return errHostKey
			}
			return nil
		},
	}
	if e.HostKey != "" { // ask for the key that we know, not for another of the host's
		if key, _, err := sshkey.ParsePublic(e.HostKey); err == nil {
			cfg.HostKeyAlgorithms = algorithms(key.Type())
		}
	}
	type result struct {
		client *ssh.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		c, chans, reqs, err := ssh.NewClientConn(raw, net.JoinHostPort(e.Addr, strconv.Itoa(e.Port)), cfg)
		if err != nil {
			done <- result{nil, err}
			return
		}
		done <- result{client(c, chans, reqs), nil}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			raw.Close()
			return nil, "", explain(ctx, e, r.err)
		}
		return r.client, seen, nil
	case <-ctx.Done():
		go raw.Close() // where raw is a forwarding, it is the host that ends what waits for it
		return nil, "", explain(ctx, e, ctx.Err())
	}
}

var errHostKey = errors.New("the host key changed")

func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA}
	}
	return []string{keyType}
}

func explain(ctx context.Context, e Endpoint, err error) error {
	switch {
	case errors.Is(err, errHostKey) || strings.Contains(err.Error(), errHostKey.Error()):
		return problem(CodeHostKey, "the host key of %s is not the one that was seen at first contact: the machine was reinstalled, or another one answers. Remove the host from the fleet and add it again if that is right", e)
	case strings.Contains(err.Error(), "unable to authenticate"):
		var prints []string
		for _, k := range e.Keys {
			prints = append(prints, sshkey.Fingerprint(k.PublicKey()))
		}
		return problem(CodeAuth, "%s refuses the key %s. Check user and identity_file, and that the public key is in ~/.ssh/authorized_keys there", e, strings.Join(prints, ", "))
	case ctx.Err() != nil:
		return problem(CodeUnreachable, "%s does not answer within %v", e, dialTimeout)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without our own port, which is another one each time
	}
	return problem(CodeUnreachable, "SSH to %s fails: %v", e, err)
}

// socketDialer reaches the agent's socket: by forwarding, or where that is refused through
// a command.
func socketDialer(s *ssh.Client, home, user string) func(context.Context) (net.Conn, error) {
	socket := path.Join(home, agentapi.SocketName)
	return func(ctx context.Context) (net.Conn, error) {
		c, err := dialSocket(ctx, s, socket)
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) && refused.Reason == ssh.Prohibited {
			return execConn(s, root(user, binaryPath+" connect --home "+quote(home)))
		}
		return c, err
	}
}

// execConn is a command's stdin and stdout as a connection.
func execConn(s *ssh.Client, cmd string) (net.Conn, error) {
	sess, err := s.NewSession()
	if err != nil {
		return nil, err
	}
	in, err1 := sess.StdinPipe()
	out, err2 := sess.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		sess.Close()
		return nil, err
	}
	if err := sess.Start(cmd); err != nil {
		sess.Close()
		return nil, err
	}
	near, far := net.Pipe()
	go func() {
		_, _ = io.Copy(in, far) // until either side ends
		in.Close()
	}()
	go func() {
		_, _ = io.Copy(far, out) // as above
		far.Close()
		sess.Close()
	}()
	return near, nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }

// root makes a command run as root.
func root(user, cmd string) string {
	if user == "root" {
		return cmd
	}
	return "sudo -n " + cmd
}

// maxOutput bounds what is kept of a command's output, in bytes: hosts may say what they like.
const maxOutput = 1 << 20

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxOutput-b.Len())])
	return len(p), nil
}

// run runs a command on a host, with input, and returns its stdout. Nobody waits for the host when ctx has
// ended: one that does not answer, or does not end the command, holds its session for as long as there
// is the connection, which the caller closes.
func run(ctx context.Context, s *ssh.Client, cmd string, in io.Reader) (string, string, error) {
	type result struct {
		out, errs string
		err       error
	}
	done := make(chan result, 1)
	go func() {
		out, errs, err := command(ctx, s, cmd, in)
		done <- result{out, errs, err}
	}()
	select {
	case r := <-done:
		return r.out, r.errs, r.err
	case <-ctx.Done():
		return "", "", ctx.Err()
	}
}

// command is run for as long as the host takes.
func command(ctx context.Context, s *ssh.Client, cmd string, in io.Reader) (string, string, error) {
	sess, err := s.NewSession()
	if err != nil {
		return "", "", err
	}
	defer sess.Close()
	if ctx.Err() != nil { // nobody waits for it any more
		return "", "", ctx.Err()
	}
	stop := context.AfterFunc(ctx, func() { sess.Close() })
	defer stop()
	var out, errs bounded
	sess.Stdin, sess.Stdout, sess.Stderr = in, &out, &errs
	err = sess.Run(cmd)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), strings.TrimSpace(errs.String()), err
}

// push uploads the agent when the host has another one, and puts it into place at once.
func (p *Pool) push(ctx context.Context, s *ssh.Client, user string, bin agentbin.Binary) error {
	looking, cancel := context.WithTimeout(ctx, lookTimeout)
	out, _, _ := run(looking, s, "sha256sum "+binaryPath+" 2>/dev/null", nil) // absent: upload
	cancel()
	if strings.HasPrefix(out, bin.SHA256) {
		return nil
	}
	select {
	case p.pushes <- struct{}{}:
		defer func() { <-p.pushes }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tmp := fmt.Sprintf("%s.new-%d", binaryPath, rand.Uint32())
	script := fmt.Sprintf("cat >%[1]s && echo '%[2]s  %[1]s' | sha256sum -c - >/dev/null && chmod 0755 %[1]s && mv -f %[1]s %[3]s || { rm -f %[1]s; exit 1; }", tmp, bin.SHA256, binaryPath)
	data, err := bin.Open()
	if err != nil {
		return err
	}
	_, errs, err := run(ctx, s, root(user, "sh -c "+quote(script)), data)
	if err != nil {
		return problem(CodeUpload, "cannot put the agent into %s: %v %s", path.Dir(binaryPath), err, errs)
	}
	return nil
}

// jitter is a time between half of d and one and a half, that follows from a host and a
// number: hosts that were lost together do not come back together.
func jitter(d time.Duration, id string, n int) time.Duration {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", id, n) // a hash takes everything
	return d/2 + time.Duration(h.Sum64()%uint64(d))
}
