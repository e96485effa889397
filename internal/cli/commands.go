package cli

import (
	"github.com/spf13/cobra"

	"dstack/internal/cli/apply"
	"dstack/internal/cli/attachcmd"
	"dstack/internal/cli/catalog"
	"dstack/internal/cli/completion"
	"dstack/internal/cli/cost"
	"dstack/internal/cli/deletecmd"
	"dstack/internal/cli/event"
	"dstack/internal/cli/exports"
	"dstack/internal/cli/fleet"
	"dstack/internal/cli/gateway"
	"dstack/internal/cli/initrepo"
	"dstack/internal/cli/login"
	"dstack/internal/cli/logs"
	"dstack/internal/cli/metrics"
	"dstack/internal/cli/offer"
	"dstack/internal/cli/program"
	"dstack/internal/cli/project"
	"dstack/internal/cli/ps"
	"dstack/internal/cli/runcmd"
	"dstack/internal/cli/schemacmd"
	"dstack/internal/cli/secret"
	"dstack/internal/cli/servercmd"
	"dstack/internal/cli/stop"
	"dstack/internal/cli/validate"
	"dstack/internal/cli/volume"
)

// Commands are all commands. Start runs a server; nil leaves `dstack server` out.
func Commands(start servercmd.Start) []func(*program.Program) *cobra.Command {
	all := []func(*program.Program) *cobra.Command{
		apply.New, attachcmd.New, catalog.New, completion.New, cost.New, deletecmd.New, event.New, exports.NewExport, exports.NewImport, fleet.New,
		gateway.New, initrepo.New, login.New, logs.New, metrics.New, offer.New, project.New, ps.New, runcmd.New, schemacmd.New,
		secret.New,
		stop.New, validate.New, volume.New,
	}
	if start != nil {
		all = append(all, servercmd.New(start))
	}
	return all
}
