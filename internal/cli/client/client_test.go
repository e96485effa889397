package client

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/api"
)

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL+"/", "token", "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   string
		code   api.Code
	}{
		"client error": {400, `{"detail":[{"msg":"Run not found","code":"resource_not_exists"}]}`, "Run not found", api.CodeResourceNotExists},
		"fields":       {400, `{"detail":[{"msg":"m","code":"error","fields":["a"]},{"msg":"m","code":"error","fields":["b"]}]}`, "m", api.CodeError},
		"no json":      {400, `<html>`, "Unexpected error: status code 400", ""},
		"odd detail":   {400, `{"detail":"Filename too long"}`, "Unexpected error: status code 400", ""},
		"validation":   {422, `{"detail":[{"loc":["body","limit"],"msg":"too large"}]}`, "Server validation error: \nbody.limit: too large", ""},
		"denied":       {403, ``, "is denied. Please check your access token", ""},
		"no token":     {401, ``, "is denied. Please check your access token", ""},
		"not found":    {404, ``, "Status code 404 when requesting http", ""},
		"method":       {405, ``, "Status code 405 when requesting http", ""},
		"server":       {500, `Internal Server Error`, "Unexpected error: status code 500", ""},
		"unavailable":  {503, `{"detail":"The server is stopping"}`, "The server cannot answer now: The server is stopping", ""},
		"no server":    {503, `<html>`, "Unexpected error: status code 503", ""},
		"redirect":     {302, ``, "redirects to", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.status == 302 {
					w.Header().Set("Location", "https://elsewhere")
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			_, err := c.GetRun(t.Context(), "main", api.GetRunRequest{})
			e, ok := errors.AsType[*api.Error](err)
			if !ok || !strings.Contains(e.Msg, tt.want) || e.Code != tt.code || e.Status != tt.status {
				t.Errorf("error = %#v, want %q, code %q", err, tt.want, tt.code)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer token" {
			t.Errorf("Authorization = %q", got)
		}
		if got := r.Header.Get("X-API-VERSION"); got != api.Version {
			t.Errorf("X-API-VERSION = %q", got)
		}
		if r.URL.Path != "/api/users/get_my_user" || r.ContentLength != 0 || r.Header.Get("Content-Type") != "" {
			t.Errorf("%s with %d bytes of %q, want no body", r.URL.Path, r.ContentLength, r.Header.Get("Content-Type"))
		}
		_, _ = io.WriteString(w, `{"username":"admin","creds":{"token":"x"}}`)
	})
	u, err := c.GetMyUser(t.Context())
	if err != nil || u.Username != "admin" {
		t.Errorf("GetMyUser = %+v, %v", u, err)
	}
}

func TestUpload(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		f, h, err := r.FormFile("file")
		if err != nil {
			t.Error(err)
			return
		}
		b, _ := io.ReadAll(f)
		if r.URL.Query().Get("repo_id") != "a b" || h.Filename != "hash" || string(b) != "diff" {
			t.Errorf("%s: %s = %q", r.URL, h.Filename, b)
		}
		_, _ = io.WriteString(w, "null")
	})
	if err := c.UploadCode(t.Context(), "main", "a b", "hash", strings.NewReader("diff")); err != nil {
		t.Error(err)
	}
}

func TestStream(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"offset":0,"data":"aGk="}`+"\n\n"+`{"offset":2,"end":true}`+"\n")
	})
	got, end := "", false
	err := c.StreamLogs(t.Context(), "main", api.StreamLogsRequest{}, func(ch api.LogChunk) error {
		got += string(ch.Data)
		end = ch.End
		return nil
	})
	if err != nil || got != "hi" || !end {
		t.Errorf("StreamLogs = %q, end %v, %v", got, end, err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") })}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	long := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Symlink(filepath.Dir(path), long); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, filepath.Join(long, "s")} {
		c, err := New("http+unix://"+url.PathEscape(path), "t", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.ListSecrets(t.Context(), "main"); err != nil {
			t.Error(err)
		}
	}
	c, err := New("http+unix://%2Fno%2Fsocket", "t", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.base != "http+unix://%2Fno%2Fsocket" { // what messages name
		t.Errorf("the server is called %s", c.base)
	}
}

func TestNoServer(t *testing.T) {
	for _, address := range []string{"", "ftp://x", "127.0.0.1:3000"} {
		if _, err := New(address, "", ""); err == nil {
			t.Errorf("New(%q) gave no error", address)
		}
	}
	c := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := c.GetMyUser(t.Context()); !errors.Is(err, ErrConnect) {
		t.Errorf("error of a broken connection = %v, want ErrConnect", err)
	}
}
