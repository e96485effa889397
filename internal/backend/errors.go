package backend

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The clear answers of a provider. Any other error leaves the outcome unknown: the
// instance may exist.
var (
	ErrNoCapacity = errors.New("no capacity")
	ErrQuota      = errors.New("quota exceeded")
	ErrAuth       = errors.New("credentials rejected")
	ErrNotFound   = errors.New("not found")
	ErrInUse      = errors.New("in use") // of DeletePlacement: instances are in the group
)

// A RateLimitedError says that nothing was done and when to ask again.
type RateLimitedError struct {
	After time.Duration // 0 when the provider does not say
	// Queued says that the provider was not asked: the backend keeps to its limits, and After is
	// when to ask the backend again, however often it says so ([QueueBackend]).
	Queued bool
}

func (e *RateLimitedError) Error() string {
	if e.Queued {
		return "waits for its turn under the provider's rate limit, which is looked for again in " + e.After.Round(time.Second).String()
	}
	if e.After == 0 {
		return "rate limited"
	}
	return "rate limited for " + e.After.String()
}

// An UnreadError comes with an answer of List that has what could be read: of some resources, what the
// provider sent could not.
type UnreadError struct {
	Rows []string // which, and what of them, for people
	// Hidden says that something of ours may be among them that is not listed. That something is not listed
	// proves nothing then.
	Hidden bool
}

// maxUnread bounds the rows that the text of an UnreadError has.
const maxUnread = 5

func (e *UnreadError) Error() string {
	text := strings.Join(e.Rows[:min(len(e.Rows), maxUnread)], "; ")
	if more := len(e.Rows) - maxUnread; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	if e.Hidden {
		return "it lists what cannot be read and may be ours: " + text
	}
	return "it lists what cannot be read: " + text
}

// An InvalidError says that the request can never succeed as it is.
type InvalidError struct {
	Path string // of the field: "regions[0]", "instance_type"
	Msg  string
}

func (e *InvalidError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

// Refused reports whether err proves that a Create created nothing.
func Refused(err error) bool {
	if _, ok := errors.AsType[*RateLimitedError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*InvalidError](err); ok {
		return true
	}
	return errors.Is(err, ErrNoCapacity) || errors.Is(err, ErrQuota) || errors.Is(err, ErrAuth)
}
