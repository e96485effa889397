package run

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"
	"unique"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
)

// Hosts are remembered as they would be made, and the same ones where nothing changed.
func TestHostCache(t *testing.T) {
	made := func(num int, price float64) *instance.Instance {
		i := &instance.Instance{ID: fmt.Sprint("i", num), FleetID: "f", Num: num, Name: fmt.Sprint("f-", num), Status: api.InstanceIdle, Blocks: 1}
		i.Data.Provisioning = &api.JobProvisioningData{Backend: "aws", Region: "eu", Price: price, InstanceType: api.InstanceType{Name: "m"}}
		return i
	}
	list := []*instance.Instance{made(0, 1), made(1, 1), made(2, 2)}
	busier := *list[1]
	busier.Assignments = []instance.Assignment{{JobID: "j", Blocks: 1}}
	gone := *list[0]
	gone.Status = api.InstanceTerminating
	coming := *made(3, 1)
	coming.Data.Provisioning = nil
	var c hostCache
	for _, tt := range []struct {
		what string
		list []*instance.Instance
		kept int // hosts that were there before
		live int
	}{
		{"nothing", nil, 0, 0},
		{"the first", list, 0, 3},
		{"the same", list, 3, 3},
		{"one is taken", []*instance.Instance{list[0], &busier, list[2]}, 2, 3},
		{"one is gone, one comes", []*instance.Instance{&gone, &busier, list[2], &coming}, 2, 3},
	} {
		before := map[*scheduler.Host]bool{}
		for _, h := range c.fleets["f"].list {
			before[h] = true
		}
		got := c.of("f", tt.list)
		var want []*scheduler.Host
		kept := 0
		for _, i := range tt.list {
			if h := host(i, nil); h != nil {
				want = append(want, h)
			}
		}
		for _, h := range got.list {
			if before[h] {
				kept++
			}
		}
		if diff := cmp.Diff(want, got.list, cmpopts.EquateComparable(unique.Handle[string]{})); diff != "" {
			t.Errorf("%s (-made +remembered):\n%s", tt.what, diff)
		}
		if kept != tt.kept || got.live != tt.live {
			t.Errorf("%s: %d hosts are kept, %d live, want %d and %d", tt.what, kept, got.live, tt.kept, tt.live)
		}
	}
	if a, b, c := host(list[0], nil), host(&busier, nil), host(list[2], nil); a.Key != b.Key || a.Key == c.Key {
		t.Error("the keys of hosts do not tell which are alike")
	}
}

// A machine that boots is kept for others, once its job is over, if it may be idle, and up by the end of its time.
func TestJoblessMachines(t *testing.T) {
	now := time.Now()
	booting := func(change func(*instance.Instance)) *instance.Instance {
		i := &instance.Instance{ID: "i", FleetID: "f", Status: api.InstanceProvisioning}
		i.Data.ForJob, i.Data.IdleSeconds, i.Data.StartedAt = "j", 300, now
		i.Data.Provisioning = &api.JobProvisioningData{Backend: "aws", Region: "eu", Price: 1, InstanceType: api.InstanceType{Name: "m"}}
		change(i)
		return i
	}
	for name, tt := range map[string]struct {
		change func(*instance.Instance)
		want   bool
	}{
		"its job is over":      {func(*instance.Instance) {}, true},
		"nothing is known yet": {func(i *instance.Instance) { i.Data.Provisioning = nil }, false},
		"it has its job":       {func(i *instance.Instance) { i.Assignments = []instance.Assignment{{JobID: "j", Blocks: 1}} }, false},
		"it may not be idle":   {func(i *instance.Instance) { i.Data.IdleSeconds = 0 }, false},
		"it is for the fleet":  {func(i *instance.Instance) { i.Data.ForJob, i.Data.IdleSeconds = "", 0 }, true},
		"it is up":             {func(i *instance.Instance) { i.Status = api.InstanceIdle }, false},
		"its row is damaged":   {func(i *instance.Instance) { i.Data.Damage = "?" }, false},
		"it is being ended":    {func(i *instance.Instance) { i.Status = api.InstanceTerminating }, false},
	} {
		var c hostCache
		got := c.of("f", []*instance.Instance{booting(tt.change)}).up
		if (len(got) == 1) != tt.want {
			t.Errorf("%s: %d machines are counted on, want one: %v", name, len(got), tt.want)
		}
		if tt.want && (!got[0].Ready || got[0].Blocks != 1 || !got[0].UpBy.Equal(now.Add(10*time.Minute))) {
			t.Errorf("%s: %+v, want one block that is ready within 10 minutes", name, got[0])
		}
	}
}

