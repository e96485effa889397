// Package fluent ships logs to Fluent Bit (or Fluentd), by the forward protocol with
// acknowledgements or over HTTP. Where they come to Elasticsearch or OpenSearch from there, they
// can be read back; else not.
//
// The protocol: https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1. It is
// written out here since the Go client repeats what failed by itself, so that one cannot know what
// has arrived.
package fluent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/logstore"
)

// Protocol is how Fluent Bit is spoken to.
type Protocol string

// The protocols.
const (
	Forward Protocol = "forward"
	HTTP    Protocol = "http"
)

// Config is what New needs; only Host is required.
type Config struct {
	Host      string
	Port      int      // 0: 24224
	Protocol  Protocol // "": Forward
	TagPrefix string   // "": "dstack"
	// Search is where logs can be read back; nil: nowhere.
	Search *Search
}

// Sink is a [logstore.Sink].
type Sink struct {
	Config
	addr string
	http *http.Client
}

// New checks c. It calls nobody.
func New(c Config) (*Sink, error) {
	c.Port, c.Protocol, c.TagPrefix = cmp.Or(c.Port, 24224), cmp.Or(c.Protocol, Forward), cmp.Or(c.TagPrefix, "dstack")
	if c.Host == "" || c.Protocol != Forward && c.Protocol != HTTP {
		return nil, errors.New("fluent: Host is required, Protocol is forward or http")
	}
	return &Sink{c, net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), &http.Client{}}, nil
}

// Name implements [logstore.Sink].
func (s *Sink) Name() string { return "Fluent Bit at " + s.addr }

// Limits implements [logstore.Sink]. Fluent Bit has few by default; its inputs take some MB at once.
func (s *Sink) Limits() logstore.Limits {
	return logstore.Limits{
		Records: 100, BatchBytes: 1 << 20, RecordBytes: 256 << 10, Overhead: 256, Growth: logstore.MaxTextGrowth,
		Precision: time.Millisecond, // which is what Elasticsearch sorts by
		Linger:    time.Second,
	}
}

// Check implements [logstore.Sink].
func (s *Sink) Check(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", s.addr)
	if err == nil {
		err = conn.Close()
	}
	if s.Search != nil {
		err = errors.Join(err, s.Search.check(ctx))
	}
	return err
}

const dialTimeout = 10 * time.Second

// timestamp is how times are written.
const timestamp = "2006-01-02T15:04:05.000Z07:00"

// id is the name of a record, the same when it is sent again: Fluent Bit's output es can use it as
// the document's (Id_Key id).
func id(st logstore.Stream, r logstore.Record) string {
	return fmt.Sprintf("%s-%020d", st.ID, r.Offset)
}

func (s *Sink) tag(st logstore.Stream) string { return s.TagPrefix + "." + st.Path() }

// Write implements [logstore.Sink].
func (s *Sink) Write(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	if s.Protocol == HTTP {
		return s.post(ctx, st, records)
	}
	return s.forward(ctx, st, records)
}

// forward sends one message of the mode Forward on a connection of its own, and waits for its
// acknowledgement: a connection that was idle may be dead, and what was written to it lost or not.
func (s *Sink) forward(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("%w: %w", logstore.ErrNotDone, err)
	}
	defer func() { _ = conn.Close() }() // the acknowledgement says it all
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	chunk := chunkID(st, records[0])
	if _, err := conn.Write(message(s.tag(st), st, records, chunk)); err != nil {
		return err
	}
	ack, err := readAck(conn)
	if err != nil {
		return fmt.Errorf("wait for the acknowledgement: %w", err)
	}
	if ack != chunk {
		return fmt.Errorf("%w of what was sent", errAck)
	}
	return nil
}

// chunkID names a batch, the same when it is sent again.
func chunkID(st logstore.Stream, first logstore.Record) string {
	u := uuid.NewSHA1(uuid.Nil, []byte(id(st, first)))
	return base64.StdEncoding.EncodeToString(u[:])
}

func message(tag string, st logstore.Stream, records []logstore.Record, chunk string) []byte {
	b := appendArray(nil, 3)
	b = appendString(b, tag)
	b = appendArray(b, len(records))
	for _, r := range records {
		b = appendTime(appendArray(b, 2), r.At)
		b = appendMap(b, 4)
		b = appendString(appendString(b, "message"), logstore.Text(r.Data))
		b = appendString(appendString(b, "@timestamp"), r.At.Format(timestamp))
		b = appendString(appendString(b, "stream"), st.Path())
		b = appendString(appendString(b, "id"), id(st, r))
	}
	b = appendMap(b, 2)
	b = appendString(appendString(b, "chunk"), chunk)
	return appendInt(appendString(b, "size"), len(records))
}

// record is what is sent over HTTP, and found again.
type record struct {
	Message   string    `json:"message"`
	Timestamp time.Time `json:"@timestamp"`
	Stream    string    `json:"stream"`
	ID        string    `json:"id"`
}

func (s *Sink) post(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	body := make([]record, len(records))
	for i, r := range records {
		body[i] = record{logstore.Text(r.Data), r.At, st.Path(), id(st, r)}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	target := url.URL{Scheme: "http", Host: s.addr, Path: "/" + s.tag(st)}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.GetBody = nil // a connection that breaks leaves the outcome open: nobody repeats it
	resp, err := s.http.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			err = fmt.Errorf("%w: %w", logstore.ErrNotDone, err)
		}
		return err
	}
	defer func() { _ = resp.Body.Close() }() // nothing of it matters
	if resp.StatusCode/100 == 2 {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only for the message
	err = fmt.Errorf("status %s: %s", resp.Status, strings.TrimSpace(string(text)))
	if resp.StatusCode < 500 {
		err = fmt.Errorf("%w: %w", logstore.ErrNotDone, err)
	}
	return err
}

// Read implements [logstore.Sink].
func (s *Sink) Read(ctx context.Context, st logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	if s.Search == nil {
		return nil, logstore.ErrWriteOnly
	}
	return s.Search.read(ctx, st, want)
}

// Delete implements [logstore.Sink]. What was shipped is not ours any more.
func (s *Sink) Delete(context.Context, logstore.Stream) error { return nil }
