// Package metrics is `dstack metrics`.
package metrics

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const (
	every   = 10 * time.Second
	samples = 1000
	// window is the least time that charts cover.
	window = time.Hour
	// fresh is how old the newest sample may be to be called "now".
	fresh = 30 * time.Second
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project      string
	Name         string
	Watch        bool
	JSON         bool
	Replica, Job int // -1: all
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use: "metrics RUN", Short: "Show run metrics", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			return Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.BoolVarP(&o.Watch, "watch", "w", false, "keep the charts up to date until Ctrl+C")
	f.BoolVar(&o.JSON, "json", false, "print JSON")
	f.IntVar(&o.Replica, "replica", -1, "the replica number, by default all")
	f.IntVar(&o.Job, "job", -1, "the job number inside the replica, by default all")
	return cmd
}

// Run prints the charts of the jobs.
func Run(ctx context.Context, o Options) error {
	if o.JSON && o.Watch {
		return fmt.Errorf("JSON output is not supported together with --watch")
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if o.Watch {
		return o.IO.Watch(ctx, every, func(ctx context.Context) ([]string, error) {
			jobs, err := o.load(ctx, c)
			if err != nil {
				return nil, err
			}
			return o.Lines(o.table(jobs)), nil
		})
	}
	var jobs []jobMetrics
	err = o.While("Getting metrics...", func() (err error) {
		jobs, err = o.load(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	if o.JSON {
		type entry struct {
			Replica int          `json:"replica_num"`
			Job     int          `json:"job_num"`
			Metrics []api.Metric `json:"metrics"`
		}
		out := make([]entry, len(jobs))
		for i, j := range jobs {
			out[i] = entry{j.job.JobSpec.ReplicaNum, j.job.JobSpec.JobNum, append([]api.Metric{}, j.metrics.Metrics...)}
		}
		return o.PrintCompactJSON(out)
	}
	o.Print(o.table(jobs))
	return nil
}

type jobMetrics struct {
	job     api.Job
	metrics api.JobMetrics
}

func (o Options) load(ctx context.Context, c *program.Conn) ([]jobMetrics, error) {
	r, err := c.Run(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	var jobs []jobMetrics
	for _, j := range r.Jobs {
		if o.Replica >= 0 && j.JobSpec.ReplicaNum != o.Replica || o.Job >= 0 && j.JobSpec.JobNum != o.Job {
			continue
		}
		m, err := c.JobMetrics(ctx, c.Project, o.Name, j.JobSpec.ReplicaNum, j.JobSpec.JobNum, samples)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, jobMetrics{j, m})
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("Run %s has no job matching replica=%s job=%s", o.Name, anyOr(o.Replica), anyOr(o.Job))
	}
	return jobs, nil
}

func anyOr(n int) string {
	if n < 0 {
		return "<any>"
	}
	return fmt.Sprint(n)
}

// A meter is a row of charts.
type meter struct {
	label           string
	util, mem       []sample
	utilNow, memNow string
	colors          ramp
	first, last     time.Time // zero without samples
}

// table draws all jobs on the same span of time.
func (o Options) table(jobs []jobMetrics) *term.Table {
	tb := &term.Table{Columns: term.Columns("", "", "UTILIZATION", "MEMORY")}
	tb.Columns[0].NoWrap = true
	labels := labels(jobs)
	rows := make([][]meter, len(jobs))
	var to, from time.Time
	for i, j := range jobs {
		rows[i] = meters(j)
		for _, m := range rows[i] {
			if m.last.After(to) {
				to = m.last
			}
			if !m.first.IsZero() && (from.IsZero() || m.first.Before(from)) {
				from = m.first
			}
		}
	}
	if start := to.Add(-window); from.After(start) {
		from = start
	}
	width := 0
	for _, l := range labels {
		width = max(width, len(l))
	}
	width = min(max((o.Width()-30-width)/2, 10), 80)
	for i := range jobs {
		if i > 0 {
			tb.Add("")
		}
		for n, m := range rows[i] {
			label := ""
			if n == 0 {
				label = labels[i]
			}
			tb.Add(label, m.label, o.cell(m.util, from, to, width, m.colors, m.utilNow), o.cell(m.mem, from, to, width, m.colors, m.memNow))
		}
	}
	if !to.IsZero() {
		axis := o.axis(from, to, width)
		tb.Add("", "", axis, axis)
	}
	return tb
}

func (o Options) cell(s []sample, from, to time.Time, width int, colors ramp, now string) string {
	if len(s) == 0 {
		return "no data"
	}
	c := chart(o.IO, s, from, to, width, colors)
	missing := width - utf8.RuneCountInString(stripped(c))
	return strings.Repeat(" ", max(missing, 0)) + c + " " + now
}

func stripped(s string) string {
	var b strings.Builder
	inside := false
	for _, r := range s {
		switch {
		case r == '\x1b':
			inside = true
		case inside && r == 'm':
			inside = false
		case !inside:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (o Options) axis(from, to time.Time, width int) string {
	left, right := o.clock(from, to), o.clock(to, to)
	if o.Time().Sub(to) < fresh {
		right = "now"
	}
	return left + " " + o.Paint(term.Secondary, strings.Repeat("┄", max(width-len(left)-len(right)-2, 1))) + " " + right
}

func (o Options) clock(t, to time.Time) string {
	if t.Local().Format("20060102") == to.Local().Format("20060102") && o.Time().Sub(t) < 24*time.Hour {
		return t.Local().Format("15:04")
	}
	return t.Local().Format("2 Jan 15:04")
}

// labels name the jobs, as far as they differ; repeated groups are blank.
func labels(jobs []jobMetrics) []string {
	groups, replicas := map[string]bool{}, map[int]bool{}
	for _, j := range jobs {
		groups[j.job.JobSpec.ReplicaGroup] = true
		replicas[j.job.JobSpec.ReplicaNum] = true
	}
	out := make([]string, len(jobs))
	last := ""
	for i, j := range jobs {
		s := j.job.JobSpec
		var parts []string
		if len(groups) > 1 {
			g := "group=" + s.ReplicaGroup
			if g == last {
				parts = append(parts, strings.Repeat(" ", len(g)))
			} else {
				parts = append(parts, g)
			}
			last = g
		}
		if len(replicas) > 1 {
			parts = append(parts, fmt.Sprintf("replica=%d", s.ReplicaNum))
		}
		out[i] = strings.Join(append(parts, fmt.Sprintf("job=%d", s.JobNum)), " ")
	}
	return out
}

// meters makes the rows of one job: its CPU, and each of its GPUs.
func meters(j jobMetrics) []meter {
	res := resources(j.job)
	cpus, mem := 0, 0.0
	if res != nil {
		cpus, mem = res.CPUs, float64(res.MemoryMiB)*(1<<20)
	}
	if cpus == 0 {
		cpus = 1
	}
	used := j.series("memory_working_set_bytes")
	cpu := meter{label: "cpu", colors: hostRamp}
	cpu.set(percent(j.series("cpu_usage_percent"), float64(cpus)*100), percent(used, mem), used, mem)
	out := []meter{cpu}
	for i := range gpuCount(j, res) {
		total := last(j.series("gpu_memory_total_bytes"))
		if res != nil && i < len(res.Gpus) && res.Gpus[i].MemoryMiB > 0 {
			total = float64(res.Gpus[i].MemoryMiB) * (1 << 20)
		}
		used := j.series(fmt.Sprintf("gpu_memory_usage_bytes_gpu%d", i))
		g := meter{label: fmt.Sprintf("gpu=%d", i), colors: gpuRamp}
		g.set(percent(j.series(fmt.Sprintf("gpu_util_percent_gpu%d", i)), 100), percent(used, total), used, total)
		out = append(out, g)
	}
	return out
}

func (m *meter) set(util, mem, used []sample, total float64) {
	m.util, m.mem = util, mem
	if len(util) > 0 {
		m.utilNow = fmt.Sprintf("%.0f%%", last(util))
		m.first, m.last = util[0].at, util[len(util)-1].at
	}
	if len(used) > 0 {
		m.memNow = bytes(last(used)) + "/" + bytes(total)
		if total <= 0 {
			m.memNow = bytes(last(used))
		}
	}
}

func bytes(v float64) string {
	if v >= 1<<30 {
		return fmt.Sprintf("%.0fGB", math.Round(v/(1<<30)))
	}
	return fmt.Sprintf("%.0fMB", math.Round(v/(1<<20)))
}

func resources(j api.Job) *api.Resources {
	if len(j.JobSubmissions) == 0 {
		return nil
	}
	s := j.JobSubmissions[len(j.JobSubmissions)-1]
	if s.JobRuntimeData != nil && s.JobRuntimeData.Offer != nil {
		return &s.JobRuntimeData.Offer.Instance.Resources
	}
	if s.JobProvisioningData != nil {
		return &s.JobProvisioningData.InstanceType.Resources
	}
	return nil
}

func gpuCount(j jobMetrics, res *api.Resources) int {
	if res != nil && len(res.Gpus) > 0 {
		return len(res.Gpus)
	}
	return int(last(j.series("gpus_detected_num")))
}

// series returns the samples of a metric, oldest first.
func (j jobMetrics) series(name string) []sample {
	for _, m := range j.metrics.Metrics {
		if m.Name != name {
			continue
		}
		var out []sample
		for i := min(len(m.Timestamps), len(m.Values)) - 1; i >= 0; i-- {
			if v, ok := m.Values[i].(float64); ok {
				out = append(out, sample{m.Timestamps[i].Time, v})
			}
		}
		return out
	}
	return nil
}

func percent(s []sample, whole float64) []sample {
	if whole <= 0 {
		return nil
	}
	out := make([]sample, len(s))
	for i, v := range s {
		out[i] = sample{v.at, v.percent / whole * 100}
	}
	return out
}

func last(s []sample) float64 {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].percent
}
