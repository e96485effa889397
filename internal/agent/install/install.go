// Package install puts the agent onto a host and takes it off again: checks that say in
// words what is wrong, a systemd unit where there is systemd, a supervisor of our own
// where there is none.
package install

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agent/shim"
	"dstack/internal/agentapi"
)

const (
	unitName = "dstack-agent.service"
	unitPath = "/etc/systemd/system/" + unitName
	// minDisk is the least free space on which an image can be pulled at all, in bytes.
	minDisk = 1 << 30
	// startTimeout is how long the agent may take until it answers: it may have to pull an
	// image to see the host's accelerators.
	startTimeout = 150 * time.Second
)

// runtimeVar is the variable of a fleet's env with which its owner allows jobs without
// containers: "process", "auto" (where Docker does not answer) or "docker".
const runtimeVar = "DSTACK_AGENT_RUNTIME"

type options struct {
	home, user string
	server     string // whose the agent is to be, "" for whoever connects
	// newEnv says that the agent's variables come on stdin, as a JSON object. Without it the
	// installed ones stay.
	newEnv bool
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("install", flag.ContinueOnError)
	f.StringVar(&o.home, "home", agentapi.DefaultHome, "")
	f.StringVar(&o.user, "user", "", "")
	f.StringVar(&o.server, "server", "", "")
	f.BoolVar(&o.newEnv, "env-stdin", false, "")
	return o, f.Parse(args)
}

// Main installs, and prints the host's description or an error as JSON.
func Main(ctx context.Context, args []string) int {
	o, err := parse(args)
	var info agentapi.HostInfo
	if err == nil {
		info, err = install(ctx, o)
	}
	var out any = info
	if err != nil {
		var e *agentapi.Error
		if !errors.As(err, &e) {
			e = &agentapi.Error{Code: "error", Message: err.Error()}
		}
		out = e
	}
	_ = json.NewEncoder(os.Stdout).Encode(out) // nobody listens
	if err != nil {
		return 1
	}
	return 0
}

