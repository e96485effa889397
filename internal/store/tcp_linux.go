package store

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// boundSilence makes the kernel give a connection up when what was sent is not acknowledged
// for as long as silence. It is a net.Dialer's Control.
func boundSilence(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
	if ctlErr != nil {
		return ctlErr
	}
	return err
}
