package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"dstack/internal/agentapi"
)

const (
	// batch bounds the events of one Handle, batchSize their bytes, linger how long they are
	// collected.
	batch     = 256
	batchSize = 4 << 20
	linger    = 3 * time.Millisecond
	// ahead is how many events are read while others are stored. The stream flows on by
	// itself; what waits here takes memory for every host.
	ahead = 4
	// oddAgain spaces reports of what a host says that makes no sense, by kind.
	oddAgain = time.Hour
)

// refusal says that the sink could not store what a host told. The connection is well.
type refusal struct {
	err  error
	wait bool // before it is told again
}

func (e *refusal) Error() string { return e.err.Error() }

// follow hands what the agent tells to the sink until the connection ends. What cannot be stored is told again over the
// same connection: tasks are sent, stopped and reached over it meanwhile.
func (c *conn) follow(ctx context.Context, client *agentapi.Client) error {
	delay := firstRetry
	for attempt := 1; ; attempt++ {
		began, wait := time.Now(), jitter(delay, c.target.ID, attempt)
		err := c.events(ctx, client, wait)
		refused, ok := errors.AsType[*refusal](err)
		if !ok || ctx.Err() != nil {
			return err
		}
		c.tell("what a host tells cannot be stored", refused.err)
		if refused.wait {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if delay = min(2*delay, maxRetry); time.Since(began) > time.Minute {
			delay = firstRetry
		}
	}
}

// held are the tasks of whose logs and ends nothing is stored until another stream tells it again.
type held struct {
	tasks  map[string]bool
	why    error
	wasted int // bytes of their logs that were told all the same, by an older agent
}

// events hands one stream to the sink in batches and acknowledges what it stored. When something could not be stored it
// returns a *refusal: at once when that was all, and when it was of some tasks after as long as patience, in which the
// others go on, unless the agent goes on with the same.
func (c *conn) events(ctx context.Context, client *agentapi.Client, patience time.Duration) error {
	stream, stop := context.WithCancel(ctx)
	defer stop()
	in := make(chan agentapi.Event, ahead)
	errs := make(chan error, 1)
	limit := cmp.Or(c.pool.Silence, 3*agentapi.HeartbeatEvery)
	var over, silent atomic.Bool
	defer over.Store(true)
	// To end a stream over SSH is to ask the host for it, and whoever reads waits for the answer:
	// of a host that is cut off, only the end of the connection frees the reader.
	silence := time.AfterFunc(limit, func() {
		if over.Load() {
			return
		}
		silent.Store(true)
		if s := c.sshClient(); s != nil {
			s.Close()
		}
	})
	defer silence.Stop()
	go func() {
		errs <- client.Events(stream, 0, c.pool.Wish, func(e agentapi.Event) error {
			silence.Reset(limit)
			if e.Kind == agentapi.HeartbeatEvent {
				return nil
			}
			silence.Stop() // what comes is not read while the sink takes its time
			defer silence.Reset(limit)
			select {
			case in <- e:
				return nil
			case <-stream.Done():
				return stream.Err()
			}
		})
		close(in)
	}()
	var h held
	for {
		events, more := collect(in)
		if len(events) > 0 {
			well := h.why == nil
			if err := c.handle(ctx, client, events, &h); err != nil {
				return err
			}
			if well && h.why != nil {
				defer time.AfterFunc(patience, stop).Stop()
			}
			if h.wasted > batchSize {
				stop()
			}
		}
		if !more {
			err := <-errs
			if silent.Load() {
				return fmt.Errorf("the host has been silent for %v", limit)
			}
			if h.why != nil && stream.Err() != nil && ctx.Err() == nil {
				return &refusal{h.why, h.wasted > batchSize}
			}
			return err
		}
	}
}

// handle stores a batch and acknowledges it, but for what is held. What makes no sense is dropped: it would come again
// and again, and hold up the rest.
func (c *conn) handle(ctx context.Context, client *agentapi.Client, events []agentapi.Event, h *held) error {
	now, last := time.Now(), int64(0)
	sensible := make([]agentapi.Event, 0, len(events))
	for _, e := range events {
		last = max(last, e.Seq)
		if wrong := e.Check(now); wrong != "" {
			c.odd.report(c, now, wrong, 1)
			continue
		}
		switch {
		case !h.tasks[e.TaskID] || e.Log == nil && !e.Ends():
			sensible = append(sensible, e)
		case e.Log != nil:
			h.wasted += len(e.Log.Data)
		}
	}
	if len(sensible) > 0 {
		switch err := c.pool.Sink.Handle(ctx, c.target.ID, sensible).(type) { // alone: nothing else went wrong
		case nil:
		case *agentapi.DroppedError:
			c.odd.report(c, now, err.Why.Error(), err.Count)
		case *agentapi.HeldError:
			if d := err.Dropped; d != nil {
				c.odd.report(c, now, d.Why.Error(), d.Count)
			}
			h.add(err)
		default:
			return &refusal{fmt.Errorf("store events: %w", err), true}
		}
	}
	if last == 0 {
		return nil // nothing that could be acknowledged
	}
	return client.Ack(ctx, agentapi.Ack{Seq: last, Except: slices.Collect(maps.Keys(h.tasks))})
}

func (h *held) add(err *agentapi.HeldError) {
	if h.tasks == nil {
		h.tasks = map[string]bool{}
	}
	for _, id := range err.Tasks {
		h.tasks[id] = true
	}
	h.why = err
}

// nonsense refuses a host that says of itself what cannot be.
func nonsense(info agentapi.HostInfo) error {
	if wrong := info.Check(); wrong != "" {
		return problem(CodeInstall, "what the agent says of its host makes no sense: %s", wrong)
	}
	return nil
}

// maxTasks is how many tasks of a host are looked at: each costs queries.
const maxTasks = 1024

// sensible leaves out of a host's tasks those that cannot be, and of more than a host can have those that
// have ended first.
func (c *conn) sensible(tasks []agentapi.Task) []agentapi.Task {
	var list, ended []agentapi.Task
	for _, t := range tasks {
		switch wrong := t.Check(); {
		case wrong != "":
			c.odd.report(c, time.Now(), wrong, 1)
		case t.State == agentapi.Terminated:
			ended = append(ended, t)
		default:
			list = append(list, t)
		}
	}
	list = append(list, ended...)
	if more := len(list) - maxTasks; more > 0 {
		c.odd.report(c, time.Now(), "more tasks than a host can have", more)
		list = list[:maxTasks]
	}
	return list
}

// oddities count what a host said that makes no sense, by what is wrong with it.
type oddities map[string]*oddity

type oddity struct {
	count int
	told  time.Time
}

// maxOddities bounds the kinds that are told apart.
const maxOddities = 32

// report counts, and logs the first and what came since in an hour.
func (o *oddities) report(c *conn, now time.Time, wrong string, n int) {
	if *o == nil {
		*o = oddities{}
	}
	odd := (*o)[wrong]
	if odd == nil {
		if len(*o) == maxOddities {
			clear(*o)
		}
		odd = &oddity{}
		(*o)[wrong] = odd
	}
	odd.count += n
	if now.Sub(odd.told) < oddAgain {
		return
	}
	odd.told = now
	c.pool.Log.Warn("what a host says makes no sense and is dropped", "host", c.target.ID, "what", wrong, "count", odd.count)
}

// collect waits for an event and takes what follows at once.
func collect(in <-chan agentapi.Event) (events []agentapi.Event, more bool) {
	e, ok := <-in
	if !ok {
		return nil, false
	}
	events, size := append(events, e), e.Size
	timer := time.NewTimer(linger)
	defer timer.Stop()
	for len(events) < batch && size < batchSize {
		select {
		case e, ok := <-in:
			if !ok {
				return events, false
			}
			events, size = append(events, e), size+e.Size
		case <-timer.C:
			return events, true
		}
	}
	return events, true
}
