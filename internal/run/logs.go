package run

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/logstore"
	"dstack/internal/metrics"
	"dstack/internal/project"
	"dstack/internal/store"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Handle stores what a host's event stream brings: logs first, then states, so that the
// end of a job is never known before the end of its log. What is wrong with one job holds up no
// other: one whose log cannot be stored now is in a *agentapi.HeldError. Events that can never be
// stored are dropped, and told in a *agentapi.DroppedError when nothing else went wrong.
func (s *Service) Handle(ctx context.Context, instanceID string, events []agentapi.Event) error {
	mine, err := s.placedOn(ctx, instanceID, events)
	if err != nil {
		return err
	}
	var failed error
	var dropped agentapi.DroppedError
	var held agentapi.HeldError
	hold := map[string]bool{} // jobs whose log could not be stored: their ends wait, what else is told of them does not
	took := func(err error, n int) {
		if store.BadValue(err) {
			dropped.Count, dropped.Why = dropped.Count+n, errors.New("the database cannot store it")
			return
		}
		failed = errors.Join(failed, err)
	}
	for k, chunks := range logsIn(events, mine) {
		n, err := s.storeLog(ctx, instanceID, k, chunks)
		if n > 0 {
			dropped.Count, dropped.Why = dropped.Count+n, errors.New("output behind the end of its log")
		}
		if err != nil && !store.BadValue(err) && ctx.Err() == nil {
			hold[k.JobID] = true
			held.Hold(k.JobID, err)
			continue
		}
		took(err, len(chunks))
	}
	texts := map[string][]byte{} // what DCGM says of the GPUs of jobs
	var samples []metrics.Point
	latest := map[string]agentapi.Task{}
	var order []string
	for _, e := range events {
		switch {
		case !mine[e.TaskID]:
			// A left-over of a deleted run, or a host that speaks of the jobs of others.
		case hold[e.TaskID] && e.Ends():
			// The host will tell it again.
		case e.Task != nil && e.Task.ID == e.TaskID:
			if _, seen := latest[e.TaskID]; !seen {
				order = append(order, e.TaskID)
			}
			latest[e.TaskID] = *e.Task
		case e.Metrics != nil:
			samples = append(samples, metrics.Point{JobID: e.TaskID, At: time.UnixMicro(e.Micros), Metrics: *e.Metrics})
		case e.DCGM != nil:
			texts[e.TaskID] = e.DCGM // the last: the others are over
		}
	}
	if err := s.Metrics.Add(ctx, samples...); !store.BadValue(err) {
		took(err, 0)
	} else {
		for _, p := range samples { // one of them
			took(s.Metrics.Add(ctx, p), 1)
		}
	}
	for id, packed := range texts {
		err := s.Metrics.AddText(ctx, id, packed)
		if _, wrong := errors.AsType[*metrics.TextError](err); wrong {
			dropped.Count, dropped.Why = dropped.Count+1, errors.New("metrics of GPUs that are none")
			continue
		}
		took(err, 1)
	}
	tasks := make([]agentapi.Task, 0, len(order))
	for _, id := range order {
		t := latest[id]
		if t.State == agentapi.Terminated && !s.completed(ctx, instanceID, t, &held) {
			continue
		}
		tasks = append(tasks, t)
	}
	if err := s.observe(ctx, instanceID, tasks...); !store.BadValue(err) {
		took(err, 0)
	} else {
		for _, t := range tasks { // one of them
			took(s.observe(ctx, instanceID, t), 1)
		}
	}
	switch {
	case failed != nil:
		return errors.Join(failed, held.Why)
	case held.Tasks != nil:
		if dropped.Count > 0 {
			held.Dropped = &dropped
		}
		return &held
	case dropped.Count > 0:
		return &dropped
	}
	return nil
}

