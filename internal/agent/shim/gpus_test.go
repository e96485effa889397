package shim

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// rack is accelerators that come and go.
type rack struct {
	mu    sync.Mutex
	ids   []string
	fault string // what the tool complains of
	looks int
}

func (r *rack) set(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids = ids
}

func (r *rack) detect(context.Context) gpu.Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks++
	if len(r.ids) == 0 {
		return gpu.Found{Vendor: "none", GPUs: []agentapi.GPU{}, Problem: "its tool lists none"}
	}
	found := gpu.Found{Vendor: "amd", Problem: r.fault}
	for _, id := range r.ids {
		found.GPUs = append(found.GPUs, agentapi.GPU{ID: id})
	}
	return found
}

func (r *rack) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.looks
}

// started runs an agent without its loops, which has looked once.
func (r *rack) started(t *testing.T) *Shim {
	t.Helper()
	s := &Shim{Config: Config{Detect: r.detect, Log: slog.New(slog.DiscardHandler)}, looking: make(chan struct{}, 1), news: make(chan struct{}), looked: time.Now()}
	found := r.detect(t.Context())
	s.host.GPUVendor, s.host.GPUs, s.problem, s.mostGPUs = found.Vendor, found.GPUs, found.Problem, len(found.GPUs)
	s.gpus = gpu.NewLocks(found.GPUs)
	return s
}

func (s *Shim) gpuIDs() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.host.GPUs {
		ids = append(ids, g.ID)
	}
	return ids
}

// Where there are none the agent looks again, soon at first; with all of them there it looks no more.
func TestLookForGPUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rack{}
		s := r.started(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.lookForGPUs(ctx) }()
		for range 10 {
			before := r.count()
			<-time.After(time.Minute)
			if n := r.count() - before; n < 3 || n > 6 {
				t.Errorf("%d looks in one of the first ten minutes", n)
			}
		}
		before := r.count()
		<-time.After(24 * time.Hour)
		if n := r.count() - before; n < 24*6-2 || n > 24*6+10 {
			t.Errorf("%d looks in a day", n)
		}
		r.set("a", "b")
		<-time.After(lookAtMost + time.Second)
		if got := s.gpuIDs(); !slices.Equal(got, []string{"a", "b"}) || s.problem != "" {
			t.Errorf("they are there, the agent knows %q (%s)", got, s.problem)
		}
		before = r.count()
		<-time.After(24 * time.Hour)
		if n := r.count() - before; n != 0 {
			t.Errorf("%d looks for more than all", n)
		}
		cancel()
		<-done
	})
}

// What a look finds is believed as far as it can be.
func TestLook(t *testing.T) {
	for name, c := range map[string]struct {
		was, is, want []string
		fault         string // that the look finds
		problem       string
	}{
		"they come up":         {nil, []string{"a", "b"}, []string{"a", "b"}, "", ""},
		"still none":           {nil, nil, nil, "", "its tool lists none"},
		"one comes up":         {nil, []string{"a"}, []string{"a"}, "b is lost", "b is lost"},
		"one falls off":        {[]string{"a", "b"}, []string{"b"}, []string{"b"}, "", "1 of 2 GPUs are not there any more"},
		"with words":           {[]string{"a", "b"}, []string{"b"}, []string{"b"}, "a is lost", "1 of 2 GPUs are not there any more: a is lost"},
		"one is another":       {[]string{"a", "b"}, []string{"a", "c"}, []string{"a", "c"}, "", ""},
		"the tool fails":       {[]string{"a", "b"}, nil, []string{"a", "b"}, "", "its tool lists none"},
		"nothing has happened": {[]string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}, "", ""},
		"the tool complains":   {[]string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}, "c is lost", "c is lost"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rack{ids: c.was}
				s := r.started(t)
				before := s.problem
				r.set(c.is...)
				r.fault = c.fault
				s.look(t.Context())
				if got := s.gpuIDs(); !slices.Equal(got, c.was) {
					t.Errorf("it looked again at once: %q", got)
				}
				<-time.After(justLooked)
				s.look(t.Context())
				if got := s.gpuIDs(); !slices.Equal(got, c.want) || s.problem != c.problem {
					t.Errorf("the agent knows %q (%s), want %q (%s)", got, s.problem, c.want, c.problem)
				}
				told := false
				select {
				case <-s.news:
					told = true
				default:
				}
				if changed := !slices.Equal(c.was, c.want) || before != c.problem; told != changed {
					t.Errorf("news: %v, want %v", told, changed)
				}
				if s.lacksGPUs() != (c.problem != "") {
					t.Errorf("it looks again: %v, with %q", s.lacksGPUs(), c.problem)
				}
			})
		})
	}
}

