package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// ear is a connection to the event stream.
type ear struct {
	a      *agent
	mu     sync.Mutex
	events []agentapi.Event
	cancel context.CancelFunc
	done   chan struct{}
}

func (a *agent) listen() *ear { return a.wish(agentapi.Wish{}) }

// wish listens to more than each stream carries.
func (a *agent) wish(wish agentapi.Wish) *ear {
	ctx, cancel := context.WithCancel(a.t.Context())
	e := &ear{a: a, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		_ = a.Events(ctx, 0, wish, func(ev agentapi.Event) error {
			e.mu.Lock()
			defer e.mu.Unlock()
			if ev.Kind != agentapi.HeartbeatEvent {
				e.events = append(e.events, ev)
			}
			return nil
		})
	}()
	a.t.Cleanup(e.close)
	return e
}

func (e *ear) close() {
	e.cancel()
	<-e.done
}

func (e *ear) heard() []agentapi.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]agentapi.Event(nil), e.events...)
}

// log puts a task's log together and checks that nothing is missing or repeated.
func (e *ear) log(id string) (text string, from int64) {
	e.a.t.Helper()
	next := int64(-1)
	for _, ev := range e.heard() {
		if ev.Kind != agentapi.LogEvent || ev.TaskID != id || ev.Log.Source != agentapi.JobLog {
			continue
		}
		if next < 0 {
			next, from = ev.Log.Offset, ev.Log.Offset
		}
		if ev.Log.Offset != next {
			e.a.t.Fatalf("a chunk at %d, want %d", ev.Log.Offset, next)
		}
		text += string(ev.Log.Data)
		next += int64(len(ev.Log.Data))
	}
	return text, from
}

func (e *ear) last() int64 {
	events := e.heard()
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Seq
}

func (a *agent) running() agentapi.TaskSpec {
	a.t.Helper()
	s := spec()
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
	return s
}

func (e *ear) until(what string, ok func() bool) { e.a.t.Helper(); e.a.until(what, ok) }

func (a *agent) ack(seq int64) {
	a.t.Helper()
	if err := a.Ack(a.t.Context(), agentapi.Ack{Seq: seq}); err != nil {
		a.t.Fatal(err)
	}
}

// The end of a task comes after all of its log, states only go forward, numbers only grow.
func TestEventOrder(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	e := a.listen()
	s := a.running()
	var want strings.Builder
	for n := range 200 {
		line := fmt.Sprintf("line %d\n", n)
		want.WriteString(line)
		a.print(s.ID, line)
	}
	big := strings.Repeat("x", 3*agentapi.MaxLogChunk+5)
	want.WriteString(big)
	a.print(s.ID, big)
	a.finish(s.ID, 0)
	ended := func() bool {
		for _, ev := range e.heard() {
			if ev.Kind == agentapi.TaskEvent && ev.Task.State == agentapi.Terminated {
				return true
			}
		}
		return false
	}
	e.until("the end is told", ended)
	order := map[agentapi.State]int{agentapi.Pending: 1, agentapi.Preparing: 2, agentapi.Pulling: 3, agentapi.Creating: 4, agentapi.Running: 5, agentapi.Terminated: 6}
	seq, state, log := int64(0), 0, int64(0)
	for _, ev := range e.heard() {
		if ev.Seq <= seq {
			t.Fatalf("number %d after %d", ev.Seq, seq)
		}
		seq = ev.Seq
		switch ev.Kind {
		case agentapi.LogEvent:
			if state == order[agentapi.Terminated] {
				t.Fatal("log after the end")
			}
			if len(ev.Log.Data) > agentapi.MaxLogChunk {
				t.Fatalf("a chunk of %d bytes", len(ev.Log.Data))
			}
			log = ev.Log.Offset + int64(len(ev.Log.Data))
		case agentapi.TaskEvent:
			if order[ev.Task.State] < state {
				t.Fatalf("state %s after %d", ev.Task.State, state)
			}
			state = order[ev.Task.State]
			if ev.Task.State == agentapi.Terminated && ev.Task.JobLog != log {
				t.Fatalf("the end is told at byte %d of %d", log, ev.Task.JobLog)
			}
		}
	}
	if got, _ := e.log(s.ID); got != want.String() {
		t.Errorf("%d bytes of log, want %d", len(got), want.Len())
	}
}

