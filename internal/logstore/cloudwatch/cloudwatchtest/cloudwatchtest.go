// Package cloudwatchtest is a CloudWatch Logs in memory, as far as dstack uses its JSON 1.1
// protocol: it checks signatures, holds the limits of the documentation, and pages as the service
// does, with empty pages among them.
package cloudwatchtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/awsclient/awssig"
	"dstack/internal/httpfault"
)

// The one who may call, and the group that there is.
const (
	AccessKey = "AKIDEXAMPLE"
	SecretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	Region    = "eu-west-1"
	Group     = "/dstack/logs"
)

// pageSize is small, so that reads have pages.
const pageSize = 7

// Server is the service.
type Server struct {
	URL string
	*httpfault.Server
	mu      sync.Mutex
	streams map[string][]event
}

type event struct {
	Timestamp     int64  `json:"timestamp"`
	Message       string `json:"message"`
	IngestionTime int64  `json:"ingestionTime,omitempty"`
}

// New starts one until the test ends. Only writes fail on request.
func New(t testing.TB) *Server {
	s := &Server{streams: map[string][]event{}}
	s.Server = &httpfault.Server{Handler: http.HandlerFunc(s.serve), ErrorType: contentType, Error: `{"__type":"ServiceUnavailableException"}`,
		Fails:    func(r *http.Request) bool { return action(r) == "PutLogEvents" },
		Throttle: func(w http.ResponseWriter) { answer(w, "ThrottlingException", "Rate exceeded") }}
	h := httptest.NewServer(s.Server)
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// Messages are the messages of a stream, in the order of time.
func (s *Server) Messages(stream string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.streams[stream] {
		all = append(all, e.Message)
	}
	return all
}

// Remove deletes a stream, as an administrator may.
func (s *Server) Remove(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, stream)
}

const contentType = "application/x-amz-json-1.1"

func answer(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"__type":%q,"message":%q}`, code, message)
}

func action(r *http.Request) string {
	name, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "Logs_20140328.")
	return name
}

// request has the fields of all requests.
type request struct {
	LogGroupName  string  `json:"logGroupName"`
	LogStreamName string  `json:"logStreamName"`
	LogEvents     []event `json:"logEvents"`
	StartTime     *int64  `json:"startTime"`
	EndTime       *int64  `json:"endTime"`
	StartFromHead bool    `json:"startFromHead"`
	NextToken     string  `json:"nextToken"`
	Limit         int     `json:"limit"`
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	signer := awssig.Signer{AccessKey: AccessKey, SecretKey: SecretKey, Region: Region, Service: "logs"}
	if !strings.Contains(r.Header.Get("Authorization"), AccessKey+"/") {
		answer(w, "UnrecognizedClientException", "The security token included in the request is invalid.")
		return
	}
	if err := signer.Verify(r, body); err != nil {
		answer(w, "InvalidSignatureException", err.Error())
		return
	}
	var in request
	if err := json.Unmarshal(body, &in); err != nil || r.Header.Get("Content-Type") != contentType {
		answer(w, "SerializationException", "no JSON 1.1")
		return
	}
	if in.LogGroupName != Group {
		answer(w, "ResourceNotFoundException", "The specified log group does not exist.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if code, out := s.do(action(r), in); code != "" {
		answer(w, code, fmt.Sprint(out))
	} else {
		w.Header().Set("Content-Type", contentType)
		_ = json.NewEncoder(w).Encode(out) // the client may be gone
	}
}

func (s *Server) do(action string, in request) (code string, out any) {
	_, there := s.streams[in.LogStreamName]
	switch action {
	case "DescribeLogStreams":
		return "", map[string]any{"logStreams": []any{}}
	case "CreateLogStream":
		if there {
			return "ResourceAlreadyExistsException", "The specified log stream already exists"
		}
		if n := len(in.LogStreamName); n == 0 || n > 512 || strings.ContainsAny(in.LogStreamName, ":*") {
			return "InvalidParameterException", "logStreamName"
		}
		s.streams[in.LogStreamName] = []event{}
		return "", struct{}{}
	}
	if !there {
		return "ResourceNotFoundException", "The specified log stream does not exist."
	}
	switch action {
	case "DeleteLogStream":
		delete(s.streams, in.LogStreamName)
		return "", struct{}{}
	case "PutLogEvents":
		return s.put(in)
	case "GetLogEvents":
		return s.get(in)
	}
	return "UnknownOperationException", action
}

func (s *Server) put(in request) (code string, out any) {
	bytes, now := 0, time.Now()
	for i, e := range in.LogEvents {
		size := len(e.Message) + 26
		bytes += size
		switch {
		case e.Message == "" || size > 256<<10:
			return "InvalidParameterException", fmt.Sprintf("event %d has %d bytes", i, size)
		case i > 0 && e.Timestamp < in.LogEvents[i-1].Timestamp:
			return "InvalidParameterException", "Log events in a single PutLogEvents request must be in chronological order."
		case e.Timestamp-in.LogEvents[0].Timestamp > 24*time.Hour.Milliseconds():
			return "InvalidParameterException", "The batch of log events in a single PutLogEvents request cannot span more than 24 hours."
		case time.UnixMilli(e.Timestamp).Before(now.AddDate(0, 0, -14)), time.UnixMilli(e.Timestamp).After(now.Add(2 * time.Hour)):
			return "", map[string]any{"rejectedLogEventsInfo": map[string]int{"tooOldLogEventEndIndex": i}} // the service takes the others; we want none
		}
	}
	if n := len(in.LogEvents); n == 0 || n > 10_000 || bytes > 1<<20 {
		return "InvalidParameterException", fmt.Sprintf("%d events of %d bytes", n, bytes)
	}
	all := s.streams[in.LogStreamName]
	for _, e := range in.LogEvents {
		e.IngestionTime = now.UnixMilli()
		all = append(all, e)
	}
	slices.SortStableFunc(all, func(a, b event) int { return int(a.Timestamp - b.Timestamp) })
	s.streams[in.LogStreamName] = all
	return "", map[string]string{"nextSequenceToken": "1"}
}

// get answers pages whose tokens count events, and every second page is empty.
func (s *Server) get(in request) (code string, out any) {
	if in.StartTime == nil || in.EndTime == nil || !in.StartFromHead {
		return "InvalidParameterException", "this double reads forward between two times"
	}
	var in2 []event
	for _, e := range s.streams[in.LogStreamName] {
		if e.Timestamp >= *in.StartTime && e.Timestamp < *in.EndTime {
			in2 = append(in2, e)
		}
	}
	from, empty := 0, false
	if in.NextToken != "" {
		if _, err := fmt.Sscanf(in.NextToken, "f/%d/%t", &from, &empty); err != nil {
			return "InvalidParameterException", "The specified nextToken is invalid."
		}
	}
	end := min(from+pageSize, len(in2))
	if empty && from < len(in2) {
		end = from
	}
	next := fmt.Sprintf("f/%d/%t", end, !empty && end < len(in2))
	return "", map[string]any{"events": in2[from:end], "nextForwardToken": next, "nextBackwardToken": "b/0"}
}
