package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// leaderless is set for a copy of the test whose first thread ends, and which lives until its input ends. Such a
// process has no environment, as one that hangs in its exit.
const leaderless = "RUNTIME_TEST_LEADERLESS"

func init() {
	if os.Getenv(leaderless) == "" {
		return
	}
	goruntime.LockOSThread() // the first one, during init
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	_, _, _ = syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

// until polls what processes do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// started stands for the runner of a task: it has a program run whose input the test holds.
func started(t *testing.T, p *Process, id, program string) (runner pid, kill func(), hold io.Closer) {
	t.Helper()
	dir := filepath.Join(p.dir, id, JobDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	defer in.Close()
	cmd := exec.Command("/bin/sh", "-c", `"$0" <&3 3<&- & wait`, program)
	cmd.ExtraFiles = []*os.File{in}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	if err := remember(dir, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	runner, _, _ = p.find(id)
	return runner, kill, w
}

// all lists the processes of the host.
func all(t *testing.T) []process {
	t.Helper()
	list, err := ps()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// runs says that a task is listed as one that runs.
func (p *Process) runs(t *testing.T, id string) bool {
	t.Helper()
	list, err := p.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id {
		t.Fatalf("%+v (%v)", list, err)
	}
	return list[0].Running
}

// A task runs as long as a process of its job does, also when that one has no environment any more that says so, and for
// an agent that starts later.
func TestProcessesWithoutAnEnvironment(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"overwritten": "cat", "gone with the first thread": self} {
		t.Run(name, func(t *testing.T) {
			if program == self {
				t.Setenv(leaderless, "1")
			}
			p := NewProcess(t.TempDir(), "")
			runner, kill, hold := started(t, p, "id", program)
			var job pid
			until(t, "its job is noted", func() bool {
				if list, _ := p.note("id", runner, all(t)); len(list) == 1 {
					job = list[0]
				}
				f, err := stat(fmt.Sprintf("/proc/%d/stat", job.num))
				return err == nil && (program != self || f[0] == "Z")
			})
			kill()
			later := NewProcess(p.dir, "")
			if !p.runs(t, "id") || !later.runs(t, "id") {
				t.Error("its job is taken for ended with the runner")
			}
			hold.Close()
			until(t, "its job has ended", func() bool { return !p.runs(t, "id") && !later.runs(t, "id") })
			if err := p.Remove(t.Context(), "id"); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(p.membersFile("id")); !os.IsNotExist(err) {
				t.Errorf("what was known of it is left: %v", err)
			}
		})
	}
}

// noted waits until the one process of a runner's job is known, and returns it.
func noted(t *testing.T, p *Process, runner pid) (job []pid) {
	t.Helper()
	until(t, "its job is noted", func() bool {
		job, _ = p.note("id", runner, all(t))
		return len(job) == 1
	})
	return job
}

// All that is known of a job's processes is killed, also what has no environment that says whose it is.
func TestKillWithoutAnEnvironment(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	runner, kill, _ := started(t, p, "id", "cat")
	job := noted(t, p, runner)
	kill()
	err := p.Remove(t.Context(), "id")
	if lives, aerr := alive(job[0]); err != nil || aerr != nil || lives {
		t.Errorf("its job lives: %v (%v, %v)", lives, err, aerr)
	}
}

// A process that hangs so that nobody can read its memory holds nobody up. It may be one of a job that has begun before it.
func TestProcessThatCannotBeRead(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	runner, kill, hold := started(t, p, "id", "cat")
	var job pid
	until(t, "its job is there", func() bool {
		list := family(all(t), runner, nil)
		if len(list) == 1 {
			job = list[0]
		}
		return len(list) == 1
	})
	kill()
	release := make(chan struct{})
	p.readFile = func(path string) ([]byte, error) {
		if path == fmt.Sprintf("/proc/%d/environ", job.num) {
			<-release
		}
		return os.ReadFile(path)
	}
	for range 2 {
		if !p.runs(t, "id") {
			t.Error("a job of which nobody knows is taken for ended")
		}
	}
	if list, unsure, err := p.ofJob("later", pid{1, "18446744073709551615"}); err != nil || unsure || len(list) > 0 {
		t.Errorf("of a job that has begun after it there are %v, unsure: %v (%v)", list, unsure, err)
	}
	close(release)
	until(t, "it can be read", func() bool { return !p.runs(t, "id") })
	hold.Close()
}

// A process that cannot be read keeps no job from its end that it is known not to be of.
func TestProcessOfAnotherJobThatCannotBeRead(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	_, kill, hold := started(t, p, "ends", "cat")
	runner, _, _ := started(t, p, "hangs", "cat")
	var job pid
	until(t, "the job that hangs is noted", func() bool {
		list, _ := p.note("hangs", runner, all(t))
		if len(list) == 1 {
			job = list[0]
		}
		return len(list) == 1
	})
	release := make(chan struct{})
	defer close(release)
	read := func(path string) ([]byte, error) {
		if path == fmt.Sprintf("/proc/%d/environ", job.num) {
			<-release
		}
		return os.ReadFile(path)
	}
	p.readFile = read
	kill()
	hold.Close()
	if err := p.Remove(t.Context(), "ends"); err != nil {
		t.Error(err)
	}
	later := NewProcess(p.dir, "") // it has the notes alone
	later.readFile = read
	if later.lives("ends", pid{1, runner.start}) {
		t.Error("an agent that starts later takes it for running")
	}
}

// An agent without descriptors takes no job for ended, and forgets none.
func TestProcessesWithoutDescriptors(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	runner, kill, _ := started(t, p, "id", "cat")
	noted(t, p, runner)
	look := func() {
		t.Helper()
		var was syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		list, _, seen := p.ofJob("id", runner)
		lives := p.lives("id", runner)
		removed := p.Remove(t.Context(), "id")
		killed := p.Kill(t.Context(), "id")
		_, _, written := p.find("id")
		_, noted := NewProcess(p.dir, "").note("id", runner, nil)
		_, _, runs := p.running(filepath.Join(p.dir, "id", JobDir))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, waited := p.Wait(ctx, "id")
		over := ended(ctx, runner)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		if !lives {
			t.Error("it is taken for ended")
		}
		for what, err := range map[string]error{"its processes": seen, "remove": removed, "kill": killed, "what is noted": noted, "its runner": written, "a runner": runs, "wait": waited, "the end of its runner": over} {
			if err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v, %v", what, err, list)
			}
		}
	}
	look()
	kill()
	look()
	if !p.runs(t, "id") || !NewProcess(p.dir, "").runs(t, "id") {
		t.Error("its job is forgotten")
	}
	if err := p.Remove(t.Context(), "id"); err != nil {
		t.Error(err)
	}
}

// A read that lacks descriptors or memory is no sign that a process is not the job's.
func TestEnvironmentsWithoutDescriptors(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	runner, kill, _ := started(t, p, "id", "cat")
	until(t, "another process is there", func() bool { return len(family(all(t), runner, nil)) == 1 })
	kill()
	if p.runs(t, "id") {
		t.Fatal("one that has not its id is taken for its job's")
	}
	for _, err := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		p.readFile = func(path string) ([]byte, error) { return nil, &os.PathError{Op: "open", Path: path, Err: err} }
		if !p.runs(t, "id") {
			t.Errorf("%v: it is taken for ended", err)
		}
	}
}

// An agent that was started from a job is not the job's, and what it starts is not.
func TestAgentThatDescendsFromAJob(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	task, _, _ := started(t, p, "id", "cat")
	parent, err := processOf(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	self, err := processOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	list := family(all(t), parent.pid, []pid{self.pid})
	if slices.Contains(list, self.pid) || slices.Contains(list, task) {
		t.Errorf("of those that would be killed with the job %v are this one's", list)
	}
}

// A disk that cannot be written, as a full one, costs nothing of what is noted, and what is new goes to it once it can.
func TestNoteThatCannotBeWritten(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	runner, _, _ := started(t, p, "id", "cat")
	other, _, _ := started(t, p, "other", "cat")
	var before []pid
	until(t, "its job is noted", func() bool {
		before, _ = p.note("id", runner, all(t))
		return len(before) == 1
	})
	list := all(t)
	saved := func() []pid {
		got, err := readMembers(p.membersFile("id"))
		if err != nil {
			t.Error(err)
		}
		return got
	}
	// Not with RLIMIT_FSIZE: it would hold for the log as well that go test has the process write.
	beside := p.membersFile("id") + ".new"
	if err := os.Symlink("none/file", beside); err != nil {
		t.Fatal(err)
	}
	now, noteErr := p.note("id", runner, list, other)
	kept := saved()
	if err := os.Remove(beside); err != nil {
		t.Error(err)
	}
	if noteErr != nil || !slices.Contains(now, other) || !slices.Equal(kept, before) {
		t.Errorf("noted are %v, and on the disk %v, where there was %v (%v)", now, kept, before, noteErr)
	}
	if _, err := p.note("id", runner, list); err != nil || !slices.Equal(saved(), now) {
		t.Errorf("on the disk is %v, want %v (%v)", saved(), now, err)
	}
}

// A process that does not end is not looked for all the time.
func TestRemoveWhatDoesNotEnd(t *testing.T) {
	p := NewProcess(t.TempDir(), "")
	started(t, p, "id", "cat")
	looks := 0
	p.signal = func(int, syscall.Signal) error {
		looks++
		return nil
	}
	synctest.Test(t, func(t *testing.T) {
		if err := p.Remove(t.Context(), "id"); err == nil {
			t.Error("what lives is removed")
		}
	})
	if looks > 50 {
		t.Errorf("it was killed %d times", looks)
	}
}

// Who belongs to a job.
func TestFamily(t *testing.T) {
	p := func(num, parent, session int) process { return process{pid{num, "7"}, parent, session} }
	runner := pid{10, "7"}
	all := []process{
		p(1, 0, 1),
		p(10, 1, 10),                 // the runner
		p(11, 10, 11),                // its job
		p(12, 11, 11), p(13, 12, 13), // in a session of its own
		p(14, 1, 11), p(15, 1, 13), // orphans
		p(20, 1, 20), p(21, 20, 20), // a stranger
		p(30, 1, 20), p(31, 30, 20), // known, in the stranger's session
	}
	for name, c := range map[string]struct {
		runner pid
		known  []pid
		want   []int
	}{
		"a runner's":                    {runner, nil, []int{11, 12, 13, 14, 15}},
		"one that has ended":            {pid{10, "6"}, nil, nil},
		"those that are known":          {pid{10, "6"}, []pid{{12, "7"}, {21, "6"}, {99, "7"}}, []int{12, 13, 15}},
		"not of a stranger's session":   {pid{}, []pid{{30, "7"}}, []int{30, 31}},
		"nobody's":                      {pid{}, nil, nil},
		"a runner in another's session": {pid{21, "7"}, nil, nil},
	} {
		var got []int
		for _, q := range family(all, c.runner, c.known) {
			got = append(got, q.num)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
