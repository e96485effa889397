package apply

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/cli/follow"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// What applies to fleets, gateways and volumes alike.

// statusPoll is how often the status of what is being created or deleted is asked for.
const statusPoll = 500 * time.Millisecond

// approved says what the plan means and asks; false: all stays as it is.
func (o Options) approved(ctx context.Context, d decision) (bool, error) {
	if d.same && o.Yes && !o.Force {
		o.Println("No configuration changes detected. Use --force to apply anyway.")
		return false, nil
	}
	if d.message != "" {
		o.Println(d.message)
	}
	return o.Agreed(ctx, o.Yes, d.question)
}

// progress is how people see a resource while it is provisioned.
type progress[T any] struct {
	title   func(T) string
	table   func(T) *term.Table
	settled func(T) bool
	get     func(ctx context.Context) (T, error)
}

// wait shows a resource until it is settled, and returns what is known last.
func (p progress[T]) wait(ctx context.Context, o Options, v T) (T, error) {
	live := o.Wait(p.title(v))
	defer live.Close()
	show := func() { live.Set(p.title(v), o.Lines(p.table(v))...) }
	show()
	if p.settled(v) {
		return v, nil
	}
	err := follow.Poll(ctx, statusPoll, func(ctx context.Context) (bool, error) {
		next, err := p.get(ctx)
		if err != nil {
			return false, err
		}
		v = next
		show()
		return p.settled(v), nil
	})
	return v, err
}

// provisioning is the title for a resource of a name.
func provisioning(name string) string { return fmt.Sprintf("Provisioning %s...", name) }

// gone asks until the server says that the object does not exist.
func gone(ctx context.Context, get func(context.Context) error) error {
	return follow.Poll(ctx, statusPoll, func(ctx context.Context) (bool, error) {
		err := get(ctx)
		if program.NotFound(err) {
			return true, nil
		}
		return false, err
	})
}