// A connection begins where the server has stored the log, however often it breaks.
func TestAcknowledgements(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	a.print(s.ID, "one\n")
	first := a.listen()
	first.until("the first line arrives", func() bool { text, _ := first.log(s.ID); return text == "one\n" })
	first.close() // without an acknowledgement

	second := a.listen()
	second.until("it arrives again", func() bool { text, _ := second.log(s.ID); return text == "one\n" })
	a.ack(second.last())
	a.ack(second.last()) // a lost reply
	a.print(s.ID, "two\n")
	second.until("the second line arrives", func() bool { text, _ := second.log(s.ID); return text == "one\ntwo\n" })
	second.close()

	third := a.listen()
	third.until("only the second is told", func() bool { text, from := third.log(s.ID); return text == "two\n" && from == 4 })
	a.ack(third.last())
	third.close()
	a.stop()

	b := run(t, a.home, a.engine) // the agent remembers
	b.print(s.ID, "three\n")
	fourth := b.listen()
	fourth.until("only the third is told", func() bool { text, from := fourth.log(s.ID); return text == "three\n" && from == 8 })
	if fourth.last() <= third.last() {
		t.Errorf("numbers repeat after a restart: %d, %d", fourth.last(), third.last())
	}
}

// Acknowledgements that cannot be, as of a file that was damaged or edited, lose nothing.
func TestImpossibleAcknowledgements(t *testing.T) {
	for name, c := range map[string]struct {
		acks string
		from int64
	}{
		"too far":   {`{"job_log":1000000000000000,"runner_log":-7}`, 0},
		"negative":  {`{"job_log":-7,"runner_log":1000000000000000}`, 0},
		"as it was": {`{"job_log":4,"runner_log":0}`, 4},
		"all of it": {`{"job_log":8,"runner_log":0}`, 8},
	} {
		t.Run(name, func(t *testing.T) {
			old := run(t, newHome(t), newEngine())
			s := old.running()
			old.print(s.ID, "one\ntwo\n")
			old.stop()
			overwrite(t, filepath.Join(old.dir(s.ID), acksFile), c.acks)
			a := run(t, old.home, old.engine)
			a.print(s.ID, "three\n")
			e := a.listen()
			want := "one\ntwo\nthree\n"[c.from:]
			e.until("the log is told", func() bool { text, from := e.log(s.ID); return text == want && from == c.from })
		})
	}
}

// What a task prints is told at once by an agent that was started under it, too, as by an upgrade.
func TestLogAfterRestart(t *testing.T) {
	old := run(t, newHome(t), newEngine())
	s := old.running()
	old.stop()
	a := run(t, old.home, old.engine)
	e := a.listen()
	e.until("the task is told", func() bool { return len(e.heard()) > 0 })
	a.print(s.ID, "one\n")
	printed := time.Now()
	e.until("the line arrives", func() bool { text, _ := e.log(s.ID); return text == "one\n" })
	if took := time.Since(printed); took > 5*time.Second { // the look for lost reports of the kernel comes every 10 s
		t.Errorf("the line arrives after %v", took)
	}
}

// Other processes of root, a job's among them, may have taken all that the kernel has to watch files with: its instances
// of inotify, or the files that these may watch.
func TestLogWithoutInotify(t *testing.T) {
	for name, inotify := range map[string]func(int) (int, error){
		"no instance": func(int) (int, error) { return -1, unix.EMFILE },
		"no watches":  func(int) (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) },
	} {
		t.Run(name, func(t *testing.T) {
			a := run(t, newHome(t), newEngine(), func(c *Config) { c.Inotify = inotify })
			s := a.running()
			e := a.listen()
			e.until("the task is told", func() bool { return len(e.heard()) > 0 })
			a.print(s.ID, "one\n")
			printed := time.Now()
			e.until("the line arrives", func() bool { text, _ := e.log(s.ID); return text == "one\n" })
			if took := time.Since(printed); took > 5*time.Second { // the look for lost reports of the kernel comes every 10 s
				t.Errorf("the line arrives after %v", took)
			}
		})
	}
}

// What an earlier connection sent is not stored because a later one is acknowledged.
func TestAcknowledgementsOfOtherStreams(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	slow := a.listen()
	a.print(s.ID, strings.Repeat("a", 100))
	slow.until("the log arrives", func() bool { text, _ := slow.log(s.ID); return len(text) == 100 })
	other := a.running()
	e := a.listen()
	e.until("both tasks are told", func() bool { // in any order
		var log, state bool
		for _, ev := range e.heard() {
			log = log || ev.Kind == agentapi.LogEvent && ev.TaskID == s.ID
			state = state || ev.TaskID == other.ID
		}
		return log && state
	})
	// An event of slow's that is newer than all of e's.
	a.print(s.ID, "b")
	slow.until("the newest arrives", func() bool { text, _ := slow.log(s.ID); return len(text) == 101 })
	first := e.heard()[0]
	a.ack(first.Seq)
	e.close()
	slow.close()
	again := a.listen()
	again.until("what nobody stored is told again", func() bool {
		text, from := again.log(s.ID)
		if first.Kind == agentapi.LogEvent {
			return from == first.Log.Offset+int64(len(first.Log.Data)) && len(text)+int(from) == 101
		}
		return from == 0 && len(text) == 101
	})
}

