package sshd

import (
	"errors"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// forwards holds the listeners that clients asked for. They live as long as their
// connection.
type forwards struct {
	// owner says who a session's sockets belong to.
	owner     func(user string) (login, error)
	mu        sync.Mutex
	listeners map[string]net.Listener
}

type tcpForward struct {
	Addr string
	Port uint32
}

func (f *forwards) tcp(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	var r tcpForward
	if err := gossh.Unmarshal(req.Payload, &r); err != nil {
		return false, nil
	}
	host := "127.0.0.1" // never wider than the container's loopback
	if r.Addr == "::1" {
		host = r.Addr
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
	if err != nil {
		return false, nil
	}
	port := uint32(l.Addr().(*net.TCPAddr).Port)
	f.serve(ctx, key(ctx, r.Addr, port), l, "forwarded-tcpip", func(c net.Conn) []byte {
		origin, originPort := "127.0.0.1", uint32(0)
		if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
			origin, originPort = a.IP.String(), uint32(a.Port)
		}
		return gossh.Marshal(struct {
			Addr       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{r.Addr, port, origin, originPort})
	})
	return true, gossh.Marshal(struct{ Port uint32 }{port})
}

func (f *forwards) cancelTCP(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	var r tcpForward
	if err := gossh.Unmarshal(req.Payload, &r); err != nil {
		return false, nil
	}
	return f.cancel(key(ctx, r.Addr, r.Port)), nil
}

type unixForward struct{ Path string }

func (f *forwards) unix(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	var r unixForward
	if err := gossh.Unmarshal(req.Payload, &r); err != nil {
		return false, nil
	}
	if st, err := os.Lstat(r.Path); err == nil && st.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", r.Path); err == nil {
			c.Close()
			return false, nil // somebody listens there
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(r.Path) // left by a listener that is gone
		}
	}
	l, err := net.Listen("unix", r.Path)
	if err != nil {
		return false, nil
	}
	if err := f.give(ctx.User(), r.Path); err != nil {
		l.Close()
		return false, nil
	}
	f.serve(ctx, key(ctx, r.Path, 0), l, "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return gossh.Marshal(struct{ Path, Reserved string }{r.Path, ""})
	})
	return true, nil
}

// give makes a socket the login user's alone, as if they had opened it.
func (f *forwards) give(user, path string) error {
	l, err := f.owner(user)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	if l.uid == uint32(os.Getuid()) {
		return nil
	}
	return os.Chown(path, int(l.uid), int(l.gid))
}

func (f *forwards) cancelUnix(ctx ssh.Context, _ *ssh.Server, req *gossh.Request) (bool, []byte) {
	var r unixForward
	if err := gossh.Unmarshal(req.Payload, &r); err != nil {
		return false, nil
	}
	return f.cancel(key(ctx, r.Path, 0)), nil
}

func key(ctx ssh.Context, addr string, port uint32) string {
	return ctx.SessionID() + "|" + addr + "|" + strconv.Itoa(int(port))
}

func (f *forwards) cancel(k string) bool {
	f.mu.Lock()
	l := f.listeners[k]
	delete(f.listeners, k)
	f.mu.Unlock()
	if l == nil {
		return false
	}
	l.Close()
	return true
}

// serve opens a channel to the client for every connection to l.
func (f *forwards) serve(ctx ssh.Context, k string, l net.Listener, channel string, extra func(net.Conn) []byte) {
	f.mu.Lock()
	f.listeners[k] = l
	f.mu.Unlock()
	conn := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
	go func() {
		<-ctx.Done()
		f.cancel(k)
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				ch, reqs, err := conn.OpenChannel(channel, extra(c))
				if err != nil {
					c.Close()
					return
				}
				go gossh.DiscardRequests(reqs)
				pipe(ch, c)
			}()
		}
	}()
}
