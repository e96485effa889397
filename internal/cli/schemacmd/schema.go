// Package schemacmd is `dstack schema`.
package schemacmd

import (
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// New returns the command.
func New(p *program.Program) *cobra.Command {
	return &cobra.Command{
		Use:   "schema [" + strings.Join(config.SchemaKinds(), "|") + "]",
		Short: "Print the JSON Schema of configuration files",
		Long: "Print the JSON Schema of .dstack.yml files, or of profiles. Editors complete and check with it: save it and put\n" +
			"  # yaml-language-server: $schema=FILE\n" +
			"into the first line of a configuration, or use the address that a server gives it, /schemas/configuration.json.",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: config.SchemaKinds(),
		RunE: func(_ *cobra.Command, args []string) error {
			kind := config.SchemaKinds()[0]
			if len(args) > 0 {
				kind = args[0]
			}
			s, err := config.SchemaOf(kind)
			if err != nil {
				return err
			}
			return p.PrintJSON(s)
		},
	}
}
