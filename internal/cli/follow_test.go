package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// fakeServer runs one run. Its script changes the run and writes its log while the client watches.
type fakeServer struct {
	old bool // does not know how to wait for changes and to stream logs
	cut int  // streams end after so many bytes, once

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	version int
	told    int            // the version that clients know
	sent    map[string]int // bytes of each log that clients have
	run     api.Run
	log     map[string][]byte // by submission
	closed  map[string]bool
	stops   []bool // abort of each stop
	onStop  func(abort bool)
	plan    api.JobPlan // of the job
	onApply func()
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	return &fakeServer{
		plan:    api.JobPlan{JobSpec: api.JobSpec{Requirements: least()}},
		onApply: func() {},
		changed: make(chan struct{}), told: -1, log: map[string][]byte{}, closed: map[string]bool{}, sent: map[string]int{},
	}
}

// change applies f and wakes all that wait.
func (s *fakeServer) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.version++
	close(s.changed)
	s.changed = make(chan struct{})
}

// seen waits until a client knows the run as it is now, and all of its logs.
func (s *fakeServer) seen(t *testing.T) {
	t.Helper()
	eventually(t, "the client has seen the change", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for id, log := range s.log {
			if s.sent[id] < len(log) {
				return false
			}
		}
		return s.told == s.version
	})
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Errorf("waited too long until %s", what)
			return
		}
	}
}

// status sets the status of the run and of the last submission of its job.
func (s *fakeServer) status(run api.RunStatus, job api.JobStatus, message string) {
	s.change(func() {
		s.run.Status, s.run.StatusMessage = run, string(run)
		subs := s.run.Jobs[0].JobSubmissions
		sub := &subs[len(subs)-1]
		sub.Status, sub.StatusMessage = job, message
		s.run.LatestJobSubmission = sub
	})
}

func (s *fakeServer) write(submission, text string) {
	s.change(func() { s.log[submission] = append(s.log[submission], text...) })
}