// What the server could not store of one task is told again by the next stream, and of no other.
func TestAcknowledgedExcept(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	held, stored := a.running(), a.running()
	e := a.listen()
	for _, s := range []agentapi.TaskSpec{held, stored} {
		a.print(s.ID, "one\n")
		e.until("the line arrives", func() bool { text, _ := e.log(s.ID); return text == "one\n" })
	}
	if err := a.Ack(t.Context(), agentapi.Ack{Seq: e.last(), Except: []string{held.ID}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.print(held.ID, strings.Repeat("x", agentapi.MaxLogChunk))
	}
	a.print(stored.ID, "two\n")
	e.until("others go on", func() bool { text, _ := e.log(stored.ID); return text == "one\ntwo\n" })
	if text, _ := e.log(held.ID); text != "one\n" {
		t.Errorf("the stream goes on with %d bytes that the server cannot store", len(text))
	}
	e.close()
	again := a.listen()
	again.until("it is told again", func() bool {
		text, from := again.log(held.ID)
		return len(text) == 4+3*agentapi.MaxLogChunk && from == 0
	})
	again.until("what is not acknowledged is told again", func() bool { text, from := again.log(stored.ID); return text == "two\n" && from == 4 })
}

func TestLyingAcknowledgements(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	e := a.listen()
	a.print(s.ID, "one\n")
	e.until("the line arrives", func() bool { text, _ := e.log(s.ID); return text == "one\n" })
	for _, seq := range []int64{-1, e.last() + 1_000_000, 1 << 62} {
		if err := a.Ack(t.Context(), agentapi.Ack{Seq: seq}); !agentapi.IsCode(err, agentapi.CodeInvalid) {
			t.Errorf("an acknowledgement of %d: %v", seq, err)
		}
	}
	e.close()
	again := a.listen()
	again.until("nothing counts as stored", func() bool { text, from := again.log(s.ID); return text == "one\n" && from == 0 })
}

// A container that writes to its log past its runner floods nobody.
func TestLogBeyondTheQuota(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	e := a.listen()
	s := spec()
	s.Job.LogQuotaHour = 100
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
	for _, name := range []string{runner.JobLogFile, runner.OwnLogFile} {
		if err := os.Truncate(filepath.Join(a.job(s.ID), name), 2*maxOwnLog); err != nil {
			t.Fatal(err)
		}
	}
	a.finish(s.ID, 0)
	e.until("the end is told", func() bool {
		for _, ev := range e.heard() {
			if ev.Task != nil && ev.Task.State == agentapi.Terminated {
				return true
			}
		}
		return false
	})
	told := map[agentapi.LogSource]int{}
	for _, ev := range e.heard() {
		if ev.Log != nil {
			told[ev.Log.Source] += len(ev.Log.Data)
		}
	}
	if job, own := told[agentapi.JobLog], told[agentapi.RunnerLog]; job != 200 || own != maxOwnLog {
		t.Errorf("told of %d and %d bytes", job, own)
	}
}

// Samples are told as they come, also after the clock was set back, but not as often as somebody in the container
// likes.
func TestMetrics(t *testing.T) {
	t.Parallel() // it waits
	a := run(t, newHome(t), newEngine())
	s := a.running()
	e := a.listen()
	path := filepath.Join(a.job(s.ID), runner.MetricsFile)
	write := func(n int, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path+".new", fmt.Appendf(nil, `{"cpu_micros":%d}`, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chtimes(path+".new", at, at), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	told := func() (list []int64) {
		for _, ev := range e.heard() {
			if ev.Metrics != nil {
				list = append(list, ev.Metrics.CPUMicros)
			}
		}
		return list
	}
	now := time.Now()
	for n := range 50 {
		write(n, now.Add(time.Duration(n)*time.Minute))
		<-time.After(2 * time.Millisecond)
	}
	e.until("a sample is told", func() bool { return len(told()) > 0 })
	<-time.After(sampleEvery)
	if n := len(told()); n > 2 {
		t.Errorf("%d samples were told in a moment", n)
	}
	write(1000, now.Add(-time.Hour))
	e.until("the sample of the new time is told", func() bool { return slices.Contains(told(), 1000) })
}
