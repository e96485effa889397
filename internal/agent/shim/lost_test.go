package shim

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// withGPUs lets a host have so many accelerators: a, b and so on.
func withGPUs(n int) func(*Config) {
	found := gpu.Found{Vendor: "amd"}
	for i := range n {
		found.GPUs = append(found.GPUs, agentapi.GPU{ID: string(rune('a' + i))})
	}
	return func(c *Config) { c.Detect = func(context.Context) gpu.Found { return found } }
}

// damages are what can become of a file. They are all errors of another kind.
var damages = map[string]func(t *testing.T, path string){
	"empty":         func(t *testing.T, path string) { t.Helper(); overwrite(t, path, "") },
	"broken off":    func(t *testing.T, path string) { t.Helper(); overwrite(t, path, `{"id":"`) },
	"another's":     func(t *testing.T, path string) { t.Helper(); overwrite(t, path, `{}`) },
	"of other form": func(t *testing.T, path string) { t.Helper(); overwrite(t, path, `{"id":5}`) },
	"gone": func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
	"unreadable": func(t *testing.T, path string) {
		t.Helper()
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
	},
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A job whose spec is lost runs on: its agent follows it to its end, and keeps its GPUs and its user's keys until then.
func TestRunsOnWithoutItsSpec(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			me, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			login := user.User{Uid: me.Uid, Gid: me.Gid, HomeDir: t.TempDir()}
			host := func(c *Config) {
				withGPUs(1)(c)
				c.LookupUser = func(string) (*user.User, error) { return &login, nil }
			}
			keys := func() string {
				data, err := os.ReadFile(filepath.Join(login.HomeDir, ".ssh", "authorized_keys"))
				if err != nil {
					t.Fatal(err)
				}
				return string(data)
			}
			old := run(t, newHome(t), newEngine(), host)
			s := spec()
			s.GPUs, s.HostUser, s.HostKeys, s.Job.LogQuotaHour = 1, "ubuntu", []string{"ssh-ed25519 KEY"}, 4
			old.put(s)
			old.reaches(s.ID, agentapi.Running)
			old.stop()
			damage(t, filepath.Join(old.dir(s.ID), taskFile))

			a := run(t, old.home, old.engine, host)
			if v := a.get(s.ID); v.State != agentapi.Running || v.Name != s.Name || !slices.Equal(v.GPUs, []string{"a"}) {
				t.Fatalf("after the restart: %+v", v)
			}
			if b := a.engine.box(s.ID); b == nil || !b.running {
				t.Fatal("its container is gone")
			}
			other := spec()
			other.GPUs = 1
			a.put(other)
			a.waits(other.ID)
			if !strings.Contains(keys(), "KEY") {
				t.Errorf("the user's key is gone: %q", keys())
			}
			a.print(s.ID, "more than is allowed\n")
			a.finish(s.ID, 3)
			v := a.reaches(s.ID, agentapi.Terminated)
			if v.Reason != agentapi.DoneByRunner || v.ExitStatus == nil || *v.ExitStatus != 3 || v.JobLog != 8 {
				t.Errorf("in the end: %+v", v)
			}
			if strings.Contains(keys(), "KEY") {
				t.Errorf("the user's key is left: %q", keys())
			}
			a.reaches(other.ID, agentapi.Running)
			if err := a.Delete(t.Context(), s.ID); err != nil {
				t.Errorf("forget it: %v", err)
			}
		})
	}
}

// One that has not begun ends with the reason: nobody knows how to start it.
func TestCannotStartWithoutItsSpec(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			reached, _ := blockAt(e, "pull")
			old := run(t, newHome(t), e)
			s := spec()
			old.put(s)
			<-reached
			old.stop()
			e.setGate(nil)
			damage(t, filepath.Join(old.dir(s.ID), taskFile))
			a := run(t, old.home, e)
			v := a.reaches(s.ID, agentapi.Terminated)
			if v.Reason != agentapi.ExecutorError || !strings.Contains(v.Message, "record of the task is damaged") || e.starts[s.ID] != 0 {
				t.Errorf("%+v, started %d times", v, e.starts[s.ID])
			}
		})
	}
}

