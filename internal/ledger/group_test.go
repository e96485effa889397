package ledger_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/offer"
	"dstack/internal/store"
)

// node records a wish for an instance of a cluster.
func (w *world) node(cluster string, o offer.Offer, change ...func(*backend.CreateRequest)) string {
	w.Helper()
	req := &backend.CreateRequest{Project: "main", Fleet: cluster, Offer: o, Tags: map[string]string{"team": "vision"}}
	for _, c := range change {
		c(req)
	}
	var id string
	w.write(func(tx *store.Tx) (err error) {
		id, err = w.ledger.Intend(context.Background(), tx, ledger.Intent{
			Kind: backend.InstanceResource, Backend: "fake", Region: o.Region, ProjectID: "p",
			OwnerKind: "instance", OwnerID: "inst", Price: o.Price, Name: cluster + "-0", Create: req, Cluster: cluster,
		})
		return err
	})
	return id
}

// groups checks how many placement groups of ours exist, and returns them.
func (w *world) groups(n int) []fake.Group {
	w.Helper()
	all := slices.DeleteFunc(w.cloud.Groups(), func(g fake.Group) bool { return g.Tags[backend.TagServer] != w.db.ServerID() })
	if len(all) != n {
		w.Errorf("%d placement groups, want %d: %v", len(all), n, all)
	}
	return all
}

// left checks what keeps the backend from being deleted.
func (w *world) left(want ...backend.ResourceKind) {
	w.Helper()
	records, err := w.ledger.Left(context.Background(), w.db.Read(), "p", "fake")
	if err != nil {
		w.Fatal(err)
	}
	var got []backend.ResourceKind
	for _, r := range records {
		got = append(got, r.Kind)
	}
	if !slices.Equal(got, want) {
		w.Errorf("%v could not be ended without the backend, want %v", got, want)
	}
}

var south = fake.SomeOffers()[5]

// TestGroup has three nodes join one group, which lives as long as one of them.
func TestGroup(t *testing.T) {
	each(t, plain, func(w *world) {
		ids := []string{w.node("train", h100()), w.node("train", h100()), w.node("train", h100())}
		time.Sleep(2 * time.Second)
		for _, id := range ids {
			w.want(id, ledger.Created, 3)
		}
		for _, g := range w.groups(1) {
			if len(g.Machines) != 3 {
				t.Errorf("in the group are %v, want all three", g.Machines)
			}
			if g.Tags[backend.TagFleet] != "train" || g.Tags[backend.TagName] != "train" || g.Tags["team"] != "vision" {
				t.Errorf("tags %v", g.Tags)
			}
			r := w.get(g.Tags[backend.TagIntent])
			if r.OwnerKind != "fleet" || r.OwnerID != "train" || !strings.HasPrefix(r.Doc.Placement.Name, "dstack-main-train-") {
				t.Errorf("the group is for %s %s, named %s", r.OwnerKind, r.OwnerID, r.Doc.Placement.Name)
			}
		}
		later := w.node("train", h100())
		time.Sleep(time.Minute)
		if g := w.groups(1); len(g) > 0 && len(g[0].Machines) != 4 {
			t.Errorf("a node that came later is not in the group: %v", g)
		}
		calls := w.cloud.Calls("DescribePlacement")
		time.Sleep(time.Hour)
		if n := w.cloud.Calls("DescribePlacement"); n != calls {
			t.Errorf("%d calls for an idle group in an hour", n-calls)
		}
		for _, id := range ids {
			w.release(id)
		}
		time.Sleep(10 * time.Minute)
		w.want(later, ledger.Created, 1)
		w.groups(1)
		if n := w.cloud.Calls("DeletePlacement"); n != 0 {
			t.Errorf("%d requests to delete a group with an instance in it", n)
		}
		w.release(later)
		time.Sleep(30 * time.Second)
		w.live(0)
		w.groups(1) // who is refused may come back
		w.left(backend.PlacementResource)
		time.Sleep(2 * time.Minute)
		w.groups(0)
		w.left()
		w.billEqual()
	})
}

