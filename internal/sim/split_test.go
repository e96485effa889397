package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestMachineOfAJobIsShared has a fleet with blocks make a machine for a job: of its eight GPUs the job gets
// as many as it needs, others the rest, and who needs all of it waits. A machine that cannot be divided is
// made as before, and is the job's alone; so is one that a job needs all of, until it has ended.
func TestMachineOfAJobIsShared(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		blocks any
		types  []string
		runs   []string       // what they ask for, one after the other
		gpus   map[string]int // that those get which run at a time, by job
		shared string         // the machine then, and after all have ended
		left   string
	}{
		"parts of eight":    {8, []string{"gpu.eight"}, []string{"1..", "2..", "1..", "8"}, map[string]int{"run0-0-0": 1, "run1-0-0": 2, "run2-0-0": 1}, "4/8", "0/8"},
		"halves":            {2, []string{"gpu.eight"}, []string{"1..", "4..", "1"}, map[string]int{"run0-0-0": 4, "run1-0-0": 4}, "2/2", "0/2"},
		"one for each GPU":  {"auto", []string{"gpu.eight"}, []string{"2..", "1.."}, map[string]int{"run0-0-0": 2, "run1-0-0": 1}, "3/8", "0/8"},
		"all of it":         {8, []string{"gpu.eight"}, []string{"8", "1.."}, map[string]int{"run0-0-0": 8}, "1/1", "0/8"},
		"one GPU":           {8, []string{"gpu.one"}, []string{"1", "1"}, map[string]int{"run0-0-0": 1}, "1/1", "0/1"},
		"a fleet without":   {1, []string{"gpu.eight"}, []string{"1..", "1.."}, map[string]int{"run0-0-0": 8}, "1/1", "0/1"},
		"not to be divided": {3, []string{"gpu.eight"}, []string{"1..", "1.."}, map[string]int{"run0-0-0": 8}, "1/1", "0/1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: time.Second})
				w.addCloud(fake.Config{Name: cloudNames[1]})
				w.start()
				defer w.end()
				time.Sleep(time.Minute)
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "blocks": tt.blocks, "instance_types": tt.types, "idle_duration": "1h"})
				for n, gpu := range tt.runs {
					w.applyRun(fmt.Sprint("run", n), object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": gpu}, "idle_duration": "1h",
						"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: 10 * time.Minute, Lines: 1})
					time.Sleep(30 * time.Second)
				}
				time.Sleep(2 * time.Minute)
				gpus := map[string]int{}
				for _, j := range w.checks.now().jobs {
					if j.status == "running" {
						gpus[j.name] = j.gpus
					}
				}
				if fmt.Sprint(gpus) != fmt.Sprint(tt.gpus) {
					t.Errorf("jobs run with GPUs %v, want %v", gpus, tt.gpus)
				}
				if got := w.busy(); got != tt.shared {
					t.Errorf("%s blocks are busy, want %s", got, tt.shared)
				}
				for n := range tt.runs {
					w.stopRun(fmt.Sprint("run", n), true)
				}
				time.Sleep(2 * time.Minute)
				if got := w.busy(); got != tt.left {
					t.Errorf("after all have ended %s blocks are busy, want %s", got, tt.left)
				}
				w.endAll()
				time.Sleep(5 * time.Minute)
				w.checks.check(over)
				w.holds()
			})
		})
	}
}

// busy is how many blocks of the one instance that there is are held, of how many.
func (w *world) busy() string {
	s, held := w.checks.now(), 0
	for _, h := range s.holds {
		held += h.blocks
	}
	text := ""
	for _, inst := range s.instances {
		if !inst.deleted && inst.status != "terminated" {
			text += fmt.Sprintf("%d/%d", held, inst.blocks)
		}
	}
	return text
}
