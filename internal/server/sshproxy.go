package server

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/store"
)

// upstreamRequest names a job's attempt; the dashes of its id may be missing.
type upstreamRequest struct {
	ID string `json:"id" cfg:"req"`
}

// upstream is how an SSH proxy reaches a job: through each host to the next, the job's own SSH
// server last.
type upstream struct {
	Hosts          []upstreamHost `json:"hosts"`
	AuthorizedKeys []string       `json:"authorized_keys"`
}

type upstreamHost struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	User       string `json:"user"`
	PrivateKey string `json:"private_key"`
}

// authenticateProxy lets in who has the token of SSH proxies; nobody, when there is none.
func (s *Server) authenticateProxy(r *http.Request) error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if s.SSHProxyToken == "" || !strings.EqualFold(scheme, "bearer") ||
		subtle.ConstantTimeCompare([]byte(strings.TrimSpace(token)), []byte(s.SSHProxyToken)) != 1 {
		return api.Forbidden()
	}
	return nil
}

func sshUpstream(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	var in upstreamRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	id, err := uuid.Parse(in.ID)
	if err != nil {
		return api.NotExists("")
	}
	up, err := s.runs.Upstream(r.Context(), id.String())
	if errors.Is(err, store.ErrNotFound) {
		return api.NotExists("")
	}
	if err != nil {
		return err
	}
	out := upstream{Hosts: []upstreamHost{}, AuthorizedKeys: append([]string{}, up.Keys...)}
	for _, h := range up.Hops {
		out.Hosts = append(out.Hosts, upstreamHost{h.Host, h.Port, h.User, h.Private})
	}
	encode(w, http.StatusOK, out)
	return nil
}
