package ps

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
)

// TableOptions choose the columns of [Table].
type TableOptions struct {
	Verbose bool
	Now     time.Time
	// Clock shows the time of submission as local HH:MM instead of its age.
	Clock bool
}

// Table lists runs with their jobs beneath them. A run with a single job is one row.
func Table(runs []api.Run, o TableOptions) *term.Table {
	b := tableBuilder{TableOptions: o}
	for i := range runs {
		b.probes = b.probes || deploying(runs[i]) && hasProbes(runs[i])
	}
	b.probes = b.probes || o.Verbose
	for i := range runs {
		b.run(runs[i])
	}
	tb := &term.Table{Columns: b.columns(), Expand: true}
	for _, r := range b.rows {
		tb.Rows = append(tb.Rows, b.cells(r))
	}
	return tb
}

// A row has the cells of all columns.
type row struct {
	name, backend, resources, gpu, instance, price string
	status                                         term.Cell
	probes, submitted, err                         string
	dim                                            bool
}

type tableBuilder struct {
	TableOptions
	probes bool
	rows   []row
}

func (b *tableBuilder) columns() []term.Column {
	titles := []string{"NAME", "BACKEND"}
	if b.Verbose {
		titles = append(titles, "RESOURCES", "INSTANCE TYPE")
	} else {
		titles = append(titles, "GPU")
	}
	titles = append(titles, "PRICE", "STATUS")
	if b.probes {
		titles = append(titles, "PROBES")
	}
	titles = append(titles, "SUBMITTED")
	if b.Verbose {
		titles = append(titles, "ERROR")
	}
	cols := term.Columns(titles...)
	cols[0].NoWrap = true
	return cols
}

func (b *tableBuilder) cells(r row) term.Row {
	cells := []term.Cell{term.Text(r.name), term.Text(r.backend)}
	if b.Verbose {
		cells = append(cells, term.Text(r.resources), term.Text(r.instance))
	} else {
		cells = append(cells, term.Text(r.gpu))
	}
	cells = append(cells, term.Text(r.price), r.status)
	if b.probes {
		cells = append(cells, term.Text(r.probes))
	}
	cells = append(cells, term.Text(r.submitted))
	if b.Verbose {
		cells = append(cells, term.Text(r.err))
	}
	out := term.Row{Cells: cells}
	if r.dim {
		out.Style = term.Secondary
	}
	return out
}

func (b *tableBuilder) run(r api.Run) {
	isService := r.RunSpec.Configuration.Type() == "service"
	deployment := isService && (b.Verbose || deploying(r))
	name := runName(r)
	if deployment {
		name += fmt.Sprintf(" deployment=%d", r.DeploymentNum)
	}
	rr := row{
		name: name, resources: "-", gpu: "-", price: "-",
		status:    statusCell(runStatus(r), string(r.Status), !r.Status.Finished()),
		submitted: b.when(r.SubmittedAt.Time),
		err:       format.Text(r.Error),
	}
	if len(r.Jobs) == 1 && !deployment {
		jr := b.job(r.Jobs[0])
		jr.name, jr.submitted, jr.dim = rr.name, rr.submitted, false
		jr.err = cmp.Or(jr.err, rr.err)
		if lastSubmission(r.Jobs[0]) == nil || r.Status.Finished() {
			jr.status = rr.status
		}
		b.rows = append(b.rows, jr)
		return
	}
	b.rows = append(b.rows, rr)
	b.jobs(r, isService, deployment)
}

// jobs adds a row for each job. Rows of the same group stand beneath the first one's replica.
func (b *tableBuilder) jobs(r api.Run, isService, deployment bool) {
	groups := groupOrder(r)
	jobs := slices.Clone(r.Jobs)
	slices.SortStableFunc(jobs, func(x, y api.Job) int {
		return cmp.Or(cmp.Compare(groups[group(x)], groups[group(y)]),
			cmp.Compare(x.JobSpec.ReplicaNum, y.JobSpec.ReplicaNum), cmp.Compare(x.JobSpec.JobNum, y.JobSpec.JobNum))
	})
	replicas := map[int]int{}
	for _, j := range jobs {
		replicas[j.JobSpec.ReplicaNum]++
	}
	last := -1
	for _, j := range jobs {
		var parts []string
		if len(replicas) > 1 {
			g := groups[group(j)]
			label := ""
			if isService {
				label = fmt.Sprintf("group=%d", g)
				if g == last {
					label = strings.Repeat(" ", len(label))
				}
				parts = append(parts, label)
			}
			last = g
			parts = append(parts, fmt.Sprintf("replica=%d", j.JobSpec.ReplicaNum))
		}
		if replicas[j.JobSpec.ReplicaNum] > 1 {
			parts = append(parts, fmt.Sprintf("job=%d", j.JobSpec.JobNum))
		}
		jr := b.job(j)
		jr.name = "   " + strings.Join(parts, " ")
		if s := lastSubmission(j); deployment && s != nil {
			jr.name += fmt.Sprintf(" deployment=%d", s.DeploymentNum)
		}
		jr.dim = true
		b.rows = append(b.rows, jr)
	}
}

