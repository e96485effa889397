package run

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// ProbeKind is the engine's kind of replicas of services whose state is looked at. They are
// jobs, by their ids; the passes of [JobKind] schedule them.
const ProbeKind = "probe"

const (
	// tryAgain is when a replica is asked again that did not answer yet, if its probe would not
	// be due sooner.
	tryAgain = 2 * time.Second
	// connectTimeout bounds an attempt to see whether anybody listens.
	connectTimeout = 10
	// tellAfter is how many looks in a row at a new replica fail before it is told why: at first
	// nobody listens, which is as it should be.
	tellAfter = 3
	// tellEvery spaces the events about a replica's probes.
	tellEvery = 10 * time.Minute
	// maxReason bounds what is told, in bytes.
	maxReason = 300
)

// listening stands for the probes of a service that has none: a replica takes requests as soon
// as somebody listens on its port. Its type is not one that configurations have.
var listening = []api.ProbeSpec{{Type: "tcp", Timeout: connectTimeout, Interval: int(tryAgain / time.Second), ReadyAfter: 1, UntilReady: true}}

// Connects says that the probe asks for nothing but a connection.
func Connects(p api.ProbeSpec) bool { return p.Type == "tcp" }

// probesOf are the probes of a job, those that its configuration does not name included.
func probesOf(j JobData) []api.ProbeSpec {
	if len(j.Spec.Probes) == 0 {
		return listening
	}
	return j.Spec.Probes
}

// streak counts the successes in a row of a probe, up to what makes it ready.
func (d *JobData) streak(i int) int {
	if i < len(d.Streaks) {
		return d.Streaks[i]
	}
	return 0
}

// well says that all probes have succeeded as often as they have to.
func (d *JobData) well() bool {
	for i, p := range probesOf(*d) {
		if d.streak(i) < p.ReadyAfter {
			return false
		}
	}
	return true
}

// done says that a probe has nothing to find out any more.
func (d *JobData) done(i int, p api.ProbeSpec) bool {
	return p.UntilReady && d.streak(i) >= p.ReadyAfter
}

// probed says that some probe goes on.
func (d *JobData) probed() bool {
	for i, p := range probesOf(*d) {
		if !d.done(i, p) {
			return true
		}
	}
	return false
}

// probeClock knows when the probes of jobs are due. What it does not know is due now.
type probeClock struct {
	mu   sync.Mutex
	next map[string][]time.Time
	// failed counts the looks in a row at which some probe of a job failed, told is when that was
	// last made an event.
	failed map[string]int
	told   map[string]time.Time
}

// due are the numbers of a job's probes that are due, and when the first of the others is.
func (c *probeClock) due(now time.Time, id string, d *JobData) (list []int, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.next[id]
	for i, p := range probesOf(*d) {
		switch {
		case d.done(i, p):
		case i >= len(at) || !now.Before(at[i]):
			list = append(list, i)
		case next.IsZero() || at[i].Before(next):
			next = at[i]
		}
	}
	return list, next
}

func (c *probeClock) set(id string, n, i int, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = map[string][]time.Time{}
	}
	if len(c.next[id]) != n {
		c.next[id] = make([]time.Time, n)
	}
	c.next[id][i] = at
}

// looked counts a look at a job, and gives how many in a row have failed.
func (c *probeClock) looked(id string, failed bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !failed {
		delete(c.failed, id)
		return 0
	}
	if c.failed == nil {
		c.failed = map[string]int{}
	}
	c.failed[id]++
	return c.failed[id]
}

// tell says that a failure may be an event: there was none lately.
func (c *probeClock) tell(now time.Time, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.told[id]; ok && now.Sub(at) < tellEvery {
		return false
	}
	if c.told == nil {
		c.told = map[string]time.Time{}
	}
	c.told[id] = now
	return true
}

