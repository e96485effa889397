package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
)

// job is a runner on a task directory of its own, as a plain process has it.
type job struct {
	t    *testing.T
	dir  string
	done chan int
	term context.CancelFunc // what a signal does
}

func start(t *testing.T, spec agentapi.JobSpec) *job {
	t.Helper()
	dir := t.TempDir()
	writeSpec(t, dir, spec)
	return startIn(t, dir)
}

func writeSpec(t *testing.T, dir string, spec agentapi.JobSpec) {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SpecFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func startIn(t *testing.T, dir string) *job {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	j := &job{t: t, dir: dir, done: make(chan int, 1), term: cancel}
	go func() {
		j.done <- Main(ctx, Config{Dir: dir, Blobs: filepath.Join(dir, "blobs"), Listen: "127.0.0.1", Log: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(cancel)
	return j
}

// wait returns the job's last state and its log.
func (j *job) wait() (State, string) {
	j.t.Helper()
	select {
	case code := <-j.done:
		if code != 0 {
			j.t.Fatalf("the runner exits with %d: %s", code, read(j.t, j.dir, OwnLogFile))
		}
	case <-time.After(30 * time.Second):
		j.t.Fatalf("the job does not end; its log: %s", read(j.t, j.dir, JobLogFile))
	}
	s, err := ReadState(j.dir)
	if err != nil {
		j.t.Fatal(err)
	}
	return s, read(j.t, j.dir, JobLogFile)
}

// until polls, since the runner tells its state through files.
func (j *job) until(what string, ok func() bool) {
	j.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			j.t.Fatalf("not in time: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (j *job) printed(text string) {
	j.t.Helper()
	j.until("the job prints "+text, func() bool {
		data, _ := os.ReadFile(filepath.Join(j.dir, JobLogFile))
		return strings.Contains(string(data), text)
	})
}

func (j *job) stop(req agentapi.Terminate) {
	j.t.Helper()
	j.until("the control socket is open", func() bool {
		_, err := os.Stat(filepath.Join(j.dir, ControlFile))
		return err == nil
	})
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, done, err := ShortPath(filepath.Join(j.dir, ControlFile))
		if err != nil {
			return nil, err
		}
		defer done()
		return (&net.Dialer{}).DialContext(ctx, "unix", short)
	}}}
	defer c.CloseIdleConnections()
	body, err := json.Marshal(req)
	if err != nil {
		j.t.Fatal(err)
	}
	resp, err := c.Post("http://runner/stop", "application/json", bytes.NewReader(body))
	if err != nil {
		j.t.Fatal(err)
	}
	resp.Body.Close()
}

func sh(script string) agentapi.JobSpec {
	return agentapi.JobSpec{Command: []string{"/bin/sh", "-c", script}}
}

func TestEndings(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, c := range []struct {
		name string
		spec agentapi.JobSpec
		want State
		log  string
	}{
		{name: "exit 0", spec: sh("echo hi"), want: State{Reason: agentapi.DoneByRunner, ExitStatus: code(0)}, log: "hi\n"},
		{name: "exit 3", spec: sh("echo hi; exit 3"), want: State{Reason: agentapi.ContainerExitedWithError, ExitStatus: code(3)}, log: "hi\n"},
		{name: "a signal", spec: sh("kill -9 $$"), want: State{Reason: agentapi.ContainerExitedWithError, Message: "The command was ended by signal 9 (SIGKILL), which is usually a lack of memory", ExitStatus: code(-1)}},
		{name: "another signal", spec: sh("kill -SEGV $$"), want: State{Reason: agentapi.ContainerExitedWithError, Message: "The command was ended by signal 11 (SIGSEGV)", ExitStatus: code(-1)}},
		{name: "no such program", spec: agentapi.JobSpec{Command: []string{"no-such-program"}}, want: State{Reason: agentapi.ContainerExitedWithError, Message: "no-such-program: command not found"}, log: "no-such-program: command not found\n"},
		{name: "nothing to run", want: State{Reason: agentapi.ExecutorError, Message: "Nothing to run: the job has no commands and its image no entrypoint"}},
		{name: "somebody's home", spec: agentapi.JobSpec{WorkingDir: "~bob/x", Command: []string{"true"}}, want: State{Reason: agentapi.ExecutorError, Message: "Failed to set job working dir (~bob/x: `~username` syntax is not supported)"}},
		{name: "an unknown user", spec: agentapi.JobSpec{User: &agentapi.User{Username: "nobody-here"}, Command: []string{"true"}}, want: State{Reason: agentapi.ExecutorError, Message: "Failed to set job user (unknown user nobody-here)"}},
		{name: "max duration", spec: agentapi.JobSpec{MaxDuration: 1, Command: []string{"/bin/sh", "-c", "trap '' INT; while :; do sleep 0.1; done"}}, want: State{Reason: agentapi.MaxDurationExceeded, Message: "Max duration exceeded"}},
		{name: "max duration with a grace", spec: agentapi.JobSpec{MaxDuration: 1, StopDuration: 20, Command: []string{"/bin/sh", "-c", "trap 'echo bye; exit' INT; while :; do sleep 0.1; done"}}, want: State{Reason: agentapi.MaxDurationExceeded, Message: "Max duration exceeded"}, log: "bye\n"},
		{name: "more seconds than a timer holds", spec: agentapi.JobSpec{MaxDuration: 10_000_000_000, StopDuration: 10_000_000_000, Command: []string{"/bin/sh", "-c", "sleep 0.2; echo hi"}}, want: State{Reason: agentapi.DoneByRunner, ExitStatus: code(0)}, log: "hi\n"},
		{name: "too much output", spec: agentapi.JobSpec{LogQuotaHour: 100, Command: []string{"/bin/sh", "-c", "while :; do echo 123456789; done"}}, want: State{Reason: agentapi.LogQuotaExceeded, Message: "Job log output exceeded the hourly quota of 100 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, log := start(t, c.spec).wait()
			c.want.Phase = Finished
			if diff := cmp.Diff(c.want, State{Phase: got.Phase, Reason: got.Reason, Message: got.Message, ExitStatus: got.ExitStatus}); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if c.want.Reason != agentapi.LogQuotaExceeded && log != strings.TrimPrefix("^C"+c.log, "^C") && log != "^C"+c.log {
				t.Errorf("log %q, want %q", log, c.log)
			}
			if n := len(log); n > 200 {
				t.Errorf("%d bytes of log", n)
			}
		})
	}
}

// A runner that could not write down how its job ended hands on the job's code, and none that the job did not have.
func TestEndThatCannotBeStored(t *testing.T) {
	for name, c := range map[string]struct {
		end  string // of the job's script
		want int
	}{
		"success":        {"exit 0", 0},
		"a failure":      {"exit 3", 3},
		"by a signal":    {"kill -9 $$", NoCode},
		"before a state": {"", NoCode},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			state := filepath.Join(dir, StateFile)
			// Nothing can take the place of a folder. Until there is one the runner may put another state there.
			spec := sh(fmt.Sprintf("until rm -f %[1]s && mkdir %[1]s; do :; done; %[2]s", state, c.end))
			if c.end == "" {
				if err := os.Mkdir(state, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			writeSpec(t, dir, spec)
			j := startIn(t, dir)
			select {
			case code := <-j.done:
				if code != c.want {
					t.Errorf("the runner exits with %d, want %d", code, c.want)
				}
			case <-time.After(30 * time.Second):
				t.Error("the runner does not end")
			}
		})
	}
}

func TestStop(t *testing.T) {
	for _, c := range []struct {
		name, script, log string
		grace             int64
		atMost            time.Duration
	}{
		{name: "obeyed", script: "trap 'echo bye; exit' INT; echo ready; while :; do sleep 0.1; done", grace: 20, log: "ready\nbye\n", atMost: 10 * time.Second},
		{name: "ignored", script: "trap '' INT TERM HUP; echo ready; while :; do sleep 0.1; done", grace: 1, log: "ready\n", atMost: 10 * time.Second},
		{name: "lost to an exec", script: "trap : INT; echo ready; i=0; while [ $i -lt 5 ]; do sleep 0.1; i=$((i+1)); done; exec sleep 60", grace: 50, log: "ready\n", atMost: 20 * time.Second},
		{name: "asked once", script: "trap 'echo asked' INT; echo ready; i=0; while [ $i -lt 12 ]; do sleep 0.1; i=$((i+1)); done", grace: 50, log: "ready\nasked\n", atMost: 20 * time.Second},
		{name: "at once", script: "trap 'echo bye; exit' INT; echo ready; while :; do sleep 0.1; done", grace: 0, log: "ready\n", atMost: 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			j := start(t, sh(c.script))
			j.printed("ready")
			begin := time.Now()
			j.stop(agentapi.Terminate{Grace: c.grace, Reason: agentapi.TerminatedByUser, Message: "why not"})
			s, log := j.wait()
			if s.Reason != agentapi.TerminatedByUser || s.Message != "why not" || s.ExitStatus != nil {
				t.Errorf("%+v", s)
			}
			if log != c.log {
				t.Errorf("log %q, want %q", log, c.log)
			}
			if took := time.Since(begin); took > c.atMost {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestStopAgain asks a job again and again for its end, as a server does that waits for it: its grace is that
// of the first time.
func TestStopAgain(t *testing.T) {
	t.Parallel()
	j := start(t, sh("trap '' INT TERM HUP; echo ready; while :; do sleep 0.1; done"))
	j.printed("ready")
	const grace = 6 * time.Second
	var asked [3]time.Time
	for i := range asked {
		if i > 0 {
			<-time.After(2 * time.Second)
		}
		asked[i] = time.Now()
		j.stop(agentapi.Terminate{Grace: int64(grace / time.Second), Reason: agentapi.TerminatedByUser})
	}
	j.wait()
	// One that was renewed is over a whole grace after the last time.
	if first, last := time.Since(asked[0]), time.Since(asked[2]); first < grace || last >= grace {
		t.Errorf("it ended %v after the first time and %v after the last, want %v after the first", first, last, grace)
	}
}

// TestHangUp runs a job below nohup: a signal that is ignored there ends what the job has started.
func TestHangUp(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	t.Cleanup(func() { signal.Reset(syscall.SIGHUP) })
	if _, log := start(t, sh("sh -c 'kill -HUP $$; echo survived'; exit 0")).wait(); strings.Contains(log, "survived") {
		t.Errorf("the job's processes ignore that their terminal is closed; log %q", log)
	}
}

// TestStopYoung stops jobs while their shells are starting, in whatever they do then.
func TestStopYoung(t *testing.T) {
	for _, shell := range []string{"bash", "dash"} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Fatal(err)
		}
		for _, script := range []string{"sleep 60", "true; sleep 60; sleep 60"} {
			for i := range 10 {
				t.Run(fmt.Sprintf("%s/%s/%d", shell, script, i), func(t *testing.T) {
					t.Parallel()
					j := start(t, agentapi.JobSpec{Command: []string{path, "-i", "-c", script}})
					j.until("the job runs", func() bool {
						s, err := ReadState(j.dir)
						return err == nil && s.Phase == Running
					})
					begin := time.Now()
					j.stop(agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
					j.wait()
					if took := time.Since(begin); took > 15*time.Second {
						t.Errorf("took %v", took)
					}
				})
			}
		}
	}
}

// TestStopBegun stops a job while the shell's copy of itself is about to become the command: what it becomes
// knows nothing of the interrupt.
func TestStopBegun(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	j := start(t, agentapi.JobSpec{Command: []string{bash, "-i", "-c", "(trap : INT; echo ready; sleep 1; exec sleep 60); sleep 60"}})
	j.printed("ready")
	begin := time.Now()
	j.stop(agentapi.Terminate{Grace: 50, Reason: agentapi.TerminatedByUser})
	j.wait()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestPrompts runs what leads interactive shells to a prompt that nobody answers.
func TestPrompts(t *testing.T) {
	shells := [][]string{{"dash"}}
	if _, err := exec.LookPath("busybox"); err == nil {
		shells = append(shells, []string{"busybox", "sh"})
	}
	for _, shell := range shells {
		for name, script := range map[string]string{
			"syntax":              "echo ready && if",
			"an unset variable":   "echo ready; set -u; echo $nosuch; echo after",
			"no file":             "echo ready; . /nosuch; echo after",
			"with something else": "echo ready; sleep 60 & : ${x?unset}; echo after",
		} {
			t.Run(shell[0]+"/"+name, func(t *testing.T) {
				t.Parallel()
				j := start(t, agentapi.JobSpec{Command: append(slices.Clone(shell), "-i", "-c", script)})
				s, log := j.wait()
				if s.Reason != agentapi.ContainerExitedWithError || s.ExitStatus == nil || *s.ExitStatus != 2 || strings.Contains(log, "after") {
					t.Errorf("%+v, log %q", s, log)
				}
			})
		}
	}
}

// TestLeftBehind has a job end that leaves a process with its terminal: shells with job control put it
// into a group of its own, which nobody kills.
func TestLeftBehind(t *testing.T) {
	begin := time.Now()
	s, log := start(t, agentapi.JobSpec{Command: []string{"dash", "-i", "-c", "echo ready; sleep 29 & exit 3"}}).wait()
	if took := time.Since(begin); s.ExitStatus == nil || *s.ExitStatus != 3 || log != "ready\n" || took > 15*time.Second {
		t.Errorf("%+v after %v, log %q", s, took, log)
	}
}

// TestPrintingLeftBehind has a job leave a process that goes on printing, with pauses: it is not waited for.
func TestPrintingLeftBehind(t *testing.T) {
	begin := time.Now()
	s, log := start(t, agentapi.JobSpec{Command: []string{"dash", "-i", "-c", "echo ready; (for i in $(seq 150); do sleep 0.2; echo $i; done) & exit 3"}}).wait()
	if took := time.Since(begin); s.ExitStatus == nil || *s.ExitStatus != 3 || !strings.HasPrefix(log, "ready\n") || took > 15*time.Second {
		t.Errorf("%+v after %v, log %q", s, took, log)
	}
}

// The end of the output is not lost where storing it takes longer than the job.
func TestSlowDisk(t *testing.T) {
	dir := t.TempDir()
	o, err := openOutput(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	spec := sh("echo one; sleep 0.2; echo two; exit 3")
	r := &runner{Config: Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}, spec: spec, stop: make(chan stopRequest, 1), output: o}
	o.writing.Lock()
	time.AfterFunc(2*time.Second, o.writing.Unlock)
	end := r.execute(t.Context(), map[string]string{"PATH": os.Getenv("PATH")}, dir)
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if log := read(t, dir, JobLogFile); log != "one\ntwo\n" || end.exit == nil || *end.exit != 3 {
		t.Errorf("%+v, log %q", end, log)
	}
}

// TestNoPrompt runs what looks like a prompt and is none: the terminal stays open to who reads it.
func TestNoPrompt(t *testing.T) {
	for name, script := range map[string]string{
		"a command that waits":   "echo '# ' | tr -d '\\n'; sleep 3; echo after",
		"a shell that waits":     "sleep 3 & echo '# ' | tr -d '\\n'; wait; echo after",
		"a program in its place": "echo '# ' | tr -d '\\n'; exec sh -c 'sleep 3; echo after'",
		"a program that reads":   "printf '# '; sh -c 'timeout 3 cat; echo after'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log := start(t, agentapi.JobSpec{Command: []string{"dash", "-i", "-c", script}}).wait()
			if s.Reason != agentapi.DoneByRunner || !strings.Contains(log, "after") {
				t.Errorf("%+v, log %q", s, log)
			}
		})
	}
}

func TestIsPrompt(t *testing.T) {
	for line, want := range map[string]bool{"# ": true, "$ ": true, "~ # \x1b[6n": true, "/work # ": true, "": false, "#": false, "100% ": false, "> ": false, "# done": false} {
		if isPrompt(line) != want {
			t.Errorf("%q: %v", line, !want)
		}
	}
}

// Fetching code may take for ever; a stop ends it.
func TestStopDuringSetup(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{})
	go func() {
		if c, err := l.Accept(); err == nil {
			close(asked) // and never answer
			defer c.Close()
			_, _ = io.Copy(io.Discard, c)
		}
	}()
	spec := sh("echo started")
	spec.Repo = &agentapi.Repo{Type: "remote", Dir: "code", CloneURL: "http://" + l.Addr().String() + "/x.git"}
	j := start(t, spec)
	<-asked
	j.stop(agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
	if s, log := j.wait(); s.Reason != agentapi.TerminatedByUser || log != "" {
		t.Errorf("%+v, %q", s, log)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("BASH_FUNC_x%%", "() { echo; }")
	t.Setenv("FROM_IMAGE", "image")
	t.Setenv("OVERRIDDEN", "image")
	spec := sh(`env | grep -E '^(DSTACK_|FROM_|OVERRIDDEN|BASH_FUNC)' | LC_ALL=C sort; pwd; test -t 0 && test -t 1 && test -t 2 && echo terminal; cat "$DSTACK_MPI_HOSTFILE"`)
	spec.RunID, spec.JobID, spec.RunName, spec.RepoID = "run-id", "job-id", "run-name", "repo-id"
	spec.JobNum, spec.JobsPerReplica = 1, 2
	spec.Env = map[string]string{"OVERRIDDEN": "job", "DSTACK_RUN_NAME": "mine"}
	spec.Cluster = agentapi.Cluster{NodeIPs: []string{"10.0.0.1", "10.0.0.2"}, MasterIP: "10.0.0.1", GPUsPerJob: 8, GPUsPerNode: []int{8, 0}}
	spec.WorkingDir = "sub/dir"
	j := start(t, spec)
	_, log := j.wait()
	work := filepath.Join(j.dir, "work", "sub", "dir")
	want := fmt.Sprintf(`DSTACK_GPUS_NUM=8
DSTACK_GPUS_PER_NODE=8
DSTACK_JOB_ID=job-id
DSTACK_MASTER_NODE_IP=10.0.0.1
DSTACK_MPI_HOSTFILE=%[2]s/dstack/mpi/hostfile
DSTACK_NODES_IPS=10.0.0.1
DSTACK_NODES_NUM=2
DSTACK_NODE_RANK=1
DSTACK_REPO_DIR=%[1]s
DSTACK_REPO_ID=repo-id
DSTACK_RUN_ID=run-id
DSTACK_RUN_NAME=mine
DSTACK_WORKING_DIR=%[1]s
FROM_IMAGE=image
OVERRIDDEN=job
%[1]s
terminal
10.0.0.1 slots=8
10.0.0.2
`, work, j.dir)
	if diff := cmp.Diff(want, log); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	profile := read(t, j.dir, "dstack/profile")
	for _, want := range []string{"export OVERRIDDEN='job'\n", "export DSTACK_NODES_IPS='10.0.0.1\n10.0.0.2'\n", "\ncd \"$DSTACK_WORKING_DIR\"\n"} {
		if !strings.Contains(profile, want) {
			t.Errorf("the profile lacks %q:\n%s", want, profile)
		}
	}
	if strings.Contains(profile, "BASH_FUNC") || strings.Contains(profile, "export HOME=") {
		t.Errorf("the profile has too much:\n%s", profile)
	}
}

// Clients that attach read the raw bytes, from the beginning or from a moment on.
func TestLogsWebsocket(t *testing.T) {
	j := start(t, sh(`printf '\033[31mred\033[0m\n'; read line; echo "got $line"`))
	j.printed("red")
	s, err := ReadState(j.dir)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(query string) *websocket.Conn {
		t.Helper()
		c, _, err := websocket.Dial(t.Context(), fmt.Sprintf("ws://127.0.0.1:%d/logs_ws%s", s.HTTPPort, query), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.CloseNow() })
		return c
	}
	if _, _, err := dial("?start_time=garbage").Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusUnsupportedData || !strings.Contains(err.Error(), "failed to parse start_time value") {
		t.Errorf("a start that is no time: %v", err)
	}
	all := func(c *websocket.Conn) string {
		var b strings.Builder
		for {
			kind, data, err := c.Read(t.Context())
			if err != nil {
				if got := websocket.CloseStatus(err); got != websocket.StatusNoStatusRcvd {
					t.Errorf("closed with %v", err)
				}
				return b.String()
			}
			if kind != websocket.MessageBinary {
				t.Errorf("a message of type %v", kind)
			}
			b.Write(data)
		}
	}
	results := make(chan string, 4)
	for _, query := range []string{"", "?start_time=2020-01-01T00:00:00Z", "?start_time=2020-01-01T00:00:00.123456%2B00:00"} {
		c := dial(query)
		go func() { results <- all(c) }()
	}
	late := dial("?start_time=2100-01-01T00:00:00Z")
	go func() { results <- "late:" + all(late) }()
	j.stop(agentapi.Terminate{Reason: agentapi.TerminatedByUser})
	j.wait()
	for range 4 {
		got := <-results
		if strings.HasPrefix(got, "late:") {
			if strings.Contains(got, "red") {
				t.Errorf("from the future: %q", got)
			}
		} else if !strings.HasPrefix(got, "\x1b[31mred\x1b[0m\r\n") {
			t.Errorf("got %q", got)
		}
	}
}

// A job that has ended by itself stays attachable until its output was read, or it is stopped.
func TestLinger(t *testing.T) {
	spec := sh("echo quick; exit 3")
	spec.Linger = 3600
	lingering := func(t *testing.T) (*job, State) {
		j := start(t, spec)
		j.printed("quick")
		s, err := ReadState(j.dir)
		if err != nil {
			t.Fatal(err)
		}
		return j, s
	}
	ended := func(t *testing.T, j *job) {
		t.Helper()
		s, log := j.wait()
		if s.Reason != agentapi.ContainerExitedWithError || s.ExitStatus == nil || *s.ExitStatus != 3 || log != "quick\n" {
			t.Errorf("the job ended with %+v and printed %q", s, log)
		}
	}
	t.Run("read", func(t *testing.T) {
		j, s := lingering(t)
		c, _, err := websocket.Dial(t.Context(), fmt.Sprintf("ws://127.0.0.1:%d/logs_ws", s.HTTPPort), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		var got []byte
		for {
			_, data, err := c.Read(t.Context())
			if err != nil {
				break
			}
			got = append(got, data...)
		}
		if string(got) != "quick\r\n" {
			t.Errorf("a late reader got %q", got)
		}
		ended(t, j)
	})
	t.Run("stopped", func(t *testing.T) {
		j, _ := lingering(t)
		j.until("how it ended is written down", func() bool { // the runner may be killed any time
			s, err := ReadState(j.dir)
			return err == nil && s.Phase == Running && s.Reason == agentapi.ContainerExitedWithError && s.ExitStatus != nil && *s.ExitStatus == 3
		})
		j.stop(agentapi.Terminate{Reason: agentapi.TerminatedByUser})
		ended(t, j)
	})
}

// A container that its engine or its host ends has failed: nobody has asked for the end of the job.
func TestEndedFromOutside(t *testing.T) {
	j := start(t, agentapi.JobSpec{Command: []string{"/bin/sh", "-c", "echo begun; sleep 60"}})
	j.printed("begun")
	j.term()
	s, _ := j.wait()
	if s.Reason != agentapi.ContainerExitedWithError || !strings.Contains(s.Message, "ended by its host") {
		t.Errorf("the job has ended with %s, %q", s.Reason, s.Message)
	}
}
