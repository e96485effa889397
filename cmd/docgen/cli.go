package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/cli"
	"dstack/internal/cli/program"
	"dstack/internal/cli/servercmd"
	"dstack/internal/cli/term"

	"context"
)

const generated = "<!-- Made from the code by `make generate`. -->\n\n"

// cliPage describes all commands.
func cliPage() string {
	p := &program.Program{IO: term.System(), Home: "~", Version: "", Lookup: func(string) (string, bool) { return "", false }}
	var b strings.Builder
	b.WriteString("# Commands\n\n" + generated)
	b.WriteString("Every command takes `-h`. Long options may be shortened where that is unambiguous. Exit codes: 0 done, 1 an error or a run\nthat did not end well, 2 wrong arguments, 130 interrupted.\n")
	start := func(context.Context, *program.Program, servercmd.Flags) error { return nil }
	for _, make := range cli.Commands(start) {
		describe(&b, make(p), "dstack")
	}
	return b.String()
}

func describe(b *strings.Builder, c *cobra.Command, parent string) {
	if c.Hidden {
		return
	}
	name := parent + " " + c.Name()
	fmt.Fprintf(b, "\n%s `%s`\n\n", strings.Repeat("#", 1+strings.Count(name, " ")), name)
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	b.WriteString(strings.TrimSpace(text) + "\n")
	if c.Runnable() {
		fmt.Fprintf(b, "\n```\n%s %s\n```\n", parent, c.Use)
	}
	if c.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.Trim(c.Example, "\n"))
	}
	flags(b, c.LocalFlags())
	for _, sub := range c.Commands() {
		describe(b, sub, name)
	}
}

func flags(b *strings.Builder, set *pflag.FlagSet) {
	first := true
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first {
			b.WriteString("\n| Option | |\n|---|---|\n")
			first = false
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		usage := strings.ReplaceAll(strings.ReplaceAll(f.Usage, "|", "\\|"), "\n", " ")
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += fmt.Sprintf(" (default `%s`)", f.DefValue)
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, usage)
	})
}
