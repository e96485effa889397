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

// turns has some instances at a time visit their hosts; the others are called, in order, when there
// is room. It is safe for concurrent use.
type turns struct {
	mu      sync.Mutex
	room    int
	waiting []string
}

func newTurns(room int) *turns { return &turns{room: room} }

// take says whether an instance may go on now. One that may not is called later; one that may gives
// its turn back.
func (t *turns) take(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(other string) bool { return other == id })
	if t.room == 0 {
		t.waiting = append(t.waiting, id)
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
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, func(other string) bool { return other == id })
	return t.next()
}

// lost forgets those that other replicas look at now.
func (t *turns) lost(theirs func(id string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting = slices.DeleteFunc(t.waiting, theirs)
}

func (t *turns) next() string {
	if t.room == 0 || len(t.waiting) == 0 {
		return ""
	}
	id := t.waiting[0]
	t.waiting = t.waiting[1:]
	return id
}

// visits says that the next step of an instance is one on a host of the user.
func (i *Instance) visits() bool {
	if !i.SSH() {
		return false
	}
	return i.Status == api.InstancePending ||
		i.Status == api.InstanceTerminating && len(i.Assignments) == 0 && i.Data.Touched && i.Data.Tries < uninstallTries
}
