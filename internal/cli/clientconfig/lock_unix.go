//go:build unix

package clientconfig

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// WithLock runs f while holding an exclusive lock on the file at path, which is created if missing and stays.
func WithLock(path string, f func() error) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	defer func() { _ = file.Close() }() // releases the lock
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return f()
}
