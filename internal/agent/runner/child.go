package runner

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agentapi"
)

// child is the job's process, the leader of a session on a terminal of its own.
type child struct {
	cmd      *exec.Cmd
	started  time.Time
	terminal *os.File // its master side
	exited   <-chan error
}

// young is how long shells may take to start. Until then an interrupt can be lost in them: they
// go on to the command that they were told to run.
const young = 2 * time.Second

// hintEvery is the time between two hints to a shell that is to leave its prompt.
const hintEvery = 200 * time.Millisecond

// end asks the process to end as Ctrl+C does, and kills its process group when it does not
// within grace. More urgent stops shorten the grace; nothing prolongs it: a server repeats what it asks
// for as long as it waits.
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
	asked := c.interrupt()
	ends := time.Now().Add(grace)
	over := time.NewTimer(grace)
	defer over.Stop()
	// Some shells answer an interrupt with a prompt. The end of their input ends them; who
	// does not read the terminal is not disturbed.
	hint := time.NewTicker(hintEvery)
	defer hint.Stop()
	for {
		select {
		case <-c.exited:
			return true
		case <-hint.C:
			c.endInput()
			c.interruptNext(&asked)
		case <-over.C:
			return false
		case s := <-stops:
			if s.Grace <= 0 {
				return false
			}
			if sooner := time.Now().Add(agentapi.Seconds(s.Grace)); sooner.Before(ends) {
				ends = sooner
				over.Reset(time.Until(ends))
			}
		}
	}
}

// leavePrompt ends the input of a shell that has come to its prompt, until done. Shells that were told
// to be interactive, such as dash and BusyBox's, show one after errors that end other shells, and
// nobody could ever answer it.
func (c *child) leavePrompt(o *output, done <-chan struct{}) {
	const quiet = time.Second
	first := program(c.cmd.Process.Pid)
	look := time.NewTicker(quiet / 2)
	defer look.Stop()
	for {
		select {
		case <-done:
			return
		case <-look.C:
		}
		if first == "" {
			first = program(c.cmd.Process.Pid)
		}
		if c.foreground() == 0 && isPrompt(o.lastLine(quiet)) && sleeps(c.cmd.Process.Pid) && isStill(first, program(c.cmd.Process.Pid)) {
			c.endInput()
		}
	}
}

// isPrompt says that what stands at the cursor looks like a shell's default prompt. BusyBox asks the
// terminal where the cursor is behind its own.
func isPrompt(line string) bool {
	line = strings.TrimSuffix(line, "\x1b[6n")
	return strings.HasSuffix(line, "# ") || strings.HasSuffix(line, "$ ")
}

// sleeps says that a process waits for something.
func sleeps(pid int) bool {
	stat, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, after, _ := strings.Cut(string(stat), ") ") // behind the name
	return strings.HasPrefix(after, "S")
}

// endOfInput is Ctrl+D, VEOF of a terminal's default settings.
const endOfInput = 4

// endInput ends the input of who reads the terminal. One that nobody reads holds only so much, and then another
// hint is of no use: it must not hold up who waits for the process to end, or for its time to be over.
func (c *child) endInput() {
	_ = c.terminal.SetWriteDeadline(time.Now().Add(hintEvery / 2)) // it fails where the terminal is closed
	_, _ = c.terminal.Write([]byte{endOfInput})
}

// interrupted is who got an interrupt.
type interrupted struct {
	program string // of the process, see [program]
	lost    bool   // perhaps: by a shell that was starting
	// begun is the process group of a command that was still a copy of the shell when it got the interrupt, 0
	// for none: what it becomes knows nothing of it.
	begun int
}

// interrupt sends SIGINT to the process, and to the command that a shell with job control
// put into the foreground.
func (c *child) interrupt() interrupted {
	asked := interrupted{program: program(c.cmd.Process.Pid)}
	_ = c.cmd.Process.Signal(syscall.SIGINT) // it may have ended
	if group := c.foreground(); group > 0 {
		asked.command(group)
	} else {
		asked.lost = time.Since(c.started) < young
	}
	return asked
}

// command sends SIGINT to a command of the shell.
func (i *interrupted) command(group int) {
	if i.program != "" && program(group) == i.program {
		i.begun = group
	}
	_ = syscall.Kill(-group, syscall.SIGINT)
}

// interruptNext sends SIGINT to what came after a shell that has lost it: what the shell or its copy has
// become, or the first command that it started. Everybody else gets one only once: many a
// program takes the second for an order to drop everything.
func (c *child) interruptNext(asked *interrupted) {
	if now := program(c.cmd.Process.Pid); now != "" && !isStill(asked.program, now) {
		asked.program = now
		_ = c.cmd.Process.Signal(syscall.SIGINT)
	}
	if now := program(asked.begun); asked.begun > 0 && now != "" && !isStill(asked.program, now) {
		_ = syscall.Kill(-asked.begun, syscall.SIGINT)
		asked.begun = 0
	}
	if group := c.foreground(); group > 0 && asked.lost {
		asked.lost = false
		asked.command(group)
	}
}

// foreground is the process group that has the terminal, 0 when that is the process's own.
func (c *child) foreground() int {
	group := 0
	if conn, err := c.terminal.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil && n != c.cmd.Process.Pid {
				group = n
			}
		})
	}
	return group
}

// program tells what a process executes from what it executed before: exec gives it another
// auxiliary vector, with addresses of its own. It is "" where that cannot be read. While the kernel writes
// it, which is a moment after our start of the process has returned, it is the beginning of what it will be.
func program(pid int) string {
	vector, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "auxv"))
	return strings.TrimRight(string(vector), "\x00")
}

// isStill says that a process executes what it did.
func isStill(was, now string) bool { return strings.HasPrefix(now, was) }

// kill ends the whole process group of the job.
func (c *child) kill() {
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
}
