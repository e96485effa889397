// Package completion is `dstack completion`.
package completion

import (
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/cli/program"
)

// New returns the command.
func New(p *program.Program) *cobra.Command {
	return &cobra.Command{
		Use:   "completion {bash|zsh|fish|powershell}",
		Short: "Generate shell completion scripts",
		Long: "Print a script that completes commands, options and names of projects, runs and fleets.\n\n" +
			"  bash:  dstack completion bash > ~/.local/share/bash-completion/completions/dstack\n" +
			"  zsh:   dstack completion zsh > \"${fpath[1]}/_dstack\"\n" +
			"  fish:  dstack completion fish > ~/.config/fish/completions/dstack.fish",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(p.Out, true)
			case "zsh":
				return root.GenZshCompletion(p.Out)
			case "fish":
				return root.GenFishCompletion(p.Out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(p.Out)
			}
			return fmt.Errorf("unknown shell %s", args[0])
		},
	}
}
