// Package cli is the dstack command: it puts the commands of the packages beneath it together, runs one,
// and turns its error into a message and an exit code.
//
// Tests run whole command lines against a fake server, see testdata.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// Config is what Main needs.
type Config struct {
	*program.Program
	// Commands makes the commands in the order in which help lists them.
	Commands []func(*program.Program) *cobra.Command
}

// Main runs the command line and returns the exit code: 0 success, 1 an error that was told, 2 wrong usage,
// 130 interrupted.
func Main(ctx context.Context, c Config, args []string) int {
	root := Root(c)
	root.SetArgs(complete(root, args))
	return report(c.IO, root.ExecuteContext(ctx), ctx.Err() != nil)
}

// Root is the command with all others beneath it.
func Root(c Config) *cobra.Command {
	root := &cobra.Command{
		Use:   "dstack",
		Short: "Not sure where to start? Define a .dstack.yml configuration file and run it via dstack apply",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{cmd, fmt.Sprintf("unknown command %q%s", args[0], suggest(cmd, args[0]))}
			}
			return nil
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:       c.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(c.In)
	root.SetOut(c.Out)
	root.SetErr(c.Err)
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().BoolP("version", "v", false, "show the version")
	root.SetHelpCommand(&cobra.Command{Hidden: true, Use: "no-help"})
	root.SetFlagErrorFunc(flagError)
	for _, make := range c.Commands {
		root.AddCommand(make(c.Program))
	}
	strict(root)
	completions(root, c.Program)
	return root
}

// strict makes wrong arguments, missing options and options that exclude each other usage errors of every command.
func strict(cmd *cobra.Command) {
	if cmd.HasParent() {
		check := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if check != nil {
				if err := check(cmd, args); err != nil {
					return wrongArgs(cmd, check, args, err)
				}
			}
			if missing := missingFlags(cmd); len(missing) > 0 {
				return &usageError{cmd, "the following arguments are required: " + strings.Join(missing, ", ")}
			}
			if err := cmd.ValidateFlagGroups(); err != nil {
				return &usageError{cmd, exclusive(err.Error())}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// wrongArgs says whether arguments are missing or too many, instead of how many there are.
func wrongArgs(cmd *cobra.Command, check cobra.PositionalArgs, args []string, err error) error {
	if cmd.HasSubCommands() {
		return &usageError{cmd, fmt.Sprintf("unknown command %q%s", args[0], suggest(cmd, args[0]))}
	}
	for n := len(args) - 1; n >= 0; n-- {
		if check(cmd, args[:n]) == nil {
			return unrecognized(cmd, strings.Join(args[n:], " "))
		}
	}
	var names []string
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if strings.ToLower(word) != word || strings.HasPrefix(word, "{") {
			names = append(names, word)
		}
	}
	if len(args) < len(names) {
		return &usageError{cmd, "the following arguments are required: " + strings.Join(names[len(args):], ", ")}
	}
	return &usageError{cmd, err.Error()}
}

// unrecognized is the error for what a command does not take. Scripts of the original expect exit code 1.
func unrecognized(cmd *cobra.Command, what string) error {
	return fmt.Errorf("Unrecognized arguments: %s\nSee `%s --help`", what, cmd.CommandPath())
}

func missingFlags(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Annotations[cobra.BashCompOneRequiredFlag] != nil && !f.Changed {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// exclusive says it with the options that were given, instead of all that are in the group.
func exclusive(msg string) string {
	_, given, ok := strings.Cut(msg, "; [")
	given, _, ok2 := strings.Cut(given, "]")
	if !ok || !ok2 {
		return msg
	}
	return "--" + strings.Join(strings.Fields(given), " and --") + " cannot be used together"
}

// completions lets the shell complete the values of options, wherever they appear.
func completions(cmd *cobra.Command, p *program.Program) {
	values := map[string]cobra.CompletionFunc{
		"project": p.CompleteProjects, "file": configurationFiles,
		"fleet": p.CompleteFleets, "target-fleet": p.CompleteFleets, "within-fleet": p.CompleteFleets,
		"target-run": p.CompleteAllRuns, "within-run": p.CompleteAllRuns,
		"target-volume": p.CompleteVolumes, "target-gateway": p.CompleteGateways, "target-secret": p.CompleteSecrets,
	}
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if complete, ok := values[f.Name]; ok {
			_ = cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
				return complete(cmd, nil, s) // the arguments say nothing about an option
			}) // the flag exists and has none yet
		}
	})
	for _, sub := range cmd.Commands() {
		completions(sub, p)
	}
}

func configurationFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"yml", "yaml"}, cobra.ShellCompDirectiveFilterFileExt
}

// A usageError is a command line that makes no sense.
type usageError struct {
	cmd *cobra.Command
	msg string
}

func (e *usageError) Error() string { return e.msg }

// flagError tells unknown options from bad values.
func flagError(cmd *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		return unrecognized(cmd, name)
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		f := invalid.GetFlag()
		return &usageError{cmd, fmt.Sprintf("argument --%s: invalid value %q%s", f.Name, invalid.GetValue(), wanted(f.Value.Type()))}
	}
	return &usageError{cmd, err.Error()}
}

// wanted says which values a type of options has.
func wanted(typ string) string {
	switch typ {
	case "int":
		return ", a whole number is needed"
	case "float64":
		return ", a number is needed"
	case "bool":
		return ", it is true or false"
	}
	return ""
}

func suggest(cmd *cobra.Command, arg string) string {
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(arg); len(s) > 0 {
		return fmt.Sprintf(", did you mean %q?", s[0])
	}
	return ""
}

func report(t *term.IO, err error, interrupted bool) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[term.Exit](err); ok {
		return int(exit)
	}
	if usage, ok := errors.AsType[*usageError](err); ok {
		t.Sayf("Usage: %s\n%s: error: %s\n", usage.cmd.UseLine(), usage.cmd.CommandPath(), usage.msg)
		return 2
	}
	if errors.Is(err, term.ErrCancelled) {
		t.Say("\nCancelled by user")
		return 1
	}
	if interrupted && errors.Is(err, context.Canceled) {
		t.Say()
		return 130
	}
	t.Say(t.Paint(term.Error, once(err.Error())))
	return 1
}

// once drops repeated lines: a rule may be broken in the same way at both ends of a range.
func once(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		if len(lines) == 0 || lines[len(lines)-1] != line {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// complete writes abbreviated long options out, where they are unambiguous: --proj as --project.
func complete(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		out[i] = a
		name, isLong := strings.CutPrefix(a, "--")
		name, value, hasValue := strings.Cut(name, "=")
		if !isLong || cmd.Flags().Lookup(name) != nil {
			continue
		}
		if full := only(cmd, name); full != "" {
			out[i] = "--" + full
			if hasValue {
				out[i] += "=" + value
			}
		}
	}
	return out
}

// only returns the one flag that begins with prefix, "" if there is none or more.
func only(cmd *cobra.Command, prefix string) string {
	found, n := "", 0
	visit := func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, prefix) && !f.Hidden {
			found = f.Name
			n++
		}
	}
	cmd.Flags().VisitAll(visit)
	cmd.InheritedFlags().VisitAll(visit)
	if n != 1 {
		return ""
	}
	return found
}
