package fleet

import (
	"fmt"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

// cloud is a fleet of low to high nodes (high < 0: no limit) created at start.
func cloud(low, high int, change ...func(*Fleet)) Fleet {
	f := Fleet{ID: "f", Name: "f", Status: api.FleetActive, CreatedAt: start}
	f.Spec.Configuration.Nodes = &config.FleetNodes{Min: low, Target: low}
	if high >= 0 {
		f.Spec.Configuration.Nodes.Max = &high
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

func clustered(f *Fleet) {
	placement := "cluster"
	f.Spec.Configuration.Placement = &placement
}

func nodes(statuses ...api.InstanceStatus) []instance.Instance {
	list := make([]instance.Instance, len(statuses))
	for i, s := range statuses {
		list[i] = instance.Instance{ID: string(rune('a' + i)), Num: i, Status: s, Data: instance.Data{Offer: &api.InstanceOffer{
			Region: "eu", Availability: api.Available, Instance: api.InstanceType{Resources: api.Resources{CPUs: 4, MemoryMiB: 16384}}}}}
	}
	return list
}

func TestStep(t *testing.T) {
	inRegion := func(r string) func(*Fleet) { return func(f *Fleet) { f.Spec.Configuration.Regions = []string{r} } }
	tried := func(n int, last time.Duration) func(*Fleet) {
		return func(f *Fleet) { f.Attempts, f.ConsolidatedAt = n, at(last) }
	}
	withJob := func(list []instance.Instance) []instance.Instance {
		list[0].Assignments = []instance.Assignment{{JobID: "j", Blocks: 1}}
		return list
	}
	noOffers := func(list []instance.Instance) []instance.Instance {
		list[0].Data.Reason = api.InstanceNoOffers
		for i := range list {
			list[i].Data.Offer = nil
		}
		return list
	}
	comesBack := func(list []instance.Instance) []instance.Instance {
		list[0].Data.Next = &instance.NewHost{}
		return list
	}
	ending := func(f *Fleet) { f.Status = api.FleetTerminating }
	const idle, busy, ends, gone, pending = api.InstanceIdle, api.InstanceBusy, api.InstanceTerminating, api.InstanceTerminated, api.InstancePending
	for _, c := range []struct {
		name      string
		f         Fleet
		instances []instance.Instance
		now       time.Duration
		create    int
		terminate map[string]api.InstanceTerminationReason
		remove    int
		attempts  int
		again     time.Duration // 0: any
		status    api.FleetStatus
	}{
		{name: "as it should be", f: cloud(1, 2), instances: nodes(idle)},
		{name: "too few", f: cloud(2, 2), instances: nodes(idle), create: 1, attempts: 1, again: 2 * time.Minute},
		{name: "attempts are spaced", f: cloud(2, 2, tried(1, 0)), instances: nodes(idle), now: time.Minute, attempts: 1, again: 2 * time.Minute},
		{name: "and go on", f: cloud(2, 2, tried(1, 0)), instances: nodes(idle), now: 2 * time.Minute, create: 1, attempts: 2, again: 7 * time.Minute},
		{name: "success is remembered", f: cloud(1, 2, tried(3, 0)), instances: nodes(idle), now: time.Hour, attempts: 0},
		{name: "for ever they do not", f: cloud(2, 2, tried(15, 0)), instances: nodes(idle), now: 100 * time.Hour, attempts: 15},
		{name: "what has ended goes all the same", f: cloud(2, 2, tried(15, 0)), instances: nodes(idle, gone), now: 100 * time.Hour, remove: 1, attempts: 15},
		{name: "and that it goes is no attempt", f: cloud(0, 2), instances: nodes(gone), remove: 1, again: time.Minute},
		{name: "what waits for the cloud counts", f: cloud(2, 2), instances: nodes(idle, pending)},
		{name: "what is on its way out does not", f: cloud(2, 2), instances: nodes(idle, ends), create: 1, attempts: 1},
		{name: "and is none too many", f: cloud(0, 1), instances: nodes(ends, idle)},
		{name: "what failed is replaced", f: cloud(2, 2), instances: nodes(idle, gone), create: 1, remove: 1, attempts: 1},
		{name: "too many: the idle ones go, the last first", f: cloud(0, 1), instances: nodes(busy, idle, idle), attempts: 1,
			terminate: map[string]api.InstanceTerminationReason{"c": api.InstanceMaxInstancesLimit, "b": api.InstanceMaxInstancesLimit}},
		{name: "busy ones stay", f: cloud(0, 0), instances: nodes(busy, busy)},
		{name: "what does not fit any more goes", f: cloud(0, -1, inRegion("us")), instances: nodes(idle), attempts: 1,
			terminate: map[string]api.InstanceTerminationReason{"a": api.InstanceFleetSpecMismatch}},
		{name: "and is replaced", f: cloud(1, -1, inRegion("us")), instances: nodes(idle), attempts: 1, create: 1,
			terminate: map[string]api.InstanceTerminationReason{"a": api.InstanceFleetSpecMismatch}},
		{name: "what its backend can do is not asked of an instance", f: cloud(1, -1, clustered, func(f *Fleet) { f.Spec.Configuration.Reservation = new("r") }), instances: nodes(idle)},
		{name: "not while it has a job", f: cloud(0, -1, inRegion("us")), instances: withJob(nodes(idle))},
		{name: "a cluster whose first instance has no offer is given up", f: cloud(0, -1, clustered), instances: noOffers(nodes(gone, pending)), remove: 1, attempts: 1,
			terminate: map[string]api.InstanceTerminationReason{"b": api.InstanceMasterFailed}},
		{name: "a fleet that ends waits for its instances", f: cloud(1, 2, ending), instances: nodes(ends), status: api.FleetTerminating},
		{name: "and ends those that live", f: cloud(1, 2, ending), instances: nodes(idle, ends, pending), status: api.FleetTerminating,
			terminate: map[string]api.InstanceTerminationReason{"a": api.InstanceTerminatedByUser, "c": api.InstanceTerminatedByUser}},
		{name: "and what should come after one", f: Fleet{Status: api.FleetTerminating}, instances: comesBack(nodes(ends)), status: api.FleetTerminating,
			terminate: map[string]api.InstanceTerminationReason{"a": api.InstanceTerminatedByUser}},
		{name: "and ends with the last", f: cloud(1, 2, ending), status: api.FleetTerminated},
		{name: "SSH fleets have the hosts they have", f: Fleet{Status: api.FleetActive}, instances: nodes(idle)},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Step(at(c.now), Snapshot{c.f, c.instances})
			if d.Create != c.create || len(d.Delete) != c.remove || d.Fleet.Attempts != c.attempts {
				t.Errorf("create %d, delete %d, attempts %d; want %d, %d, %d", d.Create, len(d.Delete), d.Fleet.Attempts, c.create, c.remove, c.attempts)
			}
			got := map[string]api.InstanceTerminationReason{}
			for _, x := range d.Terminate {
				got[x.Instance.ID] = x.Reason
			}
			if len(got) != len(c.terminate) {
				t.Errorf("terminates %v, want %v", got, c.terminate)
			}
			for id, reason := range c.terminate {
				if got[id] != reason {
					t.Errorf("%s is terminated as %q, want %q", id, got[id], reason)
				}
			}
			if c.again != 0 && !d.Again.Equal(at(c.again)) {
				t.Errorf("again at %v, want %v", d.Again, at(c.again))
			}
			if c.status != "" && d.Fleet.Status != c.status {
				t.Errorf("status %s, want %s", d.Fleet.Status, c.status)
			}
			if work := d.Create > 0 || d.Terminate != nil || d.Delete != nil; work && !d.Changed {
				t.Error("the attempt is not stored")
			}
		})
	}
}

// A fleet gets no nodes that runs have brought since it was found to lack some.
func TestMissing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		for n, status := range []api.InstanceStatus{api.InstanceBusy, api.InstanceTerminating, api.InstancePending} {
			err := db.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, created_at, shard, data) VALUES ($1, 'p', 'f', $2, $1, $3, '', 0, 0, '{}')`,
					fmt.Sprint("i", n), n, status)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for least, want := range map[int]int{1: 0, 2: 0, 3: 1, 5: 2} { // two live
			if got, err := missing(ctx, db.Read(), cloud(least, -1), 2); got != want || err != nil {
				t.Errorf("of %d nodes %d are missing, %v; want %d", least, got, err, want)
			}
		}
		if got, err := missing(ctx, db.Read(), Fleet{ID: "f"}, 0); got != 0 || err != nil {
			t.Errorf("a fleet that lacked none: %d, %v", got, err)
		}
	})
}
