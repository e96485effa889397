package shim

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/dcgm"
	"dstack/internal/agent/dcgm/dcgmtest"
	"dstack/internal/agent/gpu"
	"dstack/internal/agentapi"
)

var twoGPUs = []agentapi.GPU{{ID: "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef111"}, {ID: "GPU-8ef02f3c-5d6b-b1d6-a36f-7d6c0e4ef222"}}

// with makes the agent's machine one with two GPUs, of which an exporter on the port speaks.
func with(vendor string, port int) func(*Config) {
	return func(c *Config) {
		c.Detect = func(context.Context) gpu.Found { return gpu.Found{Vendor: vendor, GPUs: twoGPUs} }
		c.DCGM.Port = port
	}
}

// exporter answers as an exporter that somebody has started does, and counts.
type exporter struct {
	mu    sync.Mutex
	asked int
}

func (x *exporter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.asked++
	fmt.Fprint(w, dcgmtest.Exposition(97, twoGPUs[0].ID, twoGPUs[1].ID))
}

func (x *exporter) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asked
}

func (x *exporter) serve(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0") // the agent looks there, of whatever family that is
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(x)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return l.Addr().(*net.TCPAddr).Port
}

// kinds are the events of kinds that were heard, in order.
func (e *ear) kinds(kinds ...agentapi.EventKind) []agentapi.Event {
	return slices.DeleteFunc(e.heard(), func(ev agentapi.Event) bool { return !slices.Contains(kinds, ev.Kind) })
}

// A listener who wishes it hears what DCGM measures, of each task's own GPUs.
func TestDCGM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	x := &exporter{}
	a := run(t, newHome(t), newEngine(), with("nvidia", x.serve(t)))
	var tasks []string
	for _, n := range []int{1, 1, 0} {
		s := spec()
		s.GPUs = n
		a.put(s)
		a.reaches(s.ID, agentapi.Running)
		tasks = append(tasks, s.ID)
	}
	e := a.wish(agentapi.Wish{DCGM: true})
	e.until("there are metrics", func() bool { return len(e.kinds(agentapi.DCGMEvent)) == 2 })
	held := map[string]string{}
	for _, ev := range e.kinds(agentapi.DCGMEvent) {
		if wrong := ev.Check(time.Now()); wrong != "" {
			t.Errorf("an event is %s", wrong)
		}
		text, err := agentapi.Unpack(ev.DCGM)
		if err != nil {
			t.Fatal(err)
		}
		held[ev.TaskID] = string(text)
	}
	all := dcgmtest.Exposition(97, twoGPUs[0].ID, twoGPUs[1].ID)
	want := map[string]string{}
	for _, id := range tasks[:2] {
		want[id] = string(dcgm.Filter([]byte(all), a.get(id).GPUs))
	}
	if diff := cmp.Diff(want, held); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	plain := a.listen()
	plain.until("it hears of the tasks", func() bool { return len(plain.kinds(agentapi.TaskEvent)) == 3 })
	if got := plain.kinds(agentapi.DCGMEvent, agentapi.HealthEvent); len(got) > 0 {
		t.Errorf("a listener without wishes hears %v", got)
	}
}

// Nobody is asked for the metrics of a host whose GPUs no task holds, or that has none of NVIDIA's.
func TestDCGMAsksNobody(t *testing.T) {
	dir := dcgmtest.Install(t, "dcgmi")
	dcgmtest.Write(t, dir, dcgmtest.HealthFile, dcgmtest.Report("", ""))
	for vendor, gpus := range map[string]int{"nvidia": 0, "amd": 2} {
		x := &exporter{}
		a := run(t, newHome(t), newEngine(), with(vendor, x.serve(t)))
		s := spec()
		s.GPUs = gpus
		a.put(s)
		a.reaches(s.ID, agentapi.Running)
		e := a.wish(agentapi.Wish{DCGM: true, Health: time.Second})
		e.until("it hears of the task", func() bool { return len(e.kinds(agentapi.TaskEvent)) == 1 })
		if vendor == "nvidia" {
			e.until("it hears of the GPUs' health", func() bool { return len(e.kinds(agentapi.HealthEvent)) > 1 })
		}
		e.close()
		if n := x.count(); n != 0 || vendor != "nvidia" && len(e.kinds(agentapi.HealthEvent)) > 0 {
			t.Errorf("%s: the exporter was asked %d times, heard %v", vendor, n, e.heard())
		}
	}
}

// A listener hears how well the GPUs are each time that they are checked; of a check that fails it
// hears nothing, and once that nobody checks them.
func TestHealth(t *testing.T) {
	dir := dcgmtest.Install(t, "dcgmi")
	a := run(t, newHome(t), newEngine(), with("nvidia", 1))
	e := a.wish(agentapi.Wish{Health: time.Second})
	dcgmtest.Write(t, dir, dcgmtest.HealthFile, dcgmtest.Report("", ""))
	e.until("all is well", func() bool { return len(e.kinds(agentapi.HealthEvent)) > 0 })
	dcgmtest.Write(t, dir, dcgmtest.HealthFile, dcgmtest.Report("Failure", "row remap failure"))
	var last *agentapi.DCGMHealth
	e.until("a GPU has failed", func() bool {
		list := e.kinds(agentapi.HealthEvent)
		last = list[len(list)-1].Health.DCGM
		return last.OverallHealth == agentapi.HealthFail
	})
	if len(last.Incidents) != 1 || last.Incidents[0].ErrorMessage != "row remap failure" {
		t.Errorf("%+v", last)
	}
	if err := os.Remove(filepath.Join(dir, "dcgmi")); err != nil {
		t.Fatal(err)
	}
	e.until("nobody checks", func() bool {
		list := e.kinds(agentapi.HealthEvent)
		return list[len(list)-1].Health.DCGM == nil
	})
	for _, ev := range e.kinds(agentapi.HealthEvent) {
		if wrong := ev.Check(time.Now()); wrong != "" || ev.TaskID != "" {
			t.Errorf("an event is %s: %+v", wrong, ev)
		}
	}
}
