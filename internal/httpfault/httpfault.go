// Package httpfault makes the HTTP servers of tests fail as real ones do.
package httpfault

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
)

// A Fault is a way to fail.
type Fault string

// The faults. Lost is the worst: the request has its effect, and the answer does not arrive.
const (
	Hang     Fault = "no answer"
	Refuse   Fault = "status 503"
	Throttle Fault = "throttled"
	Reset    Fault = "connection reset"
	Lost     Fault = "effect, then connection reset"
	Late     Fault = "effect, then status 500"
)

// All are all faults.
var All = []Fault{Hang, Refuse, Throttle, Reset, Lost, Late}

// Server is a handler that fails on request.
type Server struct {
	Handler http.Handler
	// Fails says which requests may fail; nil: all.
	Fails func(*http.Request) bool
	// Throttle answers like a service that has had enough.
	Throttle func(http.ResponseWriter)
	// Error is the body of an error, as the service words it; its type is ErrorType.
	Error, ErrorType string

	mu   sync.Mutex
	next []Fault
}

// Inject makes the next requests fail, one each.
func (s *Server) Inject(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, faults...)
}

func (s *Server) take(r *http.Request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.next) == 0 || s.Fails != nil && !s.Fails(r) {
		return ""
	}
	f := s.next[0]
	s.next = s.next[1:]
	return f
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body)) // Fails may look at it
	fault := s.take(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	switch fault {
	case Hang:
		<-r.Context().Done()
	case Refuse:
		s.fail(w, http.StatusServiceUnavailable)
	case Throttle:
		s.Throttle(w)
	case Reset:
		panic(http.ErrAbortHandler)
	case Lost:
		s.Handler.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case Late:
		s.Handler.ServeHTTP(httptest.NewRecorder(), r)
		s.fail(w, http.StatusInternalServerError)
	default:
		s.Handler.ServeHTTP(w, r)
	}
}

func (s *Server) fail(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", s.ErrorType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, s.Error) // the client may be gone
}
