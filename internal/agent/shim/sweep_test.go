package shim

import (
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// Containers that no task needs are removed after some minutes, others never.
func TestRemoveOrphans(t *testing.T) {
	e := newEngine()
	for _, id := range []string{"live", "ended", "unknown", "late"} {
		if err := e.Start(t.Context(), runtime.Container{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	s := &Shim{Config: Config{Runtime: e, Log: slog.New(slog.DiscardHandler)}, tasks: map[string]*task{
		"live":  {state: agentapi.Task{State: agentapi.Running}},
		"ended": {state: agentapi.Task{State: agentapi.Terminated}},
	}}
	now, seen := time.Now(), orphans{}
	left := func() []string { return slices.Sorted(maps.Keys(e.boxes)) }
	for _, step := range []struct {
		after time.Duration
		do    func()
		want  []string
	}{
		{0, func() {}, []string{"ended", "late", "live", "unknown"}},
		{orphanAge - 1, func() { s.tasks["late"] = &task{} }, []string{"ended", "late", "live", "unknown"}}, // its task came
		{orphanAge, func() {}, []string{"late", "live"}},
		{2 * orphanAge, func() { delete(s.tasks, "late") }, []string{"late", "live"}}, // seen anew
		{3 * orphanAge, func() {}, []string{"live"}},
		{4 * orphanAge, func() {}, []string{"live"}},
	} {
		step.do()
		s.removeOrphans(t.Context(), now.Add(step.after), seen)
		if diff := cmp.Diff(step.want, left()); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", step.after, diff)
		}
	}
	if len(seen) != 0 {
		t.Errorf("remembered for nothing: %v", seen)
	}
}
