package volume

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/event"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/project/projecttest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// world is a running server that has nothing but volumes, with a cloud called aws.
type world struct {
	*Service
	t     *testing.T
	cloud *fake.Cloud
	scope project.Scope
}

// Backend and Accounts implement ledger.Clouds.
func (w *world) Backend(context.Context, string, string) (backend.Backend, error) {
	return w.cloud, nil
}

func (w *world) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: w.scope.Project.ID, Backend: "aws"}}, nil
}

// each runs fn in virtual time on both engines. Disks take half a minute to be made.
func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		w := &world{t: t, cloud: fake.New(fake.Config{Name: "aws", Offers: fake.SomeOffers(), Boot: 30 * time.Second})}
		log := slog.New(slog.DiscardHandler)
		projects := projecttest.New(t, db, project.Config{})
		w.scope = projects.Scope(t, "main")
		e, err := engine.New(engine.Config{DB: db, Log: log, Owner: "x", Bus: &enginetest.Bus{}, Drain: time.Millisecond})
		check(t, err)
		l, err := ledger.New(ledger.Config{DB: db, Engine: e, Clouds: w, Log: log})
		check(t, err)
		w.Service, err = New(Config{DB: db, Engine: e, Ledger: l, Projects: projects.Service, Users: projects.Users, Clouds: w, Log: log,
			Backends: func(_ context.Context, _ project.Project, name string) error {
				if name != "aws" {
					return api.Invalid("Volumes are not supported for %s backend.", name)
				}
				return nil
			}})
		check(t, err)
		enginetest.Start(t, e)
		synctest.Wait()
		fn(t, w)
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// conf is a volume of 100 GB in the north, changed.
func conf(name string, change func(*config.Volume)) config.Volume {
	size := config.Memory(100)
	c := config.Volume{Type: config.TypeVolume, Backend: "aws", Name: &name, Size: &size, Region: "north"}
	if change != nil {
		change(&c)
	}
	return c
}

func (w *world) create(c config.Volume) (api.Volume, error) {
	return w.Create(w.t.Context(), w.scope, api.CreateVolumeRequest{Configuration: c})
}

func (w *world) must(c config.Volume) api.Volume {
	w.t.Helper()
	v, err := w.create(c)
	check(w.t, err)
	return v
}

func (w *world) get(name string) api.Volume {
	w.t.Helper()
	v, err := w.Get(w.t.Context(), w.scope, api.NameRequest{Name: name})
	check(w.t, err)
	return v
}

func (w *world) gone(name string) bool {
	_, err := w.Get(w.t.Context(), w.scope, api.NameRequest{Name: name})
	return api.IsNotExists(err)
}

func (w *world) remove(names ...string) error {
	_, err := w.Delete(w.t.Context(), w.scope, api.NamesRequest{Names: names})
	return err
}

// after lets time pass.
func (w *world) after(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func (w *world) events(id string) []string {
	w.t.Helper()
	list, err := event.List(w.t.Context(), w.DB.Read(), event.Viewer{Admin: true}, api.ListEventsRequest{TargetVolumes: []string{id}, Ascending: true})
	check(w.t, err)
	var texts []string
	for _, e := range list {
		texts = append(texts, e.Message)
	}
	return texts
}

func (w *world) disks(want int) {
	w.t.Helper()
	if got := w.cloud.LiveVolumes(); len(got) != want {
		w.t.Errorf("%d disks cost money, want %d: %v", len(got), want, got)
	}
}

func TestLife(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		v := w.must(conf("data", nil))
		if v.Status != api.VolumeSubmitted || v.ProvisioningData != nil || v.User != "admin" || v.ProjectName != "main" || v.External {
			t.Errorf("a new volume is %+v", v)
		}
		if _, err := w.create(conf("data", nil)); !api.IsExists(err) {
			t.Errorf("a second volume of that name: %v", err)
		}
		w.after(time.Minute)
		v = w.get("data")
		if v.Status != api.VolumeActive || v.VolumeID == nil || *v.VolumeID != "vol-000001" || v.ProvisioningData.SizeGB != 100 || *v.ProvisioningData.Price != 0.01*hoursPerMonth {
			t.Fatalf("after a minute the volume is %+v, %+v", v, v.ProvisioningData)
		}
		w.after(2 * time.Hour)
		if cost := w.get("data").Cost; math.Abs(cost-0.02) > 0.0005 {
			t.Errorf("two hours cost $%.4f, want $0.02", cost)
		}
		check(t, w.remove("data", "nosuch"))
		w.after(time.Minute)
		if !w.gone("data") {
			t.Errorf("the deleted volume is %+v", w.get("data"))
		}
		w.disks(0)
		want := []string{"Volume created. Status: SUBMITTED", "Volume deleted", "Volume marked for deletion", "Volume status changed SUBMITTED -> ACTIVE"}
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(w.events(v.ID)))); diff != "" { // some are of one virtual moment
			t.Errorf("events (-want +got):\n%s", diff)
		}
		all, err := w.List(t.Context(), w.scope.User, api.ListVolumesRequest{})
		if err != nil || len(all) != 1 || !all[0].Deleted || all[0].DeletedAt == nil {
			t.Errorf("the list with deleted volumes: %+v, %v", all, err)
		}
		if active, err := w.List(t.Context(), w.scope.User, api.ListVolumesRequest{OnlyActive: true}); err != nil || len(active) != 0 {
			t.Errorf("the list without them: %+v, %v", active, err)
		}
		if again := w.must(conf("data", nil)); again.ID == v.ID {
			t.Error("the name leads to the deleted volume")
		}
	})
}