// What ended before its files were erased does not come back, nor what had not been accepted when the machine lost power.
func TestDroppedWithoutItsSpec(t *testing.T) {
	for _, state := range []agentapi.State{agentapi.Pending, agentapi.Terminated} {
		t.Run(string(state), func(t *testing.T) {
			home, id := newHome(t), spec().ID
			dir := filepath.Join(home, "tasks", id)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := writeJSON(filepath.Join(dir, stateFile), stored{Task: agentapi.Task{ID: id, State: state}}, 0o600); err != nil {
				t.Fatal(err)
			}
			if v := run(t, home, newEngine()).get(id); v.ID != "" {
				t.Errorf("%+v", v)
			}
		})
	}
}

// What is left of a task of which no record is, and cannot be removed, keeps its folder, by which a plain process is
// found, and all GPUs until it is gone: nobody says which it has.
func TestLeftWithoutAnyRecord(t *testing.T) {
	e := newEngine()
	old := run(t, newHome(t), e, withGPUs(2))
	s := spec()
	s.GPUs = 1
	old.put(s)
	old.reaches(s.ID, agentapi.Running)
	old.stop()
	damages["gone"](t, filepath.Join(old.dir(s.ID), taskFile))
	overwrite(t, filepath.Join(old.dir(s.ID), stateFile), "")
	e.box(s.ID).gpus = nil
	e.setGate(func(_ context.Context, call, id string) error {
		if call == "remove" && id == s.ID {
			return errors.New("processes do not end")
		}
		return nil
	})
	a := run(t, old.home, e, withGPUs(2))
	if _, err := os.Stat(a.dir(s.ID)); err != nil {
		t.Error(err)
	}
	beside := spec()
	beside.GPUs = 1
	a.put(beside)
	a.waits(beside.ID)
	a.stop()
	e.setGate(nil)
	a = run(t, old.home, e, withGPUs(2))
	if _, err := os.Stat(a.dir(s.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left is gone, and its folder is not: %v", err)
	}
	a.reaches(beside.ID, agentapi.Running)
}

// A task of which nobody knows which GPUs it has gets none that a container without a task is known to have: those
// would be free with its end.
func TestGPUsOfAContainerBesideAnUnclearTask(t *testing.T) {
	e := newEngine()
	old := run(t, newHome(t), e, withGPUs(2))
	s, lost := spec(), spec().ID
	s.GPUs = 1
	old.put(s)
	old.reaches(s.ID, agentapi.Running)
	old.stop()
	overwrite(t, filepath.Join(old.dir(s.ID), stateFile), "")
	e.box(s.ID).gpus = nil
	if err := e.Start(t.Context(), runtime.Container{ID: lost, GPUs: []agentapi.GPU{{ID: "b"}}}); err != nil {
		t.Fatal(err)
	}
	e.setGate(func(_ context.Context, call, id string) error {
		if call == "remove" && id == lost {
			return errors.New("it does not end")
		}
		return nil
	})
	a := run(t, old.home, e, withGPUs(2))
	a.reaches(s.ID, agentapi.Terminated)
	both, one := spec(), spec()
	both.GPUs, one.GPUs = 2, 1
	a.put(both)
	a.waits(both.ID)
	a.put(one)
	if v := a.reaches(one.ID, agentapi.Running); !slices.Equal(v.GPUs, []string{"a"}) {
		t.Errorf("another task got %q", v.GPUs)
	}
}

// The state of another task is taken for none: the container is ended, the server hears of its own task, and nobody
// else gets the GPUs before.
func TestStateOfAnotherTask(t *testing.T) {
	for _, state := range []agentapi.State{agentapi.Running, agentapi.Terminated} {
		t.Run(string(state), func(t *testing.T) {
			e := newEngine()
			old := run(t, newHome(t), e, withGPUs(1))
			s := spec()
			s.GPUs = 1
			old.put(s)
			old.reaches(s.ID, agentapi.Running)
			old.stop()
			other := stored{Task: agentapi.Task{ID: spec().ID, State: state}}
			if err := writeJSON(filepath.Join(old.dir(s.ID), stateFile), other, 0o600); err != nil {
				t.Fatal(err)
			}
			reached, release := blockAt(e, "kill")
			a := run(t, old.home, e, withGPUs(1))
			<-reached
			if v := a.get(s.ID); v.ID != s.ID || v.State != agentapi.Running {
				t.Errorf("meanwhile: %+v", v)
			}
			beside := spec()
			beside.GPUs = 1
			a.put(beside)
			a.waits(beside.ID)
			close(release)
			v := a.reaches(s.ID, agentapi.Terminated)
			if v.Reason != agentapi.ExecutorError || !strings.Contains(v.Message, "record of the task is damaged") || e.box(s.ID) != nil {
				t.Errorf("in the end: %+v", v)
			}
			a.reaches(beside.ID, agentapi.Running)
		})
	}
}

// A container of which nothing is known but its labels is ended; meanwhile no other gets its GPUs, nor any
// if it does not say which it has.
func TestEndsWithoutAnyRecord(t *testing.T) {
	for name, c := range map[string]struct {
		labelled bool
		want     int // how many start of two tasks that want a GPU each
	}{
		"with its labels":    {true, 1},
		"without its labels": {false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			old := run(t, newHome(t), e, withGPUs(2))
			s := spec()
			s.GPUs = 1
			old.put(s)
			old.reaches(s.ID, agentapi.Running)
			old.stop()
			overwrite(t, filepath.Join(old.dir(s.ID), taskFile), "")
			overwrite(t, filepath.Join(old.dir(s.ID), stateFile), "")
			if !c.labelled {
				e.box(s.ID).gpus = nil
			}
			reached, release := blockAt(e, "kill")
			a := run(t, old.home, e, withGPUs(2))
			<-reached
			started := 0
			var waiting []string
			for range 2 {
				other := spec()
				other.GPUs = 1
				a.put(other)
				a.until("it has begun or waits", func() bool {
					return a.get(other.ID).State == agentapi.Running || a.noted(other.ID, "GPUs are waited for")
				})
				if v := a.get(other.ID); v.State == agentapi.Running {
					started++
					if !slices.Equal(v.GPUs, []string{"b"}) {
						t.Errorf("another task got %q", v.GPUs)
					}
				} else {
					a.waits(other.ID)
					waiting = append(waiting, other.ID)
				}
			}
			if started != c.want {
				t.Errorf("%d started, want %d", started, c.want)
			}
			close(release)
			v := a.reaches(s.ID, agentapi.Terminated)
			if v.Reason != agentapi.ExecutorError || !strings.Contains(v.Message, "record of the task is damaged") || e.box(s.ID) != nil {
				t.Errorf("%+v", v)
			}
			for _, id := range waiting {
				a.reaches(id, agentapi.Running)
			}
		})
	}
}

