package sshd

import (
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// OpenTerminal opens a terminal whose master's reads end when it is closed, which those of [pty.Open]
// do not: it leaves the file in blocking mode.
func OpenTerminal() (master, slave *os.File, err error) {
	blocking, slave, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		slave.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), blocking.Name()), slave, nil
}
