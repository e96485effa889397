package main

import (
	"maps"
	"slices"
	"testing"
)

// TestMissed names each goal that is not kept, or that nothing was measured for.
func TestMissed(t *testing.T) {
	kept := func() *report {
		r := &report{}
		for _, name := range slices.Sorted(maps.Keys(goals)) {
			r.add(name, "s", goals[name].Value)
		}
		return r
	}
	slow := make([]float64, 100)
	slow[98], slow[99] = 0.06, 0.06
	for name, tt := range map[string]struct {
		add  func(r *report)
		want string
	}{
		"all kept":             {func(*report) {}, ""},
		"no goal":              {func(r *report) { r.add("a simulated host's own memory", "KB", 1e9) }, ""},
		"too much":             {func(r *report) { r.add("server load, idle", "s", 30, 30) }, "goals missed:\nserver load, idle: 30.00 s, want ≤ 25.00 s"},
		"one of three":         {func(r *report) { r.add("server load, idle", "s", 20, 30) }, ""},
		"too little":           {func(r *report) { r.add("runs placed per second", "s", 900, 900) }, "goals missed:\nruns placed per second: 900.00 s, want ≥ 1000.00 s"},
		"two slow of hundred":  {func(r *report) { r.latency("runs/list", slow) }, "goals missed:\nruns/list: 60 ms, want p99 ≤ 50 ms"},
		"nothing was measured": {func(r *report) { r.figures = r.figures[1:] }, "goals missed:\nall hosts reconnected after a restart: not measured"},
	} {
		t.Run(name, func(t *testing.T) {
			r := kept()
			tt.add(r)
			got := ""
			if err := r.missed(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("missed() = %q, want %q", got, tt.want)
			}
		})
	}
}
