// Package attachtest is an SSH server in the process of a test, in the place of a host or a job.
package attachtest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Server forwards connections, and does nothing else.
type Server struct {
	Addr *net.TCPAddr

	names map[string]string

	mu       sync.Mutex
	open     []net.Conn
	isolated bool
}

// Serve starts a server for one user and key until the end of the test. Names maps what clients ask for to where they
// get; for all else the server's network is that of the test.
func Serve(t *testing.T, user string, client ssh.PublicKey, names map[string]string) *Server {
	t.Helper()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() != user || !bytes.Equal(k.Marshal(), client.Marshal()) {
			return nil, errors.New("who?")
		}
		return nil, nil
	}}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg.AddHostKey(host)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: l.Addr().(*net.TCPAddr), names: names}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		s.Drop()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.open = append(s.open, c)
			s.mu.Unlock()
			wg.Go(func() { s.serve(c, cfg) })
		}
	})
	return s
}

// Isolate gives the server a network of its own, in which there is nothing but its names.
func (s *Server) Isolate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isolated = true
}

// Drop breaks all connections.
func (s *Server) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		_ = c.Close()
	}
	s.open = nil
}

func (s *Server) serve(c net.Conn, cfg *ssh.ServerConfig) {
	_, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		var m struct {
			Host  string
			Port  uint32
			OHost string
			OPort uint32
		}
		if ssh.Unmarshal(nc.ExtraData(), &m) != nil {
			continue
		}
		want := net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))
		out, err := s.dial(want)
		if err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
			continue
		}
		ch, r, err := nc.Accept()
		if err != nil {
			continue
		}
		go ssh.DiscardRequests(r)
		go func() { _, _ = io.Copy(ch, out); _ = ch.CloseWrite() }()
		go func() { _, _ = io.Copy(out, ch); _ = out.(*net.TCPConn).CloseWrite() }()
	}
}

func (s *Server) dial(want string) (net.Conn, error) {
	s.mu.Lock()
	isolated := s.isolated
	s.mu.Unlock()
	if to, ok := s.names[want]; ok {
		return net.Dial("tcp", to)
	}
	if isolated {
		return nil, errors.New("no route to " + want)
	}
	return net.Dial("tcp", want)
}