// TestGroupsApart has a group for each cluster and region, and none for what is no cluster.
func TestGroupsApart(t *testing.T) {
	each(t, plain, func(w *world) {
		w.intend()
		w.node("train", h100())
		w.node("train", south)
		w.node("other", h100())
		time.Sleep(2 * time.Second)
		w.live(4)
		for _, g := range w.groups(3) {
			if len(g.Machines) != 1 {
				t.Errorf("in a group are %v, want one machine", g.Machines)
			}
		}
	})
}

// TestGroupExceptions are the instances that join no group, or cannot.
func TestGroupExceptions(t *testing.T) {
	reserved := func(r *backend.CreateRequest) { r.Reservation = "r-1" }
	for name, tt := range map[string]struct {
		config  fake.Config
		fault   fake.Fault
		change  func(*backend.CreateRequest)
		message string // of a refusal, "" for none
		groups  int
	}{
		"reserved":                  {change: reserved, groups: 1},
		"reserved, which says both": {config: fake.Config{ReservedApart: true}, change: reserved},
		"a type without groups":     {config: fake.Config{Fabrics: map[string]string{"gpu.one": fake.NoFabric}}, message: "no compatible placement group"},
		"no more groups":            {fault: fake.Fault{Op: "CreatePlacement", Before: backend.ErrQuota}, message: "no compatible placement group: quota exceeded"},
		"asked for and lost":        {fault: fake.Fault{Op: "CreatePlacement", Nth: 1, Before: fake.ErrReset}, message: "no compatible placement group: connection reset by peer"},
		"made, and reply lost":      {fault: fake.Fault{Op: "CreatePlacement", Nth: 1, After: fake.ErrReset}, groups: 1},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, tt.config, func(w *world) {
				w.cloud.Reserve("r-1", offer.Reserved{Region: h100().Region, Instance: h100().Instance, Left: 1})
				if tt.fault.Op != "" {
					w.cloud.Inject(tt.fault)
				}
				if tt.change == nil {
					tt.change = func(*backend.CreateRequest) {}
				}
				id := w.node("train", h100(), tt.change)
				time.Sleep(5 * time.Minute)
				if tt.message == "" {
					w.want(id, ledger.Created, 1)
				} else if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.NoPlacement || !r.Refused() || r.Message() != tt.message {
					t.Errorf("outcome %s, refused %v, %q, want %q", r.Doc.Outcome, r.Refused(), r.Message(), tt.message)
				}
				w.groups(tt.groups)
				if n := w.cloud.Calls("CreatePlacement"); n > 1 {
					t.Errorf("%d calls of CreatePlacement", n)
				}
			})
		})
	}
}

// TestGroupOfAnotherFabric refuses an instance that does not suit the group of its cluster, and
// replaces the group when nobody is in it any more.
func TestGroupOfAnotherFabric(t *testing.T) {
	c := plain
	c.Fabrics = map[string]string{"gpu.eight": "ib"}
	eight := fake.SomeOffers()[3]
	each(t, c, func(w *world) {
		first := w.node("train", h100())
		time.Sleep(5 * time.Second)
		if r := w.want(w.refusedNode(eight), ledger.Gone, 1); r.Doc.Outcome != ledger.NoPlacement {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
		w.release(first)
		time.Sleep(10 * time.Second)
		second := w.node("train", eight)
		time.Sleep(10 * time.Second)
		w.want(second, ledger.Created, 1)
		for _, g := range w.groups(1) {
			if len(g.Machines) != 1 {
				t.Errorf("in the group are %v", g.Machines)
			}
		}
	})
}

func (w *world) refusedNode(o offer.Offer) string {
	w.Helper()
	id := w.node("train", o)
	time.Sleep(5 * time.Second)
	return id
}

// TestGroupSurvivesRefusals keeps the group while who was refused tries another offer.
func TestGroupSurvivesRefusals(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: backend.ErrNoCapacity})
		w.want(w.refusedNode(h100()), ledger.Gone, 0)
		w.groups(1)
		time.Sleep(30 * time.Second)
		again := w.node("train", h100())
		time.Sleep(10 * time.Minute)
		w.want(again, ledger.Created, 1)
		w.groups(1)
		if n := w.cloud.Calls("CreatePlacement"); n != 1 {
			t.Errorf("%d groups were made, want one", n)
		}
	})
}

