package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// cursor is how far one stream has told of one task.
type cursor struct {
	version        int64
	jobLog, ownLog logCursor
	ended          time.Time // when its end was first seen
	metrics        time.Time // of the file that was told last
	sampled        time.Time // when that was
}

// logCursor is how far one stream has told of one log.
type logCursor struct {
	source  agentapi.LogSource
	offset  int64
	failing time.Time // since when the log cannot be read; zero while it can
	tried   time.Time // when that was found last
}

const (
	// readAgain spaces attempts to read a log that the disk does not give: each may take seconds of it.
	readAgain = 10 * time.Second
	// logPatience is how long the end of a task waits for a log that cannot be read.
	logPatience = time.Minute
	// logTurn is how much of a log is told before others have their turn, in bytes.
	logTurn = 4 * agentapi.MaxLogChunk
)

// awaited says that the rest of a log may be had yet, of a task that ended then.
func (l *logCursor) awaited(ended time.Time) bool {
	return !l.failing.IsZero() && (time.Since(l.failing) < logPatience || time.Since(ended) < logPatience)
}

// position is what an acknowledgement of an event means.
type position struct {
	seq    int64
	task   string
	source agentapi.LogSource
	offset int64 // end of the data
}

// stream is one connection that listens to events. What it has sent counts as stored only
// when an event of its own is acknowledged: an earlier connection may have sent more than
// ever arrived.
type stream struct {
	shim    *Shim
	w       http.ResponseWriter
	enc     *json.Encoder
	known   map[string]*cursor
	sent    []int64         // numbers of all events that are not acknowledged, ascending
	unacked []position      // of the log events among them
	held    map[string]bool // tasks of which the server cannot store logs and ends: the next stream tells them
}

// events tells everything that the server has not acknowledged, then what is new. Log data
// comes before the state that ends a task, so that the end of the log is never missed.
func (s *Shim) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	st := &stream{shim: s, w: w, enc: json.NewEncoder(w), known: map[string]*cursor{}}
	s.mu.Lock()
	s.streams[st] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
	}()
	s.mu.Lock()
	news := s.news // then the server has to connect again, which begins with what host this is
	s.mu.Unlock()
	heartbeat := time.NewTicker(agentapi.HeartbeatEvery)
	defer heartbeat.Stop()
	wish := agentapi.WishOf(r.URL.Query())
	checks, texts, end := s.grant(wish)
	defer end()
	told := s.serves(wish.Server, time.Time{})
	if st.enc.Encode(agentapi.Event{Kind: agentapi.HeartbeatEvent, Micros: time.Now().UnixMicro()}) != nil {
		return
	}
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		more, err := st.tell()
		if err != nil {
			return
		}
		var again chan struct{}
		if more {
			again = make(chan struct{})
			close(again)
		}
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-again:
		case h := <-checks:
			if st.send(agentapi.Event{Kind: agentapi.HealthEvent, Health: &h}, position{}) != nil {
				return
			}
		case list := <-texts:
			for _, t := range list {
				if st.send(agentapi.Event{Kind: agentapi.DCGMEvent, TaskID: t.task, DCGM: t.packed}, position{}) != nil {
					return
				}
			}
		case <-heartbeat.C:
			told = s.serves(wish.Server, told)
			if st.enc.Encode(agentapi.Event{Kind: agentapi.HeartbeatEvent, Micros: time.Now().UnixMicro()}) != nil {
				return
			}
		case <-r.Context().Done():
			return
		case <-news:
			return
		case <-s.ctx.Done():
			return
		}
		select {
		case <-news: // it comes before the ends of tasks that wake this stream at the same time
			return
		default:
		}
	}
}