// storeLog is [storeLog] for a host's event stream. What a host fails to give too often is given
// up.
func (s *Service) storeLog(ctx context.Context, instanceID string, k logStream, chunks []logstore.Chunk) (dropped int, err error) {
	dropped, err = storeLog(ctx, s.Logs, k, chunks, s.logOf(ctx, instanceID, k))
	if _, ok := errors.AsType[*fetchError](err); ok && ctx.Err() == nil && s.fetches.failedAgain(k, time.Now()) {
		dropped, err = storeLog(ctx, s.Logs, k, chunks, func(int64) (io.ReadCloser, error) { return nil, errGivenUp })
	}
	if _, ok := errors.AsType[*lackError](err); ok {
		err = nil // for good: it is among what was dropped
	}
	if err == nil {
		s.fetches.worked(k)
	}
	return dropped, err
}

// fetchStall is how long a host may take for the next piece of a log that is fetched from it: whatever else it
// says waits meanwhile.
const fetchStall = time.Minute

// logOf opens the log of a job as its host has it.
func (s *Service) logOf(ctx context.Context, instanceID string, k logStream) func(from int64) (io.ReadCloser, error) {
	return func(from int64) (io.ReadCloser, error) {
		client, err := s.Hosts.Client(ctx, instanceID)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithCancel(ctx)
		stall := time.AfterFunc(fetchStall, cancel)
		body, err := client.Logs(ctx, k.JobID, k.Source, from)
		stall.Stop()
		if err != nil {
			cancel()
			return nil, err
		}
		// To give a request up over SSH is to ask the host for it, and whoever reads the body waits for the
		// answer: of a host that is cut off, only the end of the connection ends the copying.
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
		go func() {
			defer body.Close()
			_, err := io.Copy(w, body)
			w.CloseWithError(err)
		}()
		return &fetched{r, stall, cancel}, nil
	}
}

// fetched is a log that is fetched. It breaks off when nothing comes for fetchStall.
type fetched struct {
	log    io.Reader
	stall  *time.Timer
	cancel context.CancelFunc
}

func (f *fetched) Read(p []byte) (int, error) {
	f.stall.Reset(fetchStall)
	defer f.stall.Stop() // what is done with it may take longer
	return f.log.Read(p)
}

// Close ends the fetch.
func (f *fetched) Close() error {
	f.cancel()
	return nil
}

// placedOn says which of the jobs that events speak of were placed on an instance.
func (s *Service) placedOn(ctx context.Context, instanceID string, events []agentapi.Event) (map[string]bool, error) {
	mine := map[string]bool{}
	args := []any{instanceID}
	for _, e := range events {
		if _, seen := mine[e.TaskID]; !seen && e.TaskID != "" {
			mine[e.TaskID] = false
			args = append(args, e.TaskID)
		}
	}
	if len(args) == 1 {
		return mine, nil
	}
	in := make([]string, len(args)-1)
	for i := range in {
		in[i] = fmt.Sprintf("$%d", i+2)
	}
	rows, err := s.DB.Read().QueryContext(ctx, fmt.Sprintf(jobsOn, strings.Join(in, ", ")), args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		mine[id] = err == nil
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for the jobs of a host's events: %w", err)
	}
	return mine, nil
}

