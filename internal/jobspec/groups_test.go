package jobspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jobspec/jobspectest"
)

// The replicas of groups are what their group says, and the service where it says nothing.
func TestReplica(t *testing.T) {
	spec, err := jobspectest.Parse(`
type: service
name: svc
port: 8000
image: common
env: [A=1]
probes: [{type: http, url: /health}]
groups:
  - replicas: 1
    commands: [first]
    spot_policy: spot
    resources: {gpu: A100}
  - name: second
    replicas: 0..4
    scaling: {metric: rps, target: 1}
    commands: [second]
`)
	if err != nil {
		t.Fatal(err)
	}
	if err := (Limits{}).Normalise(&spec, "ssh-rsa AAAA"); err != nil {
		t.Fatal(err)
	}
	type brief struct {
		Name, Group, Image, Command, GPU string
		Replica, Port                    int
		Spot                             bool
		Probe                            api.ProbeSpec
	}
	probe := api.ProbeSpec{Type: "http", URL: "/health", Method: "get", Headers: []config.ProbeHeader{}, Timeout: 10, Interval: 15, ReadyAfter: 1}
	for _, want := range []brief{
		{"svc-0-0", "0", "common", "first", "A100", 0, 8000, true, probe},
		{"svc-0-7", "second", "common", "second", "", 7, 8000, false, probe},
	} {
		specs, err := Images{}.Replica(spec, "svc", want.Group, want.Replica)
		if err != nil || len(specs) != 1 {
			t.Fatalf("%s: %d jobs, %v", want.Group, len(specs), err)
		}
		js := specs[0]
		got := brief{js.JobName, js.ReplicaGroup, js.ImageName, js.Commands[len(js.Commands)-1], strings.Join(js.Requirements.Resources.GPU.Name, ""), js.ReplicaNum, *js.ServicePort, *js.Requirements.Spot, js.Probes[0]}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Group, diff)
		}
	}
	planned, err := Images{}.Planned(spec, "svc")
	if err != nil || len(planned) != 2 || planned[0].ReplicaGroup != "0" || planned[1].ReplicaGroup != "second" {
		t.Errorf("a plan has the jobs %+v, %v", planned, err)
	}
}
