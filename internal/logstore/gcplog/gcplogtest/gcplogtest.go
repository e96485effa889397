// Package gcplogtest is a Google Cloud Logging in memory, as far as dstack uses its REST API: it
// holds the limits of the documentation, keeps entries of one time and insertId once, and pages.
package gcplogtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/httpfault"
)

// Token is what callers must have, Project the project that there is.
const (
	Token   = "ya29.example"
	Project = "my-project"
)

// pageSize is small, so that reads have pages.
const pageSize = 50

// Server is the service.
type Server struct {
	URL string
	*httpfault.Server
	mu      sync.Mutex
	entries []Entry
	reads   int // that are left of the quota, 0: no quota
}

// Entry is an entry as the API has it.
type Entry struct {
	LogName     string            `json:"logName"`
	InsertID    string            `json:"insertId"`
	Timestamp   time.Time         `json:"timestamp"`
	Labels      map[string]string `json:"labels"`
	JSONPayload map[string]string `json:"jsonPayload"`
}

// New starts one until the test ends. Only writes fail on request.
func New(t testing.TB) *Server {
	s := &Server{}
	s.Server = &httpfault.Server{Handler: http.HandlerFunc(s.serve), ErrorType: "application/json", Error: `{"error":{"code":503,"status":"UNAVAILABLE","message":"try again"}}`,
		Fails:    func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ":write") },
		Throttle: func(w http.ResponseWriter) { answer(w, http.StatusTooManyRequests, "RESOURCE_EXHAUSTED") }}
	h := httptest.NewServer(s.Server)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Messages are the messages of a stream, given by its path, in the order of time.
func (s *Server) Messages(path string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.entries {
		if e.Labels["stream"] == strings.ReplaceAll(path, "/", "-") {
			all = append(all, e.JSONPayload["message"])
		}
	}
	return all
}

// Exhaust lets n more reads pass.
func (s *Server) Exhaust(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = n + 1
}

func answer(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"code":%d,"status":%q,"message":"refused"}}`, status, reason)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+Token {
		answer(w, http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Method + " " + r.URL.Path {
	case "POST /v2/entries:write":
		s.write(w, body)
	case "POST /v2/entries:list":
		s.list(w, body)
	default:
		answer(w, http.StatusNotFound, "NOT_FOUND")
	}
}

func (s *Server) write(w http.ResponseWriter, body []byte) {
	var in struct {
		LogName  string
		Resource struct{ Type string }
		Entries  []Entry
	}
	if err := json.Unmarshal(body, &in); err != nil || len(body) > 10_000_000 || in.Resource.Type != "global" {
		answer(w, http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	if !strings.HasPrefix(in.LogName, "projects/"+Project+"/logs/") {
		answer(w, http.StatusForbidden, "PERMISSION_DENIED")
		return
	}
	for _, e := range in.Entries {
		if len(e.JSONPayload["message"])+len(e.Labels["stream"])+200 > 256_000 || e.InsertID == "" {
			answer(w, http.StatusBadRequest, "INVALID_ARGUMENT")
			return
		}
	}
	now := time.Now()
	for _, e := range in.Entries {
		if e.Timestamp.Before(now.AddDate(0, 0, -30)) || e.Timestamp.After(now.AddDate(0, 0, 1)) {
			continue // thrown away without a word
		}
		e.LogName = in.LogName
		if !slices.ContainsFunc(s.entries, func(o Entry) bool {
			return o.InsertID == e.InsertID && o.Timestamp.Equal(e.Timestamp) && o.LogName == e.LogName
		}) {
			s.entries = append(s.entries, e)
		}
	}
	slices.SortStableFunc(s.entries, func(a, b Entry) int { return a.Timestamp.Compare(b.Timestamp) })
	reply(w, struct{}{})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

var filter = regexp.MustCompile(`^logName="([^"]*)" AND labels\.stream="([^"]*)" AND timestamp>="([^"]*)" AND timestamp<="([^"]*)"$`)

func (s *Server) list(w http.ResponseWriter, body []byte) {
	var in struct {
		ResourceNames              []string
		Filter, OrderBy, PageToken string
		PageSize                   int
	}
	err := json.Unmarshal(body, &in)
	m := filter.FindStringSubmatch(in.Filter)
	if err != nil || m == nil || in.OrderBy != "timestamp asc" || in.PageSize < 1 || in.PageSize > 1000 {
		answer(w, http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	if !slices.Equal(in.ResourceNames, []string{"projects/" + Project}) {
		answer(w, http.StatusForbidden, "PERMISSION_DENIED")
		return
	}
	if s.reads == 1 {
		answer(w, http.StatusTooManyRequests, "RESOURCE_EXHAUSTED")
		return
	}
	s.reads = max(s.reads-1, 0)
	from, err1 := time.Parse(time.RFC3339Nano, m[3])
	to, err2 := time.Parse(time.RFC3339Nano, m[4])
	skip, err3 := strconv.Atoi("0" + in.PageToken)
	if err1 != nil || err2 != nil || err3 != nil {
		answer(w, http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	var found []Entry
	for _, e := range s.entries {
		if e.LogName == m[1] && e.Labels["stream"] == m[2] && !e.Timestamp.Before(from) && !e.Timestamp.After(to) {
			found = append(found, e)
		}
	}
	end := min(skip+min(in.PageSize, pageSize), len(found))
	out := map[string]any{"entries": found[min(skip, end):end]}
	if end < len(found) {
		out["nextPageToken"] = strconv.Itoa(end)
	}
	reply(w, out)
}
