package instance

import (
	"slices"
	"sync"

	"dstack/internal/api"
)

const (
	// workers is how many instances are looked at at the same time.
	workers = 32
	// visitors is how many of them may be on their way to hosts of users, which takes a pass as long as
	// a host takes to answer, or not to: the rest is for machines of clouds.
	visitors = 24
)

// turns has some instances at a time visit their hosts; the others are called, in the order in which they came, when
// there is room. It is safe for concurrent use.
type turns struct {
	mu      sync.Mutex
	room    int
	waiting []waiter
}

// waiter is an instance without a turn. One that is called keeps its place until it has got one: somebody else may
// have come first, and it may not come at all.
type waiter struct {
	id     string
	called bool
}

func newTurns(room int) *turns { return &turns{room: room} }

// take says whether an instance may go on now. One that may not is called later, however often it asks until then;
// one that may gives its turn back.
func (t *turns) take(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.IndexFunc(t.waiting, func(w waiter) bool { return w.id == id })
	switch {
	case t.room > 0 && at >= 0:
		t.waiting = slices.Delete(t.waiting, at, at+1)
	case t.room > 0:
	case at >= 0:
		t.waiting[at].called = false
		return false
	default:
		t.waiting = append(t.waiting, waiter{id: id})
		return false
	}
	t.room--
	return true
}

// give ends a turn and returns who is called, "" when nobody waits.
func (t *turns) give() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.room++
	return t.next()
}

// decline is for an instance that needs no turn, and may have been called for one: who is next is
// returned, "" when nobody waits or there is no room.
func (t *turns) decline(id string) string {
	t.lost(func(other string) bool { return other == id })
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next()
}

// lost forgets those that other replicas look at now.
func (t *turns) lost(theirs func(id string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(w waiter) bool { return theirs(w.id) })
}

// next calls the first that has not been called.
func (t *turns) next() string {
	if t.room == 0 {
		return ""
	}
	at := slices.IndexFunc(t.waiting, func(w waiter) bool { return !w.called })
	if at < 0 {
		return ""
	}
	t.waiting[at].called = true
	return t.waiting[at].id
}

// visits says that the next step of an instance is one on a host of the user.
func (i *Instance) visits() bool {
	if !i.SSH() {
		return false
	}
	return i.Status == api.InstancePending ||
		i.Status == api.InstanceTerminating && len(i.Assignments) == 0 && i.Data.Touched && i.Data.Tries < uninstallTries
}
