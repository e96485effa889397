package gateway

import (
	"fmt"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
)

// TableOptions choose the columns of [Table].
type TableOptions struct {
	Project string // the current one; gateways of others are shown with theirs
	Verbose bool
	Created bool // also without Verbose
	Now     time.Time
}

// Table lists gateways. One with a single replica is one row.
func Table(gs []api.Gateway, o TableOptions) *term.Table {
	titles := []string{"NAME", "BACKEND", "HOSTNAME", "DOMAIN", "DEFAULT", "STATUS"}
	if o.Verbose || o.Created {
		titles = append(titles, "CREATED")
	}
	if o.Verbose {
		titles = append(titles, "ERROR")
	}
	tb := &term.Table{Columns: term.Columns(titles...)}
	tb.Columns[0].NoWrap = true
	tb.Columns[4].Center = true
	for _, g := range gs {
		o.add(tb, g)
	}
	return tb
}

func (o TableOptions) add(tb *term.Table, g api.Gateway) {
	r := row{
		name: g.Name, domain: format.Text(g.WildcardDomain), status: string(g.Status), err: format.Text(g.StatusMessage),
		backend: format.Backend(g.Configuration.Backend, g.Configuration.Region), hostname: format.Text(g.Hostname),
		created: format.Age(o.Now, g.CreatedAt.Time),
	}
	if g.ProjectName != o.Project {
		r.name = g.ProjectName + "/" + g.Name
		r.domain = strings.NewReplacer("${{ run.project_name }}", o.Project, "${{run.project_name}}", o.Project).Replace(r.domain)
	}
	if g.Default {
		r.def = "✓"
	}
	switch {
	case len(g.Replicas) == 0:
		if r.hostname == "" {
			r.hostname = format.Text(g.IPAddress)
		}
		o.row(tb, r)
	case len(g.Replicas) == 1 && !(o.Verbose && g.Hostname != nil):
		rep := g.Replicas[0]
		r.backend = format.Backend(format.Text(rep.Backend), format.Text(rep.Region))
		if r.hostname == "" {
			r.hostname = format.Text(rep.Hostname)
		}
		if rep.StatusMessage != nil {
			r.err = strings.Trim(r.err+"; "+*rep.StatusMessage, "; ")
		}
		o.row(tb, r)
	default:
		o.row(tb, r)
		for _, rep := range g.Replicas {
			o.row(tb, row{
				name: fmt.Sprintf("   replica=%d", rep.ReplicaNum), backend: format.Backend(format.Text(rep.Backend), format.Text(rep.Region)),
				hostname: format.Text(rep.Hostname), status: string(rep.Status), created: format.Age(o.Now, rep.CreatedAt.Time), err: format.Text(rep.StatusMessage),
			})
		}
	}
}

type row struct{ name, backend, hostname, domain, def, status, created, err string }

func (o TableOptions) row(tb *term.Table, r row) {
	cells := []string{r.name, r.backend, r.hostname, r.domain, r.def, r.status}
	if o.Verbose || o.Created {
		cells = append(cells, r.created)
	}
	if o.Verbose {
		cells = append(cells, r.err)
	}
	tb.Add(cells...)
}
