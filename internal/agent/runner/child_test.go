package runner

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agent/sshd"
	"dstack/internal/agentapi"
)

// A terminal that takes no more input, since nobody has read it for an hour of hints, holds up no end.
func TestEndWithAFullTerminal(t *testing.T) {
	master, slave, err := sshd.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	cmd := exec.Command("/bin/sh", "-c", "trap '' INT; echo ready; sleep 100")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	c := &child{cmd: cmd, started: time.Now(), terminal: master, exited: exited}
	defer c.kill()
	if _, err := master.Read(make([]byte, 8)); err != nil { // it ignores interrupts now
		t.Fatal(err)
	}
	for n := 1; n > 0; { // a moment after it was full the kernel has made room
		if err := master.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err = master.Write([]byte(strings.Repeat(string(rune(endOfInput)), 4096)))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("fill the terminal: %v", err)
	}
	if err := master.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		c.end(hintEvery+50*time.Millisecond, nil)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the job is not ended: its terminal is waited for")
	}
}

// A command that cannot be killed, as it hangs in a driver, does not keep a job running that is to end for what it prints.
func TestHangingCommandOverItsQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cmd := exec.Command("sleep", "60")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		quota := make(chan error, 1)
		quota <- errQuota
		hangs := &child{cmd: cmd, started: time.Now(), exited: make(chan error)} // whose end nobody sees
		if end := new(runner).await(t.Context(), hangs, quota); end.reason != agentapi.LogQuotaExceeded {
			t.Errorf("%+v", end)
		}
		_ = cmd.Wait() // it was killed
	})
}

// A process that is looked at while it begins is taken for itself later, and for nothing else.
func TestIsStill(t *testing.T) {
	whole := program(os.Getpid())
	if len(whole) < 64 {
		t.Fatalf("the auxiliary vector has %d bytes", len(whole))
	}
	for n := 0; n <= len(whole); n += 8 { // as far as the kernel has come
		if begun := strings.TrimRight(whole[:n], "\x00"); !isStill(begun, whole) {
			t.Errorf("after %d bytes it is another", n)
		}
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it runs: the kernel has not only begun to start it
		t.Fatal(err)
	}
	if other := program(cmd.Process.Pid); other == "" || isStill(whole, other) || isStill(other, whole) {
		t.Errorf("two programs are one: %q and %q", whole, other)
	}
}