// Whatever becomes of what is wrong is told once, also when the list stays as it is.
func TestProblemsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rack{ids: []string{"a", "b"}}
		s := r.started(t)
		s.host.GPUVendor = "amd"
		for _, c := range []struct {
			gpus    []string
			fault   string
			problem string
			news    bool
		}{
			{[]string{"a", "b"}, "", "", false},
			{nil, "", "its tool lists none", true},
			{nil, "", "its tool lists none", false},
			{[]string{"a", "b"}, "a complains", "a complains", true},
			{[]string{"a", "b"}, "a and b complain", "a and b complain", true},
			{[]string{"a", "b"}, "", "", true},
		} {
			r.set(c.gpus...)
			r.fault = c.fault
			<-time.After(justLooked)
			s.look(t.Context())
			s.mu.Lock()
			news := false
			select {
			case <-s.news:
				news = true
			default:
			}
			s.askedAgain()
			if s.problem != c.problem || news != c.news || len(s.host.GPUs) != 2 {
				t.Errorf("with %q (%s): %q, news: %v, want %q, %v", c.gpus, c.fault, s.problem, news, c.problem, c.news)
			}
			s.mu.Unlock()
		}
	})
}

// Where the tool complained at the start, one may be missing that the agent has never seen: it looks until all is well.
func TestLookForOneThatWasNeverThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rack{ids: []string{"a"}, fault: "b is lost"}
		s := r.started(t)
		if !s.lacksGPUs() {
			t.Error("nothing is missing")
		}
		r.set("a", "b")
		r.fault = ""
		<-time.After(justLooked)
		s.look(t.Context())
		if got := s.gpuIDs(); !slices.Equal(got, []string{"a", "b"}) || s.problem != "" || s.lacksGPUs() {
			t.Errorf("the agent knows %q (%s)", got, s.problem)
		}
	})
}

// A look that hangs in the driver holds up no task that somebody ends.
func TestLookThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rack{}
		s := r.started(t)
		hangs := make(chan struct{})
		s.Detect = func(context.Context) gpu.Found { <-hangs; return gpu.Found{} }
		<-time.After(justLooked)
		go s.look(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s.look(ctx)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Error("two look at a time")
		}
		close(hangs)
	})
}

// A job gets accelerators whose driver came up after the agent, and the server hears of them by an end of its stream.
func TestDriverAfterTheAgent(t *testing.T) {
	t.Parallel() // it waits
	r := &rack{}
	a := run(t, newHome(t), newEngine(), func(c *Config) { c.Detect = r.detect })
	info, err := a.Host(t.Context())
	if err != nil || info.GPUVendor != "none" || len(info.GPUs) != 0 || !slices.Equal(info.Warnings, []string{"its tool lists none"}) {
		t.Fatalf("before: %+v (%v)", info, err)
	}
	early, late := a.running(), spec()
	e := a.listen()
	e.until("the task is told", func() bool { return len(e.heard()) > 0 })
	r.set("a", "b")
	select {
	case <-e.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the stream goes on")
	}
	deaf := a.listen()
	select {
	case <-deaf.done: // nobody has asked yet
	case <-time.After(20 * time.Second):
		t.Error("a stream that was opened before the server asked again goes on")
	}
	info, err = a.Host(t.Context())
	if err != nil || info.GPUVendor != "amd" || len(info.GPUs) != 2 || len(info.Warnings) != 0 {
		t.Errorf("after: %+v (%v)", info, err)
	}
	late.GPUs = 2
	a.put(late)
	if v := a.reaches(late.ID, agentapi.Running); !slices.Equal(v.GPUs, []string{"a", "b"}) {
		t.Errorf("the job holds %q", v.GPUs)
	}
	if v := a.get(early.ID); v.State != agentapi.Running {
		t.Errorf("the job before: %+v", v)
	}
	again := a.listen()
	again.until("the stream tells all", func() bool { return len(again.heard()) >= 2 })
}

// waits says that a task is seen to wait for accelerators.
func (a *agent) waits(id string) {
	a.t.Helper()
	a.until("it waits for GPUs", func() bool { return a.noted(id, "GPUs are waited for") })
	if v := a.get(id); v.State != agentapi.Preparing || len(v.GPUs) > 0 {
		a.t.Errorf("it waits for GPUs as %+v", v)
	}
}

