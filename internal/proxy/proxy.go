// Package proxy passes requests on to services that have no gateway, and answers for the chat
// models among them. What it knows of a service and of a caller is kept for seconds, its
// connections for a minute: a service that nobody asks costs nothing.
//
// Test it with go test ./internal/proxy; the services of the tests are HTTP servers.
package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"dstack/internal/run"
	"dstack/internal/store"
)

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	Services services
	// Member says whether the owner of a token may use what belongs to a project.
	Member func(ctx context.Context, project, token string) (bool, error)
	// Dial connects to a replica.
	Dial func(ctx context.Context, to run.Endpoint) (net.Conn, error)
	// Alive asks the host of a replica for a sign of life; nil is one.
	Alive func(ctx context.Context, to run.Endpoint) error
	// Report stores how many requests came for services that scale.
	Report func(ctx context.Context, counts []run.Requests) error
	// Timeout is how long a service may take to begin its answer, optional: 60 s.
	Timeout time.Duration
	Log     *slog.Logger
}

// services finds what requests are for.
type services interface {
	Served(ctx context.Context, project, name string) (run.Served, error)
	Models(ctx context.Context, project string) ([]run.Served, error)
}

// Proxy serves /proxy/services and /proxy/models. It is safe for concurrent use.
type Proxy struct {
	Config
	known    routes
	members  members
	balance  balance
	signs    signs
	traffic  *traffic
	outgoing http.RoundTripper
	// silentAfter is the constant, but in tests.
	silentAfter time.Duration
}

// New checks c and returns a Proxy. Counts are stored while [Proxy.Run] runs.
func New(c Config) (*Proxy, error) {
	if c.Services == nil || c.Member == nil || c.Dial == nil || c.Alive == nil || c.Report == nil || c.Log == nil {
		return nil, errors.New("proxy: Services, Member, Dial, Alive, Report and Log are required")
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	p := &Proxy{Config: c, traffic: newTraffic(), silentAfter: silentAfter}
	p.outgoing = p.transport()
	return p, nil
}

// Changed is told that a run is not what it was.
func (p *Proxy) Changed(runID string) { p.known.forget(runID) }

// AccessChanged is told that users, or members of projects, are not what they were.
func (p *Proxy) AccessChanged() { p.members.forget() }

// Service answers requests below /proxy/services.
func (p *Proxy) Service(w http.ResponseWriter, r *http.Request) {
	a, ok := parse(r.URL.EscapedPath())
	if !ok {
		refuse(w, http.StatusNotFound, "Not Found")
		return
	}
	if !allowed(r.Method, a.bare) {
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return
	}
	if a.bare {
		to := *r.URL
		to.Path, to.RawPath = to.Path+"/", ""
		if to.RawQuery == "" {
			to.ForceQuery = false
		}
		http.Redirect(w, r, to.RequestURI(), http.StatusPermanentRedirect)
		return
	}
	s, err := p.service(r.Context(), a.project, a.run)
	if err == nil {
		err = p.admit(r, s)
	}
	if err == nil {
		var path string
		if path, err = a.upstream(s.Service.StripPrefix, s.Routed()); err == nil {
			p.traffic.count(&s.Served)
			p.forward(w, r, s, path)
			return
		}
	}
	p.fail(w, r, err)
}

// service finds a service that a request is for. One without replicas is none, unless it has
// as many as it needs: then requests are what brings them.
func (p *Proxy) service(ctx context.Context, project, name string) (*served, error) {
	s, err := p.known.find(ctx, project, name, p.Services.Served)
	if errors.Is(err, store.ErrNotFound) || err == nil && len(s.Replicas) == 0 && !s.Scales() {
		return nil, &refusal{http.StatusNotFound, "Service " + project + "/" + name + " not found"}
	}
	return s, err
}

// admit checks the token of a request for a service that wants one.
func (p *Proxy) admit(r *http.Request, s *served) error {
	if !s.Service.Auth {
		return nil
	}
	return p.authorize(r, s.Project)
}

// authorize lets the members of a project pass.
func (p *Proxy) authorize(r *http.Request, project string) error {
	ok, err := p.members.allowed(r.Context(), project, bearer(r), p.Member)
	if err == nil && !ok {
		return &refusal{http.StatusForbidden, "Unauthenticated or unauthorized to access project " + project}
	}
	return err
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// refusal is an answer of the proxy itself.
type refusal struct {
	status int
	detail string
}

func (r *refusal) Error() string { return r.detail }

// fail is the one place where errors become answers.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	no, known := errors.AsType[*refusal](err)
	switch {
	case known:
		refuse(w, no.status, no.detail)
	case r.Context().Err() != nil:
		refuse(w, http.StatusServiceUnavailable, "The server is stopping")
	default:
		p.Log.Error("a request cannot be passed on", "path", r.URL.Path, "err", err)
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
	}
}

func refuse(w http.ResponseWriter, status int, detail string) {
	answer(w, status, map[string]string{"detail": detail})
}

func answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(`{"detail":"Internal Server Error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone
}
