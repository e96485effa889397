package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"dstack/internal/api"
)

// redirectRequest is what a login provider sent along; State was made by the server.
type redirectRequest struct {
	Code  string `json:"code" cfg:"req"`
	State string `json:"state" cfg:"req"`
}

// redirect is where the browser goes on, null when no command waits.
type redirect struct {
	RedirectURL *string `json:"redirect_url"`
}

// nextRedirect tells the page that a login provider came back to where a waiting command
// listens (http-api 5.2): the state, which the server made, holds its port.
func nextRedirect(_ *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	var in redirectRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	var state struct {
		Value     *string `json:"value"`
		LocalPort *int    `json:"local_port"`
	}
	data, err := base64.StdEncoding.DecodeString(in.State)
	if err != nil || json.Unmarshal(data, &state) != nil || state.Value == nil || state.LocalPort != nil && (*state.LocalPort < 1 || *state.LocalPort > 65535) {
		return api.Invalid("Invalid state token")
	}
	var out redirect
	if state.LocalPort != nil {
		u := fmt.Sprintf("http://localhost:%d/auth/callback?%s", *state.LocalPort, url.Values{"code": {in.Code}, "state": {in.State}}.Encode())
		out.RedirectURL = &u
	}
	encode(w, http.StatusOK, out)
	return nil
}
