package runner

import (
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
)

// child is the job's process, the leader of a session on a terminal of its own.
type child struct {
	cmd      *exec.Cmd
	terminal *os.File // its master side
	exited   <-chan error
}

// end asks the process to end as Ctrl+C does, and kills its process group when it does not
// within grace. More urgent stops shorten the grace.
func (c *child) end(grace time.Duration, stops <-chan stopRequest) {
	if grace > 0 && c.ask(grace, stops) {
		c.kill() // what it left in its process group
		return
	}
	c.kill()
	select {
	case <-c.exited:
	case <-time.After(5 * time.Second): // uninterruptible: the container's end gets it
	}
}

// ask reports whether the process ended in time.
func (c *child) ask(grace time.Duration, stops <-chan stopRequest) bool {
	c.interrupt()
	over := time.NewTimer(grace)
	defer over.Stop()
	// Some shells answer an interrupt with a prompt. The end of their input ends them; who
	// does not read the terminal is not disturbed.
	hint := time.NewTicker(200 * time.Millisecond)
	defer hint.Stop()
	for {
		select {
		case <-c.exited:
			return true
		case <-hint.C:
			_, _ = c.terminal.Write([]byte{endOfInput})
		case <-over.C:
			return false
		case s := <-stops:
			if s.Grace <= 0 {
				return false
			}
			over.Reset(agentapi.Seconds(s.Grace))
		}
	}
}

// endOfInput is Ctrl+D, VEOF of a terminal's default settings.
const endOfInput = 4

// interrupt sends SIGINT to the process, and to the command that a shell with job control
// put into the foreground.
func (c *child) interrupt() {
	_ = c.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	group := 0
	if conn, err := c.terminal.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil {
				group = n
			}
		})
	}
	if group > 0 && group != c.cmd.Process.Pid {
		_ = syscall.Kill(-group, syscall.SIGINT)
	}
}

// kill ends the whole process group of the job.
func (c *child) kill() {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
}
