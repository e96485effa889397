package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/logstore"
)

// logStream is one stream of a job's log.
type logStream struct {
	JobID  string
	Source logstore.Source
}

// logsIn collects the chunks of logs among events, by stream and in order, of the jobs that
// are mine.
func logsIn(events []agentapi.Event, mine map[string]bool) map[logStream][]logstore.Chunk {
	logs := map[logStream][]logstore.Chunk{}
	for _, e := range events {
		if e.Log != nil && mine[e.TaskID] {
			k := logStream{e.TaskID, e.Log.Source}
			logs[k] = append(logs[k], logstore.Chunk{Offset: e.Log.Offset, At: time.UnixMicro(e.Micros), Data: e.Log.Data})
		}
	}
	return logs
}

// appender is what storeLog needs of a log store.
type appender interface {
	Append(ctx context.Context, jobID string, src logstore.Source, chunks ...logstore.Chunk) (int64, error)
}

// fetchSize is how much of a log is fetched at a time, in bytes.
const fetchSize = 256 << 10

// storeLog appends chunks of one stream at once. What is missing before one of them is
// fetched from the host, whose log fetch opens at an offset.
func storeLog(ctx context.Context, logs appender, k logStream, chunks []logstore.Chunk, fetch func(from int64) (io.ReadCloser, error)) error {
	for {
		_, err := logs.Append(ctx, k.JobID, k.Source, chunks...)
		gap, ok := errors.AsType[*logstore.GapError](err)
		if !ok {
			return err
		}
		for chunks[0].Offset != gap.Got {
			chunks = chunks[1:] // stored
		}
		if err := fillGap(ctx, logs, k, *gap, chunks[0].At, fetch); err != nil {
			return fmt.Errorf("fetch the missing part of a log: %w", err)
		}
	}
}

func fillGap(ctx context.Context, logs appender, k logStream, gap logstore.GapError, at time.Time, fetch func(from int64) (io.ReadCloser, error)) error {
	r, err := fetch(gap.Have)
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, min(fetchSize, gap.Got-gap.Have))
	for have := gap.Have; have < gap.Got; {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), gap.Got-have)])
		if n > 0 {
			if _, err := logs.Append(ctx, k.JobID, k.Source, logstore.Chunk{Offset: have, At: at, Data: buf[:n]}); err != nil {
				return err
			}
		}
		if have += int64(n); err != nil && have < gap.Got {
			return fmt.Errorf("the host has %d bytes before offset %d: %w", have, gap.Got, err)
		}
	}
	return nil
}
