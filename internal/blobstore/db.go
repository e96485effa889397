package blobstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"dstack/internal/store"
)

const (
	insertBlob = `
INSERT INTO blob (sha256, size, created_at, data) VALUES ($1, $2, $3, $4)
ON CONFLICT (sha256) DO UPDATE SET created_at = excluded.created_at`
	selectSize = `SELECT size FROM blob WHERE sha256 = $1`
	selectData = `SELECT data FROM blob WHERE sha256 = $1`
	selectOld  = `SELECT sha256 FROM blob WHERE created_at < $1 ORDER BY created_at, sha256`
	deleteBlob = `DELETE FROM blob WHERE sha256 = $1`
)

// DB is a [Store] in the database. A blob is in memory while it is written or read.
type DB struct {
	db    *store.DB
	limit int64
}

// NewDB returns a store for blobs of at most limit bytes.
func NewDB(db *store.DB, limit int64) *DB { return &DB{db, limit} }

// Put implements [Store].
func (s *DB) Put(ctx context.Context, r io.Reader) (Blob, error) {
	data, err := io.ReadAll(limit(r, s.limit))
	if err != nil {
		return Blob{}, err
	}
	if data == nil {
		data = []byte{} // not NULL
	}
	sum := sha256.Sum256(data)
	b := Blob{hex.EncodeToString(sum[:]), int64(len(data))}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, insertBlob, b.SHA256, b.Size, store.Micros(time.Now()), data)
		return err
	})
	if err != nil {
		return Blob{}, fmt.Errorf("store blob: %w", err)
	}
	return b, nil
}

// Stat implements [Store].
func (s *DB) Stat(ctx context.Context, sum string) (Blob, error) {
	if err := check(sum); err != nil {
		return Blob{}, err
	}
	b := Blob{SHA256: sum}
	if err := s.db.Read().QueryRowContext(ctx, selectSize, sum).Scan(&b.Size); err != nil {
		return Blob{}, missing(sum, err)
	}
	return b, nil
}

// Open implements [Store].
func (s *DB) Open(ctx context.Context, sum string) (io.ReadCloser, error) {
	if err := check(sum); err != nil {
		return nil, err
	}
	var data []byte
	if err := s.db.Read().QueryRowContext(ctx, selectData, sum).Scan(&data); err != nil {
		return nil, missing(sum, err)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func missing(sum string, err error) error {
	if errors.Is(store.One(err), store.ErrNotFound) {
		err = ErrNotFound
	}
	return fmt.Errorf("blob %s: %w", sum, err)
}

// Delete implements [Store].
func (s *DB) Delete(ctx context.Context, sum string) error {
	if err := check(sum); err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, deleteBlob, sum)
		return err
	})
}

// Expire implements [Store].
func (s *DB) Expire(ctx context.Context, t time.Time, keep func(string) bool) (int, error) {
	old, err := s.old(ctx, t)
	if err != nil {
		return 0, fmt.Errorf("list old blobs: %w", err)
	}
	n := 0
	for _, sum := range old {
		if keep(sum) {
			continue
		}
		if err := s.Delete(ctx, sum); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (s *DB) old(ctx context.Context, t time.Time) ([]string, error) {
	var all []string
	rows, err := s.db.Read().QueryContext(ctx, selectOld, store.Micros(t))
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var sum string
		if err := rows.Scan(&sum); err != nil {
			return err
		}
		all = append(all, sum)
		return nil
	})
	return all, err
}
