// Package completion is `dstack completion`.
package completion

import (
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/cli/program"
)

// standIns are for functions of the package bash-completion, which the generated script needs and many machines lack.
// Unlike those, they leave = and : as bash splits them.
const standIns = `if ! declare -F _get_comp_words_by_ref >/dev/null; then
    _get_comp_words_by_ref() {
        cur=${COMP_WORDS[COMP_CWORD]}
        prev=${COMP_WORDS[COMP_CWORD - 1]}
        words=("${COMP_WORDS[@]}")
        cword=$COMP_CWORD
    }
fi
if ! declare -F _filedir >/dev/null; then
    _filedir() {
        local path
        while IFS= read -r path; do
            if [[ -d $path || $1 != -d && ( -z $1 || $path == *.@($1) ) ]]; then
                COMPREPLY+=("$path")
            fi
        done < <(compgen -f -- "$cur")
    }
fi`

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
				p.Println(standIns)
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
