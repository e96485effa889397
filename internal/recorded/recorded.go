// Package recorded reads the recordings of what the original does, which tests are held
// against. Only tests import it.
package recorded

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// Rows calls test for every row of a file of JSON objects, one per line, packed when the name
// ends in .gz. A file without rows fails.
func Rows[T any](t *testing.T, file string, test func(t *testing.T, row T)) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	rows := json.NewDecoder(r)
	for n := 0; ; n++ {
		var row T
		err := rows.Decode(&row)
		if errors.Is(err, io.EOF) && n > 0 {
			return
		}
		if err != nil {
			t.Fatalf("row %d of %s: %v", n, file, err)
		}
		test(t, row)
	}
}

// Text is a text that may be null in a recording, then "".
func Text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Message is what an error says, "" for none.
func Message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
