package run

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/logstore"
)

// counting counts the writes to a store.
type counting struct {
	logstore.Store
	n int
}

func (c *counting) Append(ctx context.Context, jobID string, src logstore.Source, chunks ...logstore.Chunk) (int64, error) {
	c.n++
	return c.Store.Append(ctx, jobID, src, chunks...)
}

func TestStoreLog(t *testing.T) {
	text := strings.Repeat("0123456789", fetchSize/5) // two fetches
	k := logStream{"5e0d8f5c-52a4-4a39-8d0f-8d7ce9e5f001", logstore.Job}
	chunk := func(from, to int) logstore.Chunk {
		return logstore.Chunk{Offset: int64(from), At: time.Unix(1, 0), Data: []byte(text[from:to])}
	}
	far := func(at int64) logstore.Chunk {
		return logstore.Chunk{Offset: at, At: time.Unix(1, 0), Data: []byte("lie")}
	}
	for name, tt := range map[string]struct {
		chunks []logstore.Chunk
		host   string // its log
		writes int
		size   int
		drops  int
		err    string
	}{
		"one write for all":     {chunks: []logstore.Chunk{chunk(0, 5), chunk(5, 9), chunk(9, 30)}, writes: 1, size: 30},
		"repeated":              {chunks: []logstore.Chunk{chunk(0, 5), chunk(0, 5), chunk(3, 9)}, writes: 1, size: 9},
		"gap at the begin":      {chunks: []logstore.Chunk{chunk(5, 9), chunk(9, 30)}, host: text, writes: 3, size: 30},
		"two gaps":              {chunks: []logstore.Chunk{chunk(0, 5), chunk(7, 9), chunk(12, 30)}, host: text, writes: 5, size: 30},
		"a large gap":           {chunks: []logstore.Chunk{chunk(fetchSize+5, fetchSize+9)}, host: text, writes: 4, size: fetchSize + 9},
		"the host has not that": {chunks: []logstore.Chunk{chunk(0, 2), chunk(7, 9)}, host: text[:4], writes: 2, size: 4, drops: 1, err: "the host has 4 bytes before offset 7"},
		"lies between": {chunks: []logstore.Chunk{far(9e17), chunk(0, 5), far(8e17), far(1e6), chunk(5, 9)}, host: text[:9], writes: 5, size: 9, drops: 3,
			err: "the host has 9 bytes before offset 900000000000000000"},
	} {
		t.Run(name, func(t *testing.T) {
			logs := &counting{Store: logstore.NewFile(t.TempDir())}
			drops, err := storeLog(t.Context(), logs, k, tt.chunks, func(from int64) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(tt.host[from:])), nil
			})
			if got := errText(err); !strings.Contains(got, tt.err) || tt.err == "" && err != nil {
				t.Errorf("storeLog = %v, want %q", err, tt.err)
			}
			if drops != tt.drops {
				t.Errorf("%d chunks are dropped, want %d", drops, tt.drops)
			}
			if logs.n != tt.writes {
				t.Errorf("%d writes, want %d", logs.n, tt.writes)
			}
			page, err := logs.Poll(t.Context(), logstore.Query{JobID: k.JobID, Source: k.Source, Limit: logstore.MaxEvents})
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, e := range page.Events {
				got.Write(e.Data)
			}
			if got.String() != text[:tt.size] {
				t.Errorf("%d bytes are stored, want the first %d", got.Len(), tt.size)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestLogsIn(t *testing.T) {
	event := func(job string, src logstore.Source, offset int64, text string) agentapi.Event {
		return agentapi.Event{TaskID: job, Micros: 7, Log: &agentapi.LogData{Source: src, Offset: offset, Data: []byte(text)}}
	}
	got := logsIn([]agentapi.Event{
		event("a", logstore.Job, 0, "x"), event("b", logstore.Job, 0, "y"), {TaskID: "a"}, event("a", logstore.Runner, 3, "r"),
		event("a", logstore.Job, 1, "z"), event("other", logstore.Job, 0, "no"),
	}, map[string]bool{"a": true, "b": true, "other": false})
	at := time.UnixMicro(7)
	want := map[logStream][]logstore.Chunk{
		{"a", logstore.Job}:    {{Offset: 0, At: at, Data: []byte("x")}, {Offset: 1, At: at, Data: []byte("z")}},
		{"b", logstore.Job}:    {{Offset: 0, At: at, Data: []byte("y")}},
		{"a", logstore.Runner}: {{Offset: 3, At: at, Data: []byte("r")}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logsIn (-want +got):\n%s", diff)
	}
}
