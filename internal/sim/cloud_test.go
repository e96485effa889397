package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// cloudConfig is the configuration of a simulated backend: it has none.
type cloudConfig struct{}

// backends are the clouds as one process reaches them.
func (p *process) backends() []backend.Type {
	var types []backend.Type
	for _, name := range cloudNames {
		types = append(types, backend.Define(name, "", func(context.Context, cloudConfig, backend.Deps) (backend.Backend, error) {
			a := &account{cloud: p.w.clouds[name], p: p, name: name}
			if p.w.plain[name] {
				return a, nil
			}
			return disked{grouped{a}}, nil
		}))
	}
	return types
}

// account is a cloud that a dead process reaches no more. Where calls begin and end are
// effects: the process may die there.
type account struct {
	cloud *fake.Cloud
	p     *process
	name  string
}

// Settle implements backend.SettleBackend.
func (a *account) Settle() time.Duration { return a.cloud.Settle() }

// Privileged implements backend.PrivilegedBackend.
func (a *account) Privileged() {}

// Multinode implements backend.MultinodeBackend.
func (a *account) Multinode() {}

func (a *account) call(what string, do func() error) error {
	a.p.w.checks.requested(a.name, what)
	if err := a.p.effect("before " + a.name + " " + what); err != nil {
		return err
	}
	time.Sleep(a.p.w.step(what))
	err := do()
	if dead := a.p.effect("after " + a.name + " " + what); dead != nil {
		return dead
	}
	return err
}

// Offers implements backend.Backend.
func (a *account) Offers(ctx context.Context, q offer.Query) ([]offer.Offer, error) {
	if !a.p.alive() {
		return nil, errDead
	}
	return a.cloud.Offers(ctx, q)
}

// Create implements backend.Backend.
func (a *account) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	if a.p.retries {
		return a.createAgain(ctx, req)
	}
	return a.create(ctx, req)
}

func (a *account) create(ctx context.Context, req backend.CreateRequest) (inst backend.Instance, err error) {
	err = a.call("Create "+req.Name, func() (err error) {
		inst, err = a.cloud.Create(ctx, req)
		return err
	})
	return a.named(inst), err
}

// Describe implements backend.Backend.
func (a *account) Describe(ctx context.Context, ref backend.Ref) (inst backend.Instance, err error) {
	err = a.call("Describe "+ref.ID, func() (err error) {
		inst, err = a.cloud.Describe(ctx, ref)
		return err
	})
	return a.named(inst), err
}

// Terminate implements backend.Backend.
func (a *account) Terminate(ctx context.Context, ref backend.Ref) error {
	a.p.w.checks.asked(a.name, ref.ID)
	terminate := func() error { return a.cloud.Terminate(ctx, ref) }
	for a.p.pesters {
		if inst, err := a.cloud.Describe(ctx, ref); err != nil || inst.State == backend.StateGone {
			break
		}
		_ = a.call("Terminate "+ref.ID, terminate)
	}
	return a.call("Terminate "+ref.ID, terminate)
}

// List implements backend.Backend.
func (a *account) List(ctx context.Context, serverID string) (owned []backend.Owned, err error) {
	err = a.call("List", func() (err error) {
		owned, err = a.cloud.List(ctx, serverID)
		return err
	})
	return owned, err
}

// named makes addresses unique among clouds.
func (a *account) named(inst backend.Instance) backend.Instance {
	if inst.Hostname != "" {
		inst.Hostname = a.name + "." + inst.Hostname
		inst.InternalIP = a.name + "-" + inst.InternalIP
		if says := a.p.w.says; says != nil {
			inst.Hostname = says(a.name+"/"+inst.Ref.ID, inst.Hostname)
		}
	}
	return inst
}

// addCloud makes a cloud with a stranger's machine and group in it.
func (w *world) addCloud(c fake.Config) *fake.Cloud {
	c.Ended = func(m fake.Machine) { w.machineEnded(c.Name, m.ID) }
	cloud := fake.New(c)
	w.clouds[c.Name] = cloud
	others := map[string]string{"owner": "somebody", backend.TagServer: "another-server"}
	w.checks.foreign[c.Name] = []string{cloud.Plant("north", 1, others), cloud.PlantGroup("north", others)}
	return cloud
}

