package fluent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"dstack/internal/logstore"
)

// Search is an Elasticsearch or OpenSearch that Fluent Bit's records come to.
type Search struct {
	URL    string
	Index  string // "": "dstack-logs"
	APIKey string // "": none
}

// hitsPerPage is how many documents are asked for at once; maxPages and maxPage, in bytes, bound
// what is read for a batch.
const (
	hitsPerPage = 1000
	maxPages    = 100
	maxPage     = 64 << 20
)

type query struct {
	Size        int                 `json:"size"`
	Query       map[string]any      `json:"query"`
	Sort        []map[string]string `json:"sort"`
	SearchAfter []any               `json:"search_after,omitempty"`
}

type answer struct {
	Hits struct {
		Hits []struct {
			Source record `json:"_source"`
			Sort   []any  `json:"sort"`
		} `json:"hits"`
	} `json:"hits"`
}

// statusError is an answer that is none of success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.status, http.StatusText(e.status), e.text)
}

func (s *Search) read(ctx context.Context, st logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	first, last := want[0].At.Format(timestamp), want[len(want)-1].At.Format(timestamp)
	q := query{
		Size: hitsPerPage,
		Query: map[string]any{"bool": map[string]any{"filter": []any{
			map[string]any{"term": map[string]any{"stream.keyword": st.Path()}},
			map[string]any{"range": map[string]any{"@timestamp": map[string]string{"gte": first, "lte": last}}},
		}}},
		Sort: []map[string]string{{"@timestamp": "asc"}},
	}
	var got []logstore.Record
	for range maxPages {
		a, err := s.search(ctx, q)
		if e, ok := errors.AsType[*statusError](err); ok && e.status == http.StatusNotFound {
			return nil, nil // nothing has come there yet
		}
		if err != nil {
			return nil, err
		}
		for _, h := range a.Hits.Hits {
			if strings.HasPrefix(h.Source.ID, st.ID+"-") { // else of one that was deleted
				got = append(got, logstore.Record{At: h.Source.Timestamp.Truncate(time.Millisecond), Data: logstore.Bytes(h.Source.Message)})
			}
		}
		n := len(a.Hits.Hits)
		if n < hitsPerPage {
			break
		}
		q.SearchAfter = a.Hits.Hits[n-1].Sort
	}
	return got, nil
}

// SearchError says that logs cannot be read back as it is configured. Denied: for want of a key.
type SearchError struct {
	Denied bool
	Err    error
}

func (e *SearchError) Error() string { return logstore.ErrSettings.Error() + ": " + e.Err.Error() }

// Is makes it a [logstore.ErrSettings].
func (e *SearchError) Is(target error) bool { return target == logstore.ErrSettings }

// check asks for nothing. An index that is not there comes with the first record.
func (s *Search) check(ctx context.Context) error {
	_, err := s.search(ctx, query{Query: map[string]any{"match_none": struct{}{}}, Sort: []map[string]string{}})
	e, ok := errors.AsType[*statusError](err)
	switch {
	case ok && e.status == http.StatusNotFound:
		return nil
	case ok && e.status < 500 && e.status != http.StatusTooManyRequests:
		return &SearchError{Denied: e.status == http.StatusUnauthorized || e.status == http.StatusForbidden, Err: err}
	case err != nil:
		return fmt.Errorf("search: %w", err)
	}
	return nil
}

func (s *Search) search(ctx context.Context, q query) (answer, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return answer{}, err
	}
	target := strings.TrimRight(s.URL, "/") + "/" + url.PathEscape(cmp.Or(s.Index, "dstack-logs")) + "/_search"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if s.APIKey != "" {
		req.Header.Set("Authorization", "ApiKey "+s.APIKey)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // only for the message
		return answer{}, &statusError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	var a answer
	return a, json.NewDecoder(io.LimitReader(resp.Body, maxPage)).Decode(&a)
}
