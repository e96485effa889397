package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/servercmd"
	"dstack/internal/server"
)

// startServer runs a server until ctx ends.
func startServer(ctx context.Context, p *program.Program, f servercmd.Flags) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(strings.ToUpper(f.LogLevel))); err != nil {
		return fmt.Errorf("--log-level %s: use DEBUG, INFO, WARNING or ERROR", f.LogLevel)
	}
	dir := p.Env("DSTACK_SERVER_DIR")
	if dir == "" {
		dir = filepath.Join(p.Home, ".dstack", "server")
	}
	limit, err := number(p.Env("DSTACK_SERVER_CODE_UPLOAD_LIMIT"), 0)
	if err != nil {
		return fmt.Errorf("DSTACK_SERVER_CODE_UPLOAD_LIMIT: %w", err)
	}
	quota, err := number(p.Env("DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR"), 50<<20)
	if err != nil {
		return fmt.Errorf("DSTACK_SERVER_LOG_QUOTA_PER_JOB_HOUR: %w", err)
	}
	grace, err := duration(p.Env("DSTACK_SERVER_UNREACHABLE_GRACE"))
	if err != nil {
		return fmt.Errorf("DSTACK_SERVER_UNREACHABLE_GRACE: %w", err)
	}
	log, err := newLogger(p.IO.Err, p.Env("DSTACK_SERVER_LOG_FORMAT"), level)
	if err != nil {
		return err
	}
	s, err := server.New(ctx, server.Config{Dir: dir, Host: f.Host, Port: f.Port, Token: f.Token, DBURL: p.Env("DSTACK_DATABASE_URL"), CodeLimit: limit, LogQuota: quota, LostAfter: grace,
		Prometheus: p.Env("DSTACK_ENABLE_PROMETHEUS_METRICS") != "", PrometheusToken: p.Env("DSTACK_PROMETHEUS_AUTH_TOKEN"), Env: p.Env, Log: log})
	if err != nil {
		return err
	}
	return s.Run(ctx, func() {
		if s.NewAdmin {
			fmt.Fprintf(p.IO.Out, "The admin token is %s\n", s.AdminToken)
		}
		if !f.No { // before the line that scripts wait for
			if err := useServer(p, s, f.Yes); err != nil {
				log.Warn("the client's configuration was not changed", "err", err)
			}
		}
		fmt.Fprintf(p.IO.Out, "The dstack server %s is running at %s\n", p.Version, s.URL())
	})
}

func number(s string, def int64) (int64, error) {
	if s == "" {
		return def, nil
	}
	return strconv.ParseInt(s, 10, 64)
}

// duration reads seconds, or a number with a unit such as 10m; "" is 0.
func duration(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		s = strconv.Itoa(n) + "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: write seconds, or a number with a unit such as 10m", s)
	}
	return d, nil
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
