// Package apply is `dstack apply`: it brings a configuration file to the server, shows what would happen, asks, and
// follows what does.
//
// Tests run it against a fake server that answers with recorded bodies.
package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/cli/override"
	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// Options are what the user says. Not all of them apply to all types of configurations.
type Options struct {
	*program.Program
	Project string
	File    string
	Yes     bool
	Force   bool
	Detach  bool
	Verbose bool

	Name        string
	Vars        []string // of --env
	SSHIdentity string
	MaxOffers   int
	FullOffers  bool
	Unallocated bool
	Ports       []string
	Host        string
	Override    override.Flags
	Repo        RepoOptions
	Args        []string // after --
}

// RepoOptions choose the git repository of a run.
type RepoOptions struct {
	Repo, Branch, Hash string
	None               bool
	Token, Identity    string
}

// flagsOf lists the options of each type beside those that all share.
var runFlags = []string{
	"name", "env", "ssh-identity", "max-offers", "full-offers", "unallocated", "cpu", "gpu", "memory", "disk",
	"profile", "no-profile", "max-price", "max-duration", "backend", "region", "instance-type", "fleet", "reuse",
	"dont-destroy", "idle-duration", "spot", "on-demand", "spot-auto", "spot-policy", "retry", "no-retry", "retry-duration",
	"repo", "repo-branch", "repo-hash", "no-repo", "token", "git-identity",
}

func flagsOf(typ string) []string {
	switch typ {
	case config.TypeTask, config.TypeDevEnvironment:
		return append([]string{"port", "host"}, runFlags...)
	case config.TypeService:
		return runFlags
	case config.TypeFleet:
		return []string{"name", "env"}
	}
	return []string{"name"}
}

var commonFlags = map[string]bool{"project": true, "file": true, "yes": true, "force": true, "detach": true, "verbose": true}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "apply [-f FILE] [options] [-- RUN_ARGS...]",
		Short: "Apply a configuration",
		Long: "Apply a configuration: submit a run (task, dev-environment, service), or create a fleet, volume or gateway.\n\n" +
			"The plan is shown first and asked about. A run that is active is changed in place where that is possible,\n" +
			"or else stopped and replaced. While a run is followed, its log is printed, its ports are forwarded to this\n" +
			"machine, and `ssh RUN` opens a shell in it. Ctrl+C asks whether to stop the run before detaching.\n\n" +
			"Arguments after -- replace ${{ run.args }} in the commands of tasks and services.",
		DisableFlagsInUseLine: true,
	}
	o.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dash := cmd.ArgsLenAtDash()
		if dash < 0 {
			dash = len(args)
		}
		if dash > 0 {
			return unrecognized(args[:dash])
		}
		o.Args = args
		err := run(cmd.Context(), o, cmd.Flags())
		if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
			p.Say("\nOperation interrupted by user. Exiting...")
			return nil
		}
		return err
	}
	return cmd
}

func (o *Options) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.StringVarP(&o.File, "file", "f", "", "the configuration file, by default .dstack.yml; - reads standard input")
	f.BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	f.BoolVar(&o.Force, "force", false, "apply although nothing changed")
	f.BoolVarP(&o.Detach, "detach", "d", false, "return once it is submitted")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "show also default values in the plan")

	f.StringVarP(&o.Name, "name", "n", "", "the name of the run, fleet, volume or gateway")
	f.StringArrayVarP(&o.Vars, "env", "e", nil, "set an environment variable, as KEY=VALUE, or KEY to take it from here; repeatable")
	f.StringVar(&o.SSHIdentity, "ssh-identity", "", "the private SSH key for access to the run, by default the user's key from the server")
	f.IntVar(&o.MaxOffers, "max-offers", 3, "how many offers the plan shows")
	f.BoolVar(&o.FullOffers, "full-offers", false, "show offers with all the resources of their instances")
	f.BoolVar(&o.Unallocated, "unallocated", false, "show only resources that are not allocated yet")
	f.StringArrayVarP(&o.Ports, "port", "p", nil, "forward a port, as PORT, LOCAL:PORT or *:PORT; repeatable")
	f.StringVar(&o.Host, "host", "", "the local address that forwarded ports bind, by default localhost")
	o.Override.AddResources(f)
	o.Override.AddProfile(cmd)
	f.StringVarP(&o.Repo.Repo, "repo", "P", "", "the git repository, a path or URL")
	f.StringVar(&o.Repo.Branch, "repo-branch", "", "the branch of the repository")
	f.StringVar(&o.Repo.Hash, "repo-hash", "", "the commit of the repository")
	f.BoolVar(&o.Repo.None, "no-repo", false, "do not use a repository")
	f.StringVarP(&o.Repo.Token, "token", "t", "", "an OAuth token for the repository")
	f.StringVar(&o.Repo.Identity, "git-identity", "", "the private SSH key for the repository")
	cmd.MarkFlagsMutuallyExclusive("token", "git-identity")
}

func run(ctx context.Context, o Options, set *pflag.FlagSet) error {
	if o.File == "-" && !o.Yes {
		return errors.New("Cannot read configuration from stdin if -y/--yes is not specified")
	}
	f, err := Load(o.Program, o.File)
	if err != nil {
		return err
	}
	for _, w := range f.Warnings {
		fmt.Fprintln(o.Err, "warning:", w)
	}
	if err := checkFlags(set, f.Type()); err != nil {
		return err
	}
	if len(o.Args) > 0 && f.Type() != config.TypeTask && f.Type() != config.TypeService {
		return unrecognized(o.Args)
	}
	if o.Name != "" {
		if err := config.CheckName(o.Name); err != nil {
			return fmt.Errorf("--name: %w", err)
		}
		f.rename(o.Name)
	}
	if err := f.Check(); err != nil {
		return err
	}
	switch {
	case f.Run != nil:
		return applyRun(ctx, o, f)
	case f.Fleet != nil:
		return applyFleet(ctx, o, f)
	case f.Volume != nil:
		return applyVolume(ctx, o, f)
	case f.Gateway != nil:
		return applyGateway(ctx, o, f)
	}
	return fmt.Errorf("configurations of type %s cannot be applied", f.Type())
}

// checkFlags refuses options that do not apply to a type.
func checkFlags(set *pflag.FlagSet, typ string) error {
	ok := map[string]bool{}
	for _, name := range flagsOf(typ) {
		ok[name] = true
	}
	var bad []string
	set.Visit(func(f *pflag.Flag) {
		if !ok[f.Name] && !commonFlags[f.Name] {
			bad = append(bad, "--"+f.Name)
		}
	})
	if len(bad) == 0 {
		return nil
	}
	return fmt.Errorf("%w (the configuration is of type %s)", unrecognized(bad), typ)
}

func unrecognized(args []string) error {
	return fmt.Errorf("Unrecognized arguments: %s", config.ShellJoin(args))
}
