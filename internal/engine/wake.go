package engine

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"dstack/internal/store"
)

// outbox collects wake-ups for objects of other replicas until they are sent.
type outbox struct {
	mu      sync.Mutex
	pending map[string]map[string]bool // kind → ids
	filled  chan struct{}              // holds one token when pending is not empty
}

// maxPending bounds the wake-ups of one kind that wait while the database is away. The sweep of the owner finds
// the rest.
const maxPending = 100_000

func (o *outbox) init() {
	o.pending = map[string]map[string]bool{}
	o.filled = make(chan struct{}, 1)
}

func (o *outbox) add(kind, id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pending[kind] == nil {
		o.pending[kind] = map[string]bool{}
	}
	if len(o.pending[kind]) < maxPending {
		o.pending[kind][id] = true
	}
	select {
	case o.filled <- struct{}{}:
	default:
	}
}

func (o *outbox) take() map[string]map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken := o.pending
	o.pending = map[string]map[string]bool{}
	return taken
}

// topicPrefix tells topics from kinds in messages.
const topicPrefix = "!"

// message is what replicas tell each other.
type message struct {
	Kind string   `json:"k"`
	IDs  []string `json:"i"`
}

// perMessage is how many ids fit in one message: a UUID takes 39 bytes in JSON.
const perMessage = (store.MaxMessage - 64) / 40

// resendAfter bounds how long wake-ups that could not be sent wait for the next attempt.
const resendAfter = 5 * time.Second

// send publishes the outbox until ctx ends. What cannot be sent is tried again: sweeps look late for objects
// that have a time of their own.
func (e *Engine) send(ctx context.Context) {
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.wakes.filled:
		}
		if failed > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(min(backoff(e.Owner, failed), resendAfter)):
			}
		}
		failed++
		if e.sendPending(ctx) {
			failed = 0
		}
	}
}

// sendLast publishes what is left when nobody adds to it any more, and tries for some seconds.
func (e *Engine) sendLast(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, resendAfter, errSilent)
	defer cancel()
	for failed := 1; !e.sendPending(ctx); failed++ {
		select {
		case <-ctx.Done():
			e.Log.Warn("the last wake-ups were not sent")
			return
		case <-time.After(backoff(e.Owner, failed)):
		}
	}
}

// sendPending publishes the outbox once. It is false when something could not be sent.
func (e *Engine) sendPending(ctx context.Context) (all bool) {
	all = true
	for kind, set := range e.wakes.take() {
		ids := make([]string, 0, len(set))
		for id := range set {
			if !strings.HasPrefix(kind, topicPrefix) && e.shards.epoch(Shard(id)) != 0 { // taken meanwhile
				e.queues[kind].wake(id)
				continue
			}
			ids = append(ids, id)
		}
		all = e.publish(ctx, kind, ids) && all
	}
	return all
}

// publish sends ids of one kind; what it cannot send it puts back, and says so.
func (e *Engine) publish(ctx context.Context, kind string, ids []string) bool {
	for len(ids) > 0 {
		n := min(perMessage, len(ids))
		msg, err := json.Marshal(message{kind, ids[:n]})
		if err == nil {
			err = e.Bus.Notify(ctx, string(msg))
		}
		if err != nil {
			if ctx.Err() == nil {
				e.Log.Warn("wake-ups not sent yet", "kind", kind, "err", err)
			}
			for _, id := range ids {
				e.wakes.add(kind, id)
			}
			return false
		}
		ids = ids[n:]
	}
	return true
}

// listen receives wake-ups from other replicas until ctx ends. It calls ready once it
// listens, or when the first attempt failed: working slowly is better than not at all.
func (e *Engine) listen(ctx context.Context, ready func()) {
	for attempt := 1; ; attempt++ {
		err := e.Bus.Listen(ctx, func() {
			if attempt > 1 { // something may have been missed, also by what has a time of its own
				e.lookAtAll(ctx, nil)
			}
			attempt = 1
			ready()
		}, e.receive)
		if ctx.Err() != nil {
			return
		}
		ready()
		delay := backoff(e.Owner, attempt)
		e.Log.Warn("wake-ups from other replicas not heard", "err", err, "retry_in", delay)
		select {
		case <-time.After(delay + rand.N(delay)):
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) receive(raw string) {
	var msg message
	if err := json.Unmarshal([]byte(raw), &msg); err != nil {
		e.Log.Warn("wake-up not understood", "err", err)
		return
	}
	if topic, ok := strings.CutPrefix(msg.Kind, topicPrefix); ok {
		for _, id := range msg.IDs {
			e.hear(topic, id)
		}
		return
	}
	q := e.queues[msg.Kind]
	if q == nil {
		return // a newer replica's kind
	}
	for _, id := range msg.IDs {
		if e.shards.epoch(Shard(id)) != 0 {
			q.wake(id)
		}
	}
}
