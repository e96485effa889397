package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/config"
	"dstack/internal/recorded"
)

func TestPortsRecorded(t *testing.T) {
	type row struct {
		Configuration, Options []string
		Error                  string
		Out                    [][2]*int // local and container
	}
	recorded.Rows(t, "testdata/ports-merge.jsonl", func(t *testing.T, r row) {
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