// All tasks have their GPUs back before the first goes on, which may take what is free.
func TestGPUsBeforeTheFirstGoesOn(t *testing.T) {
	old := run(t, newHome(t), newEngine(), withGPUs(1))
	first, holder := spec(), spec()
	first.ID, holder.ID = "0"+first.ID[1:], "f"+holder.ID[1:]
	first.GPUs, holder.GPUs = 1, 1
	old.put(holder)
	old.reaches(holder.ID, agentapi.Running)
	old.stop()
	// One that was accepted, and one between that was not and takes time to be dropped.
	never := "1" + spec().ID[1:]
	for _, id := range []string{first.ID, never} {
		if err := os.MkdirAll(old.dir(id), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeJSON(filepath.Join(old.dir(first.ID), taskFile), first, 0o600); err != nil {
		t.Fatal(err)
	}
	old.engine.setGate(func(_ context.Context, call, id string) error {
		if call == "remove" && id == never {
			<-time.After(100 * time.Millisecond)
		}
		return nil
	})
	a := run(t, old.home, old.engine, withGPUs(1))
	a.waits(first.ID)
	if v := a.get(holder.ID); v.State != agentapi.Running {
		t.Errorf("%+v", v)
	}
}

// What is given back leaves no key of a task whose spec is lost.
func TestPurgeWithoutASpec(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			me, err := user.Current()
			if err != nil {
				t.Fatal(err)
			}
			home := newHome(t)
			id := spec().ID
			dir := filepath.Join(home, "tasks", id)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			overwrite(t, filepath.Join(dir, taskFile), `{"id":"`+id+`"}`)
			overwrite(t, filepath.Join(dir, stateFile), `{"host_user":"nobody-of-this-name"}`)
			damage(t, filepath.Join(dir, taskFile))
			var asked string
			keys := hostKeys{lookup: func(name string) (*user.User, error) { asked = name; return me, errors.New("not now") }}
			if err := purgeKeys(home, &keys); err == nil || asked != "nobody-of-this-name" {
				t.Errorf("asked for user %q (%v)", asked, err)
			}
		})
	}
}