// tell says of each task what is new; more says that there is more yet: what a job has printed while no server
// listened must not hold up what others do.
func (st *stream) tell() (more bool, err error) {
	tasks := st.shim.all()
	if len(st.known) > 2*len(tasks)+100 { // of tasks that are deleted
		st.forget(tasks)
	}
	for _, t := range tasks {
		c := st.known[t.spec.ID]
		if c == nil {
			t.mu.Lock()
			c = &cursor{
				version: -1,
				jobLog:  logCursor{source: agentapi.JobLog, offset: t.acked.JobLog},
				ownLog:  logCursor{source: agentapi.RunnerLog, offset: t.acked.RunnerLog},
			}
			t.mu.Unlock()
			st.known[t.spec.ID] = c
		}
		state, version := t.snapshot()
		if state.State == agentapi.Terminated && c.ended.IsZero() {
			c.ended = time.Now()
			c.jobLog.tried, c.ownLog.tried = time.Time{}, time.Time{} // what is left is looked for at once
		}
		last, err := st.logs(t, c, state)
		if err != nil {
			return false, err
		}
		more = more || last == hasMore
		if state.State == agentapi.Terminated && (last != hasAll || c.jobLog.awaited(c.ended) || c.ownLog.awaited(c.ended)) {
			continue // with its end told, the server has the task deleted
		}
		if version != c.version {
			c.version = version
			if err := st.send(agentapi.Event{Kind: agentapi.TaskEvent, TaskID: t.spec.ID, Task: &state}, position{}); err != nil {
				return false, err
			}
		}
		if err := st.metrics(t, c); err != nil {
			return false, err
		}
	}
	return more, nil
}

// What is left of a task's logs after its turn: nothing, more, or what the server cannot store now.
const (
	hasAll = iota
	hasMore
	isHeld
)

// logs sends of a task's logs as much as is its turn.
func (st *stream) logs(t *task, c *cursor, state agentapi.Task) (left int, err error) {
	if st.holds(t.spec.ID) {
		return isHeld, nil
	}
	moreJob, err := st.log(t, &c.jobLog, state.JobLog)
	if err != nil {
		return hasAll, err
	}
	moreOwn, err := st.log(t, &c.ownLog, state.RunnerLog)
	if moreJob || moreOwn {
		return hasMore, err
	}
	return hasAll, err
}

func (st *stream) holds(id string) bool {
	st.shim.mu.Lock()
	defer st.shim.mu.Unlock()
	return st.held[id]
}

// hold leaves logs and ends of tasks to the next stream. s.mu is held.
func (st *stream) hold(ids []string) {
	for _, id := range ids {
		if st.held == nil {
			st.held = map[string]bool{}
		}
		st.held[id] = true
	}
}

func (st *stream) forget(tasks []*task) {
	known := make(map[string]*cursor, len(tasks))
	for _, t := range tasks {
		if c := st.known[t.spec.ID]; c != nil {
			known[t.spec.ID] = c
		}
	}
	st.known = known
}

// log sends what a log has up to size, as much as is its turn; more says that it has more. A log that cannot be read
// concerns its own job alone: it is tried again now and then.
func (st *stream) log(t *task, l *logCursor, size int64) (more bool, err error) {
	if l.offset >= size || !l.failing.IsZero() && time.Since(l.tried) < readAgain {
		return false, nil
	}
	f, err := st.shim.OpenLog(t.jobDir(), logFile(l.source))
	switch {
	case hostFault(err):
		st.unreadable(t, l, err)
		return false, nil
	case err != nil:
		return false, nil //nolint:nilerr // the job has removed its log, or put something else there
	}
	defer f.Close()
	for turn := l.offset + logTurn; l.offset < size; {
		if l.offset >= turn {
			return true, nil
		}
		buf := make([]byte, min(size-l.offset, agentapi.MaxLogChunk))
		n, err := f.ReadAt(buf, l.offset)
		if n == 0 && err != nil && err != io.EOF {
			st.unreadable(t, l, err)
			return false, nil
		}
		l.failing = time.Time{}
		if n == 0 {
			return false, nil
		}
		end := l.offset + int64(n)
		ev := agentapi.Event{Kind: agentapi.LogEvent, TaskID: t.spec.ID, Log: &agentapi.LogData{Source: l.source, Offset: l.offset, Data: buf[:n]}}
		if err := st.send(ev, position{task: t.spec.ID, source: l.source, offset: end}); err != nil {
			return false, err
		}
		l.offset = end
	}
	return false, nil
}

// unreadable notes that a log cannot be read, and tells people the first time.
func (st *stream) unreadable(t *task, l *logCursor, err error) {
	l.tried = time.Now()
	if l.failing.IsZero() {
		l.failing = l.tried
		st.shim.Log.Error("a log of a task cannot be read", "task", t.spec.ID, "log", l.source, "offset", l.offset, "err", err)
	}
}

