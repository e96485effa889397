package cli

import (
	"github.com/spf13/cobra"

	"dstack/internal/cli/apply"
	"dstack/internal/cli/attachcmd"
	"dstack/internal/cli/completion"
	"dstack/internal/cli/deletecmd"
	"dstack/internal/cli/event"
	"dstack/internal/cli/fleet"
	"dstack/internal/cli/initrepo"
	"dstack/internal/cli/login"
	"dstack/internal/cli/logs"
	"dstack/internal/cli/metrics"
	"dstack/internal/cli/offer"
	"dstack/internal/cli/program"
	"dstack/internal/cli/project"
	"dstack/internal/cli/ps"
	"dstack/internal/cli/runcmd"
	"dstack/internal/cli/secret"
	"dstack/internal/cli/servercmd"
	"dstack/internal/cli/stop"
	"dstack/internal/cli/validate"
)

// Commands are all commands. Start runs a server; nil leaves `dstack server` out.
func Commands(start servercmd.Start) []func(*program.Program) *cobra.Command {
	all := []func(*program.Program) *cobra.Command{
		apply.New, attachcmd.New, completion.New, deletecmd.New, event.New, fleet.New, initrepo.New, login.New,
		logs.New, metrics.New, offer.New, project.New, ps.New, runcmd.New, secret.New, stop.New, validate.New,
	}
	if start != nil {
		all = append(all, servercmd.New(start))
	}
	return all
}
