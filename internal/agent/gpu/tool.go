package gpu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	// toolTimeout bounds a vendor's tool; a driver that hangs must not stop the agent.
	toolTimeout = 30 * time.Second
	// imageTimeout bounds one that comes in an image, which may have to be pulled.
	imageTimeout = 2 * time.Minute
	// removeTimeout bounds the removal of such a one. The engine goes on with it, and agents that are replaced
	// have 8 s to end.
	removeTimeout = 5 * time.Second
	// killTimeout is how long one that was killed may take to end.
	killTimeout = 2 * time.Second
	// outputTimeout is how long children of one that has ended by itself may keep its output open.
	outputTimeout = time.Second
)

// A tool runs a program and returns what it prints, also when it ends with an error. If it had to be killed there is
// none of that, and the error is no [exec.ExitError].
type tool func(ctx context.Context, name string, args ...string) (string, error)

// run is a tool. A program that waits for a driver cannot even be killed, and one that was killed may have children
// that hold its output open: they are left behind. GPUs are looked for again and again, just when drivers hang; until
// all that is left of a program has ended, it is not run again with the same first argument. What one that has ended by
// itself leaves behind, as a daemon that it has started, says nothing against what it has printed.
func (d *Detector) run(ctx context.Context, name string, args ...string) (string, error) {
	which := name + " " + args[0]
	if ended := d.left[which]; ended != nil {
		select {
		case <-ended:
			delete(d.left, which)
		default:
			return "", fmt.Errorf("%s, which was killed before, still does not end", name)
		}
	}
	patience := limit(name, args[0])
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no answer within %v", patience))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // children end with it
	cmd.WaitDelay = outputTimeout
	cmd.Cancel = func() error {
		cmd.WaitDelay = 0 // who holds the output of one that was killed may hang as well, and is waited for below
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	var out []byte
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if out, err = cmd.Output(); errors.Is(err, exec.ErrWaitDelay) {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // as far as it has stayed in the group
			err = nil
		}
	}()
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		<-time.After(killTimeout)
		close(killed)
	})
	defer stop()
	select {
	case <-ended:
	case <-killed:
		if d.left == nil {
			d.left = map[string]<-chan struct{}{}
		}
		d.left[which] = ended
		return "", fmt.Errorf("%s cannot be killed: %w", name, context.Cause(ctx))
	}
	if err != nil && ctx.Err() != nil {
		return "", fmt.Errorf("%s was killed: %w", name, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = because(err, string(exit.Stderr))
	}
	return string(out), err
}

func limit(name, command string) time.Duration {
	switch {
	case name != "docker":
		return toolTimeout
	case command == "rm":
		return removeTimeout
	}
	return imageTimeout
}

// orImage runs a tool of the host, or where there is none the one in an image. To kill Docker's client leaves the
// container as it is, with the devices open. Its name is always the same, so that whoever comes next finds it, and
// there is no second one while it cannot be removed.
func (run tool) orImage(ctx context.Context, name, image string, devices []string, args ...string) (string, error) {
	out, err := run(ctx, name, args...)
	if !errors.Is(err, exec.ErrNotFound) {
		return out, err
	}
	container := "dstack-" + name
	if err := run.remove(ctx, container); err != nil { // of an agent that was killed, or that could not
		return "", err
	}
	docker := []string{"run", "--rm", "--name", container}
	for _, d := range devices {
		docker = append(docker, "--device", d)
	}
	out, err = run(ctx, "docker", append(append(docker, image), args...)...)
	if err != nil && !failed(err) {
		_ = run.remove(context.WithoutCancel(ctx), container) // otherwise the next look does
	}
	return out, err
}

// remove removes a container. That there is none, or that it cannot be removed, is no error.
func (run tool) remove(ctx context.Context, container string) error {
	if _, err := run(ctx, "docker", "rm", "-f", "-v", container); err != nil && !failed(err) {
		return err
	}
	return nil
}

// failed says that a program ended by itself, with an error.
func failed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit)
}

// because adds to an error what a program said of it; err may be nil.
func because(err error, said string) error {
	said = words(said)
	switch {
	case said == "":
		return err
	case err == nil:
		return errors.New(said)
	}
	return fmt.Errorf("%w: %s", err, said)
}

// words is one line for people, of at most 300 characters.
func words(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(text); len(r) > 300 {
		return string(r[:300]) + "..."
	}
	return text
}