// noted says that a text is in the log of a task's runner.
func (a *agent) noted(id, text string) bool {
	data, _ := os.ReadFile(filepath.Join(a.job(id), runner.OwnLogFile)) // not there yet
	return strings.Contains(string(data), text)
}

// A task waits for accelerators that are not there or that others hold, for as long as a driver takes to come up and
// some more. It does not begin with fewer, and does not wait when somebody ends it.
func TestAcquire(t *testing.T) {
	for name, c := range map[string]struct {
		n    int
		then func(r *rack, s *Shim, end func())
		want string // the ids, or the error
		wait time.Duration
	}{
		"all there":            {2, func(*rack, *Shim, func()) {}, "a b", 0},
		"none wanted":          {0, func(*rack, *Shim, func()) {}, "", 0},
		"those that are free":  {-1, func(*rack, *Shim, func()) {}, "a b", 0},
		"one held for a while": {3, func(_ *rack, s *Shim, _ func()) { <-time.After(time.Minute); s.gpus.Release("other") }, "a b c", time.Minute},
		"one held for good":    {3, func(*rack, *Shim, func()) {}, "no capacity: 3 GPUs requested, 2 available", gpuPatience},
		"one that was not there": {4, func(r *rack, s *Shim, _ func()) {
			s.gpus.Release("other")
			<-time.After(time.Minute)
			r.set("a", "b", "c", "d")
		}, "a b c d", time.Minute},
		"ended meanwhile": {3, func(_ *rack, _ *Shim, end func()) { <-time.After(time.Second); end() }, "no capacity: 3 GPUs requested, 2 available", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rack{ids: []string{"c", "a", "b"}, fault: "d is lost"}
				s := r.started(t)
				if _, err := s.gpus.Acquire("other", 1); err != nil {
					t.Fatal(err)
				}
				s.Home = t.TempDir()
				ctx, end := context.WithCancel(t.Context())
				go c.then(r, s, end)
				began := time.Now()
				gpus, err := s.newTask(agentapi.TaskSpec{ID: "me", GPUs: c.n}).acquire(ctx)
				var ids []string
				for _, g := range gpus {
					ids = append(ids, g.ID)
				}
				slices.Sort(ids)
				got := strings.Join(ids, " ")
				if err != nil {
					got = err.Error()
				}
				if took := time.Since(began); got != c.want || took < c.wait || took > c.wait+mostGPUPause {
					t.Errorf("it got %q after %v, want %q after %v", got, took, c.want, c.wait)
				}
				end()
			})
		})
	}
}

// The time that looks take counts: a tool that hangs until it is killed takes minutes each time.
func TestAcquireWhileLooksAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rack{ids: []string{"a"}, fault: "b is lost"}
		s := r.started(t)
		s.Home = t.TempDir()
		const look = 2 * time.Minute
		s.Detect = func(ctx context.Context) gpu.Found {
			<-time.After(look)
			return r.detect(ctx)
		}
		<-time.After(justLooked)
		began := time.Now()
		if _, err := s.newTask(agentapi.TaskSpec{ID: "me", GPUs: 2}).acquire(t.Context()); err == nil {
			t.Error("it got more than there are")
		}
		if took := time.Since(began); took < gpuPatience || took > gpuPatience+look+mostGPUPause {
			t.Errorf("it waited for %v, want %v", took, gpuPatience)
		}
	})
}

// One that fell off is given to one job, which cannot start, and not to the next.
func TestGPUThatFellOff(t *testing.T) {
	t.Parallel() // it waits
	r := &rack{ids: []string{"a", "b"}}
	e := newEngine()
	a := run(t, newHome(t), e, func(c *Config) { c.Detect = r.detect })
	<-time.After(justLooked)
	r.set("b")
	e.setGate(func(_ context.Context, call, _ string) error {
		if call == "create" {
			return errors.New("nvidia-container-cli: device error: a: unknown device")
		}
		return nil
	})
	first, second := spec(), spec()
	first.GPUs, second.GPUs = 1, 1
	a.put(first)
	a.reaches(first.ID, agentapi.Terminated)
	e.setGate(nil)
	a.put(second)
	if v := a.reaches(second.ID, agentapi.Running); !slices.Equal(v.GPUs, []string{"b"}) {
		t.Errorf("the next job holds %q", v.GPUs)
	}
}
