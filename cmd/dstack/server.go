package main

import (
	"context"
	"fmt"
	"os"

	"dstack/internal/backend/local"
	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/servercmd"
	"dstack/internal/server"
)

// startServer runs a server until ctx ends.
func startServer(ctx context.Context, p *program.Program, f servercmd.Flags) error {
	c, err := server.Settings(p.Env, p.Home)
	if err != nil {
		return err
	}
	if c.Log, err = server.NewLog(p.IO.Err, f.LogLevel, p.Env("DSTACK_SERVER_LOG_FORMAT")); err != nil {
		return err
	}
	for _, w := range server.Warnings(os.Environ()) {
		c.Log.Warn(w)
	}
	c.Host, c.Port, c.Token = f.Host, f.Port, f.Token
	if addr := p.Env("DSTACK_SERVER_PROFILE"); addr != "" {
		if err := serveProfiles(ctx, addr); err != nil {
			return err
		}
	}
	s, err := server.New(ctx, c)
	if err != nil {
		return err
	}
	if s.NewAdmin { // at once: it is told only this time, whatever happens next
		fmt.Fprintf(p.IO.Out, "The admin token is %s\n", s.AdminToken)
	}
	return s.Run(ctx, func() {
		if !f.No { // before the line that scripts wait for
			if err := useServer(p, s, f.Yes); err != nil {
				c.Log.Warn("the client's configuration was not changed", "err", err)
			}
		}
		if s.HasBackend(local.Name) {
			fmt.Fprintln(p.IO.Out, localRuns(ctx))
		}
		fmt.Fprintf(p.IO.Out, "The dstack server %s is running at %s\n", p.Version, s.URL())
	})
}

// useServer makes the server's project main known to the client of this user: as the
// default where there is none, or where that was asked for.
func useServer(p *program.Program, s *server.Server, force bool) error {
	dir := p.Dir()
	return dir.Update(func(ps []clientconfig.Project) []clientconfig.Project {
		cur, known := clientconfig.Find(ps, "main")
		if known && cur.URL != s.URL() && !force {
			p.Sayf("%s has a project main of another server, %s. To use this one, start with -y\n", dir.Path(), cur.URL)
			return ps // nothing is lost unasked
		}
		first := len(ps) == 0
		ps = clientconfig.Put(ps, clientconfig.Project{Name: "main", URL: s.URL(), Token: s.AdminToken, Default: known && cur.Default})
		if first || force {
			clientconfig.SetDefault(ps, "main")
		}
		return ps
	})
}

// localRuns says what becomes of jobs on the server's own machine.
func localRuns(ctx context.Context) string {
	if local.Runs(ctx) == local.InDocker {
		return "The backend local runs jobs in Docker on this machine"
	}
	return "No container engine answers on this machine: the backend local runs jobs as plain processes, without their images"
}
