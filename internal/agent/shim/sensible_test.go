package shim

import (
	"bytes"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// lie writes a file of a job's own directory, as small as JSON can be.
func (a *agent) lie(id, name string, v any) {
	a.t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		a.t.Fatal(err)
	}
	if err := runner.WriteFile(filepath.Join(a.job(id), name), b.Bytes(), 0o644); err != nil {
		a.t.Fatal(err)
	}
}

// Whoever is root in a container can write the runner's files. Whatever they say, the server hears of the
// task, of its end and of the other tasks.
func TestLyingContainer(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	e := a.listen()
	honest, liar := a.running(), a.running()
	huge, code := strings.Repeat("<", 400_000), 1<<40
	s := runner.State{Version: 1, Phase: runner.Running, Username: huge, WorkingDir: huge, IdleSeconds: -1, SSHPort: -7, HTTPPort: 1 << 20}
	a.lie(liar.ID, runner.StateFile, s)
	a.lie(liar.ID, runner.MetricsFile, agentapi.Metrics{GPUs: make([]agentapi.GPUMetrics, 15_000)})
	a.until("the lie arrives", func() bool { return a.get(liar.ID).Started })
	s.Phase, s.Reason, s.Message, s.ExitStatus = runner.Finished, huge[:1000], huge, &code
	s.Username, s.WorkingDir = "", ""
	a.lie(liar.ID, runner.StateFile, s)
	a.engine.end(liar.ID, runtime.Exit{})
	a.reaches(liar.ID, agentapi.Terminated)
	if v := a.get(honest.ID); v.State != agentapi.Running {
		t.Errorf("the other task: %+v", v)
	}
	e.until("the end is told", func() bool {
		for _, ev := range e.heard() {
			if ev.TaskID == liar.ID && ev.Task != nil && ev.Task.State == agentapi.Terminated {
				return true
			}
		}
		return false
	})
	for _, ev := range e.heard() {
		if wrong := ev.Check(time.Now()); wrong != "" {
			t.Errorf("a %s event is %s", ev.Kind, wrong)
		}
	}
}

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		blocks uint64
		size   int64
		want   int64
	}{{0, 4096, 0}, {1000, 4096, 4096000}, {1 << 63, 4096, maxCount}, {math.MaxUint64, 1, maxCount}, {5, 0, 0}} {
		if got := room(c.blocks, c.size); got != c.want {
			t.Errorf("%d blocks of %d: %d, want %d", c.blocks, c.size, got, c.want)
		}
	}
}
