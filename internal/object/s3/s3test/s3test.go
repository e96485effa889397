// Package s3test is an S3 in memory, as far as dstack uses it: it checks signatures, pages lists
// and answers with the errors of the API.
package s3test

import (
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/awsclient/awssig"
	"dstack/internal/httpfault"
)

// The one who may call, and the bucket that there is.
const (
	AccessKey = "AKIDEXAMPLE"
	SecretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	Region    = "eu-west-1"
	Name      = "dstack-data"
)

// pageSize is small, so that lists have pages.
const pageSize = 3

// Server is the store.
type Server struct {
	URL string
	*httpfault.Server
	mu      sync.Mutex
	objects map[string]content
}

type content struct {
	data     []byte
	modified time.Time
}

// New starts one until the test ends.
func New(t testing.TB) *Server {
	s := &Server{objects: map[string]content{}}
	s.Server = &httpfault.Server{Handler: http.HandlerFunc(s.serve), ErrorType: "application/xml",
		Throttle: func(w http.ResponseWriter) { answer(w, http.StatusServiceUnavailable, "SlowDown") }}
	h := httptest.NewServer(s.Server)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Objects are the keys and contents of all objects.
func (s *Server) Objects() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]string{}
	for k, c := range s.objects {
		all[k] = string(c.data)
	}
	return all
}

func answer(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message><RequestId>1</RequestId></Error>", code, code)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	signer := awssig.Signer{AccessKey: AccessKey, SecretKey: SecretKey, Region: Region, Service: "s3"}
	if !strings.Contains(r.Header.Get("Authorization"), AccessKey+"/") {
		answer(w, http.StatusForbidden, "InvalidAccessKeyId")
		return
	}
	if region := strings.Split(r.Header.Get("Authorization"), "/")[2]; region != Region {
		w.Header().Set("X-Amz-Bucket-Region", Region)
		answer(w, http.StatusBadRequest, "AuthorizationHeaderMalformed")
		return
	}
	if err := signer.Verify(r, body); err != nil {
		answer(w, http.StatusForbidden, "SignatureDoesNotMatch")
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if bucket != Name {
		answer(w, http.StatusNotFound, "NoSuchBucket")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == "" {
		s.list(w, r)
		return
	}
	s.object(w, r, key, body)
}

func (s *Server) object(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	c, there := s.objects[key]
	switch {
	case r.Method == http.MethodPut:
		if r.Header.Get("Content-Length") == "" || int64(len(body)) != r.ContentLength {
			answer(w, http.StatusLengthRequired, "MissingContentLength")
			return
		}
		s.objects[key] = content{body, time.Now()}
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case !there && r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	case !there:
		answer(w, http.StatusNotFound, "NoSuchKey")
	default:
		w.Header().Set("Last-Modified", c.modified.UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", strconv.Itoa(len(c.data)))
		_, _ = w.Write(c.data) // the client may be gone
	}
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []listed
}

type listed struct {
	Key          string
	LastModified string
	Size         int
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.Method != http.MethodGet || q.Get("list-type") != "2" {
		answer(w, http.StatusNotImplemented, "NotImplemented")
		return
	}
	var out listing
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(k, q.Get("prefix")) || k <= q.Get("continuation-token") {
			continue
		}
		if len(out.Contents) == pageSize {
			out.IsTruncated, out.NextContinuationToken = true, out.Contents[pageSize-1].Key
			break
		}
		c := s.objects[k]
		out.Contents = append(out.Contents, listed{k, c.modified.UTC().Format("2006-01-02T15:04:05.000Z"), len(c.data)})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(out) // the client may be gone
}