// A disk that was there before is found, costs nothing and is never deleted.
func TestExternal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.cloud.PlantVolume("north", 50)
		external := func(id string) func(*config.Volume) {
			return func(c *config.Volume) { c.VolumeID, c.Size = &id, nil }
		}
		v := w.must(conf("old", external(id)))
		w.must(conf("typo", external("vol-999999")))
		w.after(time.Hour)
		if v = w.get("old"); v.Status != api.VolumeActive || !v.External || v.ProvisioningData.SizeGB != 50 || v.Cost != 0 {
			t.Errorf("the registered volume is %+v, %+v", v, v.ProvisioningData)
		}
		if bad := w.get("typo"); bad.Status != api.VolumeFailed || *bad.StatusMessage != "Volume vol-999999 not found in north" || *bad.VolumeID != "vol-999999" {
			t.Errorf("the volume that does not exist is %+v", bad)
		}
		check(t, w.remove("old", "typo"))
		w.after(time.Minute)
		if !w.gone("old") || !w.gone("typo") {
			t.Error("they are still there")
		}
		w.disks(1)
	})
}

func TestAutoCleanup(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		hour := config.IdleDuration(3600)
		never := config.IdleDuration(-1)
		v := w.must(conf("idle", func(c *config.Volume) { c.AutoCleanupDuration = &hour }))
		w.must(conf("kept", func(c *config.Volume) { c.AutoCleanupDuration = &never }))
		w.after(59 * time.Minute)
		w.disks(2)
		w.after(3 * time.Minute)
		w.disks(1)
		if !w.gone("idle") || w.gone("kept") {
			t.Errorf("idle is gone: %v, kept is gone: %v", w.gone("idle"), w.gone("kept"))
		}
		if got := w.events(v.ID); !slices.Contains(got, "Volume marked for deletion due to exceeding auto_cleanup_duration") {
			t.Errorf("events %q", got)
		}
	})
}

// What an instance has is neither deleted nor cleaned up.
func TestAttached(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		hour := config.IdleDuration(3600)
		v := w.must(conf("data", func(c *config.Volume) { c.AutoCleanupDuration = &hour }))
		write := func(statements ...string) {
			check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error {
				for _, s := range statements {
					if _, err := tx.ExecContext(t.Context(), s); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		write(`INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ('f', 'p', 'boxes', 'active', 1, 0, '{}')`,
			`INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, created_at, shard, data) VALUES ('i', 'p', 'f', 3, 'boxes-3', 'busy', 'aws', 1, 0, '{}')`,
			`INSERT INTO volume_attachment (volume_id, instance_id, device, created_at) VALUES ('`+v.ID+`', 'i', '/dev/sdb', 1)`)
		w.after(2 * time.Hour)
		fleet, device := "boxes", "/dev/sdb"
		want := []api.VolumeAttachment{{Instance: api.VolumeInstance{Name: "boxes-3", FleetName: &fleet, InstanceNum: 3}, AttachmentData: &api.VolumeAttachmentData{DeviceName: &device}}}
		if diff := cmp.Diff(want, w.get("data").Attachments); diff != "" {
			t.Errorf("attachments (-want +got):\n%s", diff)
		}
		if err := w.remove("data"); err == nil || err.Error() != "Failed to delete volume data. Volume is in use." {
			t.Errorf("delete: %v", err)
		}
		w.disks(1)
		write(`DELETE FROM volume_attachment`)
		check(t, w.remove("data"))
		w.after(time.Minute)
		w.disks(0)
	})
}

// Whatever answers are lost or refused, there is one disk, and it goes in the end.
func TestFaults(t *testing.T) {
	for name, f := range map[string]fake.Fault{
		"create answer lost":  {Op: "CreateVolume", Nth: 1, After: fake.ErrReset},
		"create not arrived":  {Op: "CreateVolume", Nth: 1, Before: fake.ErrTimeout},
		"delete answer lost":  {Op: "DeleteVolume", Nth: 1, After: fake.ErrReset},
		"delete refused":      {Op: "DeleteVolume", Nth: 1, Before: &backend.InvalidError{Msg: "still attached"}},
		"describe unreliable": {Op: "DescribeVolume", Nth: 2, Before: fake.ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.cloud.Inject(f)
				w.must(conf("data", nil))
				w.after(10 * time.Minute)
				v := w.get("data")
				if name == "create not arrived" { // it was never found, so it is not asked for again
					if v.Status != api.VolumeFailed {
						t.Errorf("the volume is %s", v.Status)
					}
					w.disks(0)
				} else {
					if v.Status != api.VolumeActive {
						t.Errorf("the volume is %s: %v", v.Status, v.StatusMessage)
					}
					w.disks(1)
				}
				check(t, w.remove("data"))
				w.after(10 * time.Minute)
				w.disks(0)
				if !w.gone("data") {
					t.Errorf("the volume is still %+v", w.get("data"))
				}
			})
		})
	}
}

