package shim

// maxEnded bounds the tasks that are remembered after their end.
const maxEnded = 4096

// ended remembers the latest tasks that were deleted here, or ended before they arrived. They
// must not start any more: the request that creates a task can be overtaken by those that end
// it, when a server was frozen or cut off between the two and another has done its work. It
// is forgotten with the agent, since such a request comes soon or never.
type ended struct {
	ids  map[string]bool
	ring []string
	next int // of ring, once it is full: the oldest
}

func newEnded() *ended { return &ended{ids: map[string]bool{}} }

func (e *ended) has(id string) bool { return e.ids[id] }

func (e *ended) add(id string) {
	if e.ids[id] {
		return
	}
	e.ids[id] = true
	if len(e.ring) < maxEnded {
		e.ring = append(e.ring, id)
		return
	}
	delete(e.ids, e.ring[e.next])
	e.ring[e.next] = id
	e.next = (e.next + 1) % maxEnded
}
