// Package bucketlog keeps logs as objects in a bucket: one per batch, with the bytes as they are,
// under <prefix><project>/<run>/<job id>/<job|runner>/<offset>.log.
package bucketlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"dstack/internal/logstore"
	"dstack/internal/object"
)

// Sink is a [logstore.Sink].
type Sink struct {
	name   string
	bucket object.Bucket
	prefix string
}

// New returns a sink for objects whose keys begin with prefix. name is the bucket's, for messages.
func New(name string, b object.Bucket, prefix string) *Sink { return &Sink{name, b, prefix} }

// Name implements [logstore.Sink].
func (s *Sink) Name() string { return s.name }

// Limits implements [logstore.Sink]. An object is paid for by the request: it waits for more.
func (s *Sink) Limits() logstore.Limits {
	return logstore.Limits{Records: 1000, BatchBytes: 1 << 20, RecordBytes: 1 << 20, Growth: 1, Precision: time.Microsecond, Linger: 20 * time.Second, Once: true}
}

// Check implements [logstore.Sink].
func (s *Sink) Check(ctx context.Context) error { return s.bucket.Check(ctx) }

func (s *Sink) key(st logstore.Stream, offset int64) string {
	return fmt.Sprintf("%s%s/%020d.log", s.prefix, st.Path(), offset)
}

// Write implements [logstore.Sink]. The same batch again is the same object.
func (s *Sink) Write(ctx context.Context, st logstore.Stream, records []logstore.Record) error {
	var data []byte
	for _, r := range records {
		data = append(data, r.Data...)
	}
	return s.bucket.Put(ctx, s.key(st, records[0].Offset), bytes.NewReader(data), int64(len(data)))
}

// Read implements [logstore.Sink].
func (s *Sink) Read(ctx context.Context, st logstore.Stream, want []logstore.Record) ([]logstore.Record, error) {
	body, err := s.bucket.Get(ctx, s.key(st, want[0].Offset))
	if errors.Is(err, object.ErrNotFound) {
		return nil, nil // somebody has cleaned up
	}
	if err != nil {
		return nil, err
	}
	last := want[len(want)-1]
	size := last.Offset + int64(last.Size) - want[0].Offset
	data, err := io.ReadAll(io.LimitReader(body, size+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) != size {
		return nil, fmt.Errorf("object %s has not the %d bytes that were put there", s.key(st, want[0].Offset), size)
	}
	got := make([]logstore.Record, len(want))
	for i, r := range want {
		r.Data = data[:r.Size:r.Size]
		data = data[r.Size:]
		got[i] = r
	}
	return got, nil
}

// Delete implements [logstore.Sink].
func (s *Sink) Delete(ctx context.Context, st logstore.Stream) error {
	return s.bucket.List(ctx, s.prefix+st.Path()+"/", func(o object.Info) error { return s.bucket.Delete(ctx, o.Key) })
}
