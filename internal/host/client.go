package host

import (
	"context"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
)

// client makes a client of a connection. [ssh.NewClient] would be ready for forwardings that
// the host opens, with five goroutines; here there are none, and two refuse what comes.
func client(c ssh.Conn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) *ssh.Client {
	go ssh.DiscardRequests(reqs)
	go func() {
		for ch := range chans {
			_ = ch.Reject(ssh.Prohibited, "the server opens channels") // the connection is gone
		}
	}()
	return &ssh.Client{Conn: c}
}

// dialSocket connects to a Unix socket of the host.
func dialSocket(ctx context.Context, s *ssh.Client, path string) (net.Conn, error) {
	return openChannel(ctx, s, "direct-streamlocal@openssh.com", ssh.Marshal(struct {
		Path      string
		Reserved  string
		Reserved1 uint32
	}{Path: path}))
}

// openChannel opens a forwarding. [ssh.Client.Dial] does the same, but keeps a goroutine and
// 8 KiB for the error output that such a channel does not have.
func openChannel(ctx context.Context, s *ssh.Client, kind string, payload []byte) (net.Conn, error) {
	type result struct {
		ch  ssh.Channel
		err error
	}
	done := make(chan result, 1)
	go func() {
		ch, reqs, err := s.OpenChannel(kind, payload)
		if err == nil {
			go ssh.DiscardRequests(reqs)
		}
		done <- result{ch, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return &channelConn{r.ch, s}, nil
	case <-ctx.Done():
		go func() { // it may open yet
			if r := <-done; r.err == nil {
				r.ch.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// channelConn is a channel as a connection without deadlines.
type channelConn struct {
	ssh.Channel
	client *ssh.Client
}

func (c *channelConn) LocalAddr() net.Addr  { return c.client.LocalAddr() }
func (c *channelConn) RemoteAddr() net.Addr { return c.client.RemoteAddr() }

// Deadlines are not what a channel has.
func (c *channelConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *channelConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *channelConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
