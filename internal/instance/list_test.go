package instance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Pages follow each other without gap and without repetition, also where many instances were
// created at one moment.
func TestListPages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			for n := range 12 {
				i := Instance{
					ID: fmt.Sprintf("i%02d", (n*5)%12), ProjectID: fmt.Sprintf("p%d", n%3), FleetID: fmt.Sprintf("f%d", n%2), Num: n,
					Name: "i", Status: api.InstanceIdle, CreatedAt: time.UnixMicro(int64(1 + n/4)),
				}
				if n == 7 {
					i.Status = api.InstancePending
				}
				if err := insert(t.Context(), tx, &i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]Filter{
			"all":                 {Projects: []string{"p0", "p1", "p2"}},
			"two projects":        {Projects: []string{"p0", "p2"}},
			"one project":         {Projects: []string{"p1"}},
			"one fleet":           {Projects: []string{"p0", "p1", "p2"}, Fleets: []string{"f1"}},
			"those that work":     {Projects: []string{"p0", "p1", "p2"}, Active: true},
			"no fleet":            {Projects: []string{"p0"}, Fleets: []string{}},
			"none of the project": {Projects: []string{"p9"}},
		} {
			all := ids(t, db, f)
			f.Ascending = true
			up := ids(t, db, f)
			slices.Reverse(up)
			if diff := cmp.Diff(all, up); diff != "" {
				t.Errorf("%s: oldest first is not the reverse (-newest first +reversed):\n%s", name, diff)
			}
			for _, f.Ascending = range []bool{false, true} {
				want := slices.Clone(all)
				if f.Ascending {
					slices.Reverse(want)
				}
				if diff := cmp.Diff(want, pages(t, db, f)); diff != "" {
					t.Errorf("%s, ascending %v: pages (-want +got):\n%s", name, f.Ascending, diff)
				}
			}
		}
		after := Filter{Projects: []string{"p0", "p1", "p2"}, After: &Cursor{At: time.UnixMicro(2)}}
		if got := ids(t, db, after); len(got) != 4 {
			t.Errorf("before a moment: %v, want the four of the moment before it", got)
		}
	})
}

func ids(t *testing.T, db *store.DB, f Filter) []string {
	t.Helper()
	list, err := (&Service{known: newKnown()}).List(t.Context(), db.Read(), f)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return ids
}

// pages collects a list from pages of two.
func pages(t *testing.T, db *store.DB, f Filter) []string {
	t.Helper()
	var all []string
	f.Limit = 2
	for range 20 {
		list, err := (&Service{known: newKnown()}).List(t.Context(), db.Read(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			all = append(all, i.ID)
		}
		if len(list) < f.Limit {
			return all
		}
		last := list[len(list)-1]
		f.After = &Cursor{At: last.CreatedAt, ID: last.ID}
	}
	t.Fatal("the list has no end")
	return nil
}

// The instances on some hosts are those of the fleet that exist, however many hosts there are.
func TestOnHosts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		err := db.Write(ctx, func(tx *store.Tx) error {
			for n, fleet := range []string{"f", "f", "g", "f"} {
				i := Instance{ID: fmt.Sprint("i", n), ProjectID: "p", FleetID: fleet, Num: n, Name: "i", Status: api.InstanceIdle, Backend: Remote, SSHHost: fmt.Sprintf("h%d:22", n), Data: Data{Remote: &RemoteHost{}}}
				if err := insert(ctx, tx, &i); err != nil {
					return err
				}
				if n == 3 {
					i.Deleted = true
					if err := update(ctx, tx, &i); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		asked := []string{"h1:22", "h2:22", "h3:22"}
		for n := range 600 {
			asked = append(asked, fmt.Sprintf("other%d:22", n))
		}
		list, err := OnHosts(ctx, db.Read(), "f", append(asked, "h0:22"))
		var got []string
		for _, i := range list {
			got = append(got, i.SSHHost)
		}
		slices.Sort(got)
		if diff := cmp.Diff([]string{"h0:22", "h1:22"}, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}
