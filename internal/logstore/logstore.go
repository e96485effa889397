// Package logstore keeps the output of jobs: two append-only streams per job submission, the
// job's own output and the runner's lines, byte-exact and with the time of each chunk.
//
// Chunks carry the offset of their first byte. What is stored already is dropped, so that
// the sender may repeat itself, and a gap is refused, so that none can hide.
//
// [File] is the store of a server on its own, [DB] that of servers that share a database, and
// [Remote] one in front of a log service, a [Sink]: there is a package for each of them. Package
// logstoretest states what all must do.
package logstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"dstack/internal/agentapi"
)

// Source names one of a job's streams.
type Source = agentapi.LogSource

// The streams.
const (
	Job    = agentapi.JobLog
	Runner = agentapi.RunnerLog
)

// Limits of one page.
const (
	MaxEvents = 1000
	// MaxBytes bounds the data of a page; a single larger event is a page of its own.
	MaxBytes = 1 << 20
)

// A Chunk is a piece of a stream.
type Chunk struct {
	Offset int64     // of Data[0] in the stream
	At     time.Time // when it was written on the host
	Data   []byte
}

// Event is a stored chunk. Times within a stream are unique and grow with the offset.
type Event struct {
	Offset int64
	At     time.Time // whole microseconds, UTC
	Data   []byte
}

// Query asks for a page of events.
type Query struct {
	JobID  string
	Source Source
	// Start and End bound the time: both exclusive, but End inclusive when Descending. Zero
	// is unbounded.
	Start, End time.Time
	Descending bool   // newest first
	Token      string // of the page before, "" for the first; see Page
	Limit      int    // of events, 0 to MaxEvents
}

// Page is what a query found.
type Page struct {
	Events []Event
	// Next asks for the next page, "" when this was the last one so far.
	Next string
	// Cursor is always set. As Token of an ascending query it asks for what comes after this
	// page, also if that is not written yet.
	Cursor string
	// URL is where people can look at the stream, "" when there is no such place.
	URL string
}

// GapError says that a chunk begins behind the end of the stream.
type GapError struct{ Have, Got int64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("log has %d bytes, chunk begins at %d", e.Have, e.Got)
}

// TokenError says that a page token was not made by this store.
type TokenError struct{ Token string }

func (e *TokenError) Error() string {
	return fmt.Sprintf("Invalid next_token: %s. Must be a non-negative integer.", e.Token)
}

// ErrJobID says that a job id cannot be one.
var ErrJobID = errors.New("invalid job id")

// Store keeps streams. Implementations are safe for concurrent use. A job that was never
// written to has empty streams.
type Store interface {
	// Append adds chunks, in order, and returns the size of the stream. Bytes below the size
	// are dropped; a chunk beyond it ends with a *GapError, those before are stored.
	Append(ctx context.Context, jobID string, src Source, chunks ...Chunk) (size int64, err error)
	Size(ctx context.Context, jobID string, src Source) (int64, error)
	Poll(ctx context.Context, q Query) (Page, error)
	// At is the token of an ascending query for what comes from a byte on, with a little before it perhaps.
	At(ctx context.Context, jobID string, src Source, offset int64) (token string, err error)
	// Delete removes both streams of a job.
	Delete(ctx context.Context, jobID string) error
	// Expire removes the jobs that were last written to before t. What cannot be removed is left, and err says why;
	// of more than a few it gives up.
	Expire(ctx context.Context, t time.Time) (jobs int, err error)
}

// Config is what New needs.
type Config struct {
	Store     Store
	Log       *slog.Logger
	Retention time.Duration // 0: for ever
	// Tell lets all who share the store call [Logs.Wake] for a job, this Logs included;
	// optional: nobody shares it.
	Tell func(jobID string)
}

// Logs is a Store that tells readers of new output.
type Logs struct {
	Store
	log       *slog.Logger
	retention time.Duration
	tell      func(jobID string)

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]bool // by job
}

// New checks c and returns Logs.
func New(c Config) (*Logs, error) {
	if c.Store == nil || c.Log == nil || c.Retention < 0 {
		return nil, errors.New("logstore: Store and Log are required, Retention is not negative")
	}
	l := &Logs{Store: c.Store, log: c.Log, retention: c.Retention, tell: c.Tell, watchers: map[string]map[chan struct{}]bool{}}
	if l.tell == nil {
		l.tell = l.Wake
	}
	return l, nil
}

// Append implements [Store] and tells the watchers of the job.
func (l *Logs) Append(ctx context.Context, jobID string, src Source, chunks ...Chunk) (int64, error) {
	size, err := l.Store.Append(ctx, jobID, src, chunks...)
	if len(chunks) > 0 {
		l.tell(jobID)
	}
	return size, err
}

// Watch returns a channel that holds a token after output of the job was stored, or
// [Logs.Wake] was called, since the last receive. Poll after Watch and after each token, with
// the cursor of the page before. stop ends it.
func (l *Logs) Watch(jobID string) (news <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers[jobID] == nil {
		l.watchers[jobID] = map[chan struct{}]bool{}
	}
	l.watchers[jobID][c] = true
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers[jobID], c)
		if len(l.watchers[jobID]) == 0 {
			delete(l.watchers, jobID)
		}
	}
}

// Wake makes the watchers of a job look again: because it ended, say.
func (l *Logs) Wake(jobID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.watchers[jobID] {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}

// Run removes old logs until ctx ends.
func (l *Logs) Run(ctx context.Context) error {
	if l.retention == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		n, err := l.Expire(ctx, time.Now().Add(-l.retention))
		if err != nil && ctx.Err() == nil {
			l.log.Warn("old logs not removed", "err", err)
		}
		if n > 0 {
			l.log.Info("old logs removed", "jobs", n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// position reads a token that counts events.
func position(token string) (int64, error) {
	n, err := strconv.ParseUint(token, 10, 63)
	if err != nil {
		return 0, &TokenError{token}
	}
	return int64(n), nil
}

// maxFailures is how many logs may not be removable before the rest is left to the next time: all of them may be away.
const maxFailures = 10

// removeAll removes the logs of jobs and says of how many; remove says whether there was something.
func removeAll(ctx context.Context, ids []string, remove func(id string) (bool, error)) (n int, err error) {
	var failed []error
	for _, id := range ids {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		removed, err := remove(id)
		if removed {
			n++
		}
		if err != nil {
			failed = append(failed, err)
		}
		if len(failed) == maxFailures {
			break
		}
	}
	return n, errors.Join(failed...)
}
