package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/client"
	"dstack/internal/cli/program"
)

const (
	pageSize    = 1000
	firstRetry  = 100 * time.Millisecond
	lastRetry   = 5 * time.Second
	idlePoll    = 200 * time.Millisecond
	idlePollMax = 2 * time.Second
)

// A Log is what one submission of a job wrote.
type Log struct {
	Conn       *program.Conn
	Run        string
	Submission string // id of the job submission
	Since      *time.Time
	Diagnose   bool // the runner's own log instead of the job's
	// Lost, if set, is called when the server has not answered for a second and goes on being asked.
	Lost func()

	offset int64      // in bytes, of a stream
	token  *string    // of pages
	last   *time.Time // of the last event
}

// Print writes what there is so far.
func (l *Log) Print(ctx context.Context, write func([]byte) error) error {
	l.last = l.Since
	for {
		n, more, err := l.page(ctx, write)
		if err != nil || !more || n == 0 {
			return err
		}
	}
}

// Follow writes the log and what is added to it until it is complete, without gap or repetition,
// also when the server restarts meanwhile. Servers that have no stream are asked for page after page until finished
// says that the job has ended.
func (l *Log) Follow(ctx context.Context, finished func() bool, write func([]byte) error) error {
	l.last = l.Since
	wait := firstRetry
	var out outage
	for {
		before := l.offset
		err := l.stream(ctx, write)
		_, broken := errors.AsType[*writeError](err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil || broken:
			return err
		case program.NotServed(err):
			return l.poll(ctx, finished, write)
		case !transient(err):
			return err
		}
		answered := l.offset != before || began(err)
		if answered {
			wait = firstRetry
		}
		say, giveUp := out.failed(time.Now(), answered)
		if giveUp {
			return fmt.Errorf("follow the log of %s: %w", l.Run, err)
		}
		if say && l.Lost != nil {
			l.Lost()
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, lastRetry)
	}
}

// began reports whether a stream that ended with err had begun: there was a connection, and no refusal.
func began(err error) bool {
	_, refused := errors.AsType[*api.Error](err)
	return !refused && !errors.Is(err, client.ErrConnect)
}

// A writeError is of our output, not of the server.
type writeError struct{ error }

func (e *writeError) Unwrap() error { return e.error }

// stream copies until the server says that the log is complete; anything else is an error.
func (l *Log) stream(ctx context.Context, write func([]byte) error) error {
	complete := false
	req := api.StreamLogsRequest{
		RunName: l.Run, JobSubmissionID: l.Submission, Offset: l.offset, Diagnose: l.Diagnose, Follow: true,
	}
	err := l.Conn.StreamLogs(ctx, l.Conn.Project, req, func(c api.LogChunk) error {
		complete = complete || c.End
		data := c.Data
		if skip := l.offset - c.Offset; skip > 0 { // what we have already
			data = data[min(skip, int64(len(data))):]
		}
		l.offset = max(l.offset, c.Offset+int64(len(c.Data)))
		if len(data) == 0 || l.Since != nil && c.Timestamp != nil && !c.Timestamp.After(*l.Since) {
			return nil
		}
		if err := write(data); err != nil {
			return &writeError{err}
		}
		return nil
	})
	if err == nil && !complete {
		return io.ErrUnexpectedEOF
	}
	return err
}

// poll asks for more until the job has ended and nothing more comes.
func (l *Log) poll(ctx context.Context, finished func() bool, write func([]byte) error) error {
	wait := idlePoll
	for {
		ended := finished() // before the page: what was written before the end is in it
		n, more, err := l.page(ctx, write)
		_, broken := errors.AsType[*writeError](err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case broken || err != nil && !transient(err):
			return err
		case err == nil && n == 0 && !more && ended:
			return nil
		case more:
			wait = idlePoll
			continue
		case n > 0:
			wait = idlePoll
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
		wait = min(wait*3/2, idlePollMax)
	}
}

// page writes one page and returns how many events it had and whether there are more.
func (l *Log) page(ctx context.Context, write func([]byte) error) (n int, more bool, err error) {
	limit := pageSize
	req := api.PollLogsRequest{
		RunName: l.Run, JobSubmissionID: l.Submission, Limit: &limit, Diagnose: l.Diagnose, NextToken: l.token,
		StartTime: apiTime(l.last),
	}
	if l.token != nil {
		req.StartTime = apiTime(l.Since)
	}
	res, err := l.Conn.PollLogs(ctx, l.Conn.Project, req)
	if err != nil {
		return 0, false, err
	}
	for _, ev := range res.Logs {
		if err := write(ev.Message); err != nil {
			return n, false, &writeError{err}
		}
		l.last = &ev.Timestamp.Time
		n++
	}
	l.token = res.NextToken
	return n, res.NextToken != nil, nil
}

func apiTime(t *time.Time) *api.Time {
	if t == nil {
		return nil
	}
	return &api.Time{Time: *t}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