// A refusal fails the volume with the provider's words, and so does a disk that somebody
// else deleted.
func TestFailures(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.cloud.Inject(fake.Fault{Op: "CreateVolume", Nth: 1, Before: &backend.InvalidError{Msg: "no such type"}})
		w.must(conf("refused", nil))
		w.after(time.Minute)
		if v := w.get("refused"); v.Status != api.VolumeFailed || *v.StatusMessage != "no such type" || v.Cost != 0 {
			t.Errorf("the refused volume is %+v", v)
		}
		v := w.must(conf("stolen", nil))
		w.after(time.Minute)
		check(t, w.cloud.DeleteVolume(t.Context(), backend.Ref{Region: "north", ID: *w.get("stolen").VolumeID}))
		w.after(20 * time.Minute) // the next sweep sees it
		if v := w.get("stolen"); v.Status != api.VolumeFailed || *v.StatusMessage == "" {
			t.Errorf("the volume without a disk is %+v", v)
		}
		if got := w.events(v.ID); got[len(got)-1] != "Volume status changed ACTIVE -> FAILED (no longer known to the provider)" {
			t.Errorf("events %q", got)
		}
	})
}

func TestRules(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		hour, id, bad := config.IdleDuration(3600), "vol-1", "Bad Name"
		for _, c := range []struct {
			change func(*config.Volume)
			want   string
		}{
			{func(c *config.Volume) { c.Name = &bad }, "Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
			{func(c *config.Volume) { c.Size = nil }, "Volume must specify either existing identifier or size"},
			{func(c *config.Volume) { c.VolumeID, c.AutoCleanupDuration = &id, &hour }, "External volumes do not support auto_cleanup_duration. Only volumes that the server makes are deleted by it."},
			{func(c *config.Volume) { *c.Size = 0 }, "The size of a volume must be more than 0 and at most 1048576 GB"},
			{func(c *config.Volume) { *c.Size = 1e12 }, "The size of a volume must be more than 0 and at most 1048576 GB"},
			{func(c *config.Volume) { c.Backend = "gcp" }, "Volumes are not supported for gcp backend."},
		} {
			_, err := w.create(conf("data", c.change))
			var refused *api.Error
			if !errors.As(err, &refused) || refused.Msg != c.want {
				t.Errorf("%v, want %q", err, c.want)
			}
		}
		if list, err := w.ListProject(t.Context(), w.scope, struct{}{}); err != nil || len(list) != 0 {
			t.Errorf("after refusals: %v, %v", list, err)
		}
		unnamed := w.must(conf("", func(c *config.Volume) { c.Name = nil }))
		if unnamed.Name == "" || *unnamed.Configuration.Name != unnamed.Name {
			t.Errorf("a volume without a name is called %q", unnamed.Name)
		}
	})
}

// Pages neither repeat nor lose a volume, also among those of one moment.
func TestPages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, name := range []string{"v1", "v2", "v3", "v4", "v5"} {
			w.must(conf(name, nil))
		}
		for _, ascending := range []bool{false, true} {
			var seen []string
			two := 2
			r := api.ListVolumesRequest{Limit: &two, Ascending: ascending}
			for {
				page, err := w.List(t.Context(), w.scope.User, r)
				check(t, err)
				for _, v := range page {
					seen = append(seen, v.Name)
				}
				if len(page) < two {
					break
				}
				last := page[len(page)-1]
				r.PrevCreatedAt, r.PrevID = &last.CreatedAt, &last.ID
			}
			slices.Sort(seen)
			if diff := cmp.Diff([]string{"v1", "v2", "v3", "v4", "v5"}, seen); diff != "" {
				t.Errorf("ascending %v (-want +got):\n%s", ascending, diff)
			}
		}
		other := "other"
		if list, err := w.List(t.Context(), w.scope.User, api.ListVolumesRequest{ProjectName: &other}); err != nil || len(list) != 0 {
			t.Errorf("volumes of a project that is not there: %v, %v", list, err)
		}
	})
}