// PollLogs reads a page of a submission's log.
func (s *Service) PollLogs(ctx context.Context, sc project.Scope, r api.PollLogsRequest) (api.JobSubmissionLogs, error) {
	out := api.JobSubmissionLogs{Logs: []api.LogEvent{}}
	if t := r.NextToken; t != nil && (*t == "" || strings.Trim(*t, "0123456789") != "") {
		return out, api.Invalid("Invalid next_token: %s. Must be a non-negative integer.", *t)
	}
	j, err := getJob(ctx, s.DB.Read(), r.JobSubmissionID)
	if errors.Is(err, store.ErrNotFound) || err == nil && j.ProjectID != sc.Project.ID {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	q := logstore.Query{JobID: j.ID, Source: logstore.Job, Descending: r.Descending, Limit: 100}
	if r.Diagnose {
		q.Source = logstore.Runner
	}
	if r.Limit != nil {
		q.Limit = *r.Limit
	}
	if r.StartTime != nil {
		q.Start = r.StartTime.Time
	}
	if r.EndTime != nil {
		q.End = r.EndTime.Time
	}
	if r.NextToken != nil {
		q.Token = *r.NextToken
	}
	page, err := s.pollLog(ctx, q)
	var bad *logstore.TokenError
	if errors.As(err, &bad) {
		return out, api.Invalid("Invalid next_token: %s. Must be a non-negative integer.", bad.Token)
	}
	if err != nil {
		return out, err
	}
	if page.URL != "" {
		out.ExternalURL = &page.URL
	}
	for _, e := range page.Events {
		out.Logs = append(out.Logs, api.LogEvent{Timestamp: api.At(e.At), LogSource: "stdout", Message: e.Data})
	}
	if page.Next != "" {
		out.NextToken = &page.Next
	}
	return out, nil
}

// pollLog reads a page. What a log service answers is for its user to know.
func (s *Service) pollLog(ctx context.Context, q logstore.Query) (logstore.Page, error) {
	page, err := s.Logs.Poll(ctx, q)
	if failed, ok := errors.AsType[*logstore.ReadError](err); ok {
		s.Log.Warn("a log cannot be read", "job", q.JobID, "err", err)
		return page, api.Invalid("%s", failed.Text)
	}
	return page, err
}

// streamLook spaces the looks at a log that is followed when nothing is heard of it: what another replica
// tells while this one is cut off from the database is lost. It is shorter than load balancers are patient.
const streamLook = 15 * time.Second

// StreamLogs sends a submission's log from a byte offset. With Follow it goes on until the
// attempt has ended and everything was sent; alive is called when there is nothing to send, at the beginning and every
// streamLook at least: load balancers end what is silent.
func (s *Service) StreamLogs(ctx context.Context, sc project.Scope, r api.StreamLogsRequest, send func(api.LogChunk) error, alive func() error) error {
	j, err := getJob(ctx, s.DB.Read(), r.JobSubmissionID)
	if errors.Is(err, store.ErrNotFound) || err == nil && j.ProjectID != sc.Project.ID {
		return api.NotExists("Job submission not found")
	}
	if err != nil {
		return err
	}
	src := logstore.Job
	if r.Diagnose {
		src = logstore.Runner
	}
	news, stop := s.Logs.Watch(j.ID)
	defer stop()
	changed, leave := s.watch.next(j.RunID)
	defer func() { leave() }()
	look := time.NewTicker(streamLook)
	defer look.Stop()
	token := ""
	if r.Offset > 0 {
		if token, err = s.Logs.At(ctx, j.ID, src, r.Offset); err != nil {
			return err
		}
	}
	for {
		if j, err = getJob(ctx, s.DB.Read(), j.ID); err != nil {
			return err
		}
		ended := j.Finished()
		page, err := s.pollLog(ctx, logstore.Query{JobID: j.ID, Source: src, Token: token, Limit: logstore.MaxEvents})
		if err != nil {
			return err
		}
		token = page.Cursor
		sent := false
		for _, e := range page.Events {
			end := e.Offset + int64(len(e.Data))
			if end <= r.Offset {
				continue
			}
			data, at := e.Data, e.Offset
			if at < r.Offset {
				data, at = data[r.Offset-at:], r.Offset
			}
			when := api.At(e.At)
			sent = true
			if err := send(api.LogChunk{Timestamp: &when, Offset: at, Data: data}); err != nil {
				return err
			}
		}
		if page.Next != "" {
			continue
		}
		if ended || !r.Follow {
			return send(api.LogChunk{End: true})
		}
		if !sent {
			if err := alive(); err != nil {
				return err
			}
		}
		select {
		case <-news:
		case <-look.C:
		case <-changed:
			leave()
			changed, leave = s.watch.next(j.RunID)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
