package server

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/logstore"
	"dstack/internal/logstore/cloudwatch/cloudwatchtest"
	"dstack/internal/logstore/fluent"
	"dstack/internal/logstore/fluent/fluenttest"
	"dstack/internal/logstore/gcplog/gcplogtest"
	"dstack/internal/object/gcs/gcstest"
	"dstack/internal/object/s3/s3test"
	"dstack/internal/store/storetest"
)

func TestStorageSettings(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want Storage
		errs []string
	}{
		"nothing": {},
		"S3": {env: map[string]string{varS3Bucket: "bucket", varS3Region: "eu-west-1"},
			want: Storage{Blobs: place{varS3Bucket, "bucket", "eu-west-1"}}},
		"S3, as it was called": {env: map[string]string{varOldBucket: "bucket", varOldRegion: "eu-west-1"},
			want: Storage{Blobs: place{varOldBucket, "bucket", "eu-west-1"}}},
		"S3, both names": {env: map[string]string{varOldBucket: "old", varOldRegion: "us-east-1", varS3Bucket: "bucket"},
			want: Storage{Blobs: place{varS3Bucket, "bucket", ""}}},
		"GCS":          {env: map[string]string{varGCSBucket: "bucket"}, want: Storage{Blobs: place{varGCSBucket, "bucket", ""}}},
		"two buckets":  {env: map[string]string{varGCSBucket: "bucket", varS3Bucket: "other"}, errs: []string{varS3Bucket + " and " + varGCSBucket + " are both set: uploads have one place"}},
		"only regions": {env: map[string]string{varS3Region: "r", varLogRegion: "r"}, errs: []string{varS3Region + " is of no use without " + varS3Bucket + ": set both or neither", varLogRegion + " is of no use without " + varLogGroup + ": set both or neither"}},
		"CloudWatch":   {env: map[string]string{varLogGroup: "g", varLogRegion: "eu-west-1"}, want: Storage{Logs: place{varLogGroup, "g", "eu-west-1"}}},
		"all of them": {env: map[string]string{varLogGroup: "g", varLoggingProject: "p", varFluentHost: "h", varS3LogBucket: "bucket"},
			want: Storage{Logs: place{varLogGroup, "g", ""}}},
		"GCP before Fluent Bit": {env: map[string]string{varLoggingProject: "p", varFluentHost: "h"}, want: Storage{Logs: place{varLoggingProject, "p", ""}}},
		"Fluent Bit":            {env: map[string]string{varFluentHost: "h"}, want: Storage{Logs: place{varFluentHost, "h", ""}, Fluent: fluent.Config{Host: "h"}}},
		"Fluent Bit and Elasticsearch": {
			env: map[string]string{varFluentHost: "h", varFluentPort: "9880", varFluentProtocol: "http", varFluentTagPrefix: "ml",
				varSearchHost: "https://e:9200", varSearchIndex: "i", varSearchKey: "k"},
			want: Storage{Logs: place{varFluentHost, "h", ""}, Fluent: fluent.Config{Host: "h", Port: 9880, Protocol: fluent.HTTP, TagPrefix: "ml",
				Search: &fluent.Search{URL: "https://e:9200", Index: "i", APIKey: "k"}}}},
		"wrong Fluent Bit": {env: map[string]string{varFluentHost: "http://h", varFluentPort: "0", varFluentProtocol: "udp", varSearchHost: "e:9200"}, errs: []string{
			varFluentPort + "=0: write a port, 1 to 65535",
			varFluentProtocol + "=udp: write forward or http",
			varFluentHost + "=http://h: write a host name or an address, without a scheme and a port",
			varSearchHost + "=e:9200: write http://host:port or https://host"}},
		"Elasticsearch alone": {env: map[string]string{varSearchHost: "http://e:9200"}, errs: []string{varSearchHost + " is of no use without " + varFluentHost + ": set both or neither"}},
		"S3 for logs":         {env: map[string]string{varS3LogBucket: "bucket", varS3LogRegion: "eu-west-1"}, want: Storage{Logs: place{varS3LogBucket, "bucket", "eu-west-1"}}},
		"GCS for logs":        {env: map[string]string{varGCSLogBucket: "bucket", varGCSEndpoint: "http://127.0.0.1:1/"}, want: Storage{Logs: place{varGCSLogBucket, "bucket", ""}, GCSEndpoint: "http://127.0.0.1:1"}},
		"no endpoint":         {env: map[string]string{varGCSEndpoint: "x"}, errs: []string{varGCSEndpoint + "=x: write http://host:port or https://host"}},
	} {
		got, errs := storage(func(k string) string { return c.env[k] })
		var texts []string
		for _, err := range errs {
			texts = append(texts, err.Error())
		}
		if !slices.Equal(texts, c.errs) {
			t.Errorf("%s: errors %q, want %q", name, texts, c.errs)
		}
		if diff := cmp.Diff(c.want, got); c.errs == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestStorageForms has values that no service can ever take, and odd ones that some do.
func TestStorageForms(t *testing.T) {
	need := map[string]string{varS3Bucket: "bucket", varS3LogBucket: "bucket", varLogGroup: "group", varFluentHost: "host", varSearchHost: "http://e"}
	for name, values := range map[string]struct{ good, bad []string }{
		varS3Bucket:           {[]string{"my.bucket-1", "Old_Bucket", "arn:aws:s3:eu-west-1:123456789012:accesspoint/x"}, []string{"a", "my bucket", "s3://bucket", "bucket/logs", "-bucket", "Ä" + "bucket", strings.Repeat("b", 300)}},
		varGCSLogBucket:       {[]string{"my_bucket.example.com"}, []string{"Bucket", "gs://bucket", "b"}},
		varS3Region:           {[]string{"eu-west-1", "auto"}, []string{"eu west 1", "https://eu", "eu_west"}},
		varLogGroup:           {[]string{"/dstack/logs#1"}, []string{"a b", "*", "arn:aws:logs"}},
		varLogRegion:          {[]string{"eu-west-1"}, []string{"?"}},
		varLoggingProject:     {[]string{"my-project", "example.com:my-project", "123456789012"}, []string{"My Project", "projects/x", "-"}},
		varFluentHost:         {[]string{"fluent_bit", "10.0.0.1", "::1", "f.example.com."}, []string{"tcp://h", "h:24224", "a b", "h/x", "[::1]"}},
		varFluentTagPrefix:    {[]string{"ml.prod"}, []string{"my tag", "a\nb"}},
		varSearchIndex:        {[]string{"logs-*,other"}, []string{"Logs", "a/b", "a b"}},
		varSearchHost:         {[]string{"https://e:9200/path", "http://user:secret@e", "http://[::1]:9200"}, []string{"e", "ftp://e", "http://", "http://:9200", "http://e:99999", "http://a b", "http://e:0"}},
		varGCSEndpoint:        {[]string{"http://127.0.0.1:1/"}, []string{"nonsense"}},
		"AWS_ENDPOINT_URL_S3": {[]string{"http://minio:9000"}, []string{"minio:9000", "minio"}},
	} {
		for _, v := range append(slices.Clone(values.good), values.bad...) {
			_, errs := storage(func(k string) string {
				if k == name {
					return v
				}
				return need[k]
			})
			want := 0
			if slices.Contains(values.bad, v) {
				want = 1
			}
			if len(errs) != want || want == 1 && !strings.HasPrefix(errs[0].Error(), name+"="+v+": write ") {
				t.Errorf("%s=%s: %v", name, v, errs)
			}
		}
	}
}

// amazon sets the environment of AWS programs.
func amazon(t *testing.T, accessKey, secretKey, logs, objects string) {
	t.Helper()
	for name, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey, "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": t.TempDir() + "/none", "AWS_SHARED_CREDENTIALS_FILE": t.TempDir() + "/none",
		"AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": logs, "AWS_ENDPOINT_URL_S3": objects,
	} {
		t.Setenv(name, v)
	}
}

