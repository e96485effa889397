package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// A Port asks for a local port for one port of the job.
type Port struct {
	Remote int
	Local  int // 0: the same number, or the next free one
}

// A Forward is a local port that leads to one of the job: one that is ours for as long as its listeners are open,
// or without listeners one that the job has opened here itself.
type Forward struct {
	Local, Remote int
	listeners     []net.Listener
}

// A PortInUseError names a local port that was asked for and is taken.
type PortInUseError struct{ Port int }

func (e *PortInUseError) Error() string { return fmt.Sprintf("port %d is already in use", e.Port) }

// Reserve opens the local ports, those that were asked for by number first. Host is the local address to bind,
// "localhost" if empty. Nothing stays open after an error, which may be a [PortInUseError].
func Reserve(ctx context.Context, host string, ports []Port) ([]*Forward, error) {
	if host == "" {
		host = "localhost"
	}
	return reserve(ports, func(port int) ([]net.Listener, error) { return listen(ctx, host, port) })
}

// A binder opens one local port.
type binder func(port int) ([]net.Listener, error)

func reserve(ports []Port, bind binder) ([]*Forward, error) {
	var fs []*Forward
	for _, explicit := range []bool{true, false} {
		for _, p := range ports {
			if explicit != (p.Local != 0) {
				continue
			}
			f, err := bind.open(p)
			if err != nil {
				Release(fs)
				return nil, err
			}
			fs = append(fs, f)
		}
	}
	return fs, nil
}

// PortsOf asks for the same local ports again.
func PortsOf(fs []*Forward) []Port {
	ports := make([]Port, len(fs))
	for i, f := range fs {
		ports[i] = Port{Remote: f.Remote, Local: f.Local}
	}
	return ports
}

// Release closes the listeners.
func Release(fs []*Forward) {
	for _, f := range fs {
		for _, l := range f.listeners {
			_ = l.Close() // it accepts nothing any more, whatever it says
		}
	}
}

func (bind binder) open(p Port) (*Forward, error) {
	first, last := p.Local, p.Local
	if p.Local == 0 {
		first, last = p.Remote, 65535
	}
	for port := first; port <= last; port++ {
		ls, err := bind(port)
		if err == nil {
			return &Forward{Local: port, Remote: p.Remote, listeners: ls}, nil
		}
		taken := errors.Is(err, syscall.EADDRINUSE)
		privileged := errors.Is(err, syscall.EACCES)
		if p.Local == 0 && (taken || privileged) {
			if privileged && port < 1024 { // port 80 of the job: the next candidate that may be free
				port = max(port, 1023)
			}
			continue
		}
		if taken {
			return nil, &PortInUseError{port}
		}
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return nil, &PortInUseError{p.Remote}
}

// listen binds all addresses of localhost, so that clients which try IPv6 first reach us; elsewhere just the one.
func listen(ctx context.Context, host string, port int) ([]net.Listener, error) {
	var lc net.ListenConfig
	n := strconv.Itoa(port)
	if host != "localhost" {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, n))
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	l4, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", n))
	if err != nil {
		return nil, err
	}
	l6, err := lc.Listen(ctx, "tcp6", net.JoinHostPort("::1", n))
	switch {
	case err == nil:
		return []net.Listener{l4, l6}, nil
	case errors.Is(err, syscall.EADDRINUSE):
		_ = l4.Close() // half a port is of no use
		return nil, err
	default: // no IPv6 here
		return []net.Listener{l4}, nil
	}
}
