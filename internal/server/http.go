package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// maxBody bounds a JSON body, in bytes.
const maxBody = 8 << 20

// permission says who may call a route (http-api 1.3).
type permission int

// The classes. The zero value is none of them, so that a route without one is refused.
const (
	public permission = iota + 1
	anyUser
	globalAdmin
	projectMember
	projectManager
	projectAdmin
	memberOrPublic
)

// allowed is the one table of who passes a project's check; global admins always do.
func (p permission) allowed(role api.ProjectRole, publicProject bool) bool {
	switch p {
	case projectMember:
		return role != ""
	case projectManager:
		return role == api.ProjectManager || role == api.ProjectAdmin
	case projectAdmin:
		return role == api.ProjectAdmin
	case memberOrPublic:
		return role != "" || publicProject
	}
	return false
}

// route is one entry of the API: method and path, who may call it, what it does.
type route struct {
	pattern string
	who     permission
	handler func(s *Server, c caller, w http.ResponseWriter, r *http.Request) error
}

// caller is who sent a request: Scope.Project is empty outside of projects.
type caller struct{ project.Scope }

// inProject adapts a service function of a project.
func inProject[In, Out any](f func(context.Context, project.Scope, In) (Out, error)) func(*Server, caller, http.ResponseWriter, *http.Request) error {
	return func(_ *Server, c caller, w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := decode(w, r, &in); err != nil {
			return err
		}
		out, err := f(r.Context(), c.Scope, in)
		if err != nil {
			return err
		}
		encode(w, http.StatusOK, out)
		return nil
	}
}

// forUser adapts a service function that belongs to no project.
func forUser[In, Out any](f func(context.Context, user.User, In) (Out, error)) func(*Server, caller, http.ResponseWriter, *http.Request) error {
	return inProject(func(ctx context.Context, sc project.Scope, in In) (Out, error) { return f(ctx, sc.User, in) })
}

// decode reads a body strictly. An empty one is an empty object: many requests are optional.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &api.Error{Kind: api.KindTooLarge, Msg: fmt.Sprintf("The request body is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return api.Invalid("The request body cannot be read")
	}
	if s := strings.TrimSpace(string(data)); s == "" || s == "null" {
		data = []byte("{}")
	}
	if _, ok := v.(*struct{}); ok {
		return nil
	}
	return config.DecodeJSON(data, v, "body")
}

func encode(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone
}

type detail struct {
	Msg    string   `json:"msg"`
	Code   *string  `json:"code"`
	Fields []string `json:"fields,omitempty"`
}

type invalid struct {
	Type  string `json:"type"`
	Loc   []any  `json:"loc"`
	Msg   string `json:"msg"`
	Input any    `json:"input"`
}

// fail is the one place where errors become responses.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var problems *config.Errors
	var refused *api.Error
	switch {
	case errors.As(err, &problems):
		list := make([]invalid, len(problems.Problems))
		for i, p := range problems.Problems {
			list[i] = invalid{p.Type, p.Loc, p.Msg, p.Input}
		}
		encode(w, http.StatusUnprocessableEntity, map[string]any{"detail": list})
	case errors.As(err, &refused):
		s.refuse(w, refused)
	case errors.Is(err, store.ErrConflict):
		encode(w, http.StatusBadRequest, map[string]any{"detail": []detail{{Msg: "Resource has been changed meanwhile. Try again.", Code: code(api.CodeError)}}})
	case r.Context().Err() != nil:
	default:
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "Internal Server Error") // the client is gone
	}
}

func code(c api.Code) *string {
	v := string(c)
	if v == "" {
		return nil
	}
	return &v
}

func (s *Server) refuse(w http.ResponseWriter, e *api.Error) {
	one := detail{Msg: e.Msg, Code: code(e.Code)}
	switch e.Kind {
	case api.KindForbidden:
		encode(w, http.StatusForbidden, map[string]any{"detail": one})
	case api.KindNotFound:
		encode(w, http.StatusNotFound, map[string]any{"detail": one})
	case api.KindTooLarge:
		encode(w, http.StatusRequestEntityTooLarge, map[string]any{"detail": []detail{one}})
	case api.KindValidation:
		encode(w, http.StatusUnprocessableEntity, map[string]any{"detail": []invalid{{"value_error", []any{"body"}, "Value error, " + e.Msg, nil}}})
	case api.KindUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
		encode(w, http.StatusUnauthorized, map[string]any{"detail": e.Msg})
	default:
		list := []detail{one}
		if len(e.Fields) > 0 {
			list = nil
			for _, f := range e.Fields {
				list = append(list, detail{e.Msg, one.Code, f})
			}
		}
		encode(w, http.StatusBadRequest, map[string]any{"detail": list})
	}
}

// authenticate finds the caller of a request and checks the route's permission, in the
// order that clients rely on: token, project, role.
func (s *Server) authenticate(r *http.Request, who permission) (caller, error) {
	var c caller
	if who == public {
		return c, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") || strings.TrimSpace(token) == "" {
		return c, &api.Error{Kind: api.KindUnauthorized, Msg: "Not authenticated"}
	}
	u, err := s.users.ByToken(r.Context(), strings.TrimSpace(token))
	if errors.Is(err, store.ErrNotFound) {
		return c, &api.Error{Kind: api.KindForbidden, Msg: "Invalid token"}
	}
	if err != nil {
		return c, err
	}
	c.User = u
	switch who {
	case anyUser:
		return c, nil
	case globalAdmin:
		if !u.Admin() {
			return c, api.Forbidden()
		}
		return c, nil
	}
	c.Project, err = s.projects.ByName(r.Context(), s.db.Read(), r.PathValue("project"))
	if errors.Is(err, store.ErrNotFound) {
		return c, &api.Error{Kind: api.KindNotFound, Msg: "Not found"}
	}
	if err != nil {
		return c, err
	}
	if c.Role, err = s.projects.Role(r.Context(), c.Project.ID, u.ID); err != nil {
		return c, err
	}
	if !u.Admin() && !who.allowed(c.Role, c.Project.IsPublic) {
		return c, api.Forbidden()
	}
	return c, nil
}

// serve runs one route.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := checkVersion(r.Header, r.URL.Path); err != nil {
			s.fail(w, r, err)
			return
		}
		c, err := s.authenticate(r, rt.who)
		if err == nil {
			err = rt.handler(s, c, w, r)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
}
