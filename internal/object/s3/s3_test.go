package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"dstack/internal/awsclient"
	"dstack/internal/httpfault"
	"dstack/internal/object"
	"dstack/internal/object/objecttest"
	"dstack/internal/object/s3"
	"dstack/internal/object/s3/s3test"
)

func config(srv *s3test.Server) s3.Config {
	return s3.Config{
		Bucket: s3test.Name, Region: s3test.Region, Endpoint: srv.URL, Timeout: 200 * time.Millisecond, Backoff: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, ""),
	}
}

func TestBucket(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) (object.Bucket, func(...httpfault.Fault)) {
		srv := s3test.New(t)
		b, err := s3.New(t.Context(), config(srv))
		if err != nil {
			t.Fatal(err)
		}
		return b, srv.Inject
	})
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*s3.Config)
		want   string
	}{
		"no such bucket": {func(c *s3.Config) { c.Bucket = "other" }, "no such bucket"},
		"unknown key": {func(c *s3.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("AKIDOTHER", s3test.SecretKey, "")
		}, "InvalidAccessKeyId"},
		"wrong key": {func(c *s3.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider(s3test.AccessKey, "wrong", "")
		}, "SignatureDoesNotMatch"},
		"wrong region": {func(c *s3.Config) { c.Region = "us-west-2" }, "the bucket is in the region eu-west-1, not in us-west-2"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(s3test.New(t))
			c.change(&cfg)
			b, err := s3.New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Check(t.Context()); !errors.Is(err, object.ErrSettings) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check = %v, want %s", err, c.want)
			}
		})
	}
	t.Run("no permission", func(t *testing.T) {
		for missing, refused := range map[string]bool{"all": true, "secret keys": false} {
			denied := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead && !refused {
					return
				}
				w.WriteHeader(http.StatusForbidden)
				if r.Method != http.MethodHead {
					fmt.Fprint(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
				}
			}))
			defer denied.Close()
			cfg := config(s3test.New(t))
			cfg.Endpoint = denied.URL
			b, err := s3.New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			err = b.Check(t.Context())
			if refused && (!errors.Is(err, object.ErrSettings) || !strings.Contains(err.Error(), "AccessDenied")) || !refused && err != nil {
				t.Errorf("%s: Check = %v", missing, err)
			}
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		cfg := config(s3test.New(t))
		cfg.Endpoint = "http://127.0.0.1:1"
		b, err := s3.New(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(t.Context()); err == nil || errors.Is(err, object.ErrSettings) {
			t.Errorf("Check = %v, which proves nothing about the settings", err)
		}
	})
}

// TestEnvironment takes all from the variables that AWS programs read.
func TestEnvironment(t *testing.T) {
	srv := s3test.New(t)
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name}); !errors.Is(err, awsclient.ErrNoCredentials) {
		t.Errorf("New without credentials = %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	t.Setenv("AWS_ENDPOINT_URL_S3", srv.URL)
	for _, region := range []string{s3test.Region, "", "us-west-2"} { // the bucket's own is found
		t.Setenv("AWS_DEFAULT_REGION", region)
		b, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Check(t.Context()); err != nil {
			t.Errorf("region %q: Check = %v", region, err)
		}
		if err := b.Put(t.Context(), "k", strings.NewReader("x"), 1); err != nil {
			t.Errorf("region %q: Put = %v", region, err)
		}
	}
}
