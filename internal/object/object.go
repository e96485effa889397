// Package object is what stores of objects have in common: S3 and what speaks its protocol, and
// Google Cloud Storage. Package objecttest states what a bucket must do.
package object

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("no such object")
	// ErrSettings says that a bucket cannot be used as it is configured: trying again is of no use.
	ErrSettings = errors.New("wrong settings")
)

// Info is what is known of an object.
type Info struct {
	Key      string
	Size     int64     // bytes
	Modified time.Time // when it was put last
}

// Bucket keeps objects. Implementations are safe for concurrent use, repeat what failed for a
// moment, and give up on a store that does not answer.
type Bucket interface {
	// Check looks whether the bucket is there and lets us in. ErrSettings says that it does not,
	// other errors leave that open.
	Check(ctx context.Context) error
	// Put stores all of body, which has size bytes, in place of what the key had.
	Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error
	// Get returns ErrNotFound when there is no such object, as does Stat.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes an object. It is no error when it is not there.
	Delete(ctx context.Context, key string) error
	// List calls fn for each object whose key begins with prefix, in the order of keys, until fn
	// fails; it returns that error.
	List(ctx context.Context, prefix string, fn func(Info) error) error
}
