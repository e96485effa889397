package runner

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"
)

// An error names the file that was to be written, once, and not the one that was made beside it.
func TestWriteFileError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone", "spec.json")
	err := WriteFile(path, nil, 0o600)
	if want := "write " + path + ": no such file or directory"; err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %s", err, want)
	}
}
