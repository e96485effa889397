// Command dstack is the client and the server.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"dstack/internal/cli"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/version"
)

func main() { os.Exit(run()) }

func run() int {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		ends = append(ends, syscall.SIGHUP) // a closed terminal: whoever is attached tidies up
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl+C ends the program, unless a command asks for it
	home, err := os.UserHomeDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, "The home directory is not known, set HOME:", err)
		return 1
	}
	p := &program.Program{IO: term.System(), Home: home, Version: version.Version, Lookup: os.LookupEnv}
	return cli.Main(ctx, cli.Config{Program: p, Commands: cli.Commands(startServer)}, os.Args[1:])
}
