// Package event is `dstack event`.
package event

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/api"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const (
	pageSize = 100
	every    = 2 * time.Second
	// overlap is how far back watching looks, as events may appear late.
	overlap = 20 * time.Second
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project string
	Watch   bool
	JSON    bool
	Since   string

	TargetFleets, TargetRuns, TargetVolumes, TargetGateways, TargetSecrets []string
	WithinFleets, WithinRuns                                               []string
	IncludeTypes                                                           []string
}

// New returns the command; `list` is its only subcommand and the default.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	run := func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) }
	cmd := &cobra.Command{Use: "event", Short: "View events", Args: cobra.NoArgs, RunE: run}
	list := &cobra.Command{Use: "list", Short: "List events", Args: cobra.NoArgs, RunE: run}
	for _, c := range []*cobra.Command{cmd, list} {
		o.flags(c.Flags())
		c.MarkFlagsMutuallyExclusive("target-fleet", "target-run", "target-volume", "target-gateway", "target-secret")
		c.MarkFlagsMutuallyExclusive("within-fleet", "within-run")
	}
	cmd.AddCommand(list)
	return cmd
}

func (o *Options) flags(f *pflag.FlagSet) {
	program.ProjectFlag(f, &o.Project)
	f.BoolVarP(&o.Watch, "watch", "w", false, "print new events as they come")
	f.BoolVar(&o.JSON, "json", false, "print one JSON object per line")
	f.StringVar(&o.Since, "since", "", "only events after this time: a duration like 5m or 1d, or an RFC 3339 time")
	f.StringArrayVar(&o.TargetFleets, "target-fleet", nil, "events of this fleet; repeatable")
	f.StringArrayVar(&o.TargetRuns, "target-run", nil, "events of this run; repeatable")
	f.StringArrayVar(&o.TargetVolumes, "target-volume", nil, "events of this volume; repeatable")
	f.StringArrayVar(&o.TargetGateways, "target-gateway", nil, "events of this gateway; repeatable")
	f.StringArrayVar(&o.TargetSecrets, "target-secret", nil, "events of this secret; repeatable")
	f.StringArrayVar(&o.WithinFleets, "within-fleet", nil, "events of this fleet and its instances; repeatable")
	f.StringArrayVar(&o.WithinRuns, "within-run", nil, "events of this run and its jobs; repeatable")
	f.StringArrayVar(&o.IncludeTypes, "include-target-type", nil, "events of this type of target; repeatable")
}

