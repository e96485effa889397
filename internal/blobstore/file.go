package blobstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// File is a [Store] in a directory: <dir>/<first two>/<sha256>. A blob appears there whole
// or not at all.
type File struct {
	dir   string
	limit int64
}

// NewFile returns a store for blobs of at most limit bytes. The directory is made with the
// first blob.
func NewFile(dir string, limit int64) *File { return &File{dir, limit} }

func (s *File) path(sum string) string { return filepath.Join(s.dir, sum[:2], sum) }

// Put implements [Store].
func (s *File) Put(_ context.Context, r io.Reader) (Blob, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	tmp, err := os.CreateTemp(s.dir, "upload-*")
	if err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // it was renamed, or is of no use
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), limit(r, s.limit))
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return Blob{}, err
	}
	b := Blob{hex.EncodeToString(hash.Sum(nil)), size}
	path := s.path(b.SHA256)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil { // over an equal one: its time is new then
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	return b, nil
}

// Stat implements [Store].
func (s *File) Stat(_ context.Context, sum string) (Blob, error) {
	if err := check(sum); err != nil {
		return Blob{}, err
	}
	info, err := os.Stat(s.path(sum))
	if err != nil {
		return Blob{}, named(sum, err, fs.ErrNotExist)
	}
	return Blob{sum, info.Size()}, nil
}

// Open implements [Store].
func (s *File) Open(_ context.Context, sum string) (io.ReadCloser, error) {
	if err := check(sum); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(sum))
	if err != nil {
		return nil, named(sum, err, fs.ErrNotExist)
	}
	return f, nil
}

// Delete implements [Store].
func (s *File) Delete(_ context.Context, sum string) error {
	if err := check(sum); err != nil {
		return err
	}
	if err := os.Remove(s.path(sum)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete blob: %w", err)
	}
	return nil
}

// Expire implements [Store].
func (s *File) Expire(ctx context.Context, t time.Time, keep func(string) bool) (int, error) {
	n := 0
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile, or nothing was ever put
		}
		if err != nil || d.IsDir() {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		info, err := d.Info()
		if err != nil || !info.ModTime().Before(t) || check(d.Name()) == nil && keep(d.Name()) {
			return nil //nolint:nilerr // gone meanwhile
		}
		if err := os.Remove(path); err != nil {
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