// hostFault says that it was the host that could not open a file, not the job that left none to be opened.
func hostFault(err error) bool {
	for _, e := range []error{unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ESTALE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// sampleEvery is the least time between two samples of a task: its runner writes one each 10 s, but it is not the
// only one who can.
const sampleEvery = 5 * time.Second

// metrics tells a sample that is another than the last: its time may be earlier, when the clock was set back.
func (st *stream) metrics(t *task, c *cursor) error {
	info, err := os.Lstat(filepath.Join(t.jobDir(), runner.MetricsFile))
	if err != nil || info.ModTime().Equal(c.metrics) || time.Since(c.sampled) < sampleEvery {
		return nil
	}
	c.metrics, c.sampled = info.ModTime(), time.Now()
	var m agentapi.Metrics
	if runner.ReadShared(t.jobDir(), runner.MetricsFile, &m) != nil {
		return nil // it is being replaced; the next sample comes
	}
	e := agentapi.Event{Kind: agentapi.MetricsEvent, TaskID: t.spec.ID, Metrics: &m, Micros: info.ModTime().UnixMicro()}
	if e.Check(time.Now()) != "" {
		return nil // somebody in the container wrote what no sample is
	}
	return st.send(e, position{})
}

// maxUnacked bounds what is remembered for a server that never acknowledges: older
// positions are then told again after a reconnect.
const maxUnacked = 100_000

func (st *stream) send(e agentapi.Event, p position) error {
	s := st.shim
	s.mu.Lock()
	s.seq++
	e.Seq = s.seq
	st.sent = append(st.sent, e.Seq)
	if p.task != "" {
		p.seq = e.Seq
		st.unacked = append(st.unacked, p)
	}
	if len(st.sent) > maxUnacked {
		st.drop(st.sent[len(st.sent)/2])
	}
	s.mu.Unlock()
	if e.Micros == 0 {
		e.Micros = time.Now().UnixMicro()
	}
	return st.enc.Encode(e)
}

// drop forgets the events up to seq and returns the positions among them.
func (st *stream) drop(seq int64) []position {
	n := sort.Search(len(st.sent), func(i int) bool { return st.sent[i] > seq })
	st.sent = st.sent[n:]
	m := sort.Search(len(st.unacked), func(i int) bool { return st.unacked[i].seq > seq })
	done := st.unacked[:m]
	st.unacked = st.unacked[m:]
	return done
}

// acknowledged finds the stream that sent an event and what its acknowledgement means.
// An event that nobody sent is refused, one that is acknowledged already means nothing.
func (s *Shim) acknowledged(a agentapi.Ack) ([]position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.Seq < 0 || a.Seq > s.seq {
		return nil, fmt.Errorf("seq: no event has the number %d", a.Seq)
	}
	for st := range s.streams {
		if _, ok := slices.BinarySearch(st.sent, a.Seq); ok {
			st.hold(a.Except)
			return st.drop(a.Seq), nil
		}
	}
	return nil, nil
}

// ack remembers how far the server has stored the logs.
func (s *Shim) ack(w http.ResponseWriter, r *http.Request) {
	var a agentapi.Ack
	if !decode(w, r, &a) {
		return
	}
	done, err := s.acknowledged(a)
	if err != nil {
		refuse(w, http.StatusBadRequest, agentapi.CodeInvalid, err.Error())
		return
	}
	dirty := map[*task]bool{}
	for _, p := range done {
		t := s.find(p.task)
		if t == nil || slices.Contains(a.Except, p.task) {
			continue
		}
		t.mu.Lock()
		if p.source == agentapi.JobLog {
			t.acked.JobLog = max(t.acked.JobLog, p.offset)
		} else {
			t.acked.RunnerLog = max(t.acked.RunnerLog, p.offset)
		}
		t.mu.Unlock()
		dirty[t] = true
	}
	for t := range dirty {
		if err := t.storeAcks(); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.Log.Warn("store an acknowledgement", "task", t.spec.ID, "err", err) // it is sent again after a restart
		}
	}
	answer(w, struct{}{})
}
