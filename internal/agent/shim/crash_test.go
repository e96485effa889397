package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// A job that has ended keeps its exit code when its container is killed while people may still attach.
func TestKilledAfterItsEnd(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	code := 3
	a.tell(s.ID, runner.State{Version: 2, Phase: runner.Running, Reason: agentapi.ContainerExitedWithError, ExitStatus: &code})
	a.engine.end(s.ID, runtime.Exit{Code: 137})
	if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.ContainerExitedWithError || v.ExitStatus == nil || *v.ExitStatus != code {
		t.Errorf("%+v", v)
	}
}

// A task goes on after the agent was killed at any step, and its job runs once.
func TestKilledAtEachStep(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			e := newEngine()
			reached, _ := blockAt(e, step)
			old := run(t, newHome(t), e)
			s := spec()
			old.put(s)
			<-reached
			a := old.crash()
			a.reaches(s.ID, agentapi.Running)
			if n := e.starts[s.ID]; n != 1 {
				t.Errorf("started %d times", n)
			}
			a.finish(s.ID, 0)
			if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.DoneByRunner {
				t.Errorf("%+v", v)
			}
		})
	}
}

// How a task has ended is known after its agent was killed while it removed the container, which the engine goes on with.
func TestKilledWhileTheContainerIsRemoved(t *testing.T) {
	code := 137
	for name, c := range map[string]struct {
		refuses string // what the engine does not do
		want    agentapi.Task
	}{
		"killed":          {"", agentapi.Task{Reason: agentapi.ContainerExitedWithError, Message: exitText(code), ExitStatus: &code}},
		"was not started": {"create", agentapi.Task{Reason: agentapi.CreatingContainerError, Message: "createContainer error: no"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			reached, release := blockAt(e, "remove")
			defer close(release)
			block := e.gate
			e.setGate(func(ctx context.Context, call, id string) error {
				if call == c.refuses {
					return errors.New("no")
				}
				return block(ctx, call, id)
			})
			old := run(t, newHome(t), e)
			s := spec()
			old.put(s)
			if c.refuses == "" {
				old.reaches(s.ID, agentapi.Running)
				e.end(s.ID, runtime.Exit{Code: code})
			}
			<-reached
			e.mu.Lock()
			delete(e.boxes, s.ID)
			e.mu.Unlock()
			v := old.crash().reaches(s.ID, agentapi.Terminated)
			if v.Reason != c.want.Reason || v.Message != c.want.Message || !reflect.DeepEqual(v.ExitStatus, c.want.ExitStatus) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// A container that was made keeps the GPUs that it was made with, when the agent starts it after others have
// become free: otherwise the next task would get the same.
func TestGPUsOfAContainerThatWasMade(t *testing.T) {
	two := func(c *Config) {
		c.Detect = func(context.Context) gpu.Found {
			return gpu.Found{Vendor: "amd", GPUs: []agentapi.GPU{{ID: "a"}, {ID: "b"}}}
		}
	}
	e := newEngine()
	old := run(t, newHome(t), e, two)
	first, second := spec(), spec()
	first.GPUs, second.GPUs = 1, 1
	old.put(first)
	old.reaches(first.ID, agentapi.Running)
	reached, _ := blockAt(e, "start")
	old.put(second)
	<-reached
	old.finish(first.ID, 0)
	old.reaches(first.ID, agentapi.Terminated)
	old.stop()
	e.setGate(nil)
	e.box(second.ID).running = false
	a := run(t, old.home, e, two)
	if v := a.reaches(second.ID, agentapi.Running); !slices.Equal(v.GPUs, []string{"b"}) {
		t.Errorf("the task holds %q, its container was made with b", v.GPUs)
	}
}

// stoppedWithCode is an agent that was stopped while it pulled the image of a task, which has an upload.
func stoppedWithCode(t *testing.T) (*engine, *agent, agentapi.TaskSpec) {
	t.Helper()
	e := newEngine()
	reached, _ := blockAt(e, "pull")
	old := run(t, newHome(t), e)
	sum := sumOf("code")
	if err := old.PutBlob(t.Context(), sum, strings.NewReader("code")); err != nil {
		t.Fatal(err)
	}
	s := spec()
	s.Job.Files = []agentapi.FileArchive{{Blob: sum, Path: "/x"}}
	old.put(s)
	<-reached
	old.stop()
	return e, old, s
}

// A task that was accepted has all that it needs after a power failure, too, which leaves of its folder only what
// was written to the disk for good.
func TestFolderAfterPowerFailure(t *testing.T) {
	e, old, s := stoppedWithCode(t)
	for _, dir := range []string{old.job(s.ID), filepath.Join(old.dir(s.ID), "blobs")} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	e.setGate(nil)
	a := run(t, old.home, e)
	a.reaches(s.ID, agentapi.Running)
	var job agentapi.JobSpec
	if err := readJSON(filepath.Join(a.job(s.ID), runner.SpecFile), &job); err != nil || job.JobID != s.ID {
		t.Errorf("the runner finds %+v (%v)", job, err)
	}
	if data, err := os.ReadFile(filepath.Join(a.dir(s.ID), "blobs", s.Job.Files[0].Blob)); err != nil || string(data) != "code" {
		t.Errorf("the runner finds the upload %q (%v)", data, err)
	}
}

// The code of a task that has not begun outlives its upload, which is swept when nobody has asked for it for long.
func TestResumeAfterTheUploadIsSwept(t *testing.T) {
	e, old, s := stoppedWithCode(t)
	if err := os.Remove(filepath.Join(old.home, "blobs", s.Job.Files[0].Blob)); err != nil {
		t.Fatal(err)
	}
	e.setGate(nil)
	run(t, old.home, e).reaches(s.ID, agentapi.Running)
}

// The same when the agent is told to end, as an upgrade does.
func TestStoppedAtEachStep(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			e := newEngine()
			reached, _ := blockAt(e, step)
			old := run(t, newHome(t), e)
			s := spec()
			old.put(s)
			<-reached
			old.stop()
			e.setGate(nil)
			a := run(t, old.home, e)
			a.reaches(s.ID, agentapi.Running)
			if n := e.starts[s.ID]; n != 1 {
				t.Errorf("started %d times", n)
			}
		})
	}
}

// What ended while no agent ran is known afterwards.
func TestEndsWithoutAgent(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	done, gone, lives := spec(), spec(), spec()
	for _, s := range []agentapi.TaskSpec{done, gone, lives} {
		a.put(s)
		a.reaches(s.ID, agentapi.Running)
	}
	a.stop()
	a.print(done.ID, "written meanwhile\n")
	a.finish(done.ID, 5)
	_ = a.engine.Remove(t.Context(), gone.ID)
	stray := uuid.NewString()
	a.engine.boxes[stray] = &box{running: true, ended: make(chan struct{})}
	b := run(t, a.home, a.engine)
	if v := b.reaches(done.ID, agentapi.Terminated); v.Reason != agentapi.DoneByRunner || *v.ExitStatus != 5 || v.JobLog != 18 {
		t.Errorf("done: %+v", v)
	}
	if v := b.reaches(gone.ID, agentapi.Terminated); v.Reason != agentapi.ContainerExitedWithError {
		t.Errorf("gone: %+v", v)
	}
	if v := b.get(lives.ID); v.State != agentapi.Running {
		t.Errorf("lives: %+v", v)
	}
	if b.engine.box(stray) != nil {
		t.Error("a container that no task remembers is left")
	}
}

// A container that its host took along has no exit code, whatever the engine writes down for it then.
func TestCutOffByItsHost(t *testing.T) {
	const gone = "the container was ended by a restart of its host"
	for name, c := range map[string]struct {
		code  int
		boots bool
		want  string
		exit  bool
	}{
		"a restart of the host":            {lostCode, true, gone, false},
		"a plain process":                  {-1, true, gone, false},
		"a code of its own":                {3, true, exitText(3), true},
		"killed before the host restarted": {137, true, exitText(137), true},
		"255 of its own":                   {lostCode, false, exitText(lostCode), true},
	} {
		t.Run(name, func(t *testing.T) {
			boot := "first"
			host := func(c *Config) { id := boot; c.BootID = func() string { return id } }
			old := run(t, newHome(t), newEngine(), host)
			s := old.running()
			old.stop()
			old.engine.end(s.ID, runtime.Exit{Code: c.code})
			if c.boots {
				boot = "second"
			}
			a := run(t, old.home, old.engine, host)
			v := a.reaches(s.ID, agentapi.Terminated)
			if v.Reason != agentapi.ContainerExitedWithError || v.Message != c.want || (v.ExitStatus != nil) != c.exit {
				t.Errorf("%+v", v)
			}
		})
	}
}

// Damaged files neither stop the agent nor run a job twice.
func TestDamagedFiles(t *testing.T) {
	for _, c := range []struct {
		file, content string
		want          string // of the task
	}{
		{stateFile, "", agentapi.ExecutorError},
		{stateFile, `{"state":`, agentapi.ExecutorError},
		{taskFile, "", agentapi.ContainerExitedWithError},
		{acksFile, "nonsense", agentapi.DoneByRunner},
		{runner.StateFile, "nonsense", agentapi.ContainerExitedWithError},
	} {
		t.Run(c.file, func(t *testing.T) {
			e := newEngine()
			a := run(t, newHome(t), e)
			s := spec()
			a.put(s)
			a.reaches(s.ID, agentapi.Running)
			a.stop()
			a.finish(s.ID, 0)
			if c.want != agentapi.DoneByRunner {
				_ = os.Remove(filepath.Join(a.job(s.ID), runner.StateFile))
			}
			dir := a.dir(s.ID)
			if c.file == runner.StateFile {
				dir = a.job(s.ID)
			}
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			b := run(t, a.home, e)
			if v := b.reaches(s.ID, agentapi.Terminated); v.Reason != c.want {
				t.Errorf("%+v", v)
			}
			if e.starts[s.ID] != 1 {
				t.Errorf("started %d times", e.starts[s.ID])
			}
		})
	}
}

func TestShutdownLeavesTasks(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := spec()
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
	if err := a.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if b := a.engine.box(s.ID); b == nil || !b.running {
		t.Error("the container ended with the agent")
	}
}
