// Package program holds what all commands share: streams, home directory, and the connection to the server,
// made only by commands that need one.
package program

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/term"
)

// Program is this run of the client. Home and IO are required.
type Program struct {
	*term.IO
	Home    string // the user's home directory
	Version string // of this program
	Now     func() time.Time
	Getwd   func() (string, error)
	// Lookup tells an empty variable from one that is not set; nil counts empty ones as not set.
	Lookup func(name string) (string, bool)
}

// Dir is ~/.dstack.
func (p *Program) Dir() clientconfig.Dir {
	return clientconfig.Dir(filepath.Join(p.Home, ".dstack"))
}

// Time is the current time.
func (p *Program) Time() time.Time {
	if p.Now == nil {
		return time.Now()
	}
	return p.Now()
}

// WorkDir is the directory that relative paths count from.
func (p *Program) WorkDir() (string, error) {
	if p.Getwd == nil {
		return os.Getwd()
	}
	return p.Getwd()
}

// Path makes a path that the user wrote absolute: ~ is the home directory, relative paths count from base.
func (p *Program) Path(base, path string) string {
	switch {
	case path == "~":
		return p.Home
	case strings.HasPrefix(path, "~/"):
		return filepath.Join(p.Home, path[2:])
	case filepath.IsAbs(path):
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}

// LookupEnv returns the value of a variable and whether it is set.
func (p *Program) LookupEnv(name string) (string, bool) {
	if p.Lookup == nil {
		v := p.Env(name)
		return v, v != ""
	}
	return p.Lookup(name)
}

// Bool reads a boolean environment variable; unset means false.
func (p *Program) Bool(name string) (bool, error) {
	v, set := p.LookupEnv(name)
	if !set {
		return false, nil
	}
	switch strings.ToLower(v) {
	case "1", "true", "on":
		return true, nil
	case "0", "false", "off":
		return false, nil
	default:
		return false, fmt.Errorf("Invalid bool value: %s=%s", name, v)
	}
}

// Target names the server and project of a command.
type Target struct{ URL, Token, Project string }

// ProjectFlag adds --project to the flags of a command.
func ProjectFlag(f *pflag.FlagSet, name *string) {
	f.StringVar(name, "project", "", "the name of the project, by default the one in $DSTACK_PROJECT or the default project")
}

// Resolve decides about server, token and project from the flag, the environment and config.yml, without a request.
func (p *Program) Resolve(project string) (Target, error) {
	url, token := p.Env("DSTACK_SERVER_URL"), p.Env("DSTACK_TOKEN")
	if project == "" {
		project = p.Env("DSTACK_PROJECT")
	}
	if url != "" && token != "" {
		if project == "" {
			return Target{}, fmt.Errorf("DSTACK_SERVER_URL and DSTACK_TOKEN are set, but the project is not specified. " +
				"Set DSTACK_PROJECT or use --project")
		}
		return Target{url, token, project}, nil
	}
	ps, err := p.Dir().Load()
	if err != nil {
		return Target{}, err
	}
	if found, ok := clientconfig.Find(ps, project); ok {
		if token == "" {
			token = found.Token
		}
		return Target{found.URL, token, found.Name}, nil
	}
	switch {
	case url != "":
		return Target{}, fmt.Errorf("DSTACK_SERVER_URL is set, but DSTACK_TOKEN is not set")
	case project != "":
		return Target{}, fmt.Errorf("Project %s is not configured. Add it with `dstack project add`", project)
	case len(ps) == 0:
		return Target{}, fmt.Errorf("No default project, specify project name. " +
			"No project is configured yet: start a server with `dstack server`, or add a project with `dstack project add`")
	}
	return Target{}, fmt.Errorf("No default project, specify project name with --project, or choose one with `dstack project set-default`")
}
