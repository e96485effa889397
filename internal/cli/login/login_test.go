package login

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// provider is a server with single sign-on. The browser of [Options.Open] comes back with a code.
func provider(t *testing.T, enabled ...string) *httptest.Server {
	t.Helper()
	list := make([]map[string]any, len(enabled))
	for i, name := range enabled {
		list[i] = map[string]any{"name": name, "enabled": true}
	}
	mux := http.NewServeMux()
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux.HandleFunc("POST /api/auth/list_providers", answer(list))
	mux.HandleFunc("POST /api/auth/{name}/authorize", func(w http.ResponseWriter, r *http.Request) {
		var req struct {
			LocalPort int `json:"local_port"`
		}
		_ = json.NewDecoder(r.Body).Decode(&req)
		back := fmt.Sprintf("http://127.0.0.1:%d/auth/callback?state=s&code=", req.LocalPort)
		answer(map[string]string{"authorization_url": "http://sso.example/?back=" + url.QueryEscape(back)})(w, r)
	})
	mux.HandleFunc("POST /api/auth/{name}/callback", func(w http.ResponseWriter, r *http.Request) {
		var req struct{ Code, State string }
		_ = json.NewDecoder(r.Body).Decode(&req)
		if req.Code != "good" || req.State != "s" {
			w.WriteHeader(http.StatusBadRequest)
			answer(map[string]any{"detail": []any{map[string]string{"msg": "Invalid code", "code": "error"}}})(w, r)
			return
		}
		answer(map[string]any{"username": "alice", "creds": map[string]string{"token": "alices"}})(w, r)
	})
	mux.HandleFunc("POST /api/projects/list", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer alices" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		answer([]map[string]string{{"project_name": "lab"}, {"project_name": "prod"}})(w, r)
	})
	mux.HandleFunc("GET /", func(http.ResponseWriter, *http.Request) {})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv
}

func TestLogin(t *testing.T) {
	for name, tt := range map[string]struct {
		providers []string
		options   Options
		code      string // that the browser brings
		before    []clientconfig.Project
		want      []clientconfig.Project
		err       string
	}{
		"first time": {
			providers: []string{"github"}, code: "good",
			want: []clientconfig.Project{{Default: true, Name: "lab", Token: "alices"}, {Name: "prod", Token: "alices"}},
		},
		"the default stays": {
			providers: []string{"github"}, code: "good",
			before: []clientconfig.Project{{Default: true, Name: "prod", Token: "old", URL: "http://other"}},
			want:   []clientconfig.Project{{Default: true, Name: "prod", Token: "alices"}, {Name: "lab", Token: "alices"}},
		},
		"no default": {
			providers: []string{"github"}, code: "good", options: Options{No: true},
			before: []clientconfig.Project{{Name: "mine", Token: "t", URL: "http://other"}},
			want: []clientconfig.Project{
				{Name: "mine", Token: "t", URL: "http://other"}, {Name: "lab", Token: "alices"}, {Name: "prod", Token: "alices"},
			},
		},
		"one of several providers": {
			providers: []string{"github", "okta"}, code: "good", options: Options{Provider: "okta", Yes: true},
			want: []clientconfig.Project{{Default: true, Name: "lab", Token: "alices"}, {Name: "prod", Token: "alices"}},
		},
		"which provider":   {providers: []string{"github", "okta"}, err: "Specify -p/--provider to choose SSO provider"},
		"another provider": {providers: []string{"github"}, options: Options{Provider: "okta"}, err: "Provider okta not configured on the server. Available providers: github"},
		"no provider":      {err: "No SSO providers configured on the server."},
		"refused":          {providers: []string{"github"}, code: "bad", err: "CLI authentication failed: Invalid code"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := provider(t, tt.providers...)
			var out bytes.Buffer
			o := tt.options
			o.Program = &program.Program{IO: term.New(strings.NewReader(""), &out, &out), Home: t.TempDir()}
			o.URL = srv.URL
			o.Open = func(ctx context.Context, address string) error {
				u, err := url.Parse(address)
				if err != nil {
					return err
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.Query().Get("back")+tt.code, nil)
				if err != nil {
					return err
				}
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				return res.Body.Close()
			}
			if err := o.Dir().Update(func([]clientconfig.Project) []clientconfig.Project { return tt.before }); err != nil {
				t.Fatal(err)
			}
			err := Run(t.Context(), o)
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
					t.Fatalf("login = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("login: %v\n%s", err, out.String())
			}
			for i := range tt.want {
				if tt.want[i].URL == "" {
					tt.want[i].URL = srv.URL
				}
			}
			got, err := o.Dir().Load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("projects (-want +got):\n%s\n%s", diff, out.String())
			}
		})
	}
}
