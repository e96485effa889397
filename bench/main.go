// Command bench measures what users wait for, and what the server takes, on this machine:
// ours, and the published original where it can be started. `make bench` runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// options of one run of the benchmark.
type options struct {
	Dstack   string // our binary
	Original string // the original's command, "" when it is not installed
	HostTag  string // tag of the images of e2e/image, "" without Docker
	Runs     int
	JSON     bool

	Many      bool // measure with many simulated hosts instead
	Scale     scale
	Agent     string // our agent: simulated hosts say that they run it
	Simulator string // bench/hosts, built
}

func main() {
	var o options
	flag.StringVar(&o.Dstack, "dstack", "bin/dstack", "our binary")
	flag.StringVar(&o.Original, "original", "", "the published original's command")
	flag.StringVar(&o.HostTag, "hosts", "", "tag of the images of hosts; empty: jobs run as processes of this machine")
	flag.IntVar(&o.Runs, "runs", 10, "how often each thing is measured")
	flag.BoolVar(&o.JSON, "json", false, "print JSON")
	flag.BoolVar(&o.Many, "scale", false, "measure with many simulated hosts instead")
	flag.StringVar(&o.Agent, "agent", "bin/dstack-agent", "our agent")
	flag.StringVar(&o.Simulator, "simulator", "bin/hosts", "bench/hosts, built")
	flag.IntVar(&o.Scale.Hosts, "scale-hosts", 10_000, "simulated hosts")
	flag.IntVar(&o.Scale.PerFleet, "scale-fleet", 500, "hosts in a fleet")
	flag.IntVar(&o.Scale.Burst, "scale-burst", 200, "jobs submitted at once")
	flag.IntVar(&o.Scale.Queued, "scale-queued", 10_000, "runs that wait when the server starts")
	flag.IntVar(&o.Scale.Events, "scale-events", 1_000_000, "stored events")
	flag.IntVar(&o.Scale.Runs, "scale-runs", 100_000, "stored runs that are finished")
	flag.DurationVar(&o.Scale.Idle, "scale-idle", time.Minute, "how long the idle server is watched")
	flag.StringVar(&o.Scale.Profiles, "profiles", "", "folder for profiles of the server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.Many {
		r := &report{}
		if err := measureScale(ctx, o, r); err != nil {
			return errors.Join(err, r.print(o.JSON)) // what was measured until then
		}
		return errors.Join(r.print(o.JSON), r.missed())
	}
	t := &table{}
	if err := measureOurs(ctx, o, t); err != nil {
		return err
	}
	if err := oursPages(ctx, o, t); err != nil {
		return err
	}
	if o.Original != "" {
		if err := measureOriginal(ctx, o, t); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the original was not measured:", err)
		}
	}
	return t.print(o.JSON)
}

// row is one thing measured. Durations are seconds, sizes MB, load percent of a core.
type row struct {
	Name     string    `json:"name"`
	Unit     string    `json:"unit"`
	Ours     []float64 `json:"ours"`
	Target   float64   `json:"target"`   // at most
	Original float64   `json:"original"` // median, 0 unknown
	Measured bool      `json:"original_measured_here"`
}

type table struct{ rows []*row }

// published are medians of the original on such a machine (2 cores, two container hosts,
// image present), November 2026, and our targets.
var published = []row{
	{Name: "first log line", Unit: "s", Target: 0.7, Original: 17.0},
	{Name: "first log line, 50 ms to the hosts", Unit: "s", Target: 0.7},
	{Name: "submit to running", Unit: "s", Target: 0.5, Original: 15.1},
	{Name: "submit to done", Unit: "s", Target: 1, Original: 40.6},
	{Name: "stop", Unit: "s", Target: 0.3, Original: 3.2},
	{Name: "abort", Unit: "s", Target: 0.3, Original: 32},
	{Name: "ps", Unit: "s", Target: 0.05, Original: 1.8},
	{Name: "--version", Unit: "s", Target: 0.02, Original: 1.56},
	{Name: "server start", Unit: "s", Target: 0.3, Original: 3.8},
	{Name: "idle memory", Unit: "MB", Target: 60, Original: 213},
	{Name: "idle load", Unit: "%", Target: 0.1, Original: 2.9},
	{Name: "20 jobs at once, all done", Unit: "s"},
	{Name: "page of 100 of 10,000 runs", Unit: "s", Target: 0.005},
	{Name: "the same, slowest of a hundred", Unit: "s", Target: 0.03},
	{Name: "plan, 10,000 runs stored", Unit: "s", Target: 0.02},
	{Name: "memory with 10,000 runs, after pages", Unit: "MB", Target: 100},
	{Name: "memory that 10,000 such pages leave", Unit: "MB", Target: 10},
	{Name: "fresh fleet of two hosts", Unit: "s", Target: 3, Original: 14.5},
}

func (t *table) row(name string) *row {
	for _, r := range t.rows {
		if r.Name == name {
			return r
		}
	}
	for _, p := range published {
		if p.Name == name {
			t.rows = append(t.rows, &p)
			return &p
		}
	}
	r := &row{Name: name}
	t.rows = append(t.rows, r)
	return r
}

func (t *table) add(name string, values ...float64) {
	r := t.row(name)
	r.Ours = append(r.Ours, values...)
}

// original records a value of the original that was measured here.
func (t *table) original(name string, values []float64) {
	r := t.row(name)
	r.Original, r.Measured = median(values), true
}

func (t *table) print(asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"cores": runtime.NumCPU(), "at": time.Now().UTC().Format(time.RFC3339), "rows": t.rows})
	}
	fmt.Printf("%d cores, %s/%s; lower is better; * the original measured in this run, others on such a machine\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tn\tp50\tp90\ttarget\t\toriginal\tratio")
	for _, r := range t.rows {
		if len(r.Ours) == 0 {
			continue
		}
		p50 := median(r.Ours)
		verdict, original, ratio := "", "", ""
		target := ""
		if r.Target > 0 {
			target = number(r.Target, r.Unit)
			if verdict = "ok"; p50 > r.Target {
				verdict = "MISSED"
			}
		}
		if r.Original > 0 {
			original = number(r.Original, r.Unit)
			if p50 > r.Original/10_000 { // else there is nothing to divide by
				ratio = fmt.Sprintf("%.0f×", r.Original/p50)
			}
			if r.Measured {
				original += "*"
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, len(r.Ours), number(p50, r.Unit), number(quantile(r.Ours, 0.9), r.Unit), target, verdict, original, ratio)
	}
	return w.Flush()
}

func number(v float64, unit string) string {
	switch {
	case unit == "s" && v < 1:
		return fmt.Sprintf("%.0f ms", v*1000)
	case unit == "s":
		return fmt.Sprintf("%.2f s", v)
	case v < 1:
		return strings.TrimSpace(fmt.Sprintf("%.2f %s", v, unit))
	}
	return strings.TrimSpace(fmt.Sprintf("%.0f %s", v, unit))
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}
