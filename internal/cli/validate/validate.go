// Package validate is `dstack validate`.
package validate

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/cli/apply"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// Options are what the user says.
type Options struct {
	*program.Program
	File string
	JSON bool
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "validate [-f FILE]",
		Short: "Check a configuration file",
		Long: "Check a configuration file without a server. A valid one is printed in its normal form, as JSON: what goes to the\n" +
			"server. Of an invalid one all errors are printed with file, line and column, and the exit code is 1.\n\n" +
			"Profiles (profiles.yml) and the server's config.yml are checked too; of the latter no credentials are printed,\n" +
			"and what a backend wants of them is checked when the server starts.",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return Run(o) },
	}
	cmd.Flags().StringVarP(&o.File, "file", "f", "", "the configuration file, by default .dstack.yml; - reads standard input")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print errors as JSON too")
	return cmd
}

// problem is an error as JSON.
type problem struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Col  int    `json:"column"`
	Path string `json:"path"`
	Type string `json:"type"`
	Msg  string `json:"msg"`
}

// Run prints the normal form or the errors.
func Run(o Options) error {
	f, data, err := apply.Read(o.Program, o.File)
	if err != nil {
		return err
	}
	normal, warnings, err := check(f.Path, data)
	if err == nil {
		for _, w := range warnings {
			fmt.Fprintln(o.Err, "warning:", w)
		}
		return o.PrintJSON(normal)
	}
	es, invalid := errors.AsType[*config.Errors](err)
	if !o.JSON || !invalid {
		return err
	}
	out := struct {
		Errors []problem `json:"errors"`
	}{[]problem{}}
	for _, p := range es.Problems {
		out.Errors = append(out.Errors, problem{p.File, p.Line, p.Col, p.Path(), p.Type, p.Msg})
	}
	if err := o.PrintJSON(out); err != nil {
		return err
	}
	return term.Exit(1)
}

// check returns the normal form of a file of any kind, fit to be shown.
func check(file string, data []byte) (normal any, warnings []config.Problem, err error) {
	switch config.KindOf(file, data) {
	case config.KindProfiles:
		normal, err = config.ParseProfiles(file, data)
		return normal, nil, err
	case config.KindServer:
		f, err := config.ParseServerFile(file, data)
		return f.WithoutCredentials(), f.Warnings, err
	}
	a, err := config.Parse(file, data)
	if err == nil {
		err = a.Check()
	}
	return a, a.Warnings, err
}
