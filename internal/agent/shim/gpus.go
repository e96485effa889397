package shim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/agentapi"
)

const (
	// firstLook is when accelerators are looked for again that were not there when the agent started; later looks
	// are further apart, up to lookEagerly while drivers come up and jobs wait for them, and up to lookAtMost later.
	firstLook   = 5 * time.Second
	lookEagerly = 15 * time.Second
	eagerFor    = 10 * time.Minute
	lookAtMost  = 10 * time.Minute
	// justLooked is for how long a look need not be repeated.
	justLooked = 3 * time.Second
	// gpuPatience bounds how long a task waits for accelerators that others hold or that are not there, as long as
	// servers let jobs wait for them before they send any.
	gpuPatience = 5 * time.Minute
	// mostGPUPause bounds the pauses between two attempts to get them; the first is firstPause.
	mostGPUPause = 5 * time.Second
)

// acquire takes the task's accelerators. The server sends it when they are there and free, as far as it knows. Those
// that are not are waited for: a driver may come up after the agent when the host was restarted, and what is left of a
// task that has ended, or that the server has never heard of, may hold them for a moment yet.
func (t *task) acquire(ctx context.Context) ([]agentapi.GPU, error) {
	s := t.shim
	log := s.Log.With("task", t.spec.ID)
	began, waits := time.Now(), false // looks count as well: each may take minutes
	for pause := firstPause; ; pause = min(2*pause, mostGPUPause) {
		if t.spec.GPUs != 0 && s.lacksGPUs() {
			s.look(ctx)
		}
		gpus, err := s.gpus.Acquire(t.spec.ID, t.spec.GPUs)
		if err == nil && waits {
			log.Info("the GPUs of a task are there", "waited", time.Since(began))
			t.note("the GPUs are there")
		}
		if err == nil || time.Since(began) >= gpuPatience || ctx.Err() != nil {
			return gpus, err
		}
		if !waits {
			waits = true
			log.Warn("GPUs are waited for", "err", err)
			t.note("GPUs are waited for", "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// lookForGPUs looks again for as long as there may be more accelerators than are known: a driver may come up after
// the agent, as on machines of clouds, and one that fell off may come back.
func (s *Shim) lookForGPUs(ctx context.Context) {
	began := time.Now()
	for wait := firstLook; ; wait = min(2*wait, lookAtMost) {
		if time.Since(began) < eagerFor {
			wait = min(wait, lookEagerly)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		if s.lacksGPUs() {
			s.look(ctx)
		}
	}
}

// lacksGPUs says that no accelerators are known, or fewer than there were, or that their tool complains: there may be more.
func (s *Shim) lacksGPUs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.host.GPUs) == 0 || len(s.host.GPUs) < s.mostGPUs || s.problem != ""
}

// look asks once more which accelerators there are, unless somebody has just done so. Those that are known stay when a
// tool lists none, which may be broken, or their driver busy; that it does is told.
func (s *Shim) look(ctx context.Context) {
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return
	}
	if time.Since(s.looked) < justLooked {
		return
	}
	found := s.Detect(ctx)
	if ctx.Err() != nil {
		return // and the tool may have been ended
	}
	s.looked = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.host.GPUs
	if len(was) > 0 && (len(found.GPUs) == 0 || found.Vendor != s.host.GPUVendor) {
		s.setProblem(cmp.Or(found.Problem, fmt.Sprintf("%s's tool lists none of %d GPUs any more", s.host.GPUVendor, len(was))))
		return
	}
	s.mostGPUs = max(s.mostGPUs, len(found.GPUs))
	problem := found.Problem
	if lost := s.mostGPUs - len(found.GPUs); lost > 0 {
		problem = fmt.Sprintf("%d of %d GPUs are not there any more", lost, s.mostGPUs)
		if found.Problem != "" {
			problem += ": " + found.Problem
		}
	}
	s.setProblem(problem)
	if slices.EqualFunc(was, found.GPUs, func(a, b agentapi.GPU) bool { return a.ID == b.ID }) {
		return
	}
	s.Log.Info("a host's GPUs have changed", "vendor", found.Vendor, "were", len(was), "are", len(found.GPUs))
	s.host.GPUVendor, s.host.GPUs = found.Vendor, found.GPUs
	s.gpus.Set(found.GPUs)
	s.changedHost()
}

// changedHost makes servers ask again what host this is. s.mu is held.
func (s *Shim) changedHost() {
	select {
	case <-s.news:
	default:
		close(s.news)
	}
}

// tellHost is changedHost for those who do not hold s.mu.
func (s *Shim) tellHost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedHost()
}

// keepGPUs keeps the task's accelerators from others though it is over. Servers hear of that before they hear of its
// end, with which they take them for free.
func (t *task) keepGPUs() {
	s := t.shim
	if !slices.Contains(s.gpus.Owners(), t.spec.ID) {
		return
	}
	t.mu.Lock()
	t.left = true
	t.mu.Unlock()
	s.tellHost()
}

// usable sorts out the accelerators that what is left of ended tasks holds, and says why: a job that comes for them
// would wait in vain.
func (s *Shim) usable(gpus []agentapi.GPU) (list, held []agentapi.GPU, why string) {
	list = []agentapi.GPU{}
	var holders []string
	for _, g := range gpus {
		id := s.gpus.Owner(g.ID)
		if id == "" || !s.isLeft(id) {
			list = append(list, g)
			continue
		}
		held = append(held, g)
		if !slices.Contains(holders, id) {
			holders = append(holders, id)
		}
	}
	if len(holders) > 0 {
		slices.Sort(holders)
		why = fmt.Sprintf("%d of %d GPUs are held by what is left of tasks that have ended: %s", len(held), len(gpus), strings.Join(holders, ", "))
	}
	return list, held, why
}

// isLeft says that a task which holds accelerators is over, or is not known: its container may run yet.
func (s *Shim) isLeft(id string) bool {
	t := s.find(id)
	if t == nil {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left || t.state.State == agentapi.Terminated
}

// setProblem says what is wrong with the accelerators. s.mu is held.
func (s *Shim) setProblem(text string) {
	if text == s.problem {
		return
	}
	s.problem = text
	s.changedHost()
	if text != "" {
		s.Log.Warn("GPUs cannot be used", "problem", text)
	}
}

// askedAgain makes the next change of the host news again. s.mu is held.
func (s *Shim) askedAgain() {
	select {
	case <-s.news:
		s.news = make(chan struct{})
	default:
	}
}
