// Package gcstest is a Google Cloud Storage in memory, as far as dstack uses its JSON API.
package gcstest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/httpfault"
)

// Token is what callers must have, Stranger that of somebody who may do nothing here, Name the bucket
// that there is.
const (
	Token    = "ya29.example"
	Stranger = "ya29.stranger"
	Name     = "dstack-data"
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
	s.Server = &httpfault.Server{Handler: http.HandlerFunc(s.serve), Error: `{"error":{"code":503,"message":"Backend Error","errors":[{"reason":"backendError"}]}}`, ErrorType: "application/json",
		Throttle: func(w http.ResponseWriter) { answer(w, http.StatusTooManyRequests, "rateLimitExceeded") }}
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

func answer(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%d,"message":"%s","errors":[{"reason":"%s"}]}}`, status, reason, reason)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch r.Header.Get("Authorization") {
	case "Bearer " + Token:
	case "Bearer " + Stranger:
		answer(w, http.StatusForbidden, "forbidden")
		return
	default:
		answer(w, http.StatusUnauthorized, "authError")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path, upload := strings.CutPrefix(r.URL.EscapedPath(), "/upload")
	rest, ok := strings.CutPrefix(path, "/storage/v1/b/")
	bucket, rest, _ := strings.Cut(rest, "/o")
	key, err := url.PathUnescape(strings.TrimPrefix(rest, "/"))
	switch {
	case !ok || err != nil:
		answer(w, http.StatusNotFound, "notFound")
	case bucket != Name:
		answer(w, http.StatusNotFound, "notFound")
	case upload && r.Method == http.MethodPost && r.URL.Query().Get("uploadType") == "media" && key == "":
		name := r.URL.Query().Get("name")
		if int64(len(body)) != r.ContentLength || name == "" {
			answer(w, http.StatusBadRequest, "required")
			return
		}
		s.objects[name] = content{body, time.Now()}
		reply(w, s.resource(name))
	case key == "" && r.Method == http.MethodGet:
		s.list(w, r.URL.Query())
	default:
		s.object(w, r, key)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func (s *Server) resource(key string) map[string]string {
	c := s.objects[key]
	return map[string]string{"kind": "storage#object", "name": key, "size": strconv.Itoa(len(c.data)), "updated": c.modified.UTC().Format("2006-01-02T15:04:05.000Z")}
}

func (s *Server) object(w http.ResponseWriter, r *http.Request, key string) {
	c, there := s.objects[key]
	switch {
	case !there:
		answer(w, http.StatusNotFound, "notFound")
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet && r.URL.Query().Get("alt") == "media":
		_, _ = w.Write(c.data) // the client may be gone
	case r.Method == http.MethodGet:
		reply(w, s.resource(key))
	default:
		answer(w, http.StatusMethodNotAllowed, "methodNotAllowed")
	}
}

func (s *Server) list(w http.ResponseWriter, q url.Values) {
	out := map[string]any{"kind": "storage#objects"}
	var items []map[string]string
	for _, k := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(k, q.Get("prefix")) || k <= q.Get("pageToken") {
			continue
		}
		if len(items) == pageSize {
			out["nextPageToken"] = items[pageSize-1]["name"]
			break
		}
		items = append(items, s.resource(k))
	}
	if items != nil {
		out["items"] = items
	}
	reply(w, out)
}
