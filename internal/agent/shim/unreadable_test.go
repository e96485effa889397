package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// disk is a log on a disk that may fail.
type disk struct {
	io.ReaderAt
	fails bool
}

func (d *disk) Close() error { return nil }

func (d *disk) ReadAt(p []byte, at int64) (int, error) {
	if d.fails {
		return 0, unix.EIO
	}
	return d.ReaderAt.ReadAt(p, at)
}

// A log that cannot be read keeps back the end of its own job alone, and not for ever.
func TestLogThatCannotBeRead(t *testing.T) {
	const text = "hello\n"
	for name, c := range map[string]struct {
		open, read error // of the broken log
		heals      bool
		before     time.Duration // for how long it has been broken while the task ran
		want       string        // of what it is told
	}{
		"for ever":              {read: unix.EIO, want: "terminated"},
		"for a moment":          {read: unix.EIO, heals: true, want: text + "terminated"},
		"cannot be opened":      {open: unix.EMFILE, heals: true, want: text + "terminated"},
		"was put out of reach":  {open: unix.ELOOP, want: "terminated"},
		"and is not even there": {open: unix.ENOENT, want: "terminated"},
		"since long before":     {read: unix.EIO, heals: true, before: 2 * logPatience, want: "running" + text + "terminated"},
		"and after":             {read: unix.EIO, before: 2 * logPatience, want: "runningterminated"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var broken string
				failing := true
				s := &Shim{tasks: map[string]*task{}, changed: make(chan struct{})}
				s.Log = slog.New(slog.DiscardHandler)
				s.OpenLog = func(dir, _ string) (LogFile, error) {
					bad := failing && strings.Contains(dir, broken)
					if bad && c.open != nil {
						return nil, c.open
					}
					return &disk{strings.NewReader(text), bad}, nil
				}
				add := func() string {
					v := s.newTask(agentapi.TaskSpec{ID: uuid.NewString()})
					v.state.State, v.state.JobLog = agentapi.Terminated, int64(len(text))
					s.tasks[v.spec.ID] = v
					return v.spec.ID
				}
				broken = add()
				fine := add()
				var out bytes.Buffer
				st := &stream{shim: s, enc: json.NewEncoder(&out), known: map[string]*cursor{}}
				told := func() map[string]string {
					t.Helper()
					if _, err := st.tell(); err != nil {
						t.Fatalf("the stream ends: %v", err)
					}
					all := map[string]string{}
					for d := json.NewDecoder(bytes.NewReader(out.Bytes())); ; {
						var e agentapi.Event
						if err := d.Decode(&e); errors.Is(err, io.EOF) {
							return all
						} else if err != nil {
							t.Fatal(err)
						}
						if e.Log != nil {
							all[e.TaskID] += string(e.Log.Data)
						} else {
							all[e.TaskID] += string(e.Task.State)
						}
					}
				}
				was := ""
				if c.before > 0 {
					v := s.tasks[broken]
					v.state.State = agentapi.Running
					told()
					<-time.After(c.before)
					was = told()[broken]
					v.state.State, v.version = agentapi.Terminated, v.version+1
				}
				waits := c.read != nil || c.heals
				if all := told(); all[fine] != text+"terminated" || waits && all[broken] != was {
					t.Errorf("at first: %q, and of the broken one %q", all[fine], all[broken])
				}
				failing = !c.heals
				<-time.After(logPatience / 2)
				if got := told()[broken]; waits && !c.heals && got != was {
					t.Errorf("while it may be read yet: %q", got)
				}
				<-time.After(logPatience / 2)
				if got := told()[broken]; got != c.want {
					t.Errorf("in the end: %q, want %q", got, c.want)
				}
			})
		})
	}
}

// A state that the host cannot give is waited for as well, and not for ever: without it nobody knows how the job did.
func TestStateThatCannotBeRead(t *testing.T) {
	code := 7
	for name, c := range map[string]struct {
		err   error
		fails time.Duration // after the job's end
		want  *int
		after time.Duration
	}{
		"for a moment":         {unix.EMFILE, 2500 * time.Millisecond, &code, 3 * time.Second},
		"for ever":             {unix.EIO, time.Hour, nil, logPatience},
		"was put out of reach": {unix.ELOOP, time.Hour, nil, 0},
		"and never was there":  {unix.ENOENT, time.Hour, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine()
				v := prepared(t, e)
				begin := time.Now()
				v.shim.OpenLog = func(dir, name string) (LogFile, error) {
					if time.Since(begin) < c.fails {
						return nil, c.err
					}
					return openLog(dir, name)
				}
				if reason, msg := v.launch(t.Context()); reason != "" {
					t.Fatalf("%s: %s", reason, msg)
				}
				last := runner.State{Phase: runner.Finished, Reason: agentapi.ContainerExitedWithError, ExitStatus: &code}
				if err := writeJSON(filepath.Join(v.jobDir(), runner.StateFile), last, 0o600); err != nil {
					t.Fatal(err)
				}
				e.end(v.spec.ID, runtime.Exit{})
				v.follow(t.Context())
				got, _ := v.snapshot()
				if got.State != agentapi.Terminated || !reflect.DeepEqual(got.ExitStatus, c.want) {
					t.Errorf("%+v", got)
				}
				if took := time.Since(begin); took != c.after {
					t.Errorf("it ends after %v, want %v", took, c.after)
				}
			})
		})
	}
}

// What one job has printed while nobody listened is told in turn with what others do, and before its end.
func TestLongLogInTurns(t *testing.T) {
	const size = 3*logTurn + 5
	s := &Shim{tasks: map[string]*task{}, changed: make(chan struct{})}
	s.Log = slog.New(slog.DiscardHandler)
	s.OpenLog = func(string, string) (LogFile, error) {
		return &disk{ReaderAt: strings.NewReader(strings.Repeat("x", size))}, nil
	}
	v := s.newTask(agentapi.TaskSpec{ID: uuid.NewString()})
	v.state.State, v.state.JobLog = agentapi.Terminated, size
	s.tasks[v.spec.ID] = v
	var out bytes.Buffer
	st := &stream{shim: s, enc: json.NewEncoder(&out), known: map[string]*cursor{}}
	for turn, want := range []int{logTurn, logTurn, logTurn, 5} {
		out.Reset()
		more, err := st.tell()
		if last := turn == 3; err != nil || more == last {
			t.Errorf("turn %d: more %v (%v)", turn, more, err)
		}
		told, ended := 0, false
		for d := json.NewDecoder(&out); d.More(); {
			var e agentapi.Event
			if err := d.Decode(&e); err != nil {
				t.Fatal(err)
			}
			if e.Log != nil {
				told += len(e.Log.Data)
			}
			ended = ended || e.Task != nil
		}
		if told != want || ended != (turn == 3) {
			t.Errorf("turn %d tells %d bytes, the end %v, want %d", turn, told, ended, want)
		}
	}
}