// Run prints events, oldest first.
func Run(ctx context.Context, o Options) error {
	var since *time.Time
	if o.Since != "" {
		t, err := format.Since(o.Time(), o.Since)
		if err != nil {
			return err
		}
		t = t.UTC()
		since = &t
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	req, err := o.filters(ctx, c)
	if err != nil {
		return err
	}
	pr := printer{Options: o, conn: c, req: req, seen: map[string]time.Time{}}
	if since != nil {
		err = pr.after(ctx, *since)
	} else {
		err = pr.latest(ctx)
	}
	if err != nil || !o.Watch {
		return err
	}
	return pr.watch(ctx)
}

type printer struct {
	Options
	conn *program.Conn
	req  api.ListEventsRequest
	seen map[string]time.Time // ids of events that may come again
	last time.Time
}

// latest prints the last page.
func (p *printer) latest(ctx context.Context) error {
	req, size := p.req, pageSize
	req.Limit = &size
	evs, err := p.conn.ListEvents(ctx, req)
	if err != nil {
		return err
	}
	for i := len(evs) - 1; i >= 0; i-- {
		if err := p.print(evs[i]); err != nil {
			return err
		}
	}
	return nil
}

// after prints all that was recorded after t.
func (p *printer) after(ctx context.Context, t time.Time) error {
	req, size := p.req, pageSize
	req.Limit, req.Ascending = &size, true
	req.PrevRecordedAt = &api.Time{Time: t}
	for {
		evs, err := p.conn.ListEvents(ctx, req)
		if err != nil {
			return err
		}
		for _, ev := range evs {
			if err := p.print(ev); err != nil {
				return err
			}
		}
		if len(evs) < pageSize {
			return nil
		}
		at, id := evs[len(evs)-1].RecordedAt, evs[len(evs)-1].ID
		req.PrevRecordedAt, req.PrevID = &at, &id
	}
}

func (p *printer) watch(ctx context.Context) error {
	start := p.Time().UTC()
	err := follow.Poll(ctx, every, func(ctx context.Context) (bool, error) {
		from := p.last.Add(-overlap)
		if p.last.IsZero() {
			from = start.Add(-overlap)
		}
		if err := p.after(ctx, from); err != nil {
			return false, err
		}
		for id, t := range p.seen {
			if t.Before(from) {
				delete(p.seen, id)
			}
		}
		return false, nil
	})
	if ctx.Err() != nil {
		return nil // Ctrl+C is how watching ends
	}
	return err
}

func (p *printer) print(ev api.Event) error {
	if _, again := p.seen[ev.ID]; again {
		return nil
	}
	at := ev.RecordedAt.Time
	p.seen[ev.ID] = at
	if at.After(p.last) {
		p.last = at
	}
	if p.JSON {
		return p.PrintCompactJSON(ev)
	}
	p.Println(p.line(ev))
	return nil
}

func (p *printer) line(ev api.Event) string {
	var b strings.Builder
	b.WriteString(p.Paint(term.Secondary, ev.RecordedAt.Local().Format("[2006-01-02 15:04:05]")))
	if ev.ActorUser != nil {
		fmt.Fprintf(&b, " [👤%s]", *ev.ActorUser)
	}
	targets := make([]string, len(ev.Targets))
	for i, t := range ev.Targets {
		name := t.Name
		if t.ProjectName != nil && *t.ProjectName != p.conn.Project && t.Type != "project" {
			name = *t.ProjectName + "/" + name
		}
		targets[i] = fmt.Sprintf("%s %s", t.Type, name)
	}
	fmt.Fprintf(&b, " [%s] %s", strings.Join(targets, ", "), ev.Message)
	return b.String()
}

// filters resolves names to ids. Without a filter it is the whole project.
func (o Options) filters(ctx context.Context, c *program.Conn) (api.ListEventsRequest, error) {
	req := api.ListEventsRequest{}
	fleet := func(ref string) (string, error) {
		project, name := c.SplitName(ref)
		f, err := c.GetFleet(ctx, project, api.GetFleetRequest{Name: &name})
		return f.ID, missing(err, "Fleet", ref)
	}
	run := func(name string) (string, error) {
		r, err := c.Run(ctx, name)
		return r.ID, err
	}
	for _, f := range []struct {
		names []string
		ids   *[]string
		find  func(string) (string, error)
	}{
		{o.TargetFleets, &req.TargetFleets, fleet},
		{o.WithinFleets, &req.WithinFleets, fleet},
		{o.TargetRuns, &req.TargetRuns, run},
		{o.WithinRuns, &req.WithinRuns, run},
		{o.TargetVolumes, &req.TargetVolumes, func(name string) (string, error) {
			v, err := c.GetVolume(ctx, c.Project, api.NameRequest{Name: name})
			return v.ID, missing(err, "Volume", name)
		}},
		{o.TargetGateways, &req.TargetGateways, func(name string) (string, error) {
			g, err := c.GetGateway(ctx, c.Project, api.NameRequest{Name: name})
			return g.ID, missing(err, "Gateway", name)
		}},
		{o.TargetSecrets, &req.TargetSecrets, func(name string) (string, error) {
			s, err := c.GetSecret(ctx, c.Project, api.GetSecretRequest{Name: name})
			return s.ID, missing(err, "Secret", name)
		}},
	} {
		for _, name := range f.names {
			id, err := f.find(name)
			if err != nil {
				return req, err
			}
			*f.ids = append(*f.ids, id)
		}
	}
	for _, t := range o.IncludeTypes {
		req.IncludeTargetTypes = append(req.IncludeTargetTypes, api.EventTargetType(t))
	}
	if !o.filtered() {
		p, err := c.GetProject(ctx, c.Project)
		if err != nil {
			return req, err
		}
		req.WithinProjects = []string{p.ProjectID}
	}
	return req, nil
}

func (o Options) filtered() bool {
	n := len(o.TargetFleets) + len(o.TargetRuns) + len(o.TargetVolumes) + len(o.TargetGateways) + len(o.TargetSecrets)
	return n+len(o.WithinFleets)+len(o.WithinRuns) > 0
}

func missing(err error, kind, name string) error {
	if program.NotFound(err) {
		return fmt.Errorf("%s %s not found", kind, name)
	}
	return err
}
