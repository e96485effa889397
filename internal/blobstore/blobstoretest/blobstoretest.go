// Package blobstoretest states what a blob store must do as tests.
package blobstoretest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"dstack/internal/blobstore"
)

// Limit is the limit of the stores that the suite opens, in bytes.
const Limit = 100_000

// Run runs the suite; open returns an empty store with that limit.
func Run(t *testing.T, open func(t *testing.T) blobstore.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, blobstore.Store)
	}{
		{"ContentComesBack", comesBack},
		{"EqualContentIsOneBlob", equal},
		{"LimitIsKept", limit},
		{"FailedUploadsLeaveNothing", failed},
		{"UnknownIsNotFound", unknown},
		{"BadSumsAreRefused", badSums},
		{"Expire", expire},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(t *testing.T, s blobstore.Store, content string) blobstore.Blob {
	t.Helper()
	b, err := s.Put(t.Context(), strings.NewReader(content))
	if err != nil {
		t.Fatalf("Put of %d bytes: %v", len(content), err)
	}
	return b
}

func read(t *testing.T, s blobstore.Store, sum string) string {
	t.Helper()
	r, err := s.Open(t.Context(), sum)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // read only
	var b bytes.Buffer
	if _, err := io.Copy(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func comesBack(t *testing.T, s blobstore.Store) {
	for _, content := range []string{"", "hello", "\x00\xff\x00", strings.Repeat("z", Limit)} {
		b := put(t, s, content)
		if got := read(t, s, b.SHA256); got != content || b.Size != int64(len(content)) {
			t.Errorf("%d bytes came back of %d, size %d", len(got), len(content), b.Size)
		}
		if st, err := s.Stat(t.Context(), b.SHA256); err != nil || st != b {
			t.Errorf("Stat = %v, %v, want %v", st, err, b)
		}
	}
	const sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" // of "hello"
	if b := put(t, s, "hello"); b.SHA256 != sum {
		t.Errorf("SHA256 = %s, want %s", b.SHA256, sum)
	}
}

func equal(t *testing.T, s blobstore.Store) {
	a, b := put(t, s, "same"), put(t, s, "same")
	if a != b {
		t.Errorf("%v and %v", a, b)
	}
	if err := s.Delete(t.Context(), a.SHA256); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), a.SHA256); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat after Delete = %v, want ErrNotFound", err)
	}
	if err := s.Delete(t.Context(), a.SHA256); err != nil {
		t.Errorf("Delete again = %v", err)
	}
}

func limit(t *testing.T, s blobstore.Store) {
	_, err := s.Put(t.Context(), strings.NewReader(strings.Repeat("z", Limit+1)))
	if e, ok := errors.AsType[*blobstore.TooLargeError](err); !ok || e.Limit != Limit {
		t.Errorf("Put = %v, want a *TooLargeError", err)
	}
}

func failed(t *testing.T, s blobstore.Store) {
	boom := errors.New("connection lost")
	_, err := s.Put(t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) {
		t.Errorf("Put = %v, want the reader's error", err)
	}
	if n, err := s.Expire(t.Context(), time.Now().Add(time.Hour), func(string) bool { return false }); n != 0 || err != nil {
		t.Errorf("%d blobs are left, %v", n, err)
	}
}

func unknown(t *testing.T, s blobstore.Store) {
	sum := strings.Repeat("ab", 32)
	if _, err := s.Stat(t.Context(), sum); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
	if _, err := s.Open(t.Context(), sum); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Open = %v", err)
	}
}

func badSums(t *testing.T, s blobstore.Store) {
	for _, sum := range []string{"", "..", "../../../etc/passwd", strings.Repeat("AB", 32), strings.Repeat("a", 63), strings.Repeat("g", 64)} {
		_, err := s.Stat(t.Context(), sum)
		_, openErr := s.Open(t.Context(), sum)
		deleteErr := s.Delete(t.Context(), sum)
		if !errors.Is(err, blobstore.ErrInvalid) || !errors.Is(openErr, blobstore.ErrInvalid) || !errors.Is(deleteErr, blobstore.ErrInvalid) {
			t.Errorf("%q: %v, %v, %v, want ErrInvalid", sum, err, openErr, deleteErr)
		}
	}
}

func expire(t *testing.T, s blobstore.Store) {
	kept, old := put(t, s, "kept"), put(t, s, "old")
	keep := func(sum string) bool { return sum == kept.SHA256 }
	if n, err := s.Expire(t.Context(), time.Now().Add(-time.Hour), keep); n != 0 || err != nil {
		t.Errorf("Expire of older = %d, %v", n, err)
	}
	if n, err := s.Expire(t.Context(), time.Now().Add(time.Hour), keep); n != 1 || err != nil {
		t.Errorf("Expire = %d, %v, want 1", n, err)
	}
	if _, err := s.Stat(t.Context(), old.SHA256); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("the old one: %v", err)
	}
	if got := read(t, s, kept.SHA256); got != "kept" {
		t.Errorf("the kept one: %q", got)
	}
}