// at is the host that answers at an address now, nil for none.
func (w *world) at(addr string) *agent {
	if h := w.hosts[addr]; h != nil {
		return h
	}
	name, rest, _ := strings.Cut(addr, ".")
	cloud := w.clouds[name]
	if cloud == nil {
		return nil
	}
	m, ok := cloud.At(rest)
	if !ok {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := name + "/" + m.ID
	h := w.machines[key]
	if h == nil {
		n := len(w.machines)
		h = newHost(w, key, n+1, false)
		h.gpus, h.made = m.GPUs, m.GPUs
		if n < len(w.drivers) && w.drivers[n] > 0 {
			h.gpus = 0
			time.AfterFunc(w.drivers[n], func() { h.lists(m.GPUs) })
		}
		w.machines[key] = h
	}
	return h
}

func (w *world) machineEnded(cloud, id string) {
	w.trace.add("machine", cloud+"/"+id, "gone")
	w.mu.Lock()
	h := w.machines[cloud+"/"+id]
	w.mu.Unlock()
	if h != nil {
		h.die()
	}
	w.checks.event()
}

// every are all hosts, in an order that does not depend on chance.
func (w *world) every() []*agent {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*agent
	for _, h := range w.hosts {
		all = append(all, h)
	}
	for _, h := range w.machines {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *agent) int { return strings.Compare(a.name, b.name) })
	return all
}

func (w *world) hostsOff() {
	for _, h := range w.every() {
		h.die()
	}
}

// addLink notes how to break a connection when its process is overtaken.
func (w *world) addLink(p *process, closes func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links = append(p.links, closes)
}

func (w *world) closeLinks(p *process) {
	p.mu.Lock()
	links := p.links
	p.links = nil
	p.mu.Unlock()
	for _, closes := range links {
		closes()
	}
}

// netFault decides about one call to a host.
func (w *world) netFault(h *agent, call string) string {
	if w.netFaults == 0 || w.isCalm() {
		return ""
	}
	fault := ""
	switch x := w.dice("net " + h.name + " " + strings.SplitN(call, "/tasks/", 2)[0]).Float64(); {
	case x < w.netFaults/2:
		fault = "request lost"
	case x < w.netFaults:
		fault = "reply lost"
	default:
		return ""
	}
	w.count(fault)
	return fault
}

// duplicates says that a host tells what it told already once more.
func (w *world) duplicates(h *agent) bool {
	if w.netFaults == 0 || w.isCalm() || w.dice("dup "+h.name).Float64() > w.netFaults {
		return false
	}
	w.count("duplicate events")
	return true
}

// lies says that a host tells what is not true.
func (w *world) lies(h *agent) bool {
	if w.netFaults == 0 || w.isCalm() || w.dice("lie "+h.name).Float64() > w.netFaults/2 {
		return false
	}
	w.count("agent lies")
	return true
}

func (w *world) isCalm() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calm
}

// script is what a job does. It travels in the job's environment.
type script struct {
	Pull, Run time.Duration
	Stop      time.Duration // from SIGINT to its end
	Exit      int
	Fails     int // attempts that exit with 1 before one exits with Exit
	Lines     int

	Serves bool          // it answers requests
	Ready  time.Duration // until it answers well
}

const scriptEnv = "SIM"

func (s script) String() string {
	data, _ := json.Marshal(s) // numbers
	return string(data)
}

// scriptOf reads what the next attempt of a job does.
func (w *world) scriptOf(spec agentapi.TaskSpec) script {
	var s script
	if err := json.Unmarshal([]byte(spec.Job.Env[scriptEnv]), &s); err != nil {
		w.checks.violate("I0", fmt.Sprintf("task %s has no script: %v", spec.Name, err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := fmt.Sprint(spec.Job.RunID, "/", spec.Job.JobNum)
	w.scripts[name]++
	if w.scripts[name] <= s.Fails {
		s.Exit = 1
		if s.Serves {
			s.Run = time.Minute
		}
	}
	return s
}
