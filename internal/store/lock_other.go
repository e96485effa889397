//go:build !unix

package store

// lockFile does nothing where there is no flock: SQLite's own locks keep the file whole.
func lockFile(string) (unlock func() error, err error) {
	return func() error { return nil }, nil
}
