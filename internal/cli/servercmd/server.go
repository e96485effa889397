// Package servercmd is `dstack server`. It knows the flags and not the server, which the program hands in.
package servercmd

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"dstack/internal/cli/doctor"
	"dstack/internal/cli/program"
)

// Flags are what the command line and the environment say about the server to start.
type Flags struct {
	Host     string
	Port     int
	LogLevel string // DEBUG, INFO, WARNING, ERROR
	Token    string // of the administrator, for the first start; empty: a random one
	// Yes and No answer whether ~/.dstack/config.yml may be pointed to this server; neither: only if nothing is lost.
	Yes, No bool
}

// Start runs a server until ctx ends.
type Start func(ctx context.Context, p *program.Program, f Flags) error

// New returns the command that runs start.
func New(start Start) func(*program.Program) *cobra.Command {
	return func(p *program.Program) *cobra.Command {
		var f Flags
		var debug bool
		cmd := &cobra.Command{
			Use:   "server",
			Short: "Start a server",
			Long: "Start a server and keep it running until Ctrl+C.\n\n" +
				"At the first start the server creates the user admin, the project main and its configuration file, and\n" +
				"prints the admin's token. Data are kept in ~/.dstack/server; set DSTACK_SERVER_DIR for another place,\n" +
				"or DSTACK_DATABASE_URL for a PostgreSQL database.",
			Args: cobra.NoArgs,
		}
		fl := cmd.Flags()
		fl.StringVar(&f.Host, "host", or(p.Env("DSTACK_SERVER_HOST"), "127.0.0.1"), "address to bind, also $DSTACK_SERVER_HOST")
		fl.IntVarP(&f.Port, "port", "p", 3000, "port to bind, also $DSTACK_SERVER_PORT")
		fl.StringVarP(&f.LogLevel, "log-level", "l", or(p.Env("DSTACK_SERVER_LOG_LEVEL"), "INFO"), "DEBUG, INFO, WARNING or ERROR, also $DSTACK_SERVER_LOG_LEVEL")
		fl.BoolVarP(&debug, "debug", "d", false, "the same as --log-level DEBUG")
		fl.BoolVarP(&f.Yes, "yes", "y", p.Env("DSTACK_UPDATE_DEFAULT_PROJECT") != "", "make this server's project main the default project of the client")
		fl.BoolVarP(&f.No, "no", "n", p.Env("DSTACK_DO_NOT_UPDATE_DEFAULT_PROJECT") != "", "leave the client's configuration alone")
		fl.StringVar(&f.Token, "token", p.Env("DSTACK_SERVER_ADMIN_TOKEN"), "token of the admin user, for the first start; by default a random one")
		cmd.MarkFlagsMutuallyExclusive("debug", "log-level")
		cmd.MarkFlagsMutuallyExclusive("yes", "no")
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			if v := p.Env("DSTACK_SERVER_PORT"); v != "" && !fl.Changed("port") {
				n, err := strconv.Atoi(v)
				if err != nil || n < 0 || n > 65535 {
					return fmt.Errorf("DSTACK_SERVER_PORT=%s is not a port: write a number from 0 to 65535", v)
				}
				f.Port = n
			}
			if debug {
				f.LogLevel = "DEBUG"
			}
			return start(cmd.Context(), p, f)
		}
		cmd.AddCommand(doctor.New(p))
		return cmd
	}
}

func or(s, def string) string {
	if s != "" {
		return s
	}
	return def
}
