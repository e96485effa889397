package run

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/encoded"
	"dstack/internal/project"
)

// maxListed bounds the runs that are remembered as lists show them, in bytes: two thousand of
// the usual size.
const maxListed = 12 << 20

// form is how a list shows a run.
type form struct {
	run  string // id
	jobs bool
	last int // of the attempts of a job, -1 for all
}

// shown is all that the text of a run in a list depends on, what it waits for excepted.
type shown struct {
	names
	rows    string // versions of the run and its jobs, and what hosts said of these
	deleted bool   // which changes no version
	cost    float64
	next    time.Time
	queued  bool
}

// listed are runs as a list shows them.
func (s *Service) listed(ctx context.Context, runs []Run, projects map[string]project.Project, req api.ListRunsRequest) (encoded.JSON[[]api.Run], error) {
	ids := make([]string, len(runs))
	for i, r := range runs {
		ids[i] = r.ID
	}
	f := form{jobs: req.IncludeJobs == nil || *req.IncludeJobs, last: -1}
	if req.JobSubmissionsLimit != nil {
		f.last = *req.JobSubmissionsLimit
	}
	var jobs map[string][]Job
	var err error
	if f.jobs {
		if jobs, err = s.rows.jobsOf(ctx, s.DB.Read(), ids...); err != nil {
			return nil, err
		}
	}
	waiting, err := s.waiting(ctx, runs, true)
	if err != nil {
		return nil, err
	}
	now, users := time.Now(), map[string]string{}
	out := make([]encoded.JSON[api.Run], len(runs))
	for i, r := range runs {
		if users[r.UserID] == "" {
			if users[r.UserID], err = s.ownerOf(ctx, r); err != nil {
				return nil, err
			}
		}
		f.run = r.ID
		of := names{projects[r.ProjectID].Name, users[r.UserID]}
		if out[i], err = s.texts.of(now, f, r, jobs[r.ID], of, waiting[i]); err != nil {
			return nil, err
		}
	}
	return encoded.List(out), nil
}

// texts remembers runs as lists show them.
type texts struct {
	cache encoded.Cache[form, shown, api.Run]
}

func newTexts() *texts {
	return &texts{encoded.Cache[form, shown, api.Run]{MaxBytes: maxListed}}
}

// of is a run as a list shows it. Its place in the queue changes with those of all others, so it
// is no part of what is remembered, but added at the end, where the wire has it.
func (t *texts) of(now time.Time, f form, r Run, jobs []Job, of names, w *api.RunWaiting) (encoded.JSON[api.Run], error) {
	state := shown{names: of, rows: versions(r, jobs), deleted: r.Deleted, cost: cost(now, r.Data.PastCost, jobs), next: r.next(now), queued: w != nil}
	text, err := t.cache.Of(f, state, func() api.Run {
		var limit *int
		if f.last >= 0 {
			limit = &f.last
		}
		return render(now, r, jobs, of, w != nil, false, limit)
	})
	if err != nil || w == nil {
		return text, err
	}
	place, err := encoded.Of(w)
	return encoded.With(text, "waiting", place), err
}

// versions tells what a run and its jobs are like from what they were like before.
func versions(r Run, jobs []Job) string {
	text := fmt.Appendf(nil, "%d", r.Version)
	for _, j := range jobs {
		text = fmt.Appendf(text, " %s %d", j.ID, j.Version)
		if t := j.Observed; t != nil { // which changes no version
			text = fmt.Appendf(text, " %d %v", t.IdleSeconds, t.Pull)
		}
	}
	return string(text)
}