// The hosts of a project are in one list, the very one for as long as those of each fleet are the same.
func TestStockOfAProject(t *testing.T) {
	one := func(id, fleet string) *scheduler.Host { return &scheduler.Host{ID: id, Fleet: fleet, Blocks: 1} }
	a, b, c := []*scheduler.Host{one("a0", "a"), one("a1", "a")}, []*scheduler.Host{one("b0", "b")}, []*scheduler.Host{one("b0", "b")}
	var cache hostCache
	first := cache.stock("p", [][]*scheduler.Host{a, nil, b})
	if again := cache.stock("p", [][]*scheduler.Host{a, nil, b}); again.found != first.found || &again.hosts[0] != &first.hosts[0] {
		t.Error("what has not changed is made again")
	}
	for name, fleets := range map[string][][]*scheduler.Host{"another host": {a, nil, c}, "one fleet less": {a, nil}, "another order": {b, nil, a}, "none": nil} {
		got := cache.stock("p", fleets)
		if got.found == first.found || !slices.Equal(got.hosts, slices.Concat(fleets...)) {
			t.Errorf("%s: %d hosts, as before: %v", name, len(got.hosts), got.found == first.found)
		}
	}
	if other := cache.stock("q", [][]*scheduler.Host{b}); len(other.hosts) != 1 {
		t.Errorf("another project has %d hosts", len(other.hosts))
	}
}

// A host is the same whether others were made before it or not: all that its offer is made of is compared.
func TestHostsBesideOthers(t *testing.T) {
	made := func() *instance.Instance {
		i := &instance.Instance{ID: "i", FleetID: "f", Name: "f-0", Status: api.InstanceIdle, Blocks: 2}
		i.Data.Provisioning = &api.JobProvisioningData{
			Backend: "aws", BaseBackend: new(api.BackendType("gcp")), InstanceID: "i", Hostname: new("h"), InternalIP: new("10.0.0.1"), PublicIPEnabled: true, InstanceNetwork: new("n"), Region: "eu",
			AvailabilityZone: new("a"), Reservation: new("r"), Price: 3, Username: "root", SSHPort: new(22), Dockerized: true, SSHProxy: &api.SSHConnectionParams{}, BackendData: new("d"), GPUDriver: &api.GPUDriverInfo{},
			InstanceType: api.InstanceType{Name: "m", Resources: api.Resources{
				CPUs: 1, MemoryMiB: 2, Gpus: []api.Gpu{{Name: "H100", MemoryMiB: 3, Vendor: "nvidia"}}, Spot: true, Disk: api.Disk{SizeMiB: 4}, CPUArch: new(api.CPUArchitecture("arm")), Description: "d",
			}},
		}
		return i
	}
	other := host(made(), nil)
	check := func(what string, i *instance.Instance) {
		t.Helper()
		if diff := cmp.Diff(host(i, nil), host(i, []*scheduler.Host{other}), cmpopts.EquateComparable(unique.Handle[string]{})); diff != "" {
			t.Errorf("%s (-alone +beside another):\n%s", what, diff)
		}
	}
	for _, part := range []func(*instance.Instance) reflect.Value{
		func(i *instance.Instance) reflect.Value { return reflect.ValueOf(i.Data.Provisioning) },
		func(i *instance.Instance) reflect.Value { return reflect.ValueOf(&i.Data.Provisioning.InstanceType) },
		func(i *instance.Instance) reflect.Value {
			return reflect.ValueOf(&i.Data.Provisioning.InstanceType.Resources)
		},
	} {
		for n := range part(made()).Elem().NumField() {
			i := made()
			f, name := part(i).Elem().Field(n), part(i).Elem().Type().Field(n).Name
			if f.IsZero() {
				t.Errorf("give %s a value here", name)
			}
			f.SetZero()
			check("without "+name, i)
		}
	}
	i := made()
	i.Data.Provisioning.InstanceType.Resources.Gpus = []api.Gpu{}
	check("with an empty list of GPUs", i)
	i.Blocks = 1
	check("with another number of blocks", i)
	if h := host(made(), []*scheduler.Host{other}); h.Key != other.Key || &h.Offer.Instance.Resources.Gpus[0] != &other.Offer.Instance.Resources.Gpus[0] {
		t.Error("one that is like another does not share its offer")
	}
}

// One fleet more than are remembered takes the place of another, not of all.
func TestHostsOfManyFleets(t *testing.T) {
	var c hostCache
	for n := range maxFleetHosts + 1 {
		c.of(fmt.Sprint(n), []*instance.Instance{{ID: "i"}})
	}
	last := fmt.Sprint(maxFleetHosts)
	if _, known := c.fleets[last]; len(c.fleets) != maxFleetHosts || !known {
		t.Errorf("%d fleets are remembered, want %d with the last", len(c.fleets), maxFleetHosts)
	}
	c.of(last, []*instance.Instance{{ID: "i"}})
	if len(c.fleets) != maxFleetHosts {
		t.Errorf("a fleet that is known takes the place of %d", maxFleetHosts-len(c.fleets))
	}
	for n := range maxStocks + 1 {
		c.stock(fmt.Sprint(n), nil)
	}
	if len(c.stocks) != maxStocks {
		t.Errorf("the hosts of %d projects are remembered, want %d", len(c.stocks), maxStocks)
	}
}