func (c *probeClock) forget(drop func(id string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.next {
		if drop(id) {
			delete(c.next, id)
			delete(c.failed, id)
			delete(c.told, id)
		}
	}
}

// reconcileProbe asks one replica how it is.
func (s *Service) reconcileProbe(ctx context.Context, it engine.Item) (time.Time, error) {
	j, err := getJob(ctx, s.DB.Read(), it.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return time.Time{}, err
	}
	e, known := endpoint(j)
	if err != nil || j.Status != api.JobRunning || !known || !j.Data.probed() {
		s.clock.forget(func(id string) bool { return id == it.ID })
		return time.Time{}, nil
	}
	due, next := s.clock.due(time.Now(), j.ID, &j.Data)
	specs := probesOf(j.Data)
	results := make([]error, len(specs))
	var asks sync.WaitGroup
	for _, i := range due {
		asks.Go(func() { results[i] = s.Probe(ctx, e, specs[i]) })
	}
	asks.Wait()
	if ctx.Err() != nil {
		return time.Time{}, context.Cause(ctx)
	}
	streaks := make([]int, len(specs))
	for i := range specs {
		streaks[i] = j.Data.streak(i)
	}
	for _, i := range due {
		at := time.Now().Add(agentapi.Seconds(int64(specs[i].Interval)))
		if results[i] == nil {
			streaks[i] = min(streaks[i]+1, specs[i].ReadyAfter)
		} else {
			streaks[i] = 0
			if soon := time.Now().Add(tryAgain); !j.Data.Ready && soon.Before(at) {
				at = soon
			}
		}
		s.clock.set(j.ID, len(specs), i, at)
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	reason := firstReason(results)
	failed := s.clock.looked(j.ID, reason != "")
	text := whyNotWell(j.Data, streaks, reason, failed)
	if slices.Equal(streaks, j.Data.Streaks) && text == j.Data.ProbeError {
		return next, nil
	}
	return next, s.storeProbed(ctx, it, j, streaks, text)
}

// firstReason is why the first probe that failed did, "" when none has.
func firstReason(results []error) string {
	for _, err := range results {
		if err != nil {
			text := err.Error()
			return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
		}
	}
	return ""
}

// whyNotWell is what is told of a replica's probes, "" when there is nothing: they do well, or have
// not done so yet for too short a time. failed counts the looks in a row that failed.
func whyNotWell(d JobData, streaks []int, reason string, failed int) string {
	lost := false
	for i, n := range streaks {
		lost = lost || n == 0 && d.streak(i) > 0
	}
	switch {
	case reason != "" && (lost || failed >= tellAfter):
		return reason
	case reason == "" && !slices.Contains(streaks, 0):
		return ""
	}
	return d.ProbeError
}

// storeProbed stores what probes found. As long as all is well nothing is written.
func (s *Service) storeProbed(ctx context.Context, it engine.Item, j Job, streaks []int, reason string) error {
	if reason == j.Data.ProbeError && len(j.Data.Streaks) == 0 && !slices.ContainsFunc(streaks, func(n int) bool { return n > 0 }) {
		return nil
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		now, err := getJob(ctx, tx, j.ID)
		if err != nil || now.Status != api.JobRunning {
			return err
		}
		news := reason != "" && now.Data.ProbeError == ""
		now.Data.Streaks, now.Data.ProbeError = streaks, reason
		if err := now.update(ctx, tx); err != nil {
			return err
		}
		if news {
			s.Log.Info("a replica is not well", "job", j.Data.Spec.JobName, "job_id", j.ID, "why", reason)
			if s.clock.tell(time.Now(), j.ID) {
				text := "Service replica does not take requests yet: "
				if now.Data.Ready {
					text = "Service replica is not well: "
				}
				if err := s.recordJob(ctx, tx, now, text+reason); err != nil {
					return err
				}
			}
		}
		tx.OnCommit(func() {
			s.Engine.Wake(JobKind, j.ID)
			s.Engine.Tell(watchTopic, j.RunID)
		})
		return nil
	})
}
