package run

import (
	"fmt"
	"testing"
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
