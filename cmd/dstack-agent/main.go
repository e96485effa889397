// Command dstack-agent is the host side of dstack: the agent of a host ("shim"), the first
// process of a job's container ("runner"), and what installs them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"dstack/internal/agent/install"
	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agent/shim"
	"dstack/internal/agent/sshd"
	"dstack/internal/agentapi"
	"dstack/internal/version"
)

func main() { os.Exit(run(os.Args[1:])) }

const usage = `usage: dstack-agent <command>

  shim       serve a host: --home DIR [--runtime auto|docker|process] [--socket-user NAME]
  runner     run one job: --dir DIR --blobs DIR
  install    set this host up: --home DIR --user NAME [--env-stdin]
  uninstall  take everything off this host: --home DIR
  connect    join stdin and stdout to the agent's socket: --home DIR
  --version`

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	var err error
	switch args[0] {
	case "--version", "version":
		fmt.Println(version.Version)
	case "shim":
		err = runShim(ctx, args[1:], log)
	case "runner":
		return runRunner(ctx, args, log)
	case "install":
		return install.Main(ctx, args[1:])
	case "uninstall":
		err = install.Uninstall(ctx, args[1:], log)
	case "supervise":
		err = install.Supervise(ctx, args[1:], log)
	case "connect":
		err = connect(ctx, args[1:])
	case "sftp":
		err = sshd.ServeSFTP(stdio{}, args[len(args)-1])
	default:
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dstack-agent:", err)
		return 1
	}
	return 0
}

func runShim(ctx context.Context, args []string, log *slog.Logger) error {
	f := flag.NewFlagSet("shim", flag.ContinueOnError)
	home := f.String("home", agentapi.DefaultHome, "")
	kind := f.String("runtime", "auto", "")
	socketUser := f.String("socket-user", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(*home)
	if err != nil {
		return err
	}
	rt, err := chooseRuntime(ctx, *kind, dir, self)
	if err != nil {
		return err
	}
	uid := -1
	if *socketUser != "" {
		u, err := user.Lookup(*socketUser)
		if err != nil {
			return err
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return err
		}
	}
	return shim.Run(ctx, shim.Config{Home: dir, Runtime: rt, Self: self, SocketUser: uid, Log: log, DCGM: dcgmSettings(os.Getenv, log)})
}

// dcgmSettings reads what an operator says of DCGM on the host, by the published agent's names.
// A number that is none does not keep the agent from its work.
func dcgmSettings(getenv func(string) string, log *slog.Logger) shim.DCGM {
	number := func(name string, most int) int {
		text := getenv(name)
		if text == "" {
			return 0
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			log.Warn("a setting is ignored", "name", name, "value", text, "want", fmt.Sprintf("a number from 1 to %d", most))
			return 0
		}
		return n
	}
	return shim.DCGM{
		Engine:   getenv("DSTACK_DCGM_ADDRESS"),
		Port:     number("DSTACK_DCGM_EXPORTER_HTTP_PORT", math.MaxUint16),
		Interval: time.Duration(number("DSTACK_DCGM_EXPORTER_INTERVAL", 3_600_000)) * time.Millisecond,
	}
}

// chooseRuntime takes Docker when it answers. "auto" falls back to plain processes.
func chooseRuntime(ctx context.Context, kind, home, self string) (runtime.Runtime, error) {
	process := runtime.NewProcess(filepath.Join(home, "tasks"), self)
	if kind == "process" {
		return process, nil
	}
	d, err := runtime.NewDocker(self, home)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if _, err = d.Version(ctx); err == nil {
			return d, nil
		}
	}
	if kind == "auto" {
		return process, nil
	}
	return nil, fmt.Errorf("Docker does not answer: %w", err)
}

func runRunner(ctx context.Context, args []string, log *slog.Logger) int {
	if os.Getpid() == 1 {
		return runner.Init(args, log)
	}
	f := flag.NewFlagSet("runner", flag.ContinueOnError)
	dir := f.String("dir", "", "")
	blobs := f.String("blobs", "", "")
	listen := f.String("listen", "", "")
	ssh := f.Int("ssh-port", agentapi.RunnerSSHPort, "")
	http := f.Int("http-port", agentapi.RunnerHTTPPort, "")
	process := f.Bool("process", false, "")
	if err := f.Parse(args[1:]); err != nil {
		return 2
	}
	return runner.Main(ctx, runner.Config{Dir: *dir, Blobs: *blobs, Listen: *listen, SSHPort: *ssh, HTTPPort: *http, Container: !*process, Log: log})
}

type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return os.Stdin.Close() }

// connect is for servers whose SSH connection may not forward Unix sockets.
func connect(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("connect", flag.ContinueOnError)
	home := f.String("home", agentapi.DefaultHome, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(*home, agentapi.SocketName))
	if err != nil {
		return err
	}
	defer conn.Close()
	done := make(chan error, 2)
	go func() {
		_, err := io.Copy(conn, os.Stdin)
		done <- err
	}()
	go func() {
		_, err := io.Copy(os.Stdout, conn)
		done <- err
	}()
	if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
