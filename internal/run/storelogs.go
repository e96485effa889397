package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
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

// lackError says that a host has not what it speaks of.
type lackError struct{ have, want int64 }

func (e *lackError) Error() string {
	return fmt.Sprintf("the host has %d bytes before offset %d", e.have, e.want)
}

// fetchError says that what is missing of a log could not be fetched now.
type fetchError struct{ err error }

func (e *fetchError) Error() string {
	return "fetch the missing part of a log: " + e.err.Error()
}
func (e *fetchError) Unwrap() error { return e.err }

// errGivenUp says that a part of a log is not to be fetched any more.
var errGivenUp = errors.New("given up")

// maxFetches is how often in a row the missing part of a log may fail to be fetched, and fetchFor for how long at least:
// a host whose log cannot be read must not hold up what else it says, and one that cannot give it for a moment
// must not lose it.
const (
	maxFetches = 5
	fetchFor   = time.Minute
)

// fetches count the failures in a row, by stream; those of the ends of jobs have no source.
type fetches struct {
	mu     sync.Mutex
	failed map[logStream]failures
}

type failures struct {
	n     int
	since time.Time
}

// failedAgain counts a failure and says that there were too many.
func (f *fetches) failedAgain(k logStream, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = map[logStream]failures{}
	}
	v, known := f.failed[k]
	if !known {
		v.since = now
	}
	v.n++
	f.failed[k] = v
	return v.n >= maxFetches && now.Sub(v.since) >= fetchFor
}

func (f *fetches) worked(k logStream) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failed, k)
}

// storeLog appends chunks of one stream at once. What is missing before one of them is
// fetched from the host, whose log fetch opens at an offset. Chunks behind what the host itself
// has are dropped, with a *lackError beside their number: nothing could ever come before them.
func storeLog(ctx context.Context, logs appender, k logStream, chunks []logstore.Chunk, fetch func(from int64) (io.ReadCloser, error)) (dropped int, err error) {
	var lacks *lackError
	for len(chunks) > 0 {
		_, err := logs.Append(ctx, k.JobID, k.Source, chunks...)
		gap, ok := errors.AsType[*logstore.GapError](err)
		if !ok {
			if err == nil {
				break
			}
			return dropped, err
		}
		for chunks[0].Offset != gap.Got {
			chunks = chunks[1:] // stored
		}
		lacking := lacks != nil && gap.Got > lacks.have
		if !lacking {
			err = fillGap(ctx, logs, k, *gap, chunks[0].At, fetch)
			lacking = errors.As(err, &lacks)
		}
		switch {
		case lacking:
			chunks, dropped = chunks[1:], dropped+1
		case err != nil:
			return dropped, err
		}
	}
	if lacks != nil {
		return dropped, lacks
	}
	return 0, nil
}

// Complete fetches what is missing of the logs of a job whose task has ended, before its host forgets them.
func (s *Service) Complete(ctx context.Context, instanceID string, t agentapi.Task) error {
	mine, err := s.placedOn(ctx, instanceID, []agentapi.Event{{TaskID: t.ID}})
	if err != nil || !mine[t.ID] {
		return err
	}
	return s.complete(ctx, instanceID, t)
}

// completed says whether the end of a job may be stored: with that known its host forgets its log. A database that was
// restored, a disk that lost power or a service that was behind may have less of it than the host. What fails for too
// long is given up, unless only a service is behind: jobs are not to run, and be paid for, for ever.
func (s *Service) completed(ctx context.Context, instanceID string, t agentapi.Task, held *agentapi.HeldError) bool {
	k := logStream{JobID: t.ID}
	err := s.complete(ctx, instanceID, t)
	if err == nil {
		s.fetches.worked(k)
		return true
	}
	if _, busy := errors.AsType[*logstore.BusyError](err); !busy && ctx.Err() == nil && s.fetches.failedAgain(k, time.Now()) {
		s.Log.Error("the end of a job is stored without all of its log", "job", t.ID, "instance", instanceID, "err", err)
		s.fetches.worked(k)
		return true
	}
	held.Hold(t.ID, err)
	return false
}

// complete is [Service.Complete] for a job that was placed on the instance.
func (s *Service) complete(ctx context.Context, instanceID string, t agentapi.Task) error {
	sizes := map[logstore.Source]int64{logstore.Job: t.JobLog, logstore.Runner: t.RunnerLog}
	for _, src := range []logstore.Source{logstore.Job, logstore.Runner} {
		if sizes[src] == 0 {
			continue
		}
		have, err := s.Logs.Size(ctx, t.ID, src)
		if err != nil {
			return err
		}
		if have >= sizes[src] {
			continue
		}
		k := logStream{t.ID, src}
		err = fillGap(ctx, s.Logs, k, logstore.GapError{Have: have, Got: sizes[src]}, time.Now(), s.logOf(ctx, instanceID, k))
		if _, lacks := errors.AsType[*lackError](err); err != nil && !lacks { // what a host lacks it will never have
			return err
		}
	}
	return nil
}

func fillGap(ctx context.Context, logs appender, k logStream, gap logstore.GapError, at time.Time, fetch func(from int64) (io.ReadCloser, error)) error {
	r, err := fetch(gap.Have)
	refused, ok := errors.AsType[*agentapi.StatusError](err)
	switch {
	case ok && refused.Status < 500, errors.Is(err, errGivenUp):
		return &lackError{gap.Have, gap.Got} // it knows no such log
	case err != nil:
		return &fetchError{err}
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
		have += int64(n)
		switch {
		case err == nil, n > 0 && errors.Is(err, io.ErrUnexpectedEOF): // the next read says how it ended
		case errors.Is(err, io.EOF):
			return &lackError{have, gap.Got}
		default:
			return &fetchError{err}
		}
	}
	return nil
}
