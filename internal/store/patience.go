package store

import (
	"net"
	"sync"
	"time"
)

// answerTimeout is how long a database may take for an answer. It outlasts what is asked here many times, and
// the longest wait for a lock ([silentOwner]).
const answerTimeout = 30 * time.Second

// patience breaks a connection to Postgres on which no answer comes for too long: something between may take
// what is sent, and the kernel on the other side confirm it, while nobody works on it.
type patience struct {
	net.Conn
	limit time.Duration

	mu    sync.Mutex
	bound bool // by who uses the connection: the driver ends what it waits for with a deadline
}

func (c *patience) Write(b []byte) (int, error) {
	c.wait()
	return c.Conn.Write(b)
}

func (c *patience) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.wait() // for the rest
	}
	return n, err
}

// wait bounds the time until the next bytes come. One that is not waited for ends nothing: the next request
// begins anew.
func (c *patience) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.bound {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.limit)) // a connection that is closed says so itself
	}
}

// SetDeadline implements net.Conn.
func (c *patience) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound = !t.IsZero()
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *patience) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound = !t.IsZero()
	return c.Conn.SetReadDeadline(t)
}
