package agentapi

import "time"

// longest is the longest time that is told apart from never: a hundred years. It can be added
// to a time, and a little to it, which the longest [time.Duration] cannot.
const longest = 100 * 365 * 24 * time.Hour

// Seconds is n seconds, the longest time when n is more than that. Durations come from users
// as whole seconds of any size.
func Seconds(n int64) time.Duration {
	return time.Duration(max(0, min(n, int64(longest/time.Second)))) * time.Second
}
