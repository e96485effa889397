package blobstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"dstack/internal/object"
)

// Bucket is a [Store] of objects: <prefix><sha256>.
type Bucket struct {
	bucket object.Bucket
	prefix string
	limit  int64
}

// NewBucket returns a store for blobs of at most limit bytes. What begins with prefix belongs to it.
func NewBucket(b object.Bucket, prefix string, limit int64) *Bucket {
	return &Bucket{b, prefix, limit}
}

// Put implements [Store]. An upload is in a temporary file until all of it has come, since the key
// is its sum.
func (s *Bucket) Put(ctx context.Context, r io.Reader) (b Blob, err error) {
	tmp, err := os.CreateTemp("", "dstack-upload-*")
	if err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), limit(r, s.limit))
	if err != nil {
		return Blob{}, err
	}
	b = Blob{hex.EncodeToString(hash.Sum(nil)), size}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	// Also over an equal one: its time is new then.
	if err := s.bucket.Put(ctx, s.prefix+b.SHA256, tmp, size); err != nil {
		return Blob{}, &UnavailableError{err}
	}
	return b, nil
}

// absent tells a blob that is not there from a bucket that does not say.
func absent(sum string, err error) error {
	if errors.Is(err, object.ErrNotFound) {
		return named(sum, err, object.ErrNotFound)
	}
	return &UnavailableError{err}
}

// Stat implements [Store].
func (s *Bucket) Stat(ctx context.Context, sum string) (Blob, error) {
	if err := check(sum); err != nil {
		return Blob{}, err
	}
	info, err := s.bucket.Stat(ctx, s.prefix+sum)
	if err != nil {
		return Blob{}, absent(sum, err)
	}
	return Blob{sum, info.Size}, nil
}

// Open implements [Store].
func (s *Bucket) Open(ctx context.Context, sum string) (io.ReadCloser, error) {
	if err := check(sum); err != nil {
		return nil, err
	}
	r, err := s.bucket.Get(ctx, s.prefix+sum)
	if err != nil {
		return nil, absent(sum, err)
	}
	return r, nil
}

// Delete implements [Store].
func (s *Bucket) Delete(ctx context.Context, sum string) error {
	if err := check(sum); err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, s.prefix+sum); err != nil {
		return fmt.Errorf("delete blob: %w", err)
	}
	return nil
}

// Expire implements [Store].
func (s *Bucket) Expire(ctx context.Context, t time.Time, keep func(string) bool) (int, error) {
	n := 0
	err := s.bucket.List(ctx, s.prefix, func(o object.Info) error {
		sum := strings.TrimPrefix(o.Key, s.prefix)
		if check(sum) != nil || !o.Modified.Before(t) || keep(sum) {
			return nil
		}
		if err := s.bucket.Delete(ctx, o.Key); err != nil {
			return err
		}
		n++
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("expire blobs: %w", err)
	}
	return n, nil
}
