package logstore

import (
	"context"
	"errors"
	"time"

	"dstack/internal/object"
)

// A Sink is a log service as [Remote] uses it: a place for batches of records. It makes one
// attempt per call and remembers nothing. Package logstoretest has a test for sinks.
type Sink interface {
	// Name says which service it is, for messages and to know it again: "CloudWatch group/x".
	Name() string
	Limits() Limits
	// Check looks whether the service is there and lets us in. ErrSettings says that it does not,
	// other errors leave that open.
	Check(ctx context.Context) error
	// Write stores records, which go on where those before ended. An error leaves open whether
	// it did, unless it is ErrNotDone.
	Write(ctx context.Context, s Stream, records []Record) error
	// Read returns what the service has of want, which were written in one batch and have no
	// Data here: in any order, with others among them, or the same twice. Only At and Data of
	// the result count. ErrWriteOnly says that nothing can be read, ever.
	Read(ctx context.Context, s Stream, want []Record) ([]Record, error)
	// Delete removes a stream, if the service can. A stream that is not there is no error.
	Delete(ctx context.Context, s Stream) error
}

// A Linker is a Sink whose streams people can look at elsewhere.
type Linker interface {
	// URL is where.
	URL(s Stream) string
}

var (
	// ErrNotDone says that a service has not stored a batch: it may be sent again without a look.
	ErrNotDone = errors.New("the log service has not taken it")
	// ErrWriteOnly says that a service cannot be read.
	ErrWriteOnly = errors.New("the log service cannot be read")
	// ErrSettings says that a service cannot be used as it is configured: the same as of a bucket.
	ErrSettings = object.ErrSettings
)

// ReadError says that stored output could not be read. Text is for the user.
type ReadError struct {
	Text string
	Err  error
}

func (e *ReadError) Error() string { return e.Text + ": " + e.Err.Error() }

func (e *ReadError) Unwrap() error { return e.Err }

// Stream is one stream of a job submission. ID differs when a stream that was deleted begins
// again.
type Stream struct {
	Project string
	Run     string
	JobID   string
	Source  Source
	ID      string
}

// Path is the name that streams have in most services.
func (s Stream) Path() string {
	return s.Project + "/" + s.Run + "/" + s.JobID + "/" + string(s.Source)
}

// Record is what a service keeps as one entry: a chunk, a part of a large one, or several of the
// same time. Times grow within a stream, so that a time is the name of a record.
type Record struct {
	Offset int64
	At     time.Time // of the service's precision, UTC
	Size   int       // bytes
	Data   []byte    // of Size bytes, or nil where only the place is meant
}

// Limits are what a service can take. All are required but where 0 is explained.
type Limits struct {
	Records     int           // of one batch
	BatchBytes  int           // of one batch: the bytes of its records and Overhead for each
	RecordBytes int           // of one record
	Overhead    int           // bytes that are counted with each record, may be 0
	Growth      int           // bytes per byte of data at the service, at most: [MaxTextGrowth] or 1
	Span        time.Duration // from the first to the last record, 0: any
	Past        time.Duration // a record that is older is given the time of that age, 0: any age
	Future      time.Duration // the same for one that is newer than now, 0: any
	Precision   time.Duration // of times
	Linger      time.Duration // how long a small batch waits for more, may be 0
	// Once says that records that are written twice are kept once.
	Once bool
}
