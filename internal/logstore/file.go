package logstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// maxOpen bounds the streams whose sizes are remembered.
const maxOpen = 20_000

// File is a [Store] in a directory of the server:
//
//	<dir>/<first two of the job id>/<job id>/job.log      the bytes
//	                                        /job.idx      a record per chunk: see record
//
// Bytes are written before the record that covers them, and nothing is counted that has no
// record, so killing the server at any moment loses nothing that Append returned for. Files
// are not synced: a loss of power may cost the seconds that the kernel had not written yet;
// a torn end is cut off when the stream is opened next, and the agent is asked again from
// there while it still has the task.
type File struct {
	dir     string
	write   func(path string, data []byte, offset int64) error // writeAt
	mu      sync.Mutex
	streams map[streamKey]*stream
}

type streamKey struct {
	job string
	src Source
}

// NewFile returns a store in dir, which is made with the first log.
func NewFile(dir string) *File {
	return &File{dir: dir, write: writeAt, streams: map[streamKey]*stream{}}
}

// stream is what is known of one stream. Its files are open only while they are used: ten
// thousand jobs may log at a time.
type stream struct {
	mu      sync.Mutex
	path    string // without extension
	write   func(path string, data []byte, offset int64) error
	known   bool  // the fields below are right
	size    int64 // bytes in .log that records cover
	count   int64 // records
	last    int64 // time of the last record
	dropped bool  // deleted while somebody waited for mu: get another
}

// lock returns the stream, locked and with its sizes known.
func (f *File) lock(jobID string, src Source) (*stream, error) {
	if !validID(jobID) || src != Job && src != Runner {
		return nil, fmt.Errorf("%w: %q", ErrJobID, jobID)
	}
	s := f.hold(streamKey{jobID, src})
	if !s.known {
		if err := s.recover(); err != nil {
			s.mu.Unlock()
			return nil, fmt.Errorf("open log of job %s: %w", jobID, err)
		}
	}
	return s, nil
}

// hold returns the stream, locked.
func (f *File) hold(k streamKey) *stream {
	for {
		s := f.get(k)
		s.mu.Lock()
		if !s.dropped {
			return s
		}
		s.mu.Unlock()
	}
}

func (f *File) get(k streamKey) *stream {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[k]
	if s == nil {
		if len(f.streams) >= maxOpen {
			f.forget()
		}
		s = &stream{path: filepath.Join(f.jobDir(k.job), string(k.src)), write: f.write}
		f.streams[k] = s
	}
	return s
}

// forget drops what is remembered of streams that nobody uses just now; the files know it all.
func (f *File) forget() {
	for k, s := range f.streams {
		if s.mu.TryLock() {
			s.dropped = true
			delete(f.streams, k)
			s.mu.Unlock()
		}
	}
}

func (f *File) jobDir(jobID string) string {
	return filepath.Join(f.dir, jobID[:2], jobID)
}

// validID keeps paths inside of the directory. Ids are UUIDs; anything that is safe will do.
func validID(id string) bool {
	if len(id) < 2 || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Append implements [Store].
func (f *File) Append(_ context.Context, jobID string, src Source, chunks ...Chunk) (int64, error) {
	s, err := f.lock(jobID, src)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	if err := s.append(chunks); err != nil {
		return s.size, fmt.Errorf("append to %s log of job %s: %w", src, jobID, err)
	}
	return s.size, nil
}

// Size implements [Store].
func (f *File) Size(_ context.Context, jobID string, src Source) (int64, error) {
	s, err := f.lock(jobID, src)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	return s.size, nil
}

// Poll implements [Store]. Tokens are numbers of events.
func (f *File) Poll(_ context.Context, q Query) (Page, error) {
	var at int64
	if q.Token != "" {
		var err error
		if at, err = position(q.Token); err != nil {
			return Page{}, err
		}
	}
	s, err := f.lock(q.JobID, q.Source)
	if err != nil {
		return Page{}, err
	}
	count, path := s.count, s.path
	s.mu.Unlock() // what is counted does not change any more
	page, err := poll(path, count, at, q)
	if err != nil {
		return Page{}, fmt.Errorf("read %s log of job %s: %w", q.Source, q.JobID, err)
	}
	return page, nil
}

// At implements [Store].
func (f *File) At(_ context.Context, jobID string, src Source, offset int64) (string, error) {
	s, err := f.lock(jobID, src)
	if err != nil {
		return "", err
	}
	count, path := s.count, s.path
	s.mu.Unlock()
	n, err := recordAt(path, count, offset)
	if err != nil {
		return "", fmt.Errorf("read %s log of job %s: %w", src, jobID, err)
	}
	return strconv.FormatInt(n, 10), nil
}

// Delete implements [Store].
func (f *File) Delete(_ context.Context, jobID string) error {
	if !validID(jobID) {
		return fmt.Errorf("%w: %q", ErrJobID, jobID)
	}
	for _, src := range []Source{Job, Runner} {
		k := streamKey{jobID, src}
		s := f.hold(k)
		defer func() {
			f.mu.Lock()
			delete(f.streams, k)
			f.mu.Unlock()
			s.dropped = true
			s.mu.Unlock()
		}()
	}
	if err := os.RemoveAll(f.jobDir(jobID)); err != nil {
		return fmt.Errorf("delete logs of job %s: %w", jobID, err)
	}
	return nil
}

// Expire implements [Store].
func (f *File) Expire(ctx context.Context, t time.Time) (int, error) {
	jobs, err := filepath.Glob(filepath.Join(escape(f.dir), "??", "*"))
	if err != nil {
		return 0, err
	}
	return removeAll(ctx, jobs, func(dir string) (bool, error) {
		id := filepath.Base(dir)
		if newest, err := newest(dir); err != nil || !newest.Before(t) || !validID(id) {
			return false, nil //nolint:nilerr // gone meanwhile, or written to
		}
		err := f.Delete(ctx, id)
		return err == nil, err
	})
}

// escape quotes what Glob would interpret.
func escape(path string) string {
	var b []byte
	for _, c := range []byte(path) {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(b)
}

func newest(dir string) (time.Time, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return time.Time{}, err
	}
	var t time.Time
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.ModTime().After(t) {
			t = info.ModTime()
		}
	}
	return t, nil
}

// openRead opens a file of a stream; nil when it does not exist.
func openRead(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}
