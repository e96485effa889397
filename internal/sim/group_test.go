package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
)

// Placement groups of clusters: clouds with them, and what must always be true of them.

// grouped is an account at a cloud that has placement groups.
type grouped struct{ *account }

// CreatePlacement implements backend.PlacementBackend.
func (a grouped) CreatePlacement(ctx context.Context, req backend.PlacementRequest) (p backend.Placement, err error) {
	err = a.call("CreatePlacement "+req.Name, func() (err error) {
		p, err = a.cloud.CreatePlacement(ctx, req)
		return err
	})
	return p, err
}

// DescribePlacement implements backend.PlacementBackend.
func (a grouped) DescribePlacement(ctx context.Context, ref backend.Ref) (p backend.Placement, err error) {
	err = a.call("DescribePlacement "+ref.ID, func() (err error) {
		p, err = a.cloud.DescribePlacement(ctx, ref)
		return err
	})
	return p, err
}

// DeletePlacement implements backend.PlacementBackend.
func (a grouped) DeletePlacement(ctx context.Context, ref backend.Ref) error {
	a.p.w.checks.asked(a.name, ref.ID)
	a.p.w.checks.deleting(a, ref.ID)
	return a.call("DeletePlacement "+ref.ID, func() error { return a.cloud.DeletePlacement(ctx, ref) })
}

// Placeable implements backend.PlacementBackend.
func (a grouped) Placeable(o backend.Offer, group backend.Ref) bool {
	return a.cloud.Placeable(o, group)
}

// PlacesReserved implements backend.PlacementBackend.
func (a grouped) PlacesReserved() bool { return a.cloud.PlacesReserved() }

// deleting is told when a process asks a cloud to delete a group: none may be in it whose
// machine is not known to be gone.
func (c *checker) deleting(a grouped, id string) {
	if !a.p.alive() {
		return
	}
	for _, m := range a.p.w.groups() {
		if m.key() != a.name+"/"+id {
			continue
		}
		for _, in := range m.members {
			var state string
			err := a.p.db.Read().QueryRowContext(context.Background(), `SELECT state FROM intent WHERE id = $1`, in.intent).Scan(&state)
			if err == nil && state != "gone" {
				c.violate("I14", fmt.Sprintf("group %s is to be deleted with machine %s in it, whose intent is %s", m.key(), in.key(), state))
			}
		}
	}
}

// placement is a placement group of ours at a cloud.
type placement struct {
	machine // its cloud, id and intent
	members []machine
}

// groups are the placement groups of ours that exist.
func (w *world) groups() []placement {
	w.mu.Lock()
	serverID := w.serverID
	w.mu.Unlock()
	var all []placement
	for _, name := range cloudNames {
		if w.clouds[name] == nil {
			continue
		}
		for _, g := range w.clouds[name].Groups() {
			if g.Tags[backend.TagServer] != serverID {
				continue
			}
			p := placement{machine: machine{cloud: name, id: g.ID, intent: g.Tags[backend.TagIntent]}}
			for _, m := range g.Machines {
				p.members = append(p.members, machineAt(name, m))
			}
			all = append(all, p)
		}
	}
	return all
}

