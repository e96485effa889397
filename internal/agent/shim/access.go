package shim

import (
	"net/http"
	"net/http/httputil"

	"dstack/internal/agentapi"
)

// acceptCall lets the server wait for a call of a job: the runner answers.
func (s *Shim) acceptCall(w http.ResponseWriter, r *http.Request) {
	t := s.task(w, r)
	if t == nil {
		return
	}
	if state, _ := t.snapshot(); !state.ServerAccess || state.State == agentapi.Terminated {
		refuse(w, http.StatusConflict, agentapi.CodeConflict, "the task does not call the server, or has ended")
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.URL.Path = "http", "runner", "/accept"
		},
		Transport: t.toRunner(),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			refuse(w, http.StatusBadGateway, "", "ask the runner for calls: "+err.Error())
		},
	}
	proxy.ServeHTTP(w, r)
}