func (s *fakeServer) closeLog(submission string) {
	s.change(func() { s.closed[submission] = true })
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, path, _ := strings.Cut(r.URL.Path, "/api/project/main/")
	switch path {
	case "repos/init":
		reply(w, nil)
	case "fleets/list":
		reply(w, []api.Fleet{})
	case "runs/get_plan":
		var req api.GetRunPlanRequest
		if err := json.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		reply(w, api.RunPlan{
			ProjectName: "main", User: "admin", RunSpec: req.RunSpec, EffectiveRunSpec: &req.RunSpec, Action: api.ActionCreate,
			JobPlans: []api.JobPlan{s.plan},
		})
	case "runs/apply":
		s.mu.Lock()
		defer s.mu.Unlock()
		var req api.ApplyRunPlanRequest
		_ = json.Unmarshal(body, &req)
		s.run.RunSpec = req.Plan.RunSpec
		s.onApply()
		reply(w, s.run)
	case "runs/get":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told = s.version
		reply(w, s.run)
	case "runs/stop":
		var req api.StopRunsRequest
		_ = json.Unmarshal(body, &req)
		s.mu.Lock()
		s.stops = append(s.stops, req.Abort)
		s.mu.Unlock()
		reply(w, nil)
		s.onStop(req.Abort)
	case "logs/poll":
		s.poll(w, body)
	case "runs/watch", "logs/stream":
		if s.old {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		if path == "runs/watch" {
			s.watch(w, r, body)
		} else {
			s.stream(w, r, body)
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *fakeServer) watch(w http.ResponseWriter, r *http.Request, body []byte) {
	var req api.WatchRunRequest
	_ = json.Unmarshal(body, &req)
	for {
		s.mu.Lock()
		version, changed := fmt.Sprint(s.version), s.changed
		if version != req.Seen {
			s.told = s.version
			reply(w, api.WatchRunResponse{Run: s.run, Version: version})
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *fakeServer) stream(w http.ResponseWriter, r *http.Request, body []byte) {
	var req api.StreamLogsRequest
	_ = json.Unmarshal(body, &req)
	enc := json.NewEncoder(w)
	at := req.Offset
	for {
		s.mu.Lock()
		data, closed, changed := s.log[req.JobSubmissionID][at:], s.closed[req.JobSubmissionID], s.changed
		cut := s.cut > 0 && len(data) > s.cut
		if cut {
			data, s.cut = data[:s.cut], 0
		}
		s.mu.Unlock()
		if len(data) > 0 {
			_ = enc.Encode(api.LogChunk{Offset: at, Data: data})
			at += int64(len(data))
			s.mu.Lock()
			s.sent[req.JobSubmissionID] = int(at)
			s.mu.Unlock()
		}
		if cut {
			return
		}
		if closed {
			_ = enc.Encode(api.LogChunk{Offset: at, End: true})
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// poll answers one line at a time, and as the original does without a token when there is no more.
func (s *fakeServer) poll(w http.ResponseWriter, body []byte) {
	var req api.PollLogsRequest
	_ = json.Unmarshal(body, &req)
	s.mu.Lock()
	defer s.mu.Unlock()
	var res api.JobSubmissionLogs
	for i, line := range bytes.SplitAfter(s.log[req.JobSubmissionID], []byte("\n")) {
		at := time.Unix(int64(1000+i), 0).UTC()
		if len(line) == 0 || req.StartTime != nil && !at.After(req.StartTime.Time) {
			continue
		}
		res.Logs = append(res.Logs, api.LogEvent{Timestamp: api.At(at), LogSource: "stdout", Message: line})
	}
	s.sent[req.JobSubmissionID] = len(s.log[req.JobSubmissionID])
	reply(w, res)
}

// screen holds what was printed so far.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// shows waits until the screen holds text.
func (s *screen) shows(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is printed", text), func() bool { return strings.Contains(s.String(), text) })
}

// user is a client of the fake server.
type user struct {
	*program.Program
	out, talk screen
	interrupt []context.CancelFunc
	mu        sync.Mutex
	ready     chan struct{} // receives when another interrupt is listened for
}

func newUser(t *testing.T, s *fakeServer, answers string) *user {
	t.Helper()
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	dir, home := t.TempDir(), t.TempDir()
	t.Chdir(dir)
	err := clientconfig.Dir(filepath.Join(home, ".dstack")).Update(func([]clientconfig.Project) []clientconfig.Project {
		return []clientconfig.Project{{Default: true, Name: "main", Token: "t", URL: srv.URL}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".dstack.yml"), []byte("type: task\nname: hi\ncommands: [echo hi]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := &user{ready: make(chan struct{}, 8)}
	io := term.New(strings.NewReader(answers), &u.out, &u.talk)
	io.Notify = func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		u.mu.Lock()
		u.interrupt = append(u.interrupt, cancel)
		u.mu.Unlock()
		u.ready <- struct{}{}
		return ctx, cancel
	}
	u.Program = &program.Program{IO: io, Home: home}
	return u
}

func (u *user) do(ctx context.Context, args ...string) int {
	return Main(ctx, Config{Program: u.Program, Commands: Commands(nil)}, args)
}

// submitted is a run with one submission, as apply returns it.
func submitted(t *testing.T) api.Run {
	t.Helper()
	now := api.At(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC))
	return api.Run{
		ID: "6919d5b5-615c-4770-aa07-9536042b49fe", ProjectName: "main", User: "admin", Status: api.RunSubmitted, SubmittedAt: now,
		Jobs: []api.Job{{JobSpec: api.JobSpec{JobName: "hi-0-0", Requirements: least()}, JobSubmissions: []api.JobSubmission{
			{ID: "s0", Status: api.JobSubmitted, SubmittedAt: now},
		}}},
	}
}

func parsedTask(t *testing.T) config.AnyRun {
	t.Helper()
	task, err := config.Parse("", []byte("type: task\ncommands: [echo hi]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return *task.Run
}

func least() api.Requirements { return api.Requirements{Resources: config.DefaultResources()} }

// tail is the output after the plan.
func tail(t *testing.T, out string) string {
	t.Helper()
	_, rest, ok := strings.Cut(out, "provisioning completed ")
	if !ok {
		t.Fatalf("nothing was provisioned:\n%s", out)
	}
	return rest
}

func TestApplyFollows(t *testing.T) {
	for name, tt := range map[string]struct {
		old    bool
		cut    int
		script func(t *testing.T, s *fakeServer, u *user)
		code   int
		want   string
	}{
		"a short job": {
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "hi\n")
				s.closeLog("s0")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(running)\nhi\nExited (0)\n",
		},
		"the log is faster than the status": {
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.write("s0", "hi\n")
				s.seen(t)
				s.status(api.RunRunning, api.JobRunning, "running")
				s.closeLog("s0")
				s.seen(t)
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(running)\nhi\nExited (0)\n",
		},
		"it ended before the client looked": {
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.write("s0", "hi\n")
				s.closeLog("s0")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(done)\nhi\nExited (0)\n",
		},
		"the stream breaks": {
			cut: 4,
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "0123456789\n")
				s.closeLog("s0")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(running)\n0123456789\nExited (0)\n",
		},
		"an older server": {
			old: true,
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "one\n")
				u.out.shows(t, "one\n")
				s.write("s0", "two\n")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(running)\none\ntwo\nExited (0)\n",
		},
		"a failure": {
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "oops\n")
				s.closeLog("s0")
				s.change(func() {
					reason := "container_exited_with_error"
					s.run.Jobs[0].JobSubmissions[0].TerminationReason = &reason
				})
				s.status(api.RunFailed, api.JobFailed, "exited (3)")
			},
			code: 1,
			want: "(running)\noops\nExited (3)\nCheck dstack logs -d hi for more details.\n",
		},
		"a retry": {
			script: func(t *testing.T, s *fakeServer, u *user) {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "first\n")
				s.closeLog("s0")
				u.out.shows(t, "first\n")
				s.change(func() {
					s.run.Jobs[0].JobSubmissions = []api.JobSubmission{{ID: "s1", SubmissionNum: 1, Status: api.JobSubmitted}}
					s.run.Status = api.RunSubmitted
				})
				s.seen(t)
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s1", "second\n")
				s.closeLog("s1")
				s.status(api.RunDone, api.JobDone, "exited (0)")
			},
			want: "(running)\nfirst\nTABLE(running)\nsecond\nExited (0)\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeServer(t)
			s.old, s.cut = tt.old, tt.cut
			s.run = submitted(t)
			u := newUser(t, s, "")
			var wg sync.WaitGroup
			wg.Go(func() { tt.script(t, s, u) })
			defer wg.Wait()
			if code := u.do(t.Context(), "apply", "-y"); code != tt.code {
				t.Errorf("exit code %d, want %d\n%s", code, tt.code, u.talk.String())
			}
			got := tail(t, u.out.String())
			if before, after, again := strings.Cut(got, "hi provisioning completed "); again {
				lines := strings.SplitAfter(before, "\n")
				got = strings.Join(lines[:2], "") + "TABLE" + strings.Replace(after, "(done)", "(running)", 1)
			}
			// How far the run was when the first line came is a matter of luck.
			want := tt.want
			if strings.HasPrefix(got, "(done)") || strings.HasPrefix(got, "(failed)") {
				want = got[:strings.Index(got, ")")] + want[strings.Index(want, ")"):]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("output (-want +got):\n%s\n%s", diff, u.talk.String())
			}
		})
	}
}

// TestApplyHoldsPorts: local ports are held before anything is submitted, unless the job may need them for itself.
func TestApplyHoldsPorts(t *testing.T) {
	for backend, held := range map[api.BackendType]bool{"remote": true, "local": false} {
		t.Run(string(backend), func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			address := l.Addr().(*net.TCPAddr)
			_ = l.Close()
			s := newFakeServer(t)
			s.run = submitted(t)
			s.plan.JobSpec.AppSpecs = []api.AppSpec{{Port: address.Port, MapToPort: &address.Port, AppName: "app_0"}}
			s.plan.Offers = []api.InstanceOffer{{Backend: backend}}
			s.onApply = func() {
				l, err := net.Listen("tcp", address.String())
				if err == nil {
					_ = l.Close()
				}
				if got := err != nil; got != held {
					t.Errorf("the port is held while the job starts: %v, want %v (%v)", got, held, err)
				}
			}
			s.status(api.RunDone, api.JobDone, "exited (0)")
			s.closeLog("s0")
			u := newUser(t, s, "")
			if code := u.do(t.Context(), "apply", "-y"); code != 0 {
				t.Errorf("exit code %d\n%s", code, u.talk.String())
			}
			busy, err := net.Listen("tcp", address.String())
			if err != nil {
				t.Fatalf("the port afterwards: %v", err)
			}
			defer func() { _ = busy.Close() }()
			s.onApply = func() { t.Error("a run was submitted whose port is taken") }
			if code := u.do(t.Context(), "apply", "-y"); code != 1 {
				t.Errorf("exit code %d, want 1 as the port is taken", code)
			}
			if want := fmt.Sprintf("Failed to submit: port %d is already in use. Use -p in dstack apply", address.Port); !strings.Contains(u.talk.String(), want) {
				t.Errorf("message %q, want %q", u.talk.String(), want)
			}
		})
	}
}

func TestApplyInterrupted(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string
		answers string
		again   bool // a second Ctrl+C while the run stops
		code    int
		stops   []bool
		want    string
	}{
		"-y detaches":        {args: []string{"-y"}, want: "Detached\n"},
		"no detaches":        {answers: "y\nn\n", want: "Detached\n"},
		"yes stops":          {answers: "y\ny\n", stops: []bool{false}, want: "Stopped\n"},
		"twice aborts":       {answers: "y\ny\n", again: true, stops: []bool{false, true}, want: "Aborted\n"},
		"nobody to be asked": {answers: "y\n", want: "Detached\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeServer(t)
			s.run = submitted(t)
			u := newUser(t, s, tt.answers)
			s.onStop = func(abort bool) {
				switch {
				case !tt.again:
					s.status(api.RunTerminated, api.JobTerminated, "stopped")
				case !abort:
					u.mu.Lock()
					defer u.mu.Unlock()
					u.interrupt[len(u.interrupt)-1]()
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				s.status(api.RunRunning, api.JobRunning, "running")
				s.write("s0", "hi\n")
				u.out.shows(t, "hi\n")
				cancel()
			})
			code := u.do(ctx, append([]string{"apply"}, tt.args...)...)
			wg.Wait()
			if code != tt.code {
				t.Errorf("exit code %d, want %d\n%s", code, tt.code, u.talk.String())
			}
			if diff := cmp.Diff("(running)\nhi\n"+tt.want, tail(t, u.out.String())); diff != "" {
				t.Errorf("output (-want +got):\n%s\n%s", diff, u.talk.String())
			}
			if diff := cmp.Diff(tt.stops, s.stops); diff != "" {
				t.Errorf("stops (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLogsFollow(t *testing.T) {
	s := newFakeServer(t)
	s.run = submitted(t)
	name := "hi"
	s.run.RunSpec = api.RunSpec{RunName: &name, Configuration: parsedTask(t)}
	u := newUser(t, s, "")
	var wg sync.WaitGroup
	wg.Go(func() {
		s.write("s0", "one\n")
		u.out.shows(t, "one\n")
		s.write("s0", "two\n")
		s.closeLog("s0")
		s.status(api.RunDone, api.JobDone, "exited (0)")
	})
	if code := u.do(t.Context(), "logs", "-f", "hi"); code != 0 {
		t.Errorf("exit code %d\n%s", code, u.talk.String())
	}
	wg.Wait()
	if diff := cmp.Diff("one\ntwo\n", u.out.String()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}