// google makes a service account's key whose tokens are token, and sets the environment of
// Google's programs.
func google(t *testing.T, token string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("assertion") == "" {
			t.Errorf("a token was asked for with %v, %v", r.Form, err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	}))
	t.Cleanup(srv.Close)
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "dstack@example.iam.gserviceaccount.com", "private_key_id": "1", "token_uri": srv.URL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
}

// startWith opens a server with settings from env.
func startWith(t *testing.T, env map[string]string) (*Server, error) {
	t.Helper()
	c, err := Settings(func(k string) string { return env[k] }, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.NoFile, c.Token, c.Log = true, adminToken, slog.New(slog.DiscardHandler)
	return New(t.Context(), c)
}

// TestWrongStoragesStopTheStart with an error that names the variable.
func TestWrongStoragesStopTheStart(t *testing.T) {
	logs, objects := cloudwatchtest.New(t), s3test.New(t)
	storage, logging := gcstest.New(t), gcplogtest.New(t)
	amazon(t, s3test.AccessKey, s3test.SecretKey, logs.URL, objects.URL)
	google(t, gcstest.Token)
	fluentBit := fluenttest.New(t)
	host, port, _ := strings.Cut(fluentBit.Forward, ":")
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"no such log group": {map[string]string{varLogGroup: "other", varLogRegion: "eu-west-1"}, varLogGroup + "=other: wrong settings: there is no such log group in eu-west-1"},
		"no region":         {map[string]string{varLogGroup: "g"}, varLogGroup + "=g: the region is not known: set " + varLogRegion},
		"no such bucket":    {map[string]string{varS3Bucket: "other", varS3Region: "eu-west-1"}, varS3Bucket + "=other: wrong settings: there is no such bucket"},
		"wrong region":      {map[string]string{varS3Bucket: s3test.Name, varS3Region: "us-west-1"}, varS3Bucket + "=" + s3test.Name + ": wrong settings: the bucket is in the region eu-west-1, not in us-west-1"},
		"no GCS bucket":     {map[string]string{varGCSBucket: "other", varGCSEndpoint: storage.URL}, varGCSBucket + "=other: wrong settings: there is no such bucket"},
		"another project":   {map[string]string{varLoggingProject: "other", varLoggingEndpoint: logging.URL}, varLoggingProject + "=other: wrong settings: 403 PERMISSION_DENIED: refused"},
		"no log bucket":     {map[string]string{varS3LogBucket: "other", varS3LogRegion: "eu-west-1"}, varS3LogBucket + "=other: wrong settings: there is no such bucket"},
		"wrong search key":  {map[string]string{varFluentHost: host, varFluentPort: port, varSearchHost: fluentBit.Search, varSearchKey: "x"}, varSearchHost + ": wrong settings: 401 Unauthorized"},
	} {
		if s, err := startWith(t, c.env); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: New = %v, %v, want %s", name, s, err, c.want)
		}
	}
	google(t, gcstest.Stranger)
	for _, name := range []string{varGCSBucket, varGCSLogBucket} {
		want := name + "=" + gcstest.Name + ": wrong settings: list bucket " + gcstest.Name + ": 403 forbidden"
		if s, err := startWith(t, map[string]string{name: gcstest.Name, varGCSEndpoint: storage.URL}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("without permission: New = %v, %v, want %s", s, err, want)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	if _, err := startWith(t, map[string]string{varS3Bucket: s3test.Name}); err == nil || !strings.HasPrefix(err.Error(), varS3Bucket+"="+s3test.Name+": no AWS credentials: ") {
		t.Errorf("without credentials: %v", err)
	}
}

// TestStoragesInUse uploads, and logs, and looks at what came to the storages that the environment
// names, and at what comes back.
func TestStoragesInUse(t *testing.T) {
	type storages struct {
		env     map[string]string
		objects func() map[string]string
		lines   func(path string) []string
		url     string
	}
	for name, open := range map[string]func(t *testing.T) storages{
		"AWS": func(t *testing.T) storages {
			logs, objects := cloudwatchtest.New(t), s3test.New(t)
			amazon(t, s3test.AccessKey, s3test.SecretKey, logs.URL, objects.URL)
			return storages{map[string]string{varLogGroup: cloudwatchtest.Group, varLogRegion: cloudwatchtest.Region, varS3Bucket: s3test.Name, varS3Region: s3test.Region},
				objects.Objects, logs.Messages, "https://console.aws.amazon.com/"}
		},
		"Fluent Bit, S3 and PostgreSQL": func(t *testing.T) storages {
			bit, objects := fluenttest.New(t), s3test.New(t)
			amazon(t, s3test.AccessKey, s3test.SecretKey, "", objects.URL)
			host, port, _ := strings.Cut(bit.HTTP, ":")
			lines := func(path string) []string {
				var all []string
				for _, r := range bit.Records(path) {
					all = append(all, r.Message)
				}
				return all
			}
			return storages{map[string]string{varFluentHost: host, varFluentPort: port, varFluentProtocol: "http", varSearchHost: bit.Search, varSearchKey: fluenttest.APIKey,
				varOldBucket: s3test.Name, "DSTACK_DATABASE_URL": storetest.PostgresURL(t)}, objects.Objects, lines, ""}
		},
		"Google": func(t *testing.T) storages {
			logs, objects := gcplogtest.New(t), gcstest.New(t)
			google(t, gcstest.Token)
			return storages{map[string]string{varLoggingProject: gcplogtest.Project, varLoggingEndpoint: logs.URL, varGCSBucket: gcstest.Name, varGCSEndpoint: objects.URL},
				objects.Objects, logs.Messages, "https://console.cloud.google.com/"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			archive := strings.Repeat("\x00", 1024) // an empty tar
			st := open(t)
			s, err := startWith(t, st.env)
			if err != nil {
				t.Fatal(err)
			}
			work(t, s)
			a := s.call(t, "POST", "/api/files/upload_archive", adminToken, uploaded("a.tar", []byte(archive)), "Content-Type", "multipart/form-data; boundary=b")
			if a.Status != http.StatusOK {
				t.Fatalf("upload: %d %s", a.Status, a.Body)
			}
			for key, content := range st.objects() {
				if content != archive || !strings.HasPrefix(key, "dstack/"+s.db.ServerID()+"/blobs/") {
					t.Errorf("object %s is %q", key, content)
				}
			}
			if n := len(st.objects()); n != 1 {
				t.Errorf("%d objects, want 1", n)
			}
			var run struct {
				Jobs []struct {
					JobSubmissions []struct{ ID string } `json:"job_submissions"`
				}
			}
			s.must(t, "/api/project/main/runs/apply", applyPlan(spec("train", `"type": "task"`), nil, false), &run)
			job := run.Jobs[0].JobSubmissions[0].ID
			if _, err := s.logs.Append(t.Context(), job, logstore.Job, logstore.Chunk{At: time.Now(), Data: []byte("hello\n")}); err != nil {
				t.Fatal(err)
			}
			path := "main/train/" + job + "/job"
			until(t, "the log is at the service", func() bool { return slices.Equal(st.lines(path), []string{"hello\n"}) })
			var page struct {
				Logs        []struct{ Message []byte }
				ExternalURL string `json:"external_url"`
			}
			s.must(t, "/api/project/main/logs/poll", map[string]any{"run_name": "train", "job_submission_id": job}, &page)
			if len(page.Logs) != 1 || string(page.Logs[0].Message) != "hello\n" || !strings.HasPrefix(page.ExternalURL, st.url) {
				t.Errorf("the page is %+v", page)
			}
		})
	}
}
