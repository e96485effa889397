package host

import (
	"context"
	"fmt"
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

// events hands the stream to the sink in batches and acknowledges what it stored.
func (c *conn) events(ctx context.Context, client *agentapi.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in := make(chan agentapi.Event, ahead)
	errs := make(chan error, 1)
	go func() {
		errs <- client.Events(ctx, 0, c.pool.Wish, func(e agentapi.Event) error {
			if e.Kind == agentapi.HeartbeatEvent {
				return nil
			}
			select {
			case in <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		close(in)
	}()
	for {
		events, more := collect(in)
		if len(events) > 0 {
			if err := c.handle(ctx, client, events); err != nil {
				return err
			}
		}
		if !more {
			return <-errs
		}
	}
}

// handle stores a batch and acknowledges it. What makes no sense is dropped: it would come again
// and again, and hold up the rest.
func (c *conn) handle(ctx context.Context, client *agentapi.Client, events []agentapi.Event) error {
	now, last := time.Now(), int64(0)
	sensible := make([]agentapi.Event, 0, len(events))
	for _, e := range events {
		last = max(last, e.Seq)
		if wrong := e.Check(now); wrong != "" {
			c.odd.report(c, now, wrong, 1)
			continue
		}
		sensible = append(sensible, e)
	}
	if len(sensible) > 0 {
		err := c.pool.Sink.Handle(ctx, c.target.ID, sensible)
		if dropped, ok := err.(*agentapi.DroppedError); ok { // alone: nothing else went wrong
			c.odd.report(c, now, dropped.Why.Error(), dropped.Count)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("store events: %w", err)
		}
	}
	if last == 0 {
		return nil // nothing that could be acknowledged
	}
	return client.Ack(ctx, last)
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
