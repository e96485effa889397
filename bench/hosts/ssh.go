package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// machine is one host: a listener, an SSH server and an agent.
type machine struct {
	agent    *agent
	config   *ssh.ServerConfig
	listener net.Listener
}

func listen(o options, n int) (*machine, error) {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], uint64(n)+1) // the same host has the same key after a restart
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	// Any key may log in: its signature is checked as ever.
	c := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	c.AddHostKey(key)
	l, err := net.Listen("tcp", netip.AddrPortFrom(Addr(n), uint16(o.Port)).String())
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &machine{agent: newAgent(o, n), config: c, listener: l}, nil
}

// serve accepts connections until ctx ends.
func (m *machine) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { m.listener.Close() })
	defer stop()
	for {
		c, err := m.listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		go m.connection(ctx, c)
	}
}

// connection is one SSH connection from its beginning to its end.
func (m *machine) connection(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewServerConn(raw, m.config)
	if err != nil {
		return // the server gave up, or is no SSH client
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests) // keepalives are answered, all else is refused
	for ch := range channels {
		switch ch.ChannelType() {
		case "direct-streamlocal@openssh.com":
			if c, reqs, err := ch.Accept(); err == nil {
				go ssh.DiscardRequests(reqs)
				go m.agent.serve(ctx, c)
			}
		case "session":
			if c, reqs, err := ch.Accept(); err == nil {
				go m.session(c, reqs)
			}
		default:
			_ = ch.Reject(ssh.UnknownChannelType, "not on this host") // the peer is gone
		}
	}
}

// session runs the one command of a session.
func (m *machine) session(c ssh.Channel, requests <-chan *ssh.Request) {
	defer c.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(false, nil) // the peer is gone
			continue
		}
		var cmd struct{ Text string }
		err := ssh.Unmarshal(r.Payload, &cmd)
		_ = r.Reply(err == nil, nil)
		if err != nil {
			continue
		}
		_, _ = io.Copy(io.Discard, c) // stdin
		_, _ = c.Write([]byte(m.command(cmd.Text)))
		_, _ = c.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
		return
	}
}

// command is what the commands of the onboarding print; others print nothing and succeed.
func (m *machine) command(text string) string {
	switch {
	case strings.Contains(text, "uname -s"):
		i := &m.agent.info
		return fmt.Sprintf("Linux\nx86_64\nroot\n%d\ndocker\nknown\nfinished\nnobody\nboot %s\nkey %s\n", time.Now().Unix(), i.BootID, i.InstanceKey)
	case strings.HasPrefix(text, "sha256sum "):
		return m.agent.info.Hash + "  /usr/local/bin/dstack-agent\n"
	case strings.Contains(text, "/dstack-agent install "):
		data, _ := json.Marshal(m.agent.now()) // a struct of plain fields
		return string(data)
	}
	return ""
}

// newReader has the size that the requests of the agent's API need.
func newReader(c ssh.Channel) *bufio.Reader { return bufio.NewReaderSize(c, 1<<10) }
