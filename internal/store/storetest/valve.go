package storetest

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// Valve passes connections to a database on, and holds what they carry back while it is shut.
type Valve struct {
	URL  string // of the database through it
	mu   sync.Mutex
	gate chan struct{} // closed: open
}

// NewValve opens a way to a database until the test ends.
func NewValve(t *testing.T, database string) *Valve {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &Valve{gate: make(chan struct{})}
	v.Open()
	var wg sync.WaitGroup
	target := u.Host
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { v.carry(c, target) })
		}
	})
	t.Cleanup(func() { l.Close(); v.Open(); wg.Wait() })
	u.Host = l.Addr().String()
	v.URL = u.String()
	return v
}

func (v *Valve) carry(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			defer way[1].Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buf)
				<-v.passage()
				if _, werr := way[1].Write(buf[:n]); err != nil || werr != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (v *Valve) passage() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.gate
}

// Shut lets nothing through: what is sent is taken, and confirmed by the kernel.
func (v *Valve) Shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gate = make(chan struct{})
}

// Open lets through what has waited, and everything after it.
func (v *Valve) Open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.gate:
	default:
		close(v.gate)
	}
}
