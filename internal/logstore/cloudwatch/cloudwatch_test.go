package cloudwatch_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"dstack/internal/awsclient"
	"dstack/internal/logstore"
	"dstack/internal/logstore/cloudwatch"
	"dstack/internal/logstore/cloudwatch/cloudwatchtest"
	"dstack/internal/logstore/logstoretest"
)

func config(srv *cloudwatchtest.Server) cloudwatch.Config {
	return cloudwatch.Config{Group: cloudwatchtest.Group, Region: cloudwatchtest.Region, Endpoint: srv.URL, Backoff: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider(cloudwatchtest.AccessKey, cloudwatchtest.SecretKey, "")}
}

func open(t *testing.T, c cloudwatch.Config) *cloudwatch.Sink {
	t.Helper()
	s, err := cloudwatch.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSink(t *testing.T) {
	logstoretest.RunSink(t, func(t *testing.T) logstoretest.Service {
		srv := cloudwatchtest.New(t)
		return logstoretest.Service{Sink: open(t, config(srv)), Inject: srv.Inject, Held: srv.Messages}
	})
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*cloudwatch.Config)
		want     string
		settings bool
	}{
		"no such group": {func(c *cloudwatch.Config) { c.Group = "other" }, "no such log group in eu-west-1", true},
		"unknown key": {func(c *cloudwatch.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider("AKIDOTHER", "x", "")
		}, "UnrecognizedClientException", true},
		"wrong key": {func(c *cloudwatch.Config) {
			c.Credentials = credentials.NewStaticCredentialsProvider(cloudwatchtest.AccessKey, "x", "")
		}, "InvalidSignatureException", true},
		"nobody answers": {func(c *cloudwatch.Config) { c.Endpoint = "http://127.0.0.1:1" }, "connection refused", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(cloudwatchtest.New(t))
			c.change(&cfg)
			if err := open(t, cfg).Check(t.Context()); err == nil || errors.Is(err, logstore.ErrSettings) != c.settings || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Check = %v, want %s", err, c.want)
			}
		})
	}
	if err := open(t, config(cloudwatchtest.New(t))).Check(t.Context()); err != nil {
		t.Errorf("Check = %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	for _, name := range []string{"AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if _, err := cloudwatch.New(t.Context(), cloudwatch.Config{Group: "g"}); !errors.Is(err, awsclient.ErrNoCredentials) {
		t.Errorf("New without credentials = %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	if _, err := cloudwatch.New(t.Context(), cloudwatch.Config{Group: "g"}); !errors.Is(err, cloudwatch.ErrNoRegion) {
		t.Errorf("New without a region = %v", err)
	}
}

// TestStreamIsMadeAgain after somebody deleted it: what comes later is kept.
func TestStreamIsMadeAgain(t *testing.T) {
	srv := cloudwatchtest.New(t)
	s := open(t, config(srv))
	st := logstore.Stream{Project: "main", Run: "run", JobID: "j", Source: logstore.Job}
	write := func(text string) {
		t.Helper()
		if err := s.Write(t.Context(), st, []logstore.Record{{At: time.Now(), Data: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	srv.Remove(st.Path())
	write("two")
	if got := srv.Messages(st.Path()); len(got) != 1 || got[0] != "two" {
		t.Errorf("the stream has %q", got)
	}
}

func TestURL(t *testing.T) {
	s := open(t, config(cloudwatchtest.New(t)))
	got := s.URL(logstore.Stream{Project: "main", Run: "run-1", JobID: "j", Source: logstore.Runner})
	want := "https://console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/$252Fdstack$252Flogs/log-events/main$252Frun-1$252Fj$252Frunner"
	if got != want {
		t.Errorf("URL = %s, want %s", got, want)
	}
}