func (b *tableBuilder) job(j api.Job) row {
	r := row{resources: "-", gpu: "-", price: "-"}
	s := lastSubmission(j)
	if s == nil {
		return r
	}
	text := cmp.Or(s.StatusMessage, string(s.Status))
	if s.Status == api.JobPulling {
		text += pullProgress(s.ImagePullProgress)
	}
	if b.Verbose && s.InactivitySecs != nil && *s.InactivitySecs > 0 {
		text += fmt.Sprintf(" (inactive for %s)", format.LongSeconds(*s.InactivitySecs))
	}
	r.status = statusCell(text, string(s.Status), !s.Status.Finished())
	r.submitted = b.when(s.SubmittedAt.Time)
	r.err = cmp.Or(format.Text(s.Error), format.Text(s.ProbeError))
	if s.Status == api.JobRunning {
		r.probes = probes(s.Probes, j.JobSpec.Probes)
	}
	jpd := s.JobProvisioningData
	if jpd == nil {
		return r
	}
	r.backend = format.Backend(string(jpd.Backend), jpd.Region)
	res, name, price := jpd.InstanceType.Resources, jpd.InstanceType.Name, jpd.Price
	if jrd := s.JobRuntimeData; jrd != nil && jrd.Offer != nil && jrd.Offer.TotalBlocks > 1 {
		res, price = jrd.Offer.Instance.Resources, jrd.Offer.Price
		name = fmt.Sprintf("%s (%d/%d)", jrd.Offer.Instance.Name, jrd.Offer.Blocks, jrd.Offer.TotalBlocks)
	}
	if jpd.Reservation != nil {
		name += fmt.Sprintf(" (%s)", *jpd.Reservation)
	}
	r.resources, r.gpu, r.instance = format.Resources(res), format.GPUs(res), name
	r.price = format.Price(price) + format.Spot(res.Spot)
	return r
}

func (b *tableBuilder) when(t time.Time) string {
	if b.Clock {
		return t.Local().Format("15:04")
	}
	return format.Age(b.Now, t)
}

func runName(r api.Run) string { return format.Text(r.RunSpec.RunName) }

func runStatus(r api.Run) string {
	if r.Status.Finished() && r.LatestJobSubmission != nil && r.LatestJobSubmission.StatusMessage != "" {
		return r.LatestJobSubmission.StatusMessage
	}
	return cmp.Or(r.StatusMessage, string(r.Status))
}

func statusCell(text, status string, unfinished bool) term.Cell {
	style := term.Grey
	switch status {
	case "pending":
		style = term.BoldWhite
	case "submitted":
		style = term.BoldGrey
	case "provisioning", "terminating":
		style = term.BoldBlue
	case "running", "pulling":
		style = term.BoldGreen
	case "failed":
		style = term.IndianRed
	case "aborted":
		style = term.Gold
	}
	switch text {
	case "no capacity", "interrupted", "aborted":
		style = term.Gold
	case "no fleets":
		style = term.IndianRed
	}
	if unfinished && style == term.Grey {
		style = term.BoldGrey
	}
	return term.Cell{Text: text, Style: style}
}

// pullProgress is the size of an image: extracted, downloaded, in all.
func pullProgress(p *api.ImagePullProgress) string {
	if p == nil {
		return ""
	}
	unit, div, digits := "MB", float64(1<<20), 0
	if p.TotalBytes >= 1<<30 {
		unit, div, digits = "GB", 1<<30, 2
	}
	mark := ""
	if !p.IsTotalBytesFinal {
		mark = "≥"
	}
	return fmt.Sprintf(" %.*f/%.*f/%s%.*f%s", digits, float64(p.ExtractedBytes)/div,
		digits, float64(p.DownloadedBytes)/div, mark, digits, float64(p.TotalBytes)/div, unit)
}

func probes(ps []api.Probe, specs []api.ProbeSpec) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 && i%5 == 0 {
			b.WriteByte(' ')
		}
		switch {
		case i < len(specs) && p.SuccessStreak >= specs[i].ReadyAfter:
			b.WriteString("✓")
		case p.SuccessStreak > 0:
			b.WriteString("~")
		default:
			b.WriteString("×")
		}
	}
	return b.String()
}

// deploying reports whether some unfinished job still has another version of the run.
func deploying(r api.Run) bool {
	for _, j := range r.Jobs {
		if s := lastSubmission(j); s != nil && !s.Status.Finished() && s.DeploymentNum != r.DeploymentNum {
			return true
		}
	}
	return false
}

func hasProbes(r api.Run) bool {
	return slices.ContainsFunc(r.Jobs, func(j api.Job) bool { return len(j.JobSpec.Probes) > 0 })
}

func group(j api.Job) string { return j.JobSpec.ReplicaGroup }

// groupOrder numbers the replica groups by their first replica, which is the order of the configuration.
func groupOrder(r api.Run) map[string]int {
	jobs := slices.Clone(r.Jobs)
	slices.SortStableFunc(jobs, func(x, y api.Job) int { return cmp.Compare(x.JobSpec.ReplicaNum, y.JobSpec.ReplicaNum) })
	order := map[string]int{}
	for _, j := range jobs {
		if _, ok := order[group(j)]; !ok {
			order[group(j)] = len(order)
		}
	}
	return order
}

func lastSubmission(j api.Job) *api.JobSubmission {
	if len(j.JobSubmissions) == 0 {
		return nil
	}
	return &j.JobSubmissions[len(j.JobSubmissions)-1]
}

// Progress says what the first job of a run that is being launched waits for; empty if that is not known.
func Progress(r api.Run) string {
	if len(r.Jobs) == 0 {
		return ""
	}
	s := lastSubmission(r.Jobs[0])
	if s == nil || s.Status != api.JobProvisioning && s.Status != api.JobPulling {
		return ""
	}
	text := " " + cmp.Or(s.StatusMessage, string(s.Status))
	if s.Status == api.JobPulling {
		text += pullProgress(s.ImagePullProgress)
	}
	return text
}
