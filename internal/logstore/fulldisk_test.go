package logstore

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A disk that was full in the middle of an index leaves a log as it is, also when the same is written in another
// shape afterwards and the store is opened again.
func TestAppendOnAFullDisk(t *testing.T) {
	const id = "01f0c5e8-0000-4000-8000-000000000001"
	for name, room := range map[string]int{"for some records": 2 * recordSize, "for a record and a half": recordSize * 3 / 2, "for none": 0} {
		dir := t.TempDir()
		f := NewFile(dir)
		full := false
		f.write = func(path string, data []byte, offset int64) error {
			if full && strings.HasSuffix(path, ".idx") {
				if err := writeAt(path, data[:room], offset); err != nil {
					return err
				}
				return syscall.ENOSPC
			}
			return writeAt(path, data, offset)
		}
		want := "start\n"
		if _, err := f.Append(t.Context(), id, Job, Chunk{At: time.Now(), Data: []byte(want)}); err != nil {
			t.Fatal(err)
		}
		var chunks []Chunk
		for n := range 5 {
			line := fmt.Sprintf("line %d\n", n)
			chunks = append(chunks, Chunk{Offset: int64(len(want)), At: time.Now(), Data: []byte(line)})
			want += line
		}
		full = true
		if _, err := f.Append(t.Context(), id, Job, chunks...); err == nil {
			t.Fatalf("%s: nothing fails", name)
		}
		full = false // or what follows fits into the last block
		from := chunks[0].Offset
		if n, err := f.Append(t.Context(), id, Job, Chunk{Offset: from, At: time.Now(), Data: []byte(want[from:])}); n != int64(len(want)) || err != nil {
			t.Errorf("%s: told again: %d bytes, %v", name, n, err)
		}
		page, err := NewFile(dir).Poll(t.Context(), Query{JobID: id, Source: Job, Limit: MaxEvents})
		var got strings.Builder
		for _, e := range page.Events {
			got.Write(e.Data)
		}
		if err != nil || got.String() != want {
			t.Errorf("%s: the log is %q, want %q (%v)", name, got.String(), want, err)
		}
	}
}
