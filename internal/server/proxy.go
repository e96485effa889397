package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"

	"dstack/internal/api"
	"dstack/internal/host"
	"dstack/internal/project"
	"dstack/internal/run"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

// proxied passes requests on to services. It says no more of them than that there are such
// routes: see [Server.passServices].
var proxied = endpoint{foreign: true, in: reflect.TypeFor[struct{}](), handle: func(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	s.proxy.Service(w, r)
	return nil
}}

// passServices takes requests for services out before the routes of the API are looked at: their
// paths and bodies are the services' own. A version that is none is refused as everywhere.
func (s *Server) passServices(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.EscapedPath(), "/proxy/services/") {
			api.ServeHTTP(w, r)
			return
		}
		if err := checkVersion(r.Header, r.URL.Path); err != nil {
			s.fail(w, r, err)
			return
		}
		within(w, 0)
		s.proxy.Service(w, r)
	})
}

// modelList and chatRequest are what the description of the API says of models.
type (
	modelList struct {
		Object string       `json:"object"`
		Data   []modelEntry `json:"data"`
	}
	modelEntry struct {
		Object  string `json:"object"`
		ID      string `json:"id"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	chatRequest struct {
		Model    string           `json:"model" cfg:"req"`
		Messages []map[string]any `json:"messages" cfg:"req"`
		Stream   bool             `json:"stream"`
	}
)

func listModels(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	s.proxy.Models(w, r, r.PathValue("project"))
	return nil
}

func chat(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	s.proxy.Chat(w, r, r.PathValue("project"))
	return nil
}

// locksOut adapts a function that may end somebody's access to services: the proxy must not go by
// what it remembers, at this replica and at the others.
func locksOut[Caller, In, Out any](s *Server, f func(context.Context, Caller, In) (Out, error)) func(context.Context, Caller, In) (Out, error) {
	return func(ctx context.Context, c Caller, in In) (Out, error) {
		defer s.engine.Tell(accessTopic, "") // also after an error: some of it may be done
		return f(ctx, c, in)
	}
}

// isMember says whether the owner of a token may use the services of a project.
func (s *Server) isMember(ctx context.Context, projectName, token string) (bool, error) {
	u, err := s.users.ByToken(ctx, token)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil || u.Admin() {
		return err == nil, err
	}
	p, err := s.projects.ByName(ctx, s.db.Read(), projectName)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	role, err := s.projects.Role(ctx, p.ID, u.ID)
	return projectMember.allowed(role, p.IsPublic), err
}

// gatewaysOf lists the gateways that a project may use.
func (s *Server) gatewaysOf(ctx context.Context, sc project.Scope) ([]api.Gateway, error) {
	return s.gateways.List(ctx, sc, api.ListGatewaysRequest{IncludeImported: true})
}

// dialReplica connects to where a job answers: on its host, or in its container where that has
// a network of its own.
func (s *Server) dialReplica(ctx context.Context, e run.Endpoint) (net.Conn, error) {
	t, err := s.inst.Target(ctx, e.InstanceID)
	if err != nil {
		return nil, err
	}
	if e.SSHPort == 0 {
		return s.pool.Forward(ctx, t, e.Port)
	}
	_, private, err := s.projects.ProjectKey(ctx, e.ProjectID)
	if err != nil {
		return nil, err
	}
	key, err := sshkey.Signer(private)
	if err != nil {
		return nil, err
	}
	return s.pool.ForwardInto(ctx, host.Container{ID: e.JobID, Host: t, Port: e.SSHPort, User: e.User, Key: key}, e.Port)
}

// unusedPort is one of a host's loopback at which nobody listens.
const unusedPort = 1

// hostAnswers asks the host of a job for a sign of life over the connection that there is. That a
// port is closed is one; neither the agent nor the job has to do anything.
func (s *Server) hostAnswers(ctx context.Context, e run.Endpoint) error {
	t, err := s.inst.Target(ctx, e.InstanceID)
	if err != nil {
		return err
	}
	c, err := s.pool.Forward(ctx, t, unusedPort)
	switch {
	case err == nil:
		return c.Close()
	case ctx.Err() != nil, errors.Is(err, host.ErrNotConnected):
		return err
	}
	return nil
}
