package ledger_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

func chaos(t *testing.T, db *store.DB, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := start(t, db, fake.Config{
		Boot: 30 * time.Second, Deletion: 10 * time.Second, Latency: 500 * time.Millisecond,
		ListLag: time.Duration(rnd.IntN(40)) * time.Second,
	})
	foreign := w.cloud.Plant("north", 1, map[string]string{"owner": "somebody"})
	w.cloud.PlantGroup("north", map[string]string{"owner": "somebody"})
	mix := fake.EveryKind(0.06)
	mix.Life = 10 * time.Minute // so that the last deaths are noticed before the end
	w.cloud.Misbehave(seed, mix)
	wanted, released := map[string]bool{}, map[string]bool{}
	for range 60 {
		switch dice := rnd.IntN(10); {
		case dice < 3:
			wanted[w.intend()] = true
		case dice < 5:
			wanted[w.node([]string{"train", "serve"}[rnd.IntN(2)], fake.SomeOffers()[1+4*rnd.IntN(2)])] = true
		case dice < 8:
			for id := range wanted {
				w.release(id)
				released[id] = true
				delete(wanted, id)
				break
			}
		case dice < 9 && rnd.IntN(2) == 0:
			w.crash()
		case dice < 9:
			w.stop()
			time.Sleep(time.Duration(rnd.IntN(30)) * time.Second)
			w.restart()
		default:
			if live := w.cloud.Live(); len(live) > 1 {
				if m := live[rnd.IntN(len(live))]; m.ID != foreign {
					w.cloud.Kill(m.ID)
					w.kills++
				}
			}
		}
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Second)
	}
	w.cloud.Heal()
	time.Sleep(30 * time.Minute)
	w.kills += w.cloud.Injected()[fake.SuddenDeath]

	if d := w.cloud.Doubles(); len(d) > 0 {
		t.Errorf("created twice: %v", d)
	}
	byIntent, strangers := map[string]int{}, 0
	for _, m := range w.cloud.Live() {
		if m.ID == foreign {
			strangers++
			continue
		}
		byIntent[m.Tags[backend.TagIntent]]++
	}
	if strangers != 1 {
		t.Error("the foreign machine was touched")
	}
	for id := range wanted {
		r := w.get(id)
		switch {
		case r.State == ledger.Created && byIntent[id] == 1, r.State == ledger.Gone && byIntent[id] == 0:
		default:
			t.Errorf("wanted intent %s is %s (%s) with %d machines", id, r.State, r.Doc.Outcome, byIntent[id])
		}
		delete(byIntent, id)
	}
	for id := range released {
		if r := w.get(id); r.State != ledger.Gone {
			t.Errorf("released intent %s is %s: %q", id, r.State, r.Message())
		}
	}
	if n := len(w.cloud.Groups()) - w.groupsAreRight(); n != 1 {
		t.Errorf("%d foreign groups are left, want one", n)
	}
	if len(byIntent) > 0 {
		t.Errorf("orphans: %v", byIntent)
	}
	w.billEqual()
}

// groupsAreRight checks that each group of ours is the only one of its cluster in its region,
// and has an instance, and that all instances of clusters are in groups. It returns how many
// there are.
func (w *world) groupsAreRight() (n int) {
	w.Helper()
	count := map[string]int{}
	for _, g := range w.cloud.Groups() {
		if g.Tags[backend.TagServer] != w.db.ServerID() {
			continue
		}
		n++
		r := w.get(g.Tags[backend.TagIntent])
		if count[r.OwnerID+r.Region]++; count[r.OwnerID+r.Region] > 1 || !r.Wanted || r.State != ledger.Created || len(g.Machines) == 0 {
			w.Errorf("group %s of %s in %s is %s, wanted %v, with %v; it is number %d there", g.ID, r.OwnerID, r.Region, r.State, r.Wanted, g.Machines, count[r.OwnerID+r.Region])
		}
		for _, m := range g.Machines {
			if in := w.get(m.Tags[backend.TagIntent]); in.GroupID != r.ID || in.Doc.Cluster != r.OwnerID {
				w.Errorf("machine %v of %s is in the group of %s", m, in.Doc.Cluster, r.OwnerID)
			}
			count["members"]++
		}
	}
	for _, m := range w.cloud.Live() {
		if id := m.Tags[backend.TagIntent]; id != "" && w.get(id).Doc.Cluster != "" {
			count["members"]--
		}
	}
	if count["members"] != 0 {
		w.Errorf("%d instances of clusters are in no group", -count["members"])
	}
	return n
}
