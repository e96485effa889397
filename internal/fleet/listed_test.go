package fleet

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
)

// What a list shows of a fleet and its instances is, over all their life, what it would show
// without a memory. Every change of a row is another version.
func TestListedAsRendered(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := parts{Fleet: Fleet{ID: "f", Name: "f", Version: 1, Status: api.FleetActive, CreatedAt: time.Unix(1e9, 0)}, project: "p"}
		// change replaces an instance: rows that were read are never changed.
		change := func(do func(i *instance.Instance)) {
			if len(p.instances) == 0 {
				return
			}
			n := r.IntN(len(p.instances))
			i := *p.instances[n]
			do(&i)
			i.Version++
			p.instances = slices.Clone(p.instances)
			p.instances[n] = &i
		}
		steps := []func(){
			func() { p.Status, p.Version = api.FleetTerminating, p.Version+1 },
			func() { p.Spec.Configuration.Name, p.Version = new("<a>"), p.Version+1 },
			func() { p.project = fmt.Sprint("p", r.IntN(3)) },
			func() {
				n := len(p.instances)
				p.instances = append(slices.Clip(p.instances), &instance.Instance{ID: fmt.Sprint("i", r.Uint64()), FleetID: "f", Num: n, Name: fmt.Sprint("f-", n), Version: 1, Status: api.InstancePending})
			},
			func() { p.instances = p.instances[:max(0, len(p.instances)-1)] },
			func() { change(func(i *instance.Instance) { i.Status = api.InstanceBusy }) },
			func() { change(func(i *instance.Instance) { i.Unreachable = !i.Unreachable }) },
			func() { change(func(i *instance.Instance) { i.Data.Problem = []string{"", "no & route"}[r.IntN(2)] }) },
			func() { change(func(i *instance.Instance) { i.Data.LostGPUs = r.IntN(2) }) },
			func() {
				change(func(i *instance.Instance) {
					i.Assignments = append(slices.Clip(i.Assignments), instance.Assignment{JobID: "j", Blocks: 1})
				})
			},
		}
		texts := newTexts()
		for n := range 100 {
			steps[r.IntN(len(steps))]()
			got, err := texts.fleet(&p)
			if err != nil {
				t.Fatal(err)
			}
			v := p.render()
			for _, i := range p.instances {
				v.Instances = append(v.Instances, instance.View(i, p.project, p.Name))
			}
			want, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if got := got.Bytes(); string(got) != string(want) {
				t.Fatalf("seed %d, step %d:\n%s\nwant\n%s", seed, n, got, want)
			}
		}
	}
}

// A fleet says which of its instances lack GPUs.
func TestShowsLostGPUs(t *testing.T) {
	i := instance.Instance{Name: "f-0", Data: instance.Data{LostGPUs: 1, Host: &agentapi.HostInfo{Warnings: []string{"it fell\noff"}}}}
	i.Data.Provisioning = &api.JobProvisioningData{InstanceType: api.InstanceType{Resources: api.Resources{Gpus: make([]api.Gpu, 2)}}}
	p := parts{instances: []*instance.Instance{&i, {Name: "f-1"}}}
	if text := p.render().StatusMessage; text == nil || *text != "f-0: 1 of 2 GPUs are there: it fell off" {
		t.Errorf("the fleet says %v", text)
	}
}

// A fleet of 500 hosts to which nothing happens is put together, not encoded.
func BenchmarkListed(b *testing.B) {
	p := parts{Fleet: Fleet{ID: "f", Name: "f", Version: 1}, project: "p"}
	for n := range 500 {
		p.instances = append(p.instances, &instance.Instance{ID: fmt.Sprint("i", n), FleetID: "f", Num: n, Name: fmt.Sprint("f-", n), Version: 4, Status: api.InstanceIdle})
	}
	texts := newTexts()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := texts.fleet(&p); err != nil {
			b.Fatal(err)
		}
	}
}
