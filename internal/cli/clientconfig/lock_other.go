//go:build !unix

package clientconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// WithLock runs f while a file at path exists that only this process created. A lock older than a minute
// was left behind by a crash.
func WithLock(path string, f func() error) error {
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_ = file.Close() // only its existence counts
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
			_ = os.Remove(path) // if another process was faster, the next attempt shows it
			continue
		}
		<-time.After(20 * time.Millisecond)
	}
	defer func() { _ = os.Remove(path) }() // at worst it expires
	return f()
}

// TryLock creates the file at path. Without locks that end with a process it always succeeds: the last one wins.
func TryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return file, nil
}
