// Package follow watches a run until something happens, and copies its log as it grows.
//
// Tests use a fake server and virtual time.
package follow

import (
	"context"
	"errors"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/program"
)

const (
	firstPoll = 50 * time.Millisecond
	lastPoll  = 2 * time.Second
	// longPoll is how long the server may keep a question open.
	longPoll = 25 * time.Second
	// patience is how long a server may be unreachable before watching gives up.
	patience = 2 * time.Minute
)

// Watcher sees the changes of one run. Servers that can are asked to answer when something changes; others are asked
// often at first and after each change, then less and less often.
type Watcher struct {
	Conn *program.Conn
	ID   string
	Name string // of the run; "" asks by ID only
	// Patient watchers never give up on a server that cannot be reached.
	Patient bool
	// Lost, if set, is called when the server gave no answer and is about to be asked again.
	Lost func()
}

// Get returns the run as it is now.
func (w *Watcher) Get(ctx context.Context) (api.Run, error) {
	return w.Conn.GetRun(ctx, w.Conn.Project, api.GetRunRequest{ID: &w.ID})
}

// Until calls visit with the run as it is and after every change, until visit returns true. Waiting says in words
// what the run waits for, "" if the server does not know. It goes on while the server cannot be reached for a while.
func (w *Watcher) Until(ctx context.Context, visit func(r api.Run, waiting string) (bool, error)) error {
	p := poller{Watcher: *w, wait: firstPoll, polls: w.Name == ""}
	answered := time.Now()
	for {
		r, waiting, err := p.next(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && (!transient(err) || !w.Patient && time.Since(answered) > patience):
			return err
		case err != nil:
			if w.Lost != nil {
				w.Lost()
			}
			if !pause(ctx, p.backoff()) {
				return ctx.Err()
			}
		default:
			answered = time.Now()
			if done, err := visit(r, waiting); done || err != nil {
				return err
			}
		}
	}
}

type poller struct {
	Watcher
	polls bool // the server cannot wait for us
	asked bool
	seen  string
	wait  time.Duration
}

func (p *poller) backoff() time.Duration {
	d := p.wait
	p.wait = min(p.wait*5/4, lastPoll)
	return d
}

// next returns the run, at the first call at once, then when it may have changed.
func (p *poller) next(ctx context.Context) (api.Run, string, error) {
	if p.polls {
		return p.poll(ctx)
	}
	req := api.WatchRunRequest{RunName: p.Name, Seen: p.seen, Wait: int(longPoll.Seconds())}
	res, err := p.Conn.WatchRun(ctx, p.Conn.Project, req)
	if program.NotServed(err) || program.NotFound(err) || err == nil && res.Run.ID != p.ID {
		p.polls = true // an older server, or the name belongs to another run by now
		return p.poll(ctx)
	}
	if err != nil {
		return api.Run{}, "", err
	}
	if p.seen == res.Version && p.asked {
		return res.Run, res.Waiting, nil // nothing new in all that time
	}
	p.seen, p.asked, p.wait = res.Version, true, firstPoll
	return res.Run, res.Waiting, nil
}

func (p *poller) poll(ctx context.Context) (api.Run, string, error) {
	if p.asked && !pause(ctx, p.backoff()) {
		return api.Run{}, "", ctx.Err()
	}
	r, err := p.Get(ctx)
	if err != nil {
		return r, "", err
	}
	p.asked = true
	if sig := signature(r); sig != p.seen {
		p.seen, p.wait = sig, firstPoll
	}
	return r, "", nil
}

// signature is equal for runs that look the same to a waiting user.
func signature(r api.Run) string {
	s := string(r.Status) + r.StatusMessage
	for _, j := range r.Jobs {
		if sub := Last(j); sub != nil {
			s += "," + string(sub.Status) + sub.ID
		}
	}
	return s
}

// transient reports whether asking again may help: no answer, or one that blames the server.
func transient(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return !ok || e.Status >= 500 || e.Status == 429
}

// Last is the newest submission of a job, nil if there is none.
func Last(j api.Job) *api.JobSubmission {
	if len(j.JobSubmissions) == 0 {
		return nil
	}
	return &j.JobSubmissions[len(j.JobSubmissions)-1]
}

// Ended returns a function for [Log.Follow] that tells whether a submission of a job has ended. It asks the server at
// most once a second.
func (w *Watcher) Ended(ctx context.Context, submission string) func() bool {
	ended := false
	var asked time.Time
	return func() bool {
		if ended || time.Since(asked) < time.Second {
			return ended
		}
		asked = time.Now()
		r, err := w.Get(ctx)
		if err != nil {
			return false
		}
		ended = true
		for _, j := range r.Jobs {
			if s := Last(j); s != nil && s.ID == submission {
				ended = s.Status.Finished()
			}
		}
		return ended
	}
}