// groupsRight is I14 at every moment: a cluster has at most one placement group in a place,
// its instances are in one place, and what is in a group belongs to the group's cluster.
func groupsRight(s *state) (bad []string) {
	type spot struct{ owner, backend, region string }
	wanted := map[spot]string{}
	intents := s.intentsByID()
	for _, in := range s.intents {
		if in.kind != "placement" || !in.wanted || in.state == "gone" {
			continue
		}
		at := spot{in.owner, in.backend, in.region}
		if other := wanted[at]; other != "" {
			bad = append(bad, fmt.Sprintf("fleet %.8s has the groups %.8s and %.8s in %s/%s", in.owner, other, in.id, in.backend, in.region))
		}
		wanted[at] = in.id
	}
	for _, g := range s.groups {
		for _, m := range g.members {
			if in := intents[m.intent]; in.group != g.intent || in.cluster != intents[g.intent].owner {
				bad = append(bad, fmt.Sprintf("machine %s of cluster %.8s, group %.8s, is in group %s of cluster %.8s", m.key(), in.cluster, in.group, g.key(), intents[g.intent].owner))
			}
		}
	}
	place := map[string]spot{}
	for _, inst := range s.instances {
		in := intents[inst.intent]
		if inst.deleted || inst.status == "terminating" || inst.status == "terminated" || in.cluster == "" || !in.wanted || in.state == "gone" {
			continue
		}
		at := spot{in.cluster, in.backend, in.region}
		if other, ok := place[in.cluster]; ok && other != at {
			bad = append(bad, fmt.Sprintf("cluster %.8s has instances in %s/%s and in %s/%s", in.cluster, other.backend, other.region, at.backend, at.region))
		}
		place[in.cluster] = at
	}
	return bad
}

// emptyFor bounds how long a group may stay that nobody is in.
const emptyFor = 10 * time.Minute

// groupsUsed is I14 when all is calm: groups are wanted and somebody is in them, and every
// machine of a cluster is in one where there are any.
func groupsUsed(s *state) (bad []string) {
	intents := s.intentsByID()
	in := map[string]bool{}
	for _, g := range s.groups {
		if r := intents[g.intent]; r.state != "created" || !r.wanted || r.resource != g.id {
			bad = append(bad, fmt.Sprintf("group %s is left over: its intent %.8s is %q", g.key(), g.intent, r.state))
		}
		if len(g.members) == 0 && s.now.Sub(s.since["group"+g.key()+"empty"]) > emptyFor {
			bad = append(bad, fmt.Sprintf("nobody is in group %s", g.key()))
		}
		for _, m := range g.members {
			in[m.key()] = true
		}
	}
	for _, m := range s.machines {
		if intents[m.intent].cluster != "" && !s.w.plain[m.cloud] && !in[m.key()] {
			bad = append(bad, fmt.Sprintf("machine %s of a cluster is in no group", m.key()))
		}
	}
	return bad
}

// sameGroups says that nothing has changed between two looks.
func sameGroups(a, b []placement) bool {
	return slices.EqualFunc(a, b, func(a, b placement) bool { return a.machine == b.machine && slices.Equal(a.members, b.members) })
}

// TestClusterTold has a cluster that is well, of which the doctor knows everything, and one of
// machines that cannot be in groups, of which users see why.
func TestClusterTold(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 10 * time.Second, Fabrics: map[string]string{"cpu.small": fake.NoFabric}})
		}
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("close", object{"nodes": 2, "placement": "cluster"})
		w.applyFleet("small", object{"nodes": 1, "placement": "cluster", "instance_types": []string{"cpu.small"}})
		time.Sleep(30 * time.Second)
		var d api.Doctor
		w.call("server/doctor", object{}, &d)
		told := map[string]int{}
		for _, r := range d.Resources {
			told[r.Kind+" "+r.Name+" "+r.Verdict]++
		}
		want := map[string]int{"instance close-0 confirmed": 1, "instance close-1 confirmed": 1, "placement close confirmed": 1}
		if diff := cmp.Diff(want, told); diff != "" {
			t.Errorf("the doctor (-want +got):\n%s", diff)
		}
		var list []api.Instance
		w.call("instances/list", object{}, &list)
		why := ""
		for _, i := range list {
			if *i.FleetName == "small" && i.TerminationReasonMessage != nil {
				why, _, _ = strings.Cut(*i.TerminationReasonMessage, "\n")
			}
		}
		if want := "None of the 4 offers in fleet 'small' could be tried: no compatible placement group."; why != want {
			t.Errorf("the instance says %q, want %q", why, want)
		}
		w.holds()
	})
}
