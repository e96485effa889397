package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/crypt"
	"dstack/internal/export"
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
	managerOrPublic
	secretManager
	fleetAccess    // members of the project, and of those that import the fleet
	instanceAccess // the same for an instance's fleet
	gatewayAccess  // the same for a gateway; everybody in public projects
	sshProxy       // holders of the token of SSH proxies
)

// String is the name of the class in the description of the API.
func (p permission) String() string {
	return [...]string{"", "none", "auth", "global-admin", "project-member", "project-manager", "project-admin", "member-or-public", "manager-or-public", "manages-secrets", "fleet-access", "instance-access", "gateway-access", "sshproxy-token"}[p]
}

// allowed is the one table of who passes a project's check; global admins always do.
func (p permission) allowed(role api.ProjectRole, publicProject bool) bool {
	switch p {
	case projectMember, fleetAccess, instanceAccess:
		return role != ""
	case managerOrPublic:
		return role == api.ProjectManager || role == api.ProjectAdmin || publicProject
	case projectManager, secretManager:
		return role == api.ProjectManager || role == api.ProjectAdmin
	case projectAdmin:
		return role == api.ProjectAdmin
	case memberOrPublic, gatewayAccess:
		return role != "" || publicProject
	}
	return false
}

// importers says that members of other projects pass, for what these import.
func (p permission) importers() bool {
	return p == fleetAccess || p == instanceAccess || p == gatewayAccess
}

// route is one entry of the API: method and path, who may call it, what it does.
type route struct {
	pattern string
	who     permission
	endpoint
}

// caller is who sent a request: Scope.Project is empty outside of projects.
type caller struct{ project.Scope }

// inProject adapts a service function of a project.
func inProject[In, Out any](f func(context.Context, project.Scope, In) (Out, error)) endpoint {
	return typed[In, Out](func(_ *Server, c caller, w http.ResponseWriter, r *http.Request) error {
		var in In
		if err := decode(w, r, &in); err != nil {
			return err
		}
		out, err := f(r.Context(), c.Scope, in)
		if err != nil {
			return err
		}
		return reply(w, r, out)
	})
}

// forUser adapts a service function that belongs to no project.
func forUser[In, Out any](f func(context.Context, user.User, In) (Out, error)) endpoint {
	return inProject(func(ctx context.Context, sc project.Scope, in In) (Out, error) { return f(ctx, sc.User, in) })
}

// optional is implemented by requests that may be sent without a body.
type optional interface{ Optional() }

// decode reads a body strictly. One that is not said to be JSON is a text.
func decode(w http.ResponseWriter, r *http.Request, v any) error {
	if _, none := v.(*struct{}); none { // the endpoint takes no body; whatever is sent is not read
		if r.ContentLength == 0 {
			within(w, 0)
		}
		return nil
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &api.Error{Kind: api.KindTooLarge, Msg: fmt.Sprintf("The request body is larger than %d bytes", maxBody)}
	}
	if err != nil {
		return api.Invalid("The request body cannot be read")
	}
	within(w, 0)
	if _, ok := v.(optional); ok && (len(data) == 0 || string(bytes.TrimSpace(data)) == "null") {
		return config.DecodeJSON([]byte("{}"), v, "body")
	}
	if len(data) == 0 {
		return &config.Errors{Problems: []config.Problem{{Loc: []any{"body"}, Type: "missing", Msg: "Field required"}}}
	}
	if !saysJSON(r.Header.Get("Content-Type")) {
		return &config.Errors{Problems: []config.Problem{{Loc: []any{"body"}, Type: "model_attributes_type",
			Msg: "Input should be a valid dictionary or object to extract fields from", Input: strings.ToValidUTF8(string(data[:min(len(data), 200)]), "\uFFFD")}}}
	}
	if !utf8.Valid(data) {
		return &config.Errors{Problems: []config.Problem{{Loc: []any{"body", 0}, Type: "json_invalid", Msg: "JSON decode error", Reason: "not UTF-8", Input: map[string]any{}}}}
	}
	return config.DecodeJSON(data, v, "body")
}

// within bounds the reads of a request's body, also of what is left of it when the request is
// answered. 0 lifts the bound: the body was read, what is read now only tells that the client
// has gone.
func within(w http.ResponseWriter, d time.Duration) {
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = http.NewResponseController(w).SetReadDeadline(t) // tests call handlers without a connection
}

func saysJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && (kind == "application/json" || strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"))
}

func encode(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	send(w, status, data)
}

// send writes an answer that is encoded.
func send(w http.ResponseWriter, status int, data []byte) {
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
	Ctx   any    `json:"ctx,omitempty"`
}

// fail is the one place where errors become responses.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var problems *config.Errors
	var refused *api.Error
	switch {
	case errors.As(err, &problems):
		list := make([]invalid, len(problems.Problems))
		for i, p := range problems.Problems {
			list[i] = invalid{Type: p.Type, Loc: p.Loc, Msg: p.Msg, Input: p.Input}
			if p.Reason != "" {
				list[i].Ctx = map[string]string{"error": p.Reason}
			}
		}
		encode(w, http.StatusUnprocessableEntity, map[string]any{"detail": list})
	case errors.As(err, &refused):
		s.refuse(w, refused)
	case errors.Is(err, store.ErrConflict):
		encode(w, http.StatusBadRequest, map[string]any{"detail": []detail{{Msg: "Resource has been changed meanwhile. Try again.", Code: code(api.CodeError)}}})
	case errors.Is(err, crypt.ErrSealed):
		s.Log.Error("a key is missing in config.yml", "path", r.URL.Path, "err", err)
		encode(w, http.StatusBadRequest, map[string]any{"detail": []detail{{Msg: "The stored value is encrypted with a key that the server no longer has", Code: code(api.CodeError)}}})
	case r.Context().Err() != nil: // the client is gone, or the server stops and it can try again
		unavailable(w, "The server is stopping")
	case errors.Is(err, store.ErrFull):
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		unavailable(w, "The disk of the server's database is full and nothing was stored. Try again when there is space")
	case store.Down(err):
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		unavailable(w, "The server's database does not answer. Try again in a moment")
	default:
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, "Internal Server Error") // the client is gone
	}
}

// unavailable answers what may be asked again later.
func unavailable(w http.ResponseWriter, why string) {
	encode(w, http.StatusServiceUnavailable, map[string]string{"detail": why})
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
		encode(w, http.StatusUnprocessableEntity, map[string]any{"detail": []invalid{{Type: "value_error", Loc: []any{"body"}, Msg: "Value error, " + e.Msg}}})
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
	if who == sshProxy {
		return c, s.authenticateProxy(r)
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
	allowed := u.Admin() || who.allowed(c.Role, c.Project.IsPublic)
	if !allowed && who.importers() { // what they may see of the project, the handler decides: see [Server.visible]
		if allowed, err = export.Visits(r.Context(), s.db.Read(), u.ID, c.Project.ID); err != nil {
			return c, err
		}
	}
	if !allowed || who == secretManager && !s.projects.CanManageSecrets(c.Scope) {
		return c, api.Forbidden()
	}
	return c, nil
}

// plain says that a part of an address is text that a database can be asked for.
func plain(s string) bool {
	if u, err := url.QueryUnescape(s); err == nil {
		s = u
	}
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// serve runs one route.
func (s *Server) serve(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !plain(r.URL.Path) || !plain(r.URL.RawQuery) {
			s.fail(w, r, api.Invalid("The address has characters that are not allowed"))
			return
		}
		if err := checkVersion(r.Header, r.URL.Path); err != nil {
			s.fail(w, r, err)
			return
		}
		body, began := r.Body, time.Now() // the body without the limits of handlers
		c, err := s.authenticate(r, rt.who)
		if err == nil {
			err = rt.handle(s, c, w, r)
		}
		if err != nil {
			s.fail(w, r, err)
			if time.Since(began) < drainFor { // a client that was too slow is not waited for again
				drain(w, body)
			}
		}
	}
}

const (
	// maxDrain and drainFor bound what is read of a request that was refused before its end.
	maxDrain = 256 << 20
	drainFor = 10 * time.Second
)

// drain reads what a client still sends after the answer. Many send all before they read;
// closing on them would reset the connection and lose the answer.
func drain(w http.ResponseWriter, body io.Reader) {
	rc := http.NewResponseController(w)
	if rc.Flush() != nil || rc.SetReadDeadline(time.Now().Add(drainFor)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, body, maxDrain) // the connection is closed in any case
}
