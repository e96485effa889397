package sshd

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	// lingering is how long more output is waited for when a command has ended.
	lingering = 500 * time.Millisecond
	// pending is how many bytes may lie in a pipe at most.
	pending = 1 << 20
)

// Output reads what the processes of a command write, until they have closed it. Descendants may keep it
// open for longer than the command runs: after its end, output is what the reader has not read yet, however
// long that takes it, and what comes while it is waited for.
type Output struct {
	file  *os.File
	ended atomic.Bool
	after int // bytes read since

	waited time.Duration // for them
}

// NewOutput reads from a file whose reads take deadlines, as those of a pipe or of [OpenTerminal].
func NewOutput(f *os.File) *Output { return &Output{file: f} }

// CommandEnded may be called while somebody reads.
func (o *Output) CommandEnded() {
	o.ended.Store(true)
	_ = o.file.SetReadDeadline(time.Now()) // wakes who reads already
}

// Read is io.EOF where output ends.
func (o *Output) Read(p []byte) (int, error) {
	if !o.ended.Load() {
		n, err := o.file.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	if o.after >= pending {
		return 0, io.EOF // a descendant that never pauses
	}
	for o.waited < lingering {
		began := time.Now()
		_ = o.file.SetReadDeadline(began.Add(lingering - o.waited)) // a closed file says so itself
		n, err := o.file.Read(p)
		o.waited += time.Since(began)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			o.after += n
			return n, err
		}
	}
	n, err := o.lying(p)
	o.after += n
	return n, err
}

// lying reads what is there. A read with a deadline does not look where we have been kept from it until then.
func (o *Output) lying(p []byte) (n int, err error) {
	_ = o.file.SetReadDeadline(time.Time{}) // as above
	c, err := o.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	closed := c.Read(func(fd uintptr) bool {
		for n, err = unix.Read(int(fd), p); err == unix.EINTR; n, err = unix.Read(int(fd), p) {
		}
		return true
	})
	if closed != nil || err != nil || n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// opening is a channel of a session on its way to the library, and the context that keeps it. What is
// written to a session of the library with a terminal gets ends of lines that it thinks of by itself, as it
// has no real ones in mind: [channelOf] is the way past it.
type opening struct {
	gossh.NewChannel
	ssh.Context
	channel gossh.Channel
}

const channelKey contextKey = "channel" // gossh.Channel

func openSession(srv *ssh.Server, conn *gossh.ServerConn, ch gossh.NewChannel, ctx ssh.Context) {
	o := &opening{NewChannel: ch, Context: ctx}
	ssh.DefaultSessionHandler(srv, conn, o, o)
}

// Accept keeps the channel.
func (o *opening) Accept() (gossh.Channel, <-chan *gossh.Request, error) {
	ch, reqs, err := o.NewChannel.Accept()
	o.channel = ch
	return ch, reqs, err
}

// Value is the session's channel, or what the connection has.
func (o *opening) Value(key any) any {
	if key == channelKey {
		return o.channel
	}
	return o.Context.Value(key)
}

// channelOf is the channel of a session of [openSession].
func channelOf(sess ssh.Session) gossh.Channel {
	return sess.Context().Value(channelKey).(gossh.Channel)
}
