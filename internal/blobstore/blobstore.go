// Package blobstore keeps what users upload (code, files) by the SHA-256 of its content:
// equal content is stored once and never changes.
//
// [DB] keeps blobs in the database, where all replicas see them and one backup has it all;
// [File] keeps them in a directory, for one server with large uploads; [Bucket] keeps them in S3
// or Google Cloud Storage. Package blobstoretest states what a store must do.
package blobstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

var (
	// ErrNotFound says that there is no such blob.
	ErrNotFound = errors.New("no such blob")
	// ErrInvalid says that a string is not a SHA-256 in lower-case hex.
	ErrInvalid = errors.New("not a SHA-256")
)

// TooLargeError says that an upload is above the limit of the store.
type TooLargeError struct{ Limit int64 }

func (e *TooLargeError) Error() string { return fmt.Sprintf("more than %d bytes", e.Limit) }

// UnavailableError says that the store cannot be reached, or does not let us in.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string {
	return "The storage of uploads does not answer: " + e.Err.Error()
}

// Unwrap returns what the store said.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Blob is what is known of stored content.
type Blob struct {
	SHA256 string // lower-case hex
	Size   int64  // bytes
}

// Store keeps blobs. Implementations are safe for concurrent use. Where a store is another
// service, Put, Stat and Open return an *UnavailableError when it does not serve.
type Store interface {
	// Put stores what r has up to its end. Content that is there already is not stored again.
	// It returns a *TooLargeError above the limit of the store, and errors of r as they are.
	Put(ctx context.Context, r io.Reader) (Blob, error)
	// Stat returns ErrNotFound when the blob is not there.
	Stat(ctx context.Context, sha256 string) (Blob, error)
	// Open returns the content; ErrNotFound when the blob is not there.
	Open(ctx context.Context, sha256 string) (io.ReadCloser, error)
	// Delete removes a blob. It is no error when it is not there.
	Delete(ctx context.Context, sha256 string) error
	// Expire removes the blobs that were last put before t, but those for which keep is true.
	Expire(ctx context.Context, t time.Time, keep func(sha256 string) bool) (n int, err error)
}

func check(sum string) error {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 || sum != hex.EncodeToString(b) {
		return fmt.Errorf("%w: %.80q", ErrInvalid, sum)
	}
	return nil
}

// named says which blob an error is about; absent is how its store says that there is none.
func named(sum string, err, absent error) error {
	if errors.Is(err, absent) {
		err = ErrNotFound
	}
	return fmt.Errorf("blob %s: %w", sum, err)
}

// bounded reads at most limit bytes and then fails.
type bounded struct {
	r     io.Reader
	left  int64
	limit int64
}

func limit(r io.Reader, n int64) *bounded { return &bounded{r, n, n} }

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, &TooLargeError{b.limit}
	}
	return n, err
}
