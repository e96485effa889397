package attach

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"time"
)

// probeTimeout bounds the question whether the job's network is ours. Both ends are on this machine.
const probeTimeout = 5 * time.Second

// here reports whether the first hop is this machine. Only then can the job's network be ours.
func (r Route) here() bool {
	if r[0].Hostname == "localhost" {
		return true
	}
	ip := net.ParseIP(r[0].Hostname)
	if ip == nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// sharesNetwork reports whether the job's localhost is ours: whether what the job sends to a port that was just opened
// here arrives. The tunnel is connected. A job that cannot be asked has a network of its own.
func (t *Tunnel) sharesNetwork(ctx context.Context) bool {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return false
	}
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails
	arrived := make(chan bool, 1)
	go func() { arrived <- receives(l, token) }() // ends when l is closed, at the latest
	defer func() { _ = l.Close() }()

	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := t.current().DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }() // what it carried is known
	if _, err := conn.Write(token); err != nil {
		return false
	}
	select {
	case ok := <-arrived:
		return ok
	case <-ctx.Done():
		return false
	}
}

// receives reports whether the first connection brings the token.
func receives(l net.Listener, token []byte) bool {
	c, err := l.Accept()
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }() // it was only read
	got := make([]byte, len(token))
	if c.SetReadDeadline(time.Now().Add(probeTimeout)) != nil {
		return false
	}
	_, err = io.ReadFull(c, got)
	return err == nil && bytes.Equal(got, token)
}
