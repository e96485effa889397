// Package logstoretest states what a log store must do as tests.
package logstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/logstore"
)

const job = "0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c11"

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) logstore.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, logstore.Store)
	}{
		{"UnknownJobIsEmpty", unknownJob},
		{"BytesComeBackExactly", bytesComeBack},
		{"RepeatedBytesAreDropped", repeats},
		{"GapsAreRefused", gaps},
		{"SourcesAreSeparate", sources},
		{"PagesAscending", pagesAscending},
		{"PagesDescending", pagesDescending},
		{"TimesBoundPages", times},
		{"TimesAreUnique", uniqueTimes},
		{"CursorFollows", cursor},
		{"BigPagesAreCut", bigPages},
		{"GoesOnAtAByte", at},
		{"BadTokensAreRefused", badTokens},
		{"BadJobsAreRefused", badJobs},
		{"Delete", deletes},
		{"ConcurrentWriters", concurrent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func add(t *testing.T, s logstore.Store, offset int64, at time.Time, text string) int64 {
	t.Helper()
	size, err := s.Append(t.Context(), job, logstore.Job, logstore.Chunk{Offset: offset, At: at, Data: []byte(text)})
	if err != nil {
		t.Fatalf("Append at %d: %v", offset, err)
	}
	return size
}

// numbers stores n one-line events, a second apart.
func numbers(t *testing.T, s logstore.Store, n int) {
	t.Helper()
	var offset int64
	for i := range n {
		offset = add(t, s, offset, t0.Add(time.Duration(i)*time.Second), fmt.Sprintf("%d\n", i))
	}
}

func poll(t *testing.T, s logstore.Store, q logstore.Query) (string, logstore.Page) {
	t.Helper()
	q.JobID = job
	if q.Source == "" {
		q.Source = logstore.Job
	}
	p, err := s.Poll(t.Context(), q)
	if err != nil {
		t.Fatalf("Poll(%+v): %v", q, err)
	}
	var b bytes.Buffer
	for _, e := range p.Events {
		b.Write(e.Data)
	}
	return b.String(), p
}

func unknownJob(t *testing.T, s logstore.Store) {
	if text, p := poll(t, s, logstore.Query{Limit: 10}); text != "" || p.Next != "" {
		t.Errorf("Poll = %q, next %q", text, p.Next)
	}
	if n, err := s.Size(t.Context(), job, logstore.Job); n != 0 || err != nil {
		t.Errorf("Size = %d, %v", n, err)
	}
	if err := s.Delete(t.Context(), job); err != nil {
		t.Errorf("Delete = %v", err)
	}
}

func bytesComeBack(t *testing.T, s logstore.Store) {
	want := "a\x00\xff\xfe half a rune: \xe2\x82" + "\xac\r\n" + strings.Repeat("x", 70_000)
	var size int64
	for len(want[size:]) > 0 {
		size = add(t, s, size, t0, want[size:min(int(size)+13_001, len(want))])
	}
	if got, _ := poll(t, s, logstore.Query{Limit: 1000}); got != want {
		t.Errorf("%d bytes came back, want %d the same", len(got), len(want))
	}
}

func repeats(t *testing.T, s logstore.Store) {
	add(t, s, 0, t0, "hello ")
	add(t, s, 0, t0, "hello ")
	if size := add(t, s, 3, t0, "lo world"); size != 11 {
		t.Errorf("size %d, want 11", size)
	}
	add(t, s, 0, t0, "")
	if got, p := poll(t, s, logstore.Query{Limit: 10}); got != "hello world" || len(p.Events) != 2 || p.Events[1].Offset != 6 {
		t.Errorf("Poll = %q in %d events", got, len(p.Events))
	}
}

func gaps(t *testing.T, s logstore.Store) {
	add(t, s, 0, t0, "abc")
	size, err := s.Append(t.Context(), job, logstore.Job,
		logstore.Chunk{Offset: 3, At: t0, Data: []byte("d")}, logstore.Chunk{Offset: 9, At: t0, Data: []byte("x")})
	gap, ok := errors.AsType[*logstore.GapError](err)
	if !ok || gap.Have != 4 || gap.Got != 9 || size != 4 {
		t.Errorf("Append = %d, %v, want a gap from 4 to 9", size, err)
	}
	if got, _ := poll(t, s, logstore.Query{Limit: 10}); got != "abcd" {
		t.Errorf("Poll = %q: what came before the gap is stored", got)
	}
}

func sources(t *testing.T, s logstore.Store) {
	add(t, s, 0, t0, "job")
	if _, err := s.Append(t.Context(), job, logstore.Runner, logstore.Chunk{At: t0, Data: []byte("runner")}); err != nil {
		t.Fatal(err)
	}
	if got, _ := poll(t, s, logstore.Query{Source: logstore.Runner, Limit: 10}); got != "runner" {
		t.Errorf("runner's log = %q", got)
	}
	if got, _ := poll(t, s, logstore.Query{Limit: 10}); got != "job" {
		t.Errorf("job's log = %q", got)
	}
}

func pages(t *testing.T, s logstore.Store, q logstore.Query) (text string, n int) {
	t.Helper()
	for {
		page, p := poll(t, s, q)
		text += page
		n++
		if q.Token = p.Next; q.Token == "" || n > 100 {
			return strings.ReplaceAll(text, "\n", " "), n
		}
	}
}

func pagesAscending(t *testing.T, s logstore.Store) {
	numbers(t, s, 10)
	for limit, want := range map[int]int{1: 10, 3: 4, 5: 2, 10: 1, 11: 1} {
		if got, n := pages(t, s, logstore.Query{Limit: limit}); got != "0 1 2 3 4 5 6 7 8 9 " || n != want {
			t.Errorf("limit %d: %q in %d pages, want %d", limit, got, n, want)
		}
	}
	if got, p := poll(t, s, logstore.Query{Limit: 0}); got != "" || p.Next != "" {
		t.Errorf("limit 0: %q, next %q", got, p.Next)
	}
}

func pagesDescending(t *testing.T, s logstore.Store) {
	numbers(t, s, 10)
	for limit, want := range map[int]int{1: 10, 3: 4, 5: 2, 10: 1} {
		if got, n := pages(t, s, logstore.Query{Limit: limit, Descending: true}); got != "9 8 7 6 5 4 3 2 1 0 " || n != want {
			t.Errorf("limit %d: %q in %d pages, want %d", limit, got, n, want)
		}
	}
}

// at begins at bytes: the first of an event, one within, the end, behind the end.
func at(t *testing.T, s logstore.Store) {
	token := func(offset int64) string {
		t.Helper()
		token, err := s.At(t.Context(), job, logstore.Job, offset)
		if err != nil {
			t.Fatalf("At(%d): %v", offset, err)
		}
		return token
	}
	if got, p := poll(t, s, logstore.Query{Token: token(5), Limit: 10}); got != "" || p.Next != "" {
		t.Errorf("of an empty log: %q", got)
	}
	numbers(t, s, 100)
	all, _ := poll(t, s, logstore.Query{Limit: 1000})
	size := int64(len(all))
	for _, offset := range []int64{0, 1, 2, 200, 201, size - 3, size - 1, size, size + 10} {
		got, p := poll(t, s, logstore.Query{Token: token(offset), Limit: 1000})
		want := all[min(offset, size):]
		if !strings.HasSuffix(got, want) || len(got) > len(want)+3 {
			t.Errorf("from byte %d: %d bytes, want the last %d and no more than an event before", offset, len(got), len(want))
		}
		if len(p.Events) > 0 && p.Events[0].Offset != size-int64(len(got)) {
			t.Errorf("from byte %d: the first event is at %d", offset, p.Events[0].Offset)
		}
	}
}

func times(t *testing.T, s logstore.Store) {
	numbers(t, s, 10)
	at := func(i int) time.Time { return t0.Add(time.Duration(i) * time.Second) }
	for _, tt := range []struct {
		q    logstore.Query
		want string
	}{
		{logstore.Query{Start: at(6)}, "7 8 9 "},
		{logstore.Query{End: at(2)}, "0 1 "},
		{logstore.Query{Start: at(2), End: at(5)}, "3 4 "},
		{logstore.Query{Start: at(2), End: at(5), Descending: true}, "5 4 3 "},
		{logstore.Query{Start: at(20)}, ""},
		{logstore.Query{End: t0}, ""},
		{logstore.Query{Start: at(5), End: at(2)}, ""},
	} {
		tt.q.Limit = 2
		if got, _ := pages(t, s, tt.q); got != tt.want {
			t.Errorf("from %v to %v, descending %v: %q, want %q", tt.q.Start, tt.q.End, tt.q.Descending, got, tt.want)
		}
	}
}

func uniqueTimes(t *testing.T, s logstore.Store) {
	add(t, s, 0, t0, "a")
	add(t, s, 1, t0, "b")
	add(t, s, 2, t0.Add(-time.Hour), "c") // the host's clock was set back
	_, p := poll(t, s, logstore.Query{Limit: 10})
	for i := 1; i < len(p.Events); i++ {
		if !p.Events[i].At.After(p.Events[i-1].At) {
			t.Errorf("event %d is at %v, the one before at %v", i, p.Events[i].At, p.Events[i-1].At)
		}
	}
}

func cursor(t *testing.T, s logstore.Store) {
	var q logstore.Query
	var got string
	var offset int64
	for i := range 5 {
		q.Limit = 100
		text, p := poll(t, s, q)
		got += text
		q.Token = p.Cursor
		offset = add(t, s, offset, t0, fmt.Sprint(i))
	}
	text, _ := poll(t, s, q)
	if got += text; got != "01234" {
		t.Errorf("following the cursor gives %q", got)
	}
}

func bigPages(t *testing.T, s logstore.Store) {
	part := strings.Repeat("y", 256<<10)
	var size int64
	for range 20 {
		size = add(t, s, size, t0, part)
	}
	text, p := poll(t, s, logstore.Query{Limit: 1000})
	if len(text) > logstore.MaxBytes+len(part) || p.Next == "" {
		t.Errorf("a page of %d bytes, next %q", len(text), p.Next)
	}
	for _, descending := range []bool{false, true} {
		if all, _ := pages(t, s, logstore.Query{Limit: 1000, Descending: descending}); int64(len(all)) != size {
			t.Errorf("descending %v: %d bytes in all pages, want %d", descending, len(all), size)
		}
	}
}

func badTokens(t *testing.T, s logstore.Store) {
	numbers(t, s, 2)
	for _, token := range []string{"x", "-1", "1.5", "99999999999999999999", " 1"} {
		_, err := s.Poll(t.Context(), logstore.Query{JobID: job, Source: logstore.Job, Limit: 1, Token: token})
		if _, ok := errors.AsType[*logstore.TokenError](err); !ok {
			t.Errorf("token %q: %v, want a *TokenError", token, err)
		}
	}
	if got, _ := poll(t, s, logstore.Query{Limit: 5, Token: "1000"}); got != "" {
		t.Errorf("a token behind the end gives %q", got)
	}
}

func badJobs(t *testing.T, s logstore.Store) {
	for _, id := range []string{"", ".", "../../etc", "a/b", strings.Repeat("a", 100), "a\x00b"} {
		if _, err := s.Append(t.Context(), id, logstore.Job, logstore.Chunk{Data: []byte("x")}); !errors.Is(err, logstore.ErrJobID) {
			t.Errorf("Append to job %q: %v, want ErrJobID", id, err)
		}
	}
}

func deletes(t *testing.T, s logstore.Store) {
	numbers(t, s, 3)
	if err := s.Delete(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	unknownJob(t, s)
	numbers(t, s, 2) // and from the start again
	if n, err := s.Expire(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("Expire of older = %d, %v", n, err)
	}
	if n, err := s.Expire(t.Context(), time.Now().Add(time.Hour)); n != 1 || err != nil {
		t.Errorf("Expire = %d, %v, want 1 job", n, err)
	}
	unknownJob(t, s)
}

// concurrent has two connections deliver the same stream at the same time.
func concurrent(t *testing.T, s logstore.Store) {
	text := strings.Repeat("0123456789", 500)
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			step := 7 + w
			for at := 0; at < len(text); at += step {
				end := min(at+step, len(text))
				if _, err := s.Append(context.Background(), job, logstore.Job, logstore.Chunk{Offset: int64(at), At: t0, Data: []byte(text[at:end])}); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, _ := pages(t, s, logstore.Query{Limit: 1000}); got != text {
		t.Errorf("%d bytes, want %d the same", len(got), len(text))
	}
}
