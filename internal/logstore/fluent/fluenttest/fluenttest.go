// Package fluenttest is a Fluent Bit in memory, with inputs forward and http, whose records come to
// an Elasticsearch in memory.
package fluenttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/httpfault"
)

// APIKey is what those who search must have, Index the index that there is.
const (
	APIKey = "c2VjcmV0"
	Index  = "dstack-logs"
)

// Record is a record as it came in.
type Record struct {
	Tag     string
	At      time.Time // of the event; zero over HTTP
	Message string
	Stream  string
	ID      string
	Stamp   time.Time // its field @timestamp
}

// Server is both.
type Server struct {
	Forward, HTTP string // addresses of the inputs
	Search        string // URL of the search
	*httpfault.Server

	t        testing.TB
	listener net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	records  []Record
	next     []httpfault.Fault // of the input forward
}

// New starts one until the test ends.
func New(t testing.TB) *Server {
	s := &Server{t: t}
	s.Server = &httpfault.Server{Handler: http.HandlerFunc(s.post), Error: "overloaded",
		Throttle: func(w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }}
	h := httptest.NewServer(s.Server)
	t.Cleanup(h.Close)
	s.HTTP = h.Listener.Addr().String()
	e := httptest.NewServer(http.HandlerFunc(s.search))
	t.Cleanup(e.Close)
	s.Search = e.URL
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.Forward = s.listener.Addr().String()
	s.wg.Go(s.accept)
	t.Cleanup(func() {
		if err := s.listener.Close(); err != nil {
			t.Error(err)
		}
		s.wg.Wait()
	})
	return s
}

// Records are all records of a stream, in the order of time.
func (s *Server) Records(stream string) []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Record
	for _, r := range s.records {
		if r.Stream == stream {
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b Record) int { return a.Stamp.Compare(b.Stamp) })
	return all
}

// InjectForward makes the next messages of the input forward fail.
func (s *Server) InjectForward(faults ...httpfault.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = append(s.next, faults...)
}

func (s *Server) take() httpfault.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.next) == 0 {
		return ""
	}
	f := s.next[0]
	s.next = s.next[1:]
	return f
}

func (s *Server) store(records []Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, records...)
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer func() { _ = conn.Close() }() // the client judges
			for s.message(conn) {
			}
		})
	}
}

// message takes one message and acknowledges it.
func (s *Server) message(conn net.Conn) (more bool) {
	v, err := decode(conn)
	if err != nil {
		return false
	}
	records, chunk, err := parse(v)
	if err != nil {
		s.t.Errorf("a message that is none of the mode Forward: %v", err)
		return false
	}
	fault := s.take()
	switch fault {
	case httpfault.Hang:
		_, _ = io.Copy(io.Discard, conn) // until the client gives up
		return false
	case httpfault.Refuse, httpfault.Throttle, httpfault.Reset:
		return false
	}
	s.store(records)
	switch fault {
	case httpfault.Lost:
		return false
	case httpfault.Late:
		chunk = "another"
	}
	ack := append([]byte{0x81, 0xa3, 'a', 'c', 'k', 0xd9, byte(len(chunk))}, chunk...)
	_, err = conn.Write(ack)
	return err == nil
}

// parse reads [tag, [[time, record], ...], {"chunk": ..., "size": ...}].
func parse(v any) (records []Record, chunk string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r) // a type that is not expected
		}
	}()
	message := v.([]any)
	tag := message[0].(string)
	for _, e := range message[1].([]any) {
		pair := e.([]any)
		fields := pair[1].(map[string]any)
		stamp, err := time.Parse(time.RFC3339, fields["@timestamp"].(string))
		if err != nil {
			return nil, "", err
		}
		records = append(records, Record{tag, pair[0].(time.Time), fields["message"].(string), fields["stream"].(string), fields["id"].(string), stamp})
	}
	option := message[2].(map[string]any)
	if option["size"].(uint64) != uint64(len(records)) {
		return nil, "", errors.New("another size")
	}
	return records, option["chunk"].(string), nil
}

// post is the input http: a record, or a list, and the tag in the path.
func (s *Server) post(w http.ResponseWriter, r *http.Request) {
	var in []struct {
		Message, Stream, ID string
		Stamp               time.Time `json:"@timestamp"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var records []Record
	for _, e := range in {
		records = append(records, Record{strings.TrimPrefix(r.URL.Path, "/"), time.Time{}, e.Message, e.Stream, e.ID, e.Stamp})
	}
	s.store(records)
	w.WriteHeader(http.StatusCreated)
}

// search answers what dstack asks: a stream between two times, sorted by time.
func (s *Server) search(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get("Authorization") != "ApiKey "+APIKey {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":{"type":"security_exception"}}`)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/"+Index+"/_search" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"error":{"type":"index_not_found_exception"}}`)
		return
	}
	var in struct {
		Size  int
		Query struct {
			Bool struct {
				Filter []struct {
					Term  map[string]string
					Range map[string]struct{ Gte, Lte time.Time }
				}
			}
		}
		Sort        []map[string]string
		SearchAfter []int64 `json:"search_after"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Size > 10_000 {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":%q}`, fmt.Sprint(err))
		return
	}
	type hit struct {
		ID     string         `json:"_id"`
		Source map[string]any `json:"_source"`
		Sort   []int64        `json:"sort"`
	}
	hits := []hit{}
	if f := in.Query.Bool.Filter; len(f) == 2 {
		between := f[1].Range["@timestamp"]
		for i, rec := range s.Records(f[0].Term["stream.keyword"]) {
			ms := rec.Stamp.UnixMilli()
			if rec.Stamp.Before(between.Gte) || rec.Stamp.After(between.Lte) || len(in.SearchAfter) > 0 && ms <= in.SearchAfter[0] || len(hits) == in.Size {
				continue
			}
			hits = append(hits, hit{fmt.Sprint(i), map[string]any{"message": rec.Message, "@timestamp": rec.Stamp, "stream": rec.Stream, "id": rec.ID}, []int64{ms}})
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"hits": map[string]any{"hits": hits}}) // the client may be gone
}
