package logstore_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/logstore"
	"dstack/internal/logstore/logstoretest"
)

const job = "5e0d8f5c-52a4-4a39-8d0f-8d7ce9e5f001"

func TestFile(t *testing.T) {
	logstoretest.Run(t, func(t *testing.T) logstore.Store { return logstore.NewFile(t.TempDir()) })
}

// TestFileSurvivesAnything cuts and soils the ends of the files as a crash or a loss of
// power may, opens them again, and lets the sender go on from the size that is told.
func TestFileSurvivesAnything(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		dir := t.TempDir()
		text := make([]byte, 2000)
		for i := range text {
			text[i] = byte(rnd.Uint32())
		}
		send(t, logstore.NewFile(dir), text, rnd.IntN(len(text)))
		damage(t, rnd, filepath.Join(dir, job[:2], job))
		f := logstore.NewFile(dir)
		size, err := f.Size(t.Context(), job, logstore.Job)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := read(t, f); !bytes.Equal(got, text[:size]) {
			t.Fatalf("seed %d: the first %d bytes differ after the damage", seed, size)
		}
		send(t, f, text, len(text))
		if got := read(t, logstore.NewFile(dir)); !bytes.Equal(got, text) {
			t.Fatalf("seed %d: %d bytes at the end, want %d the same", seed, len(got), len(text))
		}
	}
}

func send(t *testing.T, f *logstore.File, text []byte, until int) {
	t.Helper()
	size, err := f.Size(t.Context(), job, logstore.Job)
	if err != nil {
		t.Fatal(err)
	}
	for at := int(size); at < until; at += 37 {
		c := logstore.Chunk{Offset: int64(at), At: time.Unix(int64(at), 0), Data: text[at:min(at+37, until)]}
		if _, err := f.Append(t.Context(), job, logstore.Job, c); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, f *logstore.File) []byte {
	t.Helper()
	q := logstore.Query{JobID: job, Source: logstore.Job, Limit: 1000}
	p, err := f.Poll(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, e := range p.Events {
		b = append(b, e.Data...)
	}
	return b
}

func damage(t *testing.T, rnd *rand.Rand, dir string) {
	t.Helper()
	for _, name := range []string{"job.log", "job.idx"} {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			continue // nothing was sent
		}
		switch rnd.IntN(4) {
		case 0: // the file ends early
			err = os.Truncate(path, rnd.Int64N(info.Size()+1))
		case 1: // bytes that nobody counted
			err = appendTo(path, bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(100)))
		case 2: // the file was made longer, the blocks were not written
			err = os.Truncate(path, info.Size()+rnd.Int64N(100))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func appendTo(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Close()
}

func newLogs(t *testing.T, retention time.Duration) *logstore.Logs {
	t.Helper()
	l, err := logstore.New(logstore.Config{Store: logstore.NewFile(t.TempDir()), Log: slog.New(slog.DiscardHandler), Retention: retention})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogs(t, 0)
		news, stop := l.Watch(job)
		other, stopOther := l.Watch("another-job")
		defer stopOther()
		for i := range 3 { // three writes, one token
			if _, err := l.Append(t.Context(), job, logstore.Job, logstore.Chunk{Offset: int64(i), Data: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		<-news
		select {
		case <-news:
			t.Error("a second token for what one poll shows")
		case <-other:
			t.Error("another job's watcher was told")
		default:
		}
		l.Wake(job)
		<-news
		stop()
		l.Wake(job)
		select {
		case <-news:
			t.Error("a token after stop")
		default:
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	f := logstore.NewFile(b.TempDir())
	line := bytes.Repeat([]byte("x"), 200)
	var size int64
	for b.Loop() {
		var err error
		if size, err = f.Append(b.Context(), job, logstore.Job, logstore.Chunk{Offset: size, At: time.Now(), Data: line}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPoll(b *testing.B) {
	f := logstore.NewFile(b.TempDir())
	var size int64
	for i := range 100_000 {
		var err error
		if size, err = f.Append(b.Context(), job, logstore.Job, logstore.Chunk{Offset: size, At: time.Unix(int64(i), 0), Data: fmt.Appendf(nil, "line %d\n", i)}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := f.Poll(b.Context(), logstore.Query{JobID: job, Source: logstore.Job, Start: time.Unix(50_000, 0), Limit: 100}); err != nil {
			b.Fatal(err)
		}
	}
}
