package runner

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// Init is the first process of a container: it runs the runner as a child, passes signals
// on, and collects every orphan that the job leaves behind. It returns the exit code.
func Init(args []string, log *slog.Logger) int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD, syscall.SIGHUP)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		log.Error("start the runner", "err", err)
		return NoCode
	}
	for s := range signals {
		if s != syscall.SIGCHLD {
			_ = cmd.Process.Signal(s) // it may have ended
			continue
		}
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
			if pid != cmd.Process.Pid {
				continue
			}
			if status.Signaled() {
				fmt.Fprintf(os.Stderr, "the runner was killed by signal %d\n", status.Signal())
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
	return NoCode
}