// TestGroupRefusedOnce does not ask for a group again for each offer of a place.
func TestGroupRefusedOnce(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "CreatePlacement", Before: backend.ErrQuota})
		for range 3 {
			w.want(w.refusedNode(h100()), ledger.Gone, 0)
		}
		w.want(w.refusedNode(south), ledger.Gone, 0)
		if n := w.cloud.Calls("CreatePlacement"); n != 2 {
			t.Errorf("%d groups were asked for, want one in each region", n)
		}
		w.cloud.Heal()
		if r := w.want(w.refusedNode(h100()), ledger.Gone, 0); r.Message() != "no compatible placement group: quota exceeded" {
			t.Errorf("message %q", r.Message())
		}
		time.Sleep(time.Minute)
		w.want(w.refusedNode(h100()), ledger.Created, 1)
	})
}

// TestCrashInGroup kills the server inside each call for a group, after its effect.
func TestCrashInGroup(t *testing.T) {
	for _, op := range []string{"CreatePlacement", "DescribePlacement", "DeletePlacement", "Create"} {
		t.Run(op, func(t *testing.T) {
			each(t, plain, func(w *world) {
				if op == "DescribePlacement" { // asked only about what was lost
					time.Sleep(time.Second)
					w.cloud.Inject(fake.Fault{Op: "CreatePlacement", Nth: 1, After: fake.ErrReset})
				}
				crashed := make(chan struct{})
				w.cloud.Inject(fake.Fault{Op: op, Nth: 1, Crash: func() { close(crashed) }})
				ids := []string{w.node("train", h100()), w.node("train", h100())}
				end := func() {
					for _, id := range ids {
						w.release(id)
					}
				}
				if op == "DeletePlacement" || op == "DescribePlacement" {
					time.Sleep(time.Minute)
					end()
				}
				<-crashed
				w.crash()
				time.Sleep(3 * time.Minute)
				if op != "DeletePlacement" && op != "DescribePlacement" {
					for _, g := range w.groups(1) {
						if len(g.Machines) != 2 {
							t.Errorf("in the group are %v, want both", g.Machines)
						}
					}
					end()
					time.Sleep(3 * time.Minute)
				}
				for _, id := range ids {
					w.want(id, ledger.Gone, 0)
				}
				w.groups(0)
				if d := w.cloud.Doubles(); len(d) > 0 {
					t.Errorf("created twice: %v", d)
				}
				w.billEqual()
			})
		})
	}
}

// TestGroupSweep deletes groups of ours that nothing explains and leaves those of others alone;
// one that cannot be deleted becomes a debt.
func TestGroupSweep(t *testing.T) {
	each(t, plain, func(w *world) {
		foreign := w.cloud.PlantGroup("north", map[string]string{"owner": "somebody"})
		w.cloud.PlantGroup("north", map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: "lost"})
		w.cloud.Inject(fake.Fault{Op: "DeletePlacement", Before: backend.ErrInUse})
		time.Sleep(30 * time.Minute)
		w.groups(1)
		debts, err := w.ledger.Debts(context.Background(), w.db.Read())
		if err != nil || len(debts) != 1 || debts[0].Kind != backend.PlacementResource || debts[0].Price != 0 || !strings.Contains(debts[0].Message(), "in use") {
			t.Errorf("Debts = %+v, %v", debts, err)
		}
		calls := w.cloud.Calls("DeletePlacement")
		time.Sleep(10 * time.Minute)
		if n := w.cloud.Calls("DeletePlacement") - calls; n < 15 || n > 25 {
			t.Errorf("%d attempts in ten minutes, want one each half minute", n)
		}
		w.cloud.Heal()
		time.Sleep(5 * time.Minute)
		w.groups(0)
		if all := w.cloud.Groups(); len(all) != 1 || all[0].ID != foreign {
			t.Errorf("left are %v, want the foreign one", all)
		}
	})
}

// TestGroupOfClosedBackend ends what was not begun when the backend cannot be opened.
func TestGroupOfClosedBackend(t *testing.T) {
	each(t, plain, func(w *world) {
		w.breakBackend(errors.New("no such secret"))
		id := w.node("train", h100())
		time.Sleep(5 * time.Minute)
		w.want(id, ledger.Gone, 0)
		w.breakBackend(nil)
		time.Sleep(5 * time.Minute)
		w.groups(0)
	})
}
