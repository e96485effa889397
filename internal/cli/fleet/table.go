package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// TableOptions choose the columns of [Table].
type TableOptions struct {
	Project string // the current one; fleets of others are shown with theirs
	Verbose bool
	Costs   *Costs // for the column COST, nil for none
	Now     time.Time
	Clock   bool // local HH:MM instead of the age
}

// Table lists fleets, newest first, with their instances beneath them.
func Table(fleets []api.Fleet, o TableOptions) *term.Table {
	titles := []string{"NAME", "NODES", "GPU", "SPOT", "BACKEND", "PRICE", "STATUS", "CREATED"}
	if o.Verbose {
		titles = []string{"NAME", "NODES", "RESOURCES", "DRIVER", "SPOT", "BACKEND", "PRICE", "STATUS", "CREATED", "ERROR"}
	}
	if o.Costs != nil {
		titles = slices.Insert(titles, slices.Index(titles, "PRICE")+1, "COST")
	}
	tb := &term.Table{Columns: term.Columns(titles...)}
	tb.Columns[0].NoWrap = true
	sorted := slices.Clone(fleets)
	slices.SortStableFunc(sorted, func(a, b api.Fleet) int { return b.CreatedAt.Time.Compare(a.CreatedAt.Time) })
	for _, f := range sorted {
		tb.Rows = append(tb.Rows, o.cells(o.fleet(f), term.Secondary))
		insts := slices.Clone(f.Instances)
		slices.SortStableFunc(insts, func(a, b api.Instance) int { return cmp.Compare(a.InstanceNum, b.InstanceNum) })
		for _, inst := range insts {
			tb.Rows = append(tb.Rows, o.cells(o.instance(f, inst), term.Plain))
		}
	}
	return tb
}

type row struct {
	name, nodes, gpu, resources, driver, spot, backend, price, cost, status, created, err string
}

func (o TableOptions) cells(r row, style term.Style) term.Row {
	texts := []string{r.name, r.nodes, r.gpu, r.spot, r.backend, r.price, r.status, r.created}
	if o.Verbose {
		texts = []string{r.name, r.nodes, r.resources, r.driver, r.spot, r.backend, r.price, r.status, r.created, r.err}
	}
	if o.Costs != nil {
		texts = slices.Insert(texts, len(texts)-3, r.cost)
	}
	out := term.Row{Style: style}
	for _, s := range texts {
		out.Cells = append(out.Cells, term.Text(s))
	}
	return out
}

func (o TableOptions) fleet(f api.Fleet) row {
	c := f.Spec.Configuration
	r := row{name: f.Name, cost: o.Costs.fleet(f.ID), status: string(f.Status), created: o.when(f.CreatedAt.Time), err: format.Text(f.StatusMessage)}
	if f.ProjectName != o.Project {
		r.name = f.ProjectName + "/" + f.Name
	}
	if c.Resources != nil && c.Resources.GPU != nil {
		r.gpu = fleetGPU(*c.Resources.GPU)
		r.resources = r.gpu
	}
	if c.SSHConfig != nil {
		r.nodes, r.backend = strconv.Itoa(len(c.SSHConfig.Hosts)), "ssh"
	} else {
		r.nodes = Nodes(c.Nodes)
		r.spot = "on-demand"
		p := config.Merge(&f.Spec.Profile, c.Params())
		if p.SpotPolicy != nil {
			r.spot = *p.SpotPolicy
		}
		r.backend = "*"
		if len(p.Backends) > 0 {
			r.backend = strings.Join(p.Backends, ", ")
		}
		if p.MaxPrice != nil {
			r.price = "$0.." + strings.TrimPrefix(format.MaxPrice(p.MaxPrice), "$")
		}
	}
	if o.Verbose && c.Placement != nil && *c.Placement == "cluster" {
		r.nodes += " (cluster)"
	}
	return r
}

func (o TableOptions) instance(f api.Fleet, inst api.Instance) row {
	r := row{
		name: fmt.Sprintf("   instance=%d", inst.InstanceNum), status: status(inst), created: o.when(inst.Created.Time),
		backend: "", cost: o.Costs.instance(inst.ID),
	}
	ssh := f.Spec.Configuration.SSHConfig != nil
	if inst.Backend != nil {
		where := format.Text(inst.Region)
		if o.Verbose && format.Text(inst.AvailabilityZone) != "" {
			where = *inst.AvailabilityZone
		}
		r.backend = format.Backend(string(*inst.Backend), where)
	}
	early := inst.Status == api.InstancePending || inst.Status == api.InstanceProvisioning
	if inst.InstanceType != nil && !(ssh && early) {
		res := inst.InstanceType.Resources
		r.gpu, r.resources = format.GPUs(res), format.Resources(res)
		if !ssh {
			r.spot = "on-demand"
			if res.Spot {
				r.spot = "spot"
			}
		}
	}
	if inst.GPUDriver != nil {
		r.driver = inst.GPUDriver.Version
	}
	if inst.Price != nil && !ssh {
		r.price = format.Price(*inst.Price)
	}
	if inst.Status == api.InstanceTerminated || inst.Status == api.InstanceTerminating {
		r.err = cmp.Or(format.Text(inst.TerminationReasonMessage), format.Text(inst.TerminationReason))
	}
	return r
}

func status(inst api.Instance) string {
	s := string(inst.Status)
	if inst.Status != api.InstanceIdle && inst.Status != api.InstanceBusy {
		return s
	}
	if inst.TotalBlocks != nil && *inst.TotalBlocks > 1 {
		s = fmt.Sprintf("%d/%d busy", inst.BusyBlocks, *inst.TotalBlocks)
	}
	switch {
	case inst.Unreachable:
		s += " (unreachable)"
	case inst.HealthStatus != "" && inst.HealthStatus != "healthy":
		s += fmt.Sprintf(" (%s)", inst.HealthStatus)
	}
	return s
}

func (o TableOptions) when(t time.Time) string {
	if o.Clock {
		return t.Local().Format("15:04")
	}
	return format.Age(o.Now, t)
}

// Nodes writes 2, 0..2 or 1.. .
func Nodes(n *config.FleetNodes) string {
	if n == nil {
		return ""
	}
	if n.Max == nil {
		return fmt.Sprintf("%d..", n.Min)
	}
	if *n.Max == n.Min {
		return strconv.Itoa(n.Min)
	}
	return fmt.Sprintf("%d..%d", n.Min, *n.Max)
}

// fleetGPU is empty if none is asked for.
func fleetGPU(g config.GPU) string {
	if g.Count.Max != nil && *g.Count.Max == 0 || g.Count.Min != nil && *g.Count.Min == 0 && g.Count.Max == nil && len(g.Name) == 0 {
		return ""
	}
	if len(g.Name) == 0 {
		g.Vendor = nil
		return "gpu:" + format.GPU(g)
	}
	return format.GPU(g)
}
