package program

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/client"
)

// Conn is a server and the project that a command works in. No request is made before the first call.
type Conn struct {
	*client.Client
	Target
}

// Connect resolves server, token and project; see [Program.Resolve].
func (p *Program) Connect(project string) (*Conn, error) {
	t, err := p.Resolve(project)
	if err != nil {
		return nil, err
	}
	return p.Dial(t)
}

// Dial returns the connection to a given target.
func (p *Program) Dial(t Target) (*Conn, error) {
	c, err := client.New(t.URL, t.Token, p.Env("DSTACK_CLIENT_API_VERSION"))
	if err != nil {
		return nil, err
	}
	return &Conn{c, t}, nil
}

// Run returns the run with that name. A missing one is an error that says so.
func (c *Conn) Run(ctx context.Context, name string) (api.Run, error) {
	r, err := c.GetRun(ctx, c.Project, api.GetRunRequest{RunName: &name})
	if NotFound(err) {
		return api.Run{}, fmt.Errorf("Run %s not found", name)
	}
	return r, err
}

// NotFound reports whether the server said that the object does not exist.
func NotFound(err error) bool {
	return api.IsNotExists(err)
}

// NotServed reports whether the server does not know the call: it is a published or an older one.
func NotServed(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == "" && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed)
}

// SplitName splits project/name; without a project it is the current one.
func (c *Conn) SplitName(ref string) (project, name string) {
	if project, name, ok := strings.Cut(ref, "/"); ok {
		return project, name
	}
	return c.Project, ref
}
