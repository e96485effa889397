package sshd

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

const (
	// lingering is how long a session waits for more output when its command has ended.
	lingering = 500 * time.Millisecond
	// pending is how many bytes may lie in a pipe at most.
	pending = 1 << 20
)

// output reads what the processes of a session write, until they have closed it. Descendants may keep it
// open for longer than the command runs: after its end, output is what the client has not read yet, however
// long that takes it, and what comes without a pause.
type output struct {
	file  *os.File
	ended atomic.Bool
	after int // bytes read since
}

// commandEnded may be called while somebody reads.
func (o *output) commandEnded() {
	o.ended.Store(true)
	_ = o.file.SetReadDeadline(time.Now()) // wakes who reads already
}

func (o *output) Read(p []byte) (int, error) {
	if !o.ended.Load() {
		n, err := o.file.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	if o.after >= pending {
		return 0, io.EOF // a descendant that never pauses
	}
	_ = o.file.SetReadDeadline(time.Now().Add(lingering)) // a closed file says so itself
	n, err := o.file.Read(p)
	o.after += n
	return n, err
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
