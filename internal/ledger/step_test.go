package ledger

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func TestStep(t *testing.T) {
	ready := backend.Instance{State: backend.StateRunning, Hostname: "h"}
	for name, tt := range map[string]struct {
		r    Record
		want effect
		at   time.Time
	}{
		"new":                   {Record{State: Intended, Wanted: true}, create, time.Time{}},
		"rate limited":          {Record{State: Intended, Wanted: true, Doc: Doc{TriedAt: now.Add(time.Second)}}, none, now.Add(time.Second)},
		"limit over":            {Record{State: Intended, Wanted: true, Doc: Doc{TriedAt: now}}, create, time.Time{}},
		"released early":        {Record{State: Intended}, cancel, time.Time{}},
		"unknown":               {Record{State: Unknown, Wanted: true}, lookup, time.Time{}},
		"unknown, unwanted":     {Record{State: Unknown}, lookup, time.Time{}},
		"booting":               {Record{State: Created, Wanted: true, Kind: backend.InstanceResource}, describe, time.Time{}},
		"ready":                 {Record{State: Created, Wanted: true, Kind: backend.InstanceResource, Doc: Doc{Instance: ready, SeenAt: ago(1)}}, none, time.Time{}},
		"ready, as Create said": {Record{State: Created, Wanted: true, Kind: backend.InstanceResource, Doc: Doc{Instance: ready}}, describe, time.Time{}},
		"ready, asked":          {Record{State: Created, Wanted: true, Kind: backend.InstanceResource, Doc: Doc{Instance: ready, SeenAt: ago(1), DescribedAt: ago(1)}, checkAt: now}, describe, time.Time{}},
		"ready, asked before":   {Record{State: Created, Wanted: true, Kind: backend.InstanceResource, Doc: Doc{Instance: ready, SeenAt: ago(1), DescribedAt: now}, checkAt: ago(1)}, none, time.Time{}},
		"ready, missing":        {Record{State: Created, Wanted: true, Kind: backend.InstanceResource, Doc: Doc{Instance: ready, SeenAt: ago(1), MissingAt: now}}, describe, time.Time{}},
		"ready, unwanted":       {Record{State: Created, Kind: backend.InstanceResource, Doc: Doc{Instance: ready, SeenAt: ago(1)}}, pass, time.Time{}},
		"deleting":              {Record{State: Deleting}, terminate, time.Time{}},
		"gone":                  {Record{State: Gone}, none, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.r.Doc.Proof = tt.r.proof()
			if got, at := step(now, tt.r); got != tt.want || !at.Equal(tt.at) {
				t.Errorf("step = %v at %v, want %v at %v", got, at, tt.want, tt.at)
			}
		})
	}
}

// TestStepOfGroups is what groups and their members wait for.
func TestStepOfGroups(t *testing.T) {
	const kind = backend.PlacementResource
	running := Doc{SeenAt: ago(1), Proof: Record{}.proof(), Instance: backend.Instance{State: backend.StateRunning}}
	member := func(g Record) Record {
		return Record{State: Intended, Wanted: true, Kind: backend.InstanceResource, GroupID: "g", group: &g}
	}
	for name, tt := range map[string]struct {
		r    Record
		want effect
		at   time.Time
	}{
		"its group is recorded":       {member(Record{State: Intended, Wanted: true}), none, now.Add(groupPause)},
		"its group is asked for":      {member(Record{State: Unknown, Wanted: true}), none, now.Add(groupPause)},
		"its group is being made":     {member(Record{State: Created, Wanted: true, Doc: Doc{Instance: backend.Instance{State: backend.StatePending}}}), none, now.Add(groupPause)},
		"its group is there":          {member(Record{State: Created, Wanted: true, Doc: running}), create, time.Time{}},
		"its group is refused":        {member(Record{State: Gone, Wanted: true}), refuse, time.Time{}},
		"its group is being deleted":  {member(Record{State: Deleting}), refuse, time.Time{}},
		"its group is not wanted":     {member(Record{State: Created, Doc: running}), refuse, time.Time{}},
		"its group failed":            {member(Record{State: Created, Wanted: true, Doc: Doc{Instance: backend.Instance{State: backend.StateFailed}}}), refuse, time.Time{}},
		"released while it waits":     {Record{State: Intended, GroupID: "g", group: &Record{State: Unknown, Wanted: true}}, cancel, time.Time{}},
		"group with a member":         {Record{State: Intended, Wanted: true, Kind: kind, members: 1}, create, time.Time{}},
		"group that nobody waits for": {Record{State: Intended, Wanted: true, Kind: kind}, cancel, time.Time{}},
		"in use":                      {Record{State: Created, Wanted: true, Kind: kind, Doc: running, members: 2, memberAt: ago(time.Hour)}, none, time.Time{}},
		"just left":                   {Record{State: Created, Wanted: true, Kind: kind, Doc: running, memberAt: ago(time.Second)}, none, now.Add(emptyFor - time.Second)},
		"left":                        {Record{State: Created, Wanted: true, Kind: kind, Doc: running, memberAt: ago(emptyFor)}, pass, time.Time{}},
		"not wanted":                  {Record{State: Created, Kind: kind, Doc: running, memberAt: now}, pass, time.Time{}},
		"not wanted, in use":          {Record{State: Created, Kind: kind, Doc: running, members: 1}, none, time.Time{}},
		"deleting":                    {Record{State: Deleting, Kind: kind}, terminate, time.Time{}},
		"deleting, found in use":      {Record{State: Deleting, Kind: kind, members: 1}, none, now.Add(groupPause)},
	} {
		t.Run(name, func(t *testing.T) {
			if got, at := step(now, tt.r); got != tt.want || !at.Equal(tt.at) {
				t.Errorf("step = %v at %v, want %v at %v", got, at, tt.want, tt.at)
			}
		})
	}
}

