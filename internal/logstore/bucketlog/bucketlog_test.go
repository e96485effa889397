package bucketlog_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"golang.org/x/oauth2"

	"dstack/internal/gcpclient"
	"dstack/internal/httpfault"
	"dstack/internal/logstore/bucketlog"
	"dstack/internal/logstore/logstoretest"
	"dstack/internal/object"
	"dstack/internal/object/gcs"
	"dstack/internal/object/gcs/gcstest"
	"dstack/internal/object/s3"
	"dstack/internal/object/s3/s3test"
)

// attempts is how often the clients try a request.
const attempts = 3

func service(b object.Bucket, srv *httpfault.Server, objects func() map[string]string) logstoretest.Service {
	srv.Fails = func(r *http.Request) bool { return r.Method == http.MethodPut || r.Method == http.MethodPost }
	return logstoretest.Service{
		Sink: bucketlog.New("bucket", b, "logs/"),
		Inject: func(faults ...httpfault.Fault) { // as often as the client repeats
			for _, f := range faults {
				if f == httpfault.Hang { // once: the caller gives up
					srv.Inject(f)
					continue
				}
				srv.Inject(slices.Repeat([]httpfault.Fault{f}, attempts)...)
			}
		},
		Held: func(path string) []string {
			all := objects()
			var held []string
			for _, key := range slices.Sorted(maps.Keys(all)) {
				if strings.HasPrefix(key, "logs/"+path+"/") {
					held = append(held, all[key])
				}
			}
			return held
		},
	}
}

func TestS3(t *testing.T) {
	logstoretest.RunSink(t, func(t *testing.T) logstoretest.Service {
		srv := s3test.New(t)
		b, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name, Region: s3test.Region, Endpoint: srv.URL, Backoff: time.Millisecond,
			Credentials: credentials.NewStaticCredentialsProvider(s3test.AccessKey, s3test.SecretKey, "")})
		if err != nil {
			t.Fatal(err)
		}
		return service(b, srv.Server, srv.Objects)
	})
}

func TestGCS(t *testing.T) {
	logstoretest.RunSink(t, func(t *testing.T) logstoretest.Service {
		srv := gcstest.New(t)
		b, err := gcs.New(t.Context(), gcs.Config{Bucket: gcstest.Name, Config: gcpclient.Config{Endpoint: srv.URL, Backoff: time.Millisecond,
			Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: gcstest.Token})}})
		if err != nil {
			t.Fatal(err)
		}
		return service(b, srv.Server, srv.Objects)
	})
}
