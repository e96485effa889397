package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hubServer is a server with a hub of models of its own.
func hubServer(t *testing.T) *Server {
	t.Helper()
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch token := r.Header.Get("Authorization"); r.URL.Path {
		case "/org/m/resolve/main/tokenizer_config.json":
			fmt.Fprint(w, `{"chat_template": "from the hub", "eos_token": "</s>"}`)
		case "/org/bare/resolve/main/tokenizer_config.json":
			fmt.Fprint(w, `{}`)
		case "/org/odd/resolve/main/tokenizer_config.json":
			fmt.Fprint(w, `{"chat_template": "{% nosuch %}"}`)
		case "/org/gated/resolve/main/tokenizer_config.json":
			if token != "Bearer s3cret" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, `{"chat_template": "gated", "eos_token": {"content": "<e>"}}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(hub.Close)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte("projects:\n  - name: main\n    backends: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), Config{Dir: dir, Token: adminToken, HubURL: hub.URL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	return s
}

// What a model of format tgi leaves open comes from the hub, when the service is submitted.
func TestModelFromHub(t *testing.T) {
	s := hubServer(t)
	s.must(t, "/api/project/main/secrets/create_or_update", map[string]any{"name": "hf", "value": "s3cret"}, nil)
	for i, tt := range []struct{ model, env, options, refused string }{
		{`"name": "org/m"`, `{}`, `{"openai":{"model":{"chat_template":"from the hub","eos_token":"</s>","format":"tgi","name":"org/m","type":"chat"}}}`, ""},
		{`"name": "org/m", "chat_template": "mine"`, `{}`, `{"openai":{"model":{"chat_template":"mine","eos_token":"</s>","format":"tgi","name":"org/m","type":"chat"}}}`, ""},
		{`"name": "not on the hub", "chat_template": "mine", "eos_token": ""`, `{}`, `{"openai":{"model":{"chat_template":"mine","eos_token":"","format":"tgi","name":"not on the hub","type":"chat"}}}`, ""},
		{`"name": "org/gated"`, `{"HF_TOKEN": "${{ secrets.hf }}"}`, `{"openai":{"model":{"chat_template":"gated","eos_token":"<e>","format":"tgi","name":"org/gated","type":"chat"}}}`, ""},
		{`"name": "org/gated"`, `{"HUGGING_FACE_HUB_TOKEN": "s3cret"}`, `{"openai":{"model":{"chat_template":"gated","eos_token":"<e>","format":"tgi","name":"org/gated","type":"chat"}}}`, ""},
		{`"name": "org/gated"`, `{}`, "", "Failed to access gated model. Specify HF_TOKEN env."},
		{`"name": "org/gated"`, `{"HF_TOKEN": "x"}`, "", "Failed to access gated model. Invalid HF_TOKEN env."},
		{`"name": "org/nosuch"`, `{}`, "", "Failed to get tokenizer info: the hub has no tokenizer_config.json of org/nosuch"},
		{`"name": "org/bare"`, `{}`, "", "Failed to get tokenizer info: org/bare has no chat template"},
		{`"name": "org/odd"`, `{}`, "", "Failed to compile chat template: line 1: the tag 'nosuch' is not supported"},
		{`"name": "org/m", "chat_template": "{{"`, `{}`, "", "Failed to compile chat template: "},
	} {
		name := fmt.Sprintf("svc-%d", i)
		a := s.call(t, "POST", "/api/project/main/runs/apply", adminToken, applyPlan(spec(name, `"type": "service", "port": 80, "env": `+tt.env+`, "model": {"format": "tgi", `+tt.model+`}`), nil, false))
		if tt.refused != "" {
			var no struct{ Detail []struct{ Msg, Code string } }
			if a.Status != http.StatusBadRequest || json.Unmarshal(a.Body, &no) != nil || !strings.Contains(no.Detail[0].Msg, tt.refused) {
				t.Errorf("%s: %d %s, want %q", tt.model, a.Status, a.Body, tt.refused)
			}
			if a := s.call(t, "POST", "/api/project/main/runs/get", adminToken, map[string]any{"run_name": name}); a.Status != http.StatusBadRequest {
				t.Errorf("%s: refused, and submitted", tt.model)
			}
			continue
		}
		if a.Status != http.StatusOK {
			t.Errorf("%s: %d %s", tt.model, a.Status, a.Body)
			continue
		}
		run, _ := getRun(t, s, name)
		var got, want any
		if json.Unmarshal(run.Service.Options, &got) != nil || json.Unmarshal([]byte(tt.options), &want) != nil {
			t.Fatalf("%s", run.Service.Options)
		}
		if diff := cmp.Diff(want, got); diff != "" || run.Service.Model.BaseURL != "/proxy/models/main/" {
			t.Errorf("%s: %s (-want +got):\n%s", tt.model, run.Service.Model.BaseURL, diff)
		}
	}
}

// The proxy refuses in its own form, and takes no version that is none.
func TestProxyRefusals(t *testing.T) {
	s := newServer(t)
	stranger := s.addUser(t, "stranger", "user")
	const no = `{"detail":"Unauthenticated or unauthorized to access project main"}`
	for _, tt := range []struct {
		method, path, token string
		status              int
		body                string
	}{
		{"GET", "/proxy/models/main/models", "", 403, no},
		{"GET", "/proxy/models/main/models", "wrong", 403, no},
		{"GET", "/proxy/models/main/models", stranger, 403, no},
		{"GET", "/proxy/models/main/models", adminToken, 200, `{"object":"list","data":[]}`},
		{"GET", "/proxy/models/nosuch/models", stranger, 403, `{"detail":"Unauthenticated or unauthorized to access project nosuch"}`},
		{"GET", "/proxy/models/nosuch/models", adminToken, 404, `{"detail":"Project nosuch not found"}`},
		{"GET", "/proxy/models/main/nosuch", adminToken, 404, `{"detail":"Not Found"}`},
		{"POST", "/proxy/models/main/chat/completions", "", 403, no},
		{"POST", "/proxy/models/main/chat/completions", adminToken, 404, `{"detail":"Model m not found in project main"}`},
		{"GET", "/proxy/services/main/nosuch/", adminToken, 404, `{"detail":"Service main/nosuch not found"}`},
	} {
		var body any
		if tt.method == "POST" {
			body = map[string]any{"model": "m", "messages": []any{}}
		}
		if a := s.call(t, tt.method, tt.path, tt.token, body); a.Status != tt.status || string(a.Body) != tt.body {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, a.Status, a.Body, tt.status, tt.body)
		}
		for _, version := range []string{"bogus", ""} {
			want := `{"detail":[{"msg":"Invalid version: ` + version + `","code":null}]}`
			if a := s.call(t, tt.method, tt.path, tt.token, body, "X-API-VERSION", version); tt.body != `{"detail":"Not Found"}` && (a.Status != 400 || string(a.Body) != want) {
				t.Errorf("%s %s of version %q: %d %s", tt.method, tt.path, version, a.Status, a.Body)
			}
		}
		if a := s.call(t, tt.method, tt.path, tt.token, body, "X-API-VERSION", "99.0.0"); a.Status != tt.status {
			t.Errorf("%s %s of a newer client: %d %s", tt.method, tt.path, a.Status, a.Body)
		}
	}
}

// Who loses access loses it at once, although the proxy remembers whom it let through.
func TestProxyForgetsCallers(t *testing.T) {
	for name, lose := range map[string]func(s *Server, token string){
		"no member any more": func(s *Server, _ string) {
			s.must(t, "/api/projects/main/remove_members", map[string]any{"usernames": []string{"bob"}}, nil)
		},
		"not among the members": func(s *Server, _ string) {
			s.must(t, "/api/projects/main/set_members", map[string]any{"members": []map[string]string{{"username": "admin", "project_role": "admin"}}}, nil)
		},
		"another token": func(s *Server, token string) {
			if a := s.call(t, "POST", "/api/users/refresh_token", token, map[string]any{"username": "bob"}); a.Status != http.StatusOK {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		},
		"not active": func(s *Server, _ string) {
			s.must(t, "/api/users/update", map[string]any{"username": "bob", "global_role": "user", "active": false}, nil)
		},
		"deleted": func(s *Server, _ string) {
			s.must(t, "/api/users/delete", map[string]any{"users": []string{"bob"}}, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			token := s.addUser(t, "bob", "user")
			s.must(t, "/api/projects/main/add_members", map[string]any{"members": []map[string]string{{"username": "bob", "project_role": "user"}}}, nil)
			for range 2 {
				if a := s.call(t, "GET", "/proxy/models/main/models", token, nil); a.Status != http.StatusOK {
					t.Fatalf("a member: %d %s", a.Status, a.Body)
				}
			}
			lose(s, token)
			if a := s.call(t, "GET", "/proxy/models/main/models", token, nil); a.Status != http.StatusForbidden {
				t.Errorf("%d %s, want 403", a.Status, a.Body)
			}
		})
	}
}