// TestAsked follows a request that got no answer: what is found later is paid since it was asked
// for, and no message of an earlier try is left.
func TestAsked(t *testing.T) {
	for name, tt := range map[string]struct{ asked, ended, found time.Time }{
		"answered late": {ago(5 * time.Minute), ago(3 * time.Minute), now},
		"at once":       {ago(time.Minute), ago(time.Minute), ago(time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			r := Record{State: Intended, Wanted: true, Doc: Doc{Message: "waits for its turn"}}
			r.asking(tt.asked, "")
			if r.Doc.Message != "" {
				t.Errorf("message %q while it is asked for", r.Doc.Message)
			}
			r.answered(tt.ended, backend.Instance{}, context.DeadlineExceeded)
			r.exists(tt.found, backend.Instance{State: backend.StateRunning})
			if !r.BilledFrom.Equal(tt.asked) {
				t.Errorf("billed from %v, want %v", r.BilledFrom, tt.asked)
			}
		})
	}
}

// TestSlowAnswer has a Create take longer than what is created takes to turn up: that it is not shown
// right after the answer is no proof that it has ended.
func TestSlowAnswer(t *testing.T) {
	const settle = time.Minute
	r := Record{State: Intended, Wanted: true, Kind: backend.InstanceResource}
	r.asking(ago(4*time.Minute), "")
	r.answered(now, backend.Instance{Ref: backend.Ref{ID: "m"}}, nil)
	for _, tt := range []struct {
		after time.Duration
		want  State
	}{{0, Created}, {settle - time.Second, Created}, {settle, Gone}} {
		r.described(now.Add(tt.after), witness{}, backend.Instance{}, backend.ErrNotFound, settle)
		if r.State != tt.want {
			t.Fatalf("not found %v after the answer: %s (%s), want %s", tt.after, r.State, r.Doc.Outcome, tt.want)
		}
	}
	if !r.BilledFrom.Equal(ago(4 * time.Minute)) {
		t.Errorf("billed from %v, want since it was asked for", r.BilledFrom)
	}
}

// TestAbsurdTimes has a provider say of a machine's begin and end what it cannot mean: it counts for
// nothing. Its clock may be somewhat off.
func TestAbsurdTimes(t *testing.T) {
	asked, ended, zero := ago(3*time.Hour), ago(time.Hour), time.Unix(0, 0)
	for name, tt := range map[string]struct {
		created, gone time.Time
		from, to      time.Time
	}{
		"told":                {ago(3*time.Hour - time.Minute), ended, ago(3*time.Hour - time.Minute), ended},
		"nothing":             {time.Time{}, time.Time{}, asked, now},
		"its clock is behind": {asked.Add(-time.Minute), asked.Add(-30 * time.Second), asked.Add(-time.Minute), asked.Add(-30 * time.Second)},
		"ended before":        {time.Time{}, asked.Add(-time.Minute), asked, asked},
		"its clock is ahead":  {now.Add(time.Minute), now.Add(2 * time.Minute), now, now},
		"no time":             {zero, zero, asked, now},
		"far ahead":           {now.Add(24 * time.Hour), now.Add(48 * time.Hour), asked, now},
		"before it was asked": {asked.Add(-24 * time.Hour), ended, asked, ended},
	} {
		t.Run(name, func(t *testing.T) {
			r := Record{ID: "r", State: Intended, Wanted: true, Kind: backend.InstanceResource}
			r.asking(asked, "")
			r.answered(asked, backend.Instance{Ref: backend.Ref{ID: "m"}}, nil)
			r.described(now, witness{}, backend.Instance{
				Mark: backend.Mark{IntentID: "r"}, Ref: backend.Ref{ID: "m"}, State: backend.StateGone, CreatedAt: tt.created, GoneAt: tt.gone,
			}, nil, time.Minute)
			if r.State != Gone || !r.BilledFrom.Equal(tt.from) || !r.BilledTo.Equal(tt.to) {
				t.Errorf("%s, billed from %v to %v, want %v to %v", r.State, r.BilledFrom, r.BilledTo, tt.from, tt.to)
			}
		})
	}
	for _, tt := range []struct{ created, from time.Time }{{ago(48 * time.Hour), ago(48 * time.Hour)}, {zero, now}} { // found by a sweep
		r := Record{Kind: backend.InstanceResource}
		r.revived(now, backend.Owned{Ref: backend.Ref{ID: "m"}, CreatedAt: tt.created})
		if !r.BilledFrom.Equal(tt.from) {
			t.Errorf("of what was created at %v, found without an intent, billed from %v, want %v", tt.created, r.BilledFrom, tt.from)
		}
	}
}

