// Package gcplog keeps logs in Google Cloud Logging: entries of one log, told apart by a label.
// Credentials come from where Google's programs look for them.
package gcplog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"dstack/internal/gcpclient"
	"dstack/internal/logstore"
)

// Config is what New needs; only Project is required.
type Config struct {
	Project string
	gcpclient.Config
}

// Sink is a [logstore.Sink].
type Sink struct {
	project string
	client  *gcpclient.Client
}

const (
	logID = "dstack-run-logs"
	scope = "https://www.googleapis.com/auth/cloud-platform"
)

// New looks for credentials; gcpclient.ErrNoCredentials says that there are none.
func New(ctx context.Context, c Config) (*Sink, error) {
	c.Endpoint = cmp.Or(c.Endpoint, "https://logging.googleapis.com")
	client, err := gcpclient.New(ctx, c.Config, scope)
	if err != nil {
		return nil, err
	}
	return &Sink{c.Project, client}, nil
}

// Name implements [logstore.Sink].
func (s *Sink) Name() string { return "Google Cloud Logging of project " + s.project }

// Limits implements [logstore.Sink]. An entry may have 256 KB, a request 10 MB, both with what is
// around the text. Entries beyond the retention, or a day ahead, are thrown away without a word.
func (s *Sink) Limits() logstore.Limits {
	return logstore.Limits{
		Records: 1000, BatchBytes: 4 << 20, RecordBytes: 96 << 10, Overhead: 512, Growth: logstore.MaxTextGrowth,
		Past: 28 * 24 * time.Hour, Future: 22 * time.Hour, Precision: time.Microsecond, Linger: time.Second,
		Once: true, // entries of one time with one insertId are one
	}
}

// Check implements [logstore.Sink]: it asks for an entry of now.
func (s *Sink) Check(ctx context.Context) error {
	now := time.Now()
	_, _, err := s.list(ctx, "dstack-no-such-stream", now, now, "")
	e, ok := errors.AsType[*gcpclient.Error](err)
	if ok && e.Status < 500 && !e.Temporary() {
		return fmt.Errorf("%w: %w", logstore.ErrSettings, err)
	}
	return err
}

// label is the name of a stream.
func label(st logstore.Stream) string { return strings.ReplaceAll(st.Path(), "/", "-") }

// entry is an entry, as far as it matters here.
type entry struct {
	InsertID    string            `json:"insertId"`
	Timestamp   time.Time         `json:"timestamp"`
	Labels      map[string]string `json:"labels,omitempty"`
	JSONPayload payload           `json:"jsonPayload"`
}

type payload struct {
	Message string `json:"message"`
}

type writeRequest struct {
	LogName  string   `json:"logName"`
	Resource resource `json:"resource"`
	Entries  []entry  `json:"entries"`
}

type resource struct {
	Type string `json:"type"`
}

func (s *Sink) logName() string { return "projects/" + s.project + "/logs/" + logID }

// Write implements [logstore.Sink].
func (s *Sink) Write(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	in := writeRequest{LogName: s.logName(), Resource: resource{"global"}}
	labels := map[string]string{"stream": label(st)}
	for _, r := range records {
		in.Entries = append(in.Entries, entry{fmt.Sprintf("%s-%020d", st.ID, r.Offset), r.At, labels, payload{logstore.Text(r.Data)}})
	}
	err := s.client.JSON(ctx, "/v2/entries:write", in, &struct{}{}, 1<<20, false)
	if e, ok := errors.AsType[*gcpclient.Error](err); ok && e.Status < 500 && e.Status != http.StatusRequestTimeout {
		return fmt.Errorf("%w: %w", logstore.ErrNotDone, err)
	}
	return err
}

type listRequest struct {
	ResourceNames []string `json:"resourceNames"`
	Filter        string   `json:"filter"`
	OrderBy       string   `json:"orderBy"`
	PageSize      int      `json:"pageSize"`
	PageToken     string   `json:"pageToken,omitempty"`
}

// maxPages bounds the pages of one read, maxPage the bytes of one.
const (
	maxPages = 100
	maxPage  = 64 << 20
)

func (s *Sink) list(ctx context.Context, stream string, from, to time.Time, token string) (entries []entry, next string, err error) {
	in := listRequest{ResourceNames: []string{"projects/" + s.project}, OrderBy: "timestamp asc", PageSize: 1000, PageToken: token}
	in.Filter = fmt.Sprintf("logName=%q AND labels.stream=%q AND timestamp>=%q AND timestamp<=%q",
		s.logName(), stream, from.UTC().Format(time.RFC3339Nano), to.UTC().Format(time.RFC3339Nano))
	var out struct {
		Entries       []entry `json:"entries"`
		NextPageToken string  `json:"nextPageToken"`
	}
	err = s.client.JSON(ctx, "/v2/entries:list", in, &out, maxPage, true)
	return out.Entries, out.NextPageToken, err
}

// quotaText is what users are told whose administrators have not raised the quota.
const quotaText = "GCP Logging read request limit exceeded. It's recommended to increase default entries.list request quota from 60 per minute."

// Read implements [logstore.Sink].
func (s *Sink) Read(ctx context.Context, st logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	var got []logstore.Record
	token := ""
	for range maxPages {
		entries, next, err := s.list(ctx, label(st), want[0].At, want[len(want)-1].At, token)
		if e, ok := errors.AsType[*gcpclient.Error](err); ok && e.Quota() {
			return nil, &logstore.ReadError{Text: quotaText, Err: err}
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.InsertID, st.ID+"-") { // else of one that was deleted
				got = append(got, logstore.Record{At: e.Timestamp, Data: logstore.Bytes(e.JSONPayload.Message)})
			}
		}
		if token = next; token == "" || len(got) >= len(want) {
			break
		}
	}
	return got, nil
}

// Delete implements [logstore.Sink]. The service only deletes whole logs: the log's retention does it.
func (s *Sink) Delete(context.Context, logstore.Stream) error { return nil }

// URL implements [logstore.Linker]: the stream in the console.
func (s *Sink) URL(st logstore.Stream) string {
	query := fmt.Sprintf("logName=%q\nlabels.stream=%q", s.logName(), label(st))
	return "https://console.cloud.google.com/logs/query;query=" + url.PathEscape(query) + "?project=" + url.QueryEscape(s.project)
}
