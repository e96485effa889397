package main

import (
	"fmt"
	"net"
	"time"
)

// forwarder puts a host further away: what passes through it takes half of the round trip
// in each direction.
type forwarder struct{ listener net.Listener }

func stretch(target string, roundTrip time.Duration) (*forwarder, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("stretch the distance: %w", err)
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			far, err := net.Dial("tcp", target)
			if err != nil {
				near.Close()
				continue
			}
			go carry(far, near, roundTrip/2)
			go carry(near, far, roundTrip/2)
		}
	}()
	return &forwarder{l}, nil
}

func (f *forwarder) port() int { return f.listener.Addr().(*net.TCPAddr).Port }

func (f *forwarder) close() { f.listener.Close() }

type packet struct {
	due  time.Time
	data []byte
}

// carry copies with a delay, without limiting how much is on the way.
func carry(to, from net.Conn, delay time.Duration) {
	way := make(chan packet, 10_000)
	go func() {
		defer to.Close()
		for p := range way {
			time.Sleep(time.Until(p.due)) // the distance itself: real programs are measured in real time
			if _, err := to.Write(p.data); err != nil {
				break
			}
		}
		for range way { // let the reader end
		}
	}()
	defer close(way)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			way <- packet{time.Now().Add(delay), append([]byte(nil), buf[:n]...)}
		}
		if err != nil {
			return
		}
	}
}
