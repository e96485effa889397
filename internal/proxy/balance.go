package proxy

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"dstack/internal/run"
)

// restFor is how long a replica that could not be reached is left alone, while others are there.
const restFor = 10 * time.Second

// replica is what is known of a replica's state.
type replica struct {
	id      string
	busy    int  // requests under way
	resting bool // it could not be reached lately
	tried   bool // for this request
}

// order lists replicas in the order in which to try them: those with the least requests under
// way first, and of equals each in its turn. Those that rest come last, those that were tried
// not at all.
func order(list []replica, turn uint32) []string {
	n := len(list)
	var ids []string
	at := make([]int, 0, n)
	for i := range list {
		if !list[i].tried {
			at = append(at, i)
		}
	}
	place := func(i int) int { return (i + n - int(turn%uint32(n))) % n }
	slices.SortFunc(at, func(a, b int) int {
		x, y := list[a], list[b]
		if x.resting != y.resting {
			if y.resting {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.busy, y.busy), cmp.Compare(place(a), place(b)))
	})
	for _, i := range at {
		ids = append(ids, list[i].id)
	}
	return ids
}

// balance knows the state of replicas that are busy or rest. The zero value is ready to use.
type balance struct {
	mu   sync.Mutex
	byID map[string]*load
}

type load struct {
	busy  int
	until time.Time // when it has rested
}

// take picks a replica for a request, false when all were tried. It is given back with release.
func (b *balance) take(s *served, tried map[string]bool) (run.Endpoint, bool) {
	if len(s.Replicas) == 0 {
		return run.Endpoint{}, false
	}
	turn := s.turn.Add(1)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]replica, len(s.Replicas))
	for i, e := range s.Replicas {
		list[i] = replica{id: e.JobID, tried: tried[e.JobID]}
		if l := b.byID[e.JobID]; l != nil {
			list[i].busy, list[i].resting = l.busy, now.Before(l.until)
		}
	}
	ids := order(list, turn)
	if len(ids) == 0 {
		return run.Endpoint{}, false
	}
	b.of(ids[0]).busy++
	return s.Replicas[slices.IndexFunc(s.Replicas, func(e run.Endpoint) bool { return e.JobID == ids[0] })], true
}

// of wants the mutex held.
func (b *balance) of(id string) *load {
	if b.byID == nil {
		b.byID = map[string]*load{}
	}
	l := b.byID[id]
	if l == nil {
		l = &load{}
		b.byID[id] = l
	}
	return l
}

// release says that a request is over; failed, that the replica could not be reached.
func (b *balance) release(id string, failed bool) {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of(id)
	if l.busy--; l.busy == 0 && !now.Before(l.until) {
		delete(b.byID, id)
	}
	if !failed {
		return
	}
	for id, l := range b.byID { // those that have rested
		if l.busy == 0 && !now.Before(l.until) {
			delete(b.byID, id)
		}
	}
	b.of(id).until = now.Add(restFor)
}

// busy is how many requests a replica works on.
func (b *balance) busy(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.byID[id]; l != nil {
		return l.busy
	}
	return 0
}
