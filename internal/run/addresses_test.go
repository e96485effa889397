package run

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/jobspec/jobspectest"
)

const routedService = `
type: service
name: svc
port: 80
groups:
  - {name: router, replicas: 1, commands: [route], router: {type: dynamo}}
  - {name: worker, replicas: 2..4, scaling: {metric: rps, target: 1}, commands: [work]}
`

// member is an attempt of a replica.
func member(group string, replica, attempt int, status api.JobStatus, ip string) Job {
	j := Job{Replica: replica, Attempt: attempt, Status: status, Data: JobData{Spec: api.JobSpec{ReplicaGroup: group}}}
	if ip != "" {
		j.Data.Provisioning = &api.JobProvisioningData{Hostname: ptr("192.0.2.1"), InternalIP: &ip}
	}
	return j
}

func TestPlacesOf(t *testing.T) {
	spec, err := jobspectest.Parse(routedService)
	if err != nil {
		t.Fatal(err)
	}
	at := func(j Job) place { return placeOf(j, nil) }
	none := place{}
	for name, tt := range map[string]struct {
		jobs []Job
		want [][]place
	}{
		"nothing yet": {nil, [][]place{{none}, {none, none}}},
		"all there": {[]Job{member("router", 0, 0, api.JobRunning, "10.0.0.1"), member("worker", 1, 0, api.JobProvisioning, "10.0.0.2"), member("worker", 2, 0, api.JobSubmitted, "")},
			[][]place{{{true, "10.0.0.1"}}, {{true, "10.0.0.2"}, none}}},
		"more than there were at the start": {[]Job{member("worker", 1, 0, api.JobRunning, "a"), member("worker", 2, 0, api.JobRunning, "b"), member("worker", 3, 0, api.JobRunning, "c")},
			[][]place{{none}, {{true, "a"}, {true, "b"}}}},
		"one replaced": {[]Job{member("worker", 1, 0, api.JobFailed, "a"), member("worker", 1, 1, api.JobRunning, "d"), member("worker", 2, 0, api.JobTerminating, "b"), member("worker", 3, 0, api.JobRunning, "c")},
			[][]place{{none}, {{true, "d"}, {true, "c"}}}},
	} {
		if diff := cmp.Diff(tt.want, placesOf(spec.Configuration, tt.jobs, at), cmp.AllowUnexported(place{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlaceOf(t *testing.T) {
	booted := instance.Data{Host: &agentapi.HostInfo{}, Provisioning: &api.JobProvisioningData{InternalIP: ptr("10.0.0.1")}}
	for name, tt := range map[string]struct {
		job  Job
		inst *instance.Instance
		want place
	}{
		"not placed":          {Job{}, nil, place{}},
		"a host that boots":   {Job{}, &instance.Instance{Status: api.InstanceProvisioning, Data: instance.Data{Provisioning: booted.Provisioning}}, place{}},
		"a host":              {Job{}, &instance.Instance{Status: api.InstanceBusy, Data: booted}, place{true, "10.0.0.1"}},
		"one without address": {Job{}, &instance.Instance{Status: api.InstanceBusy, Data: instance.Data{Host: booted.Host, Provisioning: &api.JobProvisioningData{}}}, place{true, ""}},
		"one that is gone":    {member("g", 0, 0, api.JobRunning, "10.0.0.2"), nil, place{true, "10.0.0.2"}},
	} {
		if got := placeOf(tt.job, tt.inst); got != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
}

func TestLackOf(t *testing.T) {
	places := [][]place{{{true, "10.0.0.1"}}, {{true, ""}, {}}}
	for name, tt := range map[string]struct {
		commands []string
		want     *Lack
	}{
		"no reference":          {[]string{"serve"}, nil},
		"known":                 {[]string{"a", "b ${{ groups[0].replicas[0].IP_ADDRESS }}"}, nil},
		"a host without one":    {[]string{"${{ groups[1].replicas[0].IP_ADDRESS }}"}, nil}, // an error, no reason to wait
		"the second unknown":    {[]string{"${{ groups[0].replicas[0].IP_ADDRESS }} ${{ groups[1].replicas[1].IP_ADDRESS }}"}, &Lack{Name: "groups[1].replicas[1].IP_ADDRESS"}},
		"there is no such":      {[]string{"${{ groups[7].replicas[0].IP_ADDRESS }}"}, nil},
		"a text that is escape": {[]string{"$${{ groups[1].replicas[1].IP_ADDRESS }}"}, nil},
	} {
		if diff := cmp.Diff(tt.want, lackOf(tt.commands, places)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRouterPlace(t *testing.T) {
	spec, err := jobspectest.Parse(routedService)
	if err != nil {
		t.Fatal(err)
	}
	r := Run{Data: Data{Spec: spec}}
	for name, tt := range map[string]struct {
		jobs  []Job
		want  place
		ended bool
	}{
		"running":  {[]Job{member("router", 0, 0, api.JobRunning, "10.0.0.1"), member("worker", 1, 0, api.JobRunning, "x")}, place{true, "10.0.0.1"}, false},
		"waiting":  {[]Job{member("router", 0, 0, api.JobSubmitted, "")}, place{}, false},
		"ending":   {[]Job{member("router", 0, 0, api.JobTerminating, "10.0.0.1")}, place{}, true},
		"missing":  {[]Job{member("worker", 1, 0, api.JobRunning, "x")}, place{}, true},
		"replaced": {[]Job{member("router", 0, 0, api.JobFailed, "a"), member("router", 0, 1, api.JobRunning, "b")}, place{true, "b"}, false},
	} {
		got, ended := routerPlace(r, placesOf(spec.Configuration, tt.jobs, func(j Job) place { return placeOf(j, nil) }), tt.jobs)
		if got != tt.want || ended != tt.ended {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, ended, tt.want, tt.ended)
		}
	}
	if !behindDynamo(r, member("worker", 1, 0, api.JobRunning, "")) || behindDynamo(r, member("router", 0, 0, api.JobRunning, "")) || !needsAddresses(r) {
		t.Error("the workers are behind the router, the router is not")
	}
}