// TestExplanation has the provider explain a state that ends: the explanation does too, and what others
// have said does not.
func TestExplanation(t *testing.T) {
	const settle = time.Minute
	r := Record{State: Created, Wanted: true, Kind: backend.InstanceResource, BilledFrom: ago(time.Hour), Doc: Doc{SeenAt: ago(time.Hour)}}
	r.Doc.Proof = r.proof()
	for _, want := range []string{"", "its checks fail", ""} {
		r.described(now, witness{}, backend.Instance{Ref: backend.Ref{ID: "m"}, State: backend.StateRunning, Hostname: "h", Message: want}, nil, settle)
		if r.Message() != want {
			t.Errorf("the provider says %q, shown is %q", want, r.Message())
		}
	}
	r.unwanted(now)
	refused := errors.New("may not be deleted")
	r.terminated(now, refused, backend.Instance{}, refused, settle)
	if r.see(now, backend.Instance{State: backend.StateRunning}); r.Message() != refused.Error() {
		t.Errorf("why it is not deleted is shown as %q", r.Message())
	}
}

// TestExplains is what a sweep has nothing to do about.
func TestExplains(t *testing.T) {
	const account = "key"
	shown := backend.Owned{Ref: backend.Ref{ID: "m"}, Price: 2}
	good := Record{State: Created, Wanted: true, Price: 2, Doc: Doc{Instance: backend.Instance{Ref: shown.Ref}, Accounts: []string{account}, Priced: true}}
	for name, tt := range map[string]struct {
		change func(r *Record)
		want   bool
	}{
		"as it was":                  {func(*Record) {}, true},
		"not wanted":                 {func(r *Record) { r.Wanted = false }, true},
		"being deleted":              {func(r *Record) { r.State = Deleting }, true},
		"asked for":                  {func(r *Record) { r.State = Unknown }, false},
		"gone":                       {func(r *Record) { r.State = Gone }, false},
		"another, of one request":    {func(r *Record) { r.Doc.Instance.Ref.ID = "n" }, false},
		"at another price":           {func(r *Record) { r.Price = 3 }, false},
		"at a price that is news":    {func(r *Record) { r.Doc.Priced = false }, false},
		"by another account":         {func(r *Record) { r.Doc.Accounts = []string{"other"} }, false},
		"by nobody before":           {func(r *Record) { r.Doc.Accounts = nil }, false},
		"though it was thought lost": {func(r *Record) { r.Doc.Message = otherAccount }, false},
		"of a broken record":         {func(r *Record) { r.Doc.Damage = "no JSON" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			r.Doc.Accounts = []string{account}
			tt.change(&r)
			if got := r.explains(shown, account); got != tt.want {
				t.Errorf("explains = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTerminated(t *testing.T) {
	const settle = time.Minute
	boom := errors.New("internal error")
	living := backend.Instance{State: backend.StateRunning}
	for name, tt := range map[string]struct {
		doc       Doc
		asked     error
		inst      backend.Instance
		described error
		want      State
	}{
		"taken, still there":        {Doc{SeenAt: ago(1)}, nil, living, nil, Deleting},
		"taken, gone":               {Doc{SeenAt: ago(1)}, nil, backend.Instance{State: backend.StateGone}, nil, Gone},
		"taken, not found":          {Doc{SeenAt: ago(1)}, nil, backend.Instance{}, backend.ErrNotFound, Gone},
		"taken, never seen":         {Doc{TriedAt: ago(time.Second)}, nil, backend.Instance{}, backend.ErrNotFound, Deleting},
		"taken, never seen, old":    {Doc{TriedAt: ago(settle)}, nil, backend.Instance{}, backend.ErrNotFound, Gone},
		"unknown to both":           {Doc{SeenAt: ago(1)}, backend.ErrNotFound, backend.Instance{}, backend.ErrNotFound, Deleting},
		"unknown to both for long":  {Doc{SeenAt: ago(1), MissingAt: ago(missingFor)}, backend.ErrNotFound, backend.Instance{}, backend.ErrNotFound, Gone},
		"taken before, not found":   {Doc{SeenAt: ago(1), Taken: true}, backend.ErrNotFound, backend.Instance{}, backend.ErrNotFound, Gone},
		"not found, but described":  {Doc{SeenAt: ago(1), Taken: true}, backend.ErrNotFound, living, nil, Deleting},
		"refused":                   {Doc{SeenAt: ago(1)}, boom, backend.Instance{}, boom, Deleting},
		"refused, still there":      {Doc{SeenAt: ago(1), MissingAt: ago(time.Hour)}, boom, living, nil, Deleting},
		"refused, gone":             {Doc{SeenAt: ago(1)}, boom, backend.Instance{State: backend.StateGone}, nil, Gone},
		"refused, not found":        {Doc{SeenAt: ago(1)}, boom, backend.Instance{}, backend.ErrNotFound, Deleting},
		"refused, long not found":   {Doc{SeenAt: ago(1), MissingAt: ago(missingFor)}, boom, backend.Instance{}, backend.ErrNotFound, Gone},
		"taken, then no answer":     {Doc{SeenAt: ago(1)}, nil, backend.Instance{}, boom, Deleting},
		"credentials taken away":    {Doc{SeenAt: ago(1), Taken: true}, backend.ErrAuth, backend.Instance{}, backend.ErrAuth, Deleting},
		"not found, then no answer": {Doc{SeenAt: ago(1)}, backend.ErrNotFound, backend.Instance{}, boom, Deleting},
	} {
		t.Run(name, func(t *testing.T) {
			r := Record{State: Deleting, BilledFrom: ago(time.Hour), Doc: tt.doc}
			at := r.terminated(now, tt.asked, tt.inst, tt.described, settle)
			if r.State != tt.want {
				t.Errorf("state %s, want %s", r.State, tt.want)
			}
			if (r.State == Gone) != at.IsZero() || (r.State == Gone) != !r.BilledTo.IsZero() {
				t.Errorf("again at %v, billed to %v", at, r.BilledTo)
			}
			if tt.described == nil && r.State == Deleting && !r.Doc.MissingAt.IsZero() {
				t.Errorf("what was described just now is missing since %v", r.Doc.MissingAt)
			}
		})
	}
}

// TestDeletionUnderALimit has the provider's limit keep a deletion waiting: as long as it says and no
// longer than a while, however often.
func TestDeletionUnderALimit(t *testing.T) {
	for _, tt := range []struct {
		tries int
		after time.Duration
		want  time.Duration
	}{{0, 0, 2 * time.Second}, {0, 30 * time.Second, 30 * time.Second}, {0, 24 * time.Hour, longestLimit}, {20, 0, longestLimit}} {
		r := Record{State: Deleting, BilledFrom: ago(time.Hour), Doc: Doc{SeenAt: ago(1), Tries: tt.tries}}
		limit := &backend.RateLimitedError{After: tt.after}
		if at := r.terminated(now, limit, backend.Instance{}, limit, time.Minute); !at.Equal(now.Add(tt.want)) || r.State != Deleting {
			t.Errorf("after %d tries, limited for %v: again in %v (%s), want %v", tt.tries, tt.after, at.Sub(now), r.State, tt.want)
		}
	}
}

func TestPauses(t *testing.T) {
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1 << 30: 30 * time.Second} {
		if got := lookupPause(n); got != want {
			t.Errorf("lookupPause(%d) = %v, want %v", n, got, want)
		}
	}
	if got := deletePause(1000, false); got != 10*time.Minute {
		t.Errorf("deletePause = %v", got)
	}
}

func FuzzResourceName(f *testing.F) {
	f.Add("main", "train-0")
	f.Add("Ünïcode project", strings.Repeat("long-", 30))
	f.Add("--", "_._")
	f.Fuzz(func(t *testing.T, project, name string) {
		got := resourceName(project, name, "0b6a3b9e-6f0e-4d5e-9a55-7f6f0f3b8c11")
		if len(got) > maxName || !strings.HasPrefix(got, "dstack") || !strings.HasSuffix(got, "-0b6a3b9e") || plain(got) != got {
			t.Errorf("resourceName(%q, %q) = %q", project, name, got)
		}
	})
}
