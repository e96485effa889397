package apply

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/config"
)

// recorded calls test for every line of a file in testdata, which holds what the published
// client does.
func recorded[T any](t *testing.T, file string, test func(t *testing.T, row T)) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var row T
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		test(t, row)
	}
}

func TestPortsRecorded(t *testing.T) {
	type row struct {
		Configuration, Options []string
		Error                  string
		Out                    [][2]*int // local and container
	}
	recorded(t, "ports-merge.jsonl", func(t *testing.T, r row) {
		run := config.AnyRun{Task: &config.Task{}}
		for _, s := range r.Configuration {
			p, err := config.ParsePort(s)
			if err != nil {
				t.Fatal(err)
			}
			run.Task.Ports = append(run.Task.Ports, p)
		}
		msg := ""
		if err := (Options{Ports: r.Options}).ports(&run); err != nil {
			msg = err.Error()
		}
		if msg != r.Error {
			t.Errorf("%v and -p %v: error %q, recorded %q", r.Configuration, r.Options, msg, r.Error)
		}
		if msg != "" {
			return
		}
		var got [][2]*int
		for _, p := range run.Task.Ports {
			got = append(got, [2]*int{p.LocalPort, &p.ContainerPort})
		}
		if diff := cmp.Diff(r.Out, got); diff != "" {
			t.Errorf("%v and -p %v (-recorded +got):\n%s", r.Configuration, r.Options, diff)
		}
	})
}

func TestAbsoluteRecorded(t *testing.T) {
	type row struct {
		In  string
		Out bool
	}
	recorded(t, "absolute-path.jsonl", func(t *testing.T, r row) {
		if got := absolute(r.In); got != r.Out {
			t.Errorf("absolute(%q) = %v, recorded %v", r.In, got, r.Out)
		}
	})
}
