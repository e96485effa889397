package gcs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"dstack/internal/gcpclient"
	"dstack/internal/httpfault"
	"dstack/internal/object"
	"dstack/internal/object/gcs"
	"dstack/internal/object/gcs/gcstest"
	"dstack/internal/object/objecttest"
)

func config(srv *gcstest.Server) gcs.Config {
	return gcs.Config{Bucket: gcstest.Name, Config: gcpclient.Config{
		Endpoint: srv.URL, Timeout: 200 * time.Millisecond, Backoff: time.Millisecond,
		Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcstest.Token}),
	}}
}

func TestBucket(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) (object.Bucket, func(...httpfault.Fault)) {
		srv := gcstest.New(t)
		b, err := gcs.New(t.Context(), config(srv))
		if err != nil {
			t.Fatal(err)
		}
		return b, srv.Inject
	})
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*gcs.Config)
		want     string
		settings bool
	}{
		"no such bucket": {func(c *gcs.Config) { c.Bucket = "other" }, "no such bucket", true},
		"unknown token":  {func(c *gcs.Config) { c.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "x"}) }, "authError", true},
		"no permission":  {func(c *gcs.Config) { c.Tokens = oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcstest.Stranger}) }, "403 forbidden", true},
		"nobody answers": {func(c *gcs.Config) { c.Endpoint = "http://127.0.0.1:1" }, "connection refused", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(gcstest.New(t))
			c.change(&cfg)
			b, err := gcs.New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Check(t.Context()); err == nil || errors.Is(err, object.ErrSettings) != c.settings || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check = %v, want %s", err, c.want)
			}
		})
	}
}

func TestCredentialsAreRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.json")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	if _, err := gcs.New(t.Context(), gcs.Config{Bucket: "b"}); !errors.Is(err, gcpclient.ErrNoCredentials) || !strings.Contains(err.Error(), file) {
		t.Errorf("New without a file = %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gcs.New(t.Context(), gcs.Config{Bucket: "b"}); err != nil {
		t.Errorf("New = %v", err)
	}
}
