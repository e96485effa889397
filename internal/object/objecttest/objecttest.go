// Package objecttest states what a bucket must do as tests.
package objecttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/httpfault"
	"dstack/internal/object"
)

// Open returns an empty bucket that gives up on a silent store after a moment, and what makes the
// next requests fail.
type Open func(t *testing.T) (b object.Bucket, inject func(...httpfault.Fault))

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, object.Bucket)
	}{
		{"Check", func(t *testing.T, b object.Bucket) {
			if err := b.Check(t.Context()); err != nil {
				t.Errorf("Check = %v", err)
			}
		}},
		{"ContentComesBack", comesBack},
		{"UnknownIsNotFound", unknown},
		{"PutReplaces", replaces},
		{"List", list},
		{"KeysMayHaveAnything", keys},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := open(t)
			test.run(t, b)
		})
	}
	for _, fault := range httpfault.All {
		t.Run("Fault/"+string(fault), func(t *testing.T) {
			b, inject := open(t)
			faults(t, b, inject, fault)
		})
	}
}

func put(t *testing.T, b object.Bucket, key, content string) {
	t.Helper()
	if err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatalf("Put of %d bytes: %v", len(content), err)
	}
}

func get(t *testing.T, b object.Bucket, key string) string {
	t.Helper()
	r, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	_, err = io.Copy(&content, r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return content.String()
}

func comesBack(t *testing.T, b object.Bucket) {
	before := time.Now().Add(-2 * time.Second) // stores count seconds
	for i, content := range []string{"", "hello", "\x00\xff\x00", strings.Repeat("z", 3<<20)} {
		key := fmt.Sprint("a/", i)
		put(t, b, key, content)
		if got := get(t, b, key); got != content {
			t.Errorf("%d bytes came back of %d", len(got), len(content))
		}
		info, err := b.Stat(t.Context(), key)
		if err != nil || info.Key != key || info.Size != int64(len(content)) || info.Modified.Before(before) || time.Since(info.Modified) < -time.Second {
			t.Errorf("Stat = %+v, %v", info, err)
		}
	}
}

func unknown(t *testing.T, b object.Bucket) {
	if _, err := b.Get(t.Context(), "x"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("Get = %v", err)
	}
	if _, err := b.Stat(t.Context(), "x"); !errors.Is(err, object.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
	if err := b.Delete(t.Context(), "x"); err != nil {
		t.Errorf("Delete = %v", err)
	}
}

func replaces(t *testing.T, b object.Bucket) {
	put(t, b, "k", "old")
	put(t, b, "k", "new one")
	if got := get(t, b, "k"); got != "new one" {
		t.Errorf("Get = %q", got)
	}
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	unknown(t, b)
}

func list(t *testing.T, b object.Bucket) {
	var want []string
	for i := range 8 {
		key := fmt.Sprintf("in/%d", i)
		want = append(want, key)
		put(t, b, key, strings.Repeat("x", i))
	}
	put(t, b, "out", "")
	var got []string
	err := b.List(t.Context(), "in/", func(o object.Info) error {
		if got = append(got, o.Key); o.Size != int64(len(got)-1) || time.Since(o.Modified).Abs() > time.Minute {
			t.Errorf("%+v", o)
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("List = %v, %v, want %v", got, err, want)
	}
	enough := errors.New("enough")
	n := 0
	if err := b.List(t.Context(), "", func(object.Info) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("List = %v after %d", err, n)
	}
}

func keys(t *testing.T, b object.Bucket) {
	for _, key := range []string{"a b/c+d", "grüße/%2F?x=1&y#z", "a//b", "dots/../x"} {
		put(t, b, key, key)
		if got := get(t, b, key); got != key {
			t.Errorf("Get(%q) = %q", key, got)
		}
	}
}

// faults has the first attempt of each call fail.
func faults(t *testing.T, b object.Bucket, inject func(...httpfault.Fault), fault httpfault.Fault) {
	inject(fault)
	put(t, b, "k", "content")
	inject(fault)
	if got := get(t, b, "k"); got != "content" {
		t.Errorf("Get = %q", got)
	}
	inject(fault)
	if info, err := b.Stat(t.Context(), "k"); err != nil || info.Size != 7 {
		t.Errorf("Stat = %+v, %v", info, err)
	}
	inject(fault)
	if err := b.Delete(t.Context(), "k"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	inject(slices.Repeat([]httpfault.Fault{fault}, 20)...)
	if err := b.Put(t.Context(), "k", strings.NewReader("content"), 7); err == nil {
		t.Error("Put to a store that never answers well gives no error")
	}
}
