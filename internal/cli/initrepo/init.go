// Package initrepo is `dstack init`.
package initrepo

import (
	"context"

	"github.com/spf13/cobra"

	"dstack/internal/cli/apply"
	"dstack/internal/cli/gitrepo"
	"dstack/internal/cli/program"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project         string
	Repo            string
	Token, Identity string
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Initialize the repo",
		Long: "Tell the server about a git repository and how to clone it. `dstack apply` does that by itself;\n" +
			"use this command to give other credentials.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.StringVarP(&o.Repo, "repo", "P", "", "the repository, a path or URL, by default the working directory")
	f.StringVarP(&o.Token, "token", "t", "", "an OAuth token for the repository")
	f.StringVar(&o.Identity, "git-identity", "", "the private SSH key for the repository")
	cmd.MarkFlagsMutuallyExclusive("token", "git-identity")
	return cmd
}

// Run finds credentials and stores them on the server.
func Run(ctx context.Context, o Options) error {
	u, err := o.url(ctx)
	if err != nil {
		return err
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	given := gitrepo.Given{IdentityFile: o.Identity, Token: o.Token}
	err = o.While("Checking access to the repository...", func() error { return apply.InitRepo(ctx, o.Program, c, u, given) })
	if err != nil {
		return err
	}
	o.Println("OK")
	return nil
}

func (o Options) url(ctx context.Context) (gitrepo.URL, error) {
	if u, err := gitrepo.ParseURL(o.Repo, o.Home); o.Repo != "" && err == nil {
		return u, nil
	}
	wd, err := o.WorkDir()
	if err != nil {
		return gitrepo.URL{}, err
	}
	s, err := gitrepo.ReadState(ctx, o.Path(wd, o.Repo), o.Home)
	return s.URL, err
}