func problem(code, format string, args ...any) error {
	return &agentapi.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func install(ctx context.Context, o options) (agentapi.HostInfo, error) {
	var none agentapi.HostInfo
	if os.Getuid() != 0 {
		return none, problem("no_sudo", "the agent has to be installed by root")
	}
	self, err := os.Executable()
	if err != nil {
		return none, err
	}
	env, err := environment(o, os.Stdin)
	if err != nil {
		return none, err
	}
	kind := cmp.Or(env[runtimeVar], "docker")
	switch kind {
	case "docker":
		if err := checkDocker(ctx, self, o.home); err != nil {
			return none, err
		}
	case "process", "auto":
	default:
		return none, problem("error", "%s is %q; it can be docker, process or auto", runtimeVar, kind)
	}
	if err := os.MkdirAll(o.home, 0o755); err != nil {
		return none, problem("disk_full", "cannot write to %s: %v", o.home, err)
	}
	if err := claim(o.home, o.server, time.Now()); err != nil {
		return none, err
	}
	free := int64(math.MaxInt64)
	var fs unix.Statfs_t
	if err := unix.Statfs(o.home, &fs); err == nil {
		free = int64(fs.Bavail) * fs.Bsize
	}
	if err := o.keep(env, free); err != nil {
		return none, err
	}
	if err := start(ctx, self, o, kind, env); err != nil {
		return none, err
	}
	return await(ctx, o.home)
}

// keep writes the agent's variables down, where there is room for images too. An agent that is there already
// keeps those that it has, and needs no room: its jobs would be out of reach without it.
func (o options) keep(env map[string]string, free int64) error {
	if _, err := os.Stat(envPath(o.home)); err == nil && !o.newEnv {
		return nil
	}
	if free < minDisk {
		return problem("disk_full", "only %d MiB are free below %s; free at least 1 GiB", free>>20, o.home)
	}
	if err := runner.WriteFile(envPath(o.home), []byte(formatEnv(env)), 0o600); err != nil {
		return problem("disk_full", "cannot write to %s: %v", o.home, err)
	}
	return nil
}

func checkDocker(ctx context.Context, self, home string) error {
	d, err := runtime.NewDocker(self, home)
	if err == nil {
		dctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		if _, err = d.Version(dctx); err == nil {
			return nil
		}
	}
	if _, lookErr := exec.LookPath("dockerd"); lookErr != nil {
		return problem("no_docker", "Docker is not installed on the host. Install it (https://docs.docker.com/engine/install) and apply again")
	}
	return problem("no_docker", "Docker is installed on the host but does not answer: %v. Start it (systemctl start docker) and apply again", err)
}

// start restarts the agent with the binary that runs now. Containers go on.
func start(ctx context.Context, self string, o options, kind string, env map[string]string) error {
	args := []string{"shim", "--home", o.home, "--runtime", kind}
	if o.user != "" {
		args = append(args, "--socket-user", o.user)
	}
	if st, err := os.Stat("/run/systemd/system"); err == nil && st.IsDir() {
		return startUnit(ctx, self, args, o)
	}
	return startSupervised(self, args, o, env)
}

func startUnit(ctx context.Context, self string, args []string, o options) error {
	unit := fmt.Sprintf(`[Unit]
Description=dstack agent
After=network-online.target docker.service
StartLimitIntervalSec=0

[Service]
ExecStart=%s %s
EnvironmentFile=-%s
Restart=always
RestartSec=2
# Only the agent itself is restarted: containers and jobs go on.
KillMode=process

[Install]
WantedBy=multi-user.target
`, self, strings.Join(args, " "), envPath(o.home))
	if had, err := os.ReadFile(unitPath); err != nil || string(had) != unit { // a full disk keeps nobody from starting again
		if err := runner.WriteFile(unitPath, []byte(unit), 0o644); err != nil {
			return err
		}
	}
	for _, cmd := range [][]string{{"daemon-reload"}, {"enable", "--quiet", unitName}, {"restart", unitName}} {
		if cmd[0] == "restart" {
			hideSocket(o.home)
		}
		if out, err := exec.CommandContext(ctx, "systemctl", cmd...).CombinedOutput(); err != nil {
			return problem("error", "systemctl %s: %s", cmd[0], strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// hideSocket takes the old agent's socket away, so that the new one is seen to answer: not before the old
// one has to end.
func hideSocket(home string) { _ = os.Remove(filepath.Join(home, agentapi.SocketName)) }

// startSupervised starts a detached process that keeps the agent running.
func startSupervised(self string, args []string, o options, env map[string]string) error {
	stopSupervised(o.home)
	hideSocket(o.home)
	log, err := os.OpenFile(filepath.Join(o.home, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{"supervise"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	pid := []byte(fmt.Sprint(cmd.Process.Pid))
	if err := os.WriteFile(filepath.Join(o.home, "supervisor.pid"), pid, 0o644); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// stopSupervised ends the supervisor and the agent of an earlier installation, and the agent also when its
// supervisor is dead: it has the home's lock, and would keep every later one from starting.
func stopSupervised(home string) {
	stop(filepath.Join(home, "supervisor.pid"), "\x00supervise\x00")
	stop(filepath.Join(home, "lock"), "\x00shim\x00--home\x00"+home+"\x00")
}

// stop ends the process whose id a file holds, if its command line shows that it still is ours.
func stop(pidFile, mark string) {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return
	}
	var pid int
	if n, _ := fmt.Sscan(string(data), &pid); n != 1 || !isOurs(pid, mark) {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for deadline := time.Now().Add(10 * time.Second); isOurs(pid, mark) && time.Now().Before(deadline); {
		<-time.After(20 * time.Millisecond)
	}
	if isOurs(pid, mark) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func isOurs(pid int, mark string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(data), mark)
}

// Supervise runs the agent again whenever it ends, until it is told to end itself.
func Supervise(ctx context.Context, args []string, log *slog.Logger) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	self = strings.TrimSuffix(self, " (deleted)") // replaced while we ran
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, self, args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 8 * time.Second
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err := cmd.Run()
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("the agent ended and is started again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	return nil
}

// await returns what the agent says about the host once it answers.
func await(ctx context.Context, home string) (agentapi.HostInfo, error) {
	client := dial(home)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		info, err := client.Host(ctx)
		if err == nil {
			return info, nil
		}
		select {
		case <-ctx.Done():
			return agentapi.HostInfo{}, problem("error", "the agent does not start: %v. Its log: journalctl -u dstack-agent, or %s/agent.log\n%s", err, home, tail(filepath.Join(home, "agent.log")))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func dial(home string) *agentapi.Client {
	return agentapi.NewClient(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(home, agentapi.SocketName))
	})
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

// Uninstall ends all tasks, then the agent, and removes every file of ours. It may be
// repeated, and does not need the agent to answer.
func Uninstall(ctx context.Context, args []string, log *slog.Logger) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	endTasks(ctx, o.home, log)
	runtimes, err := runtimesOf(ctx, self, o.home)
	if err != nil {
		return err // before the agent goes, which removes what is left when it can
	}
	if _, err := os.Stat(unitPath); err == nil {
		for _, cmd := range [][]string{{"disable", "--now", "--quiet", unitName}, {"reset-failed", "--quiet", unitName}} {
			_ = exec.CommandContext(ctx, "systemctl", cmd...).Run() // it may be gone already
		}
		_ = os.Remove(unitPath)
		_ = exec.CommandContext(ctx, "systemctl", "daemon-reload").Run() // as above
	}
	stopSupervised(o.home)
	if err := shim.Purge(ctx, o.home, runtimes); err != nil {
		return err
	}
	if err := removeAll(o.home); err != nil {
		return err
	}
	return os.Remove(self)
}

// runtimesOf are those that may have something of the tasks of a home. Docker is one where it answers; where it
// is installed and does not, while there are tasks, their containers would be left for ever.
func runtimesOf(ctx context.Context, self, home string) ([]runtime.Runtime, error) {
	tasks := filepath.Join(home, "tasks")
	list := []runtime.Runtime{runtime.NewProcess(tasks, self)}
	d, err := runtime.NewDocker(self, home)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		if _, err = d.Version(ctx); err == nil {
			return append(list, d), nil
		}
	}
	if _, none := exec.LookPath("dockerd"); none != nil {
		return list, nil
	}
	if env, err := environment(options{home: home}, nil); err == nil && env[runtimeVar] == "process" {
		return list, nil
	}
	if left, rerr := os.ReadDir(tasks); rerr != nil || len(left) == 0 {
		return list, nil
	}
	return nil, fmt.Errorf("Docker does not answer, and has containers of tasks: %w", err)
}

// endTasks asks the agent to end its tasks. What is left afterwards, as when no agent
// answers, is Purge's.
func endTasks(ctx context.Context, home string, log *slog.Logger) {
	client := dial(home)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tasks, err := client.Tasks(ctx)
	if err != nil {
		log.Info("no agent answers", "err", err)
		return
	}
	for _, t := range tasks {
		if _, err := client.Terminate(ctx, t.ID, agentapi.Terminate{Reason: agentapi.TerminatedByServer, Message: "the host is removed"}); err != nil {
			log.Warn("end a task", "task", t.ID, "err", err)
		}
	}
	for _, t := range tasks {
		for client.Delete(ctx, t.ID) != nil && ctx.Err() == nil {
			<-time.After(50 * time.Millisecond) // until it has ended
		}
	}
}

// removeAll removes a folder; of one that is a mount, its content.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	if entries, rerr := os.ReadDir(dir); rerr == nil && len(entries) == 0 {
		return nil
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}
