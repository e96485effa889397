package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one thing that the scale benchmark measured.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"` // "s", "MB", …
	Values []float64 `json:"values"`
	Goal   *goal     `json:"goal,omitempty"`
}

// goal is what a figure should be: its median at most a value, unless it says otherwise.
type goal struct {
	Value   float64 `json:"value"`
	AtLeast bool    `json:"at_least,omitempty"`
	P99     bool    `json:"p99,omitempty"` // the slowest of a hundred counts
}

// goals are for 10,000 hosts on two cores.
var goals = map[string]goal{
	"server memory, all hosts connected":    {Value: 1500},
	"server load, idle":                     {Value: 25},
	"all hosts reconnected after a restart": {Value: 30},
	"burst of jobs, all done":               {Value: 10},
	"runs placed per second":                {Value: 1000, AtLeast: true},
	"placed out of order":                   {Value: 0},
	"server start with history":             {Value: 2},
}

type report struct{ figures []*figure }

func (r *report) add(name, unit string, values ...float64) {
	for _, f := range r.figures {
		if f.Name == name {
			f.Values = append(f.Values, values...)
			return
		}
	}
	f := &figure{Name: name, Unit: unit, Values: values}
	if g, ok := goals[name]; ok {
		f.Goal = &g
	}
	r.figures = append(r.figures, f)
}

// latency adds how long requests took, in seconds.
func (r *report) latency(name string, took []float64) {
	r.figures = append(r.figures, &figure{Name: name, Unit: "s", Values: took, Goal: &goal{Value: 0.05, P99: true}})
}

func (f *figure) verdict() string {
	switch {
	case f.Goal == nil:
		return ""
	case f.kept():
		return "ok"
	}
	return "MISSED"
}

// counts is the value that is held against the goal.
func (f *figure) counts() float64 {
	if f.Goal.P99 {
		return quantile(f.Values, 0.99)
	}
	return median(f.Values)
}

func (f *figure) kept() bool {
	if f.Goal.AtLeast {
		return f.counts() >= f.Goal.Value
	}
	return f.counts() <= f.Goal.Value
}

// missed is an error that names the goals that were not kept or not measured, nil when there are none.
func (r *report) missed() error {
	var list []string
	measured := map[string]bool{}
	for _, f := range r.figures {
		measured[f.Name] = true
		if f.Goal != nil && !f.kept() {
			list = append(list, fmt.Sprintf("%s: %s, want %s", f.Name, number(f.counts(), f.Unit), f.wanted()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(goals)) {
		if !measured[name] {
			list = append(list, name+": not measured")
		}
	}
	if list == nil {
		return nil
	}
	return errors.New("goals missed:\n" + strings.Join(list, "\n"))
}

// wanted is the goal in words, "" for none.
func (f *figure) wanted() string {
	if f.Goal == nil {
		return ""
	}
	return strings.TrimSpace(f.Goal.words() + " " + number(f.Goal.Value, f.Unit))
}

func (r *report) print(asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"cores": runtime.NumCPU(), "at": time.Now().UTC().Format(time.RFC3339), "figures": r.figures})
	}
	fmt.Printf("%d cores, %s/%s\n\n", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tn\tp50\tp99\tgoal\t")
	for _, f := range r.figures {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", f.Name, len(f.Values), number(median(f.Values), f.Unit), number(quantile(f.Values, 0.99), f.Unit), f.wanted(), f.verdict())
	}
	return w.Flush()
}

func (g *goal) words() string {
	switch {
	case g.AtLeast:
		return "≥"
	case g.P99:
		return "p99 ≤"
	}
	return "≤"
}
