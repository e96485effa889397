package follow

import "time"

// quiet is how long a server may be away before that is worth a word.
const quiet = time.Second

// An outage is a time in which a server does not answer. Its zero value is a server that does.
type outage struct {
	since time.Time // of the first failure
	told  bool
}

// failed notes that the server failed at now. Answered says that it had answered before it did, however long ago: then
// this is a new outage. It returns whether it is time to say so, which happens once, and to give up.
func (o *outage) failed(now time.Time, answered bool) (say, giveUp bool) {
	if answered || o.since.IsZero() {
		*o = outage{since: now}
	}
	lasts := now.Sub(o.since)
	say = !o.told && lasts >= quiet
	o.told = o.told || say
	return say, lasts > patience
}
