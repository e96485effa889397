package sim

import (
	"fmt"
	"time"
)

// mostRequests is how often in a minute a cloud may be asked the same of one machine or group (I17):
// a deletion is looked at after 1, 1, 2, 2, 4 and 4 s and so on, by each server that comes and goes.
const mostRequests = 30

// requested is told of each request to a cloud: what, and of which machine.
func (c *checker) requested(cloud, what string) {
	const per = time.Minute
	key, now := cloud+" "+what, time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	times := append(c.requests[key], now)
	for now.Sub(times[0]) > per {
		times = times[1:]
	}
	c.requests[key] = times
	if len(times) > mostRequests {
		c.violateLocked("I17", fmt.Sprintf("%s was requested more than %d times in %v", key, mostRequests, per))
	}
}
