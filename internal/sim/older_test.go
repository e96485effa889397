package sim

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// What there was of clouds and hosts when an older server was killed, see [storetest.Older].
type (
	oldWorld struct {
		At     time.Duration `json:"at"` // since the world began
		Orders []oldOrder    `json:"orders"`
		Hosts  []oldHost     `json:"hosts"`
	}
	// oldOrder is a call that the older server made to a cloud.
	oldOrder struct {
		At      time.Duration             `json:"at"`
		Cloud   string                    `json:"cloud"`
		Op      string                    `json:"op"`
		Machine *backend.CreateRequest    `json:"machine"`
		Group   *backend.PlacementRequest `json:"group"`
		Disk    *backend.VolumeRequest    `json:"disk"`
		Refs    []backend.Ref             `json:"refs"`
	}
	oldHost struct {
		Name      string        `json:"name"`
		IP        string        `json:"ip"`
		Key       string        `json:"key"`
		Boot      int           `json:"boot"`
		Installed bool          `json:"installed"`
		Machine   bool          `json:"machine"` // of a cloud
		Skew      time.Duration `json:"skew"`
		Count     int           `json:"count"`
		Seq       int64         `json:"seq"`
		Tasks     []oldTask     `json:"tasks"`
	}
	oldTask struct {
		Spec    agentapi.TaskSpec   `json:"spec"`
		Num     int                 `json:"num"`
		State   agentapi.Task       `json:"state"`
		Version int64               `json:"version"`
		Log     []byte              `json:"log"`
		Acked   int64               `json:"acked"`
		Ending  *agentapi.Terminate `json:"ending"`
	}
)

// TestOlderGoesOn starts a server in the folder that one with an older schema left behind when it was killed. What was
// under way then goes on: tasks keep running and end well, what is booting, waiting or ending comes to its end, nothing
// is made or started a second time, and in the end nothing is left.
func TestOlderGoesOn(t *testing.T) {
	tp := newTemplate(t)
	tp.db, tp.config = nil, nil // the folder has both
	here := cloudNames
	cloudNames = append(slices.Clone(here), "aws")
	defer func() { cloudNames = here }()
	storetest.EachOlder(t, func(t *testing.T, o storetest.Older) {
		synctest.Test(t, func(t *testing.T) {
			idsFrom(t, 1)
			w := newWorld(t, 1, tp)
			o.Unpack(t, w.dir)
			var was oldWorld
			o.Decode(t, "world.json", &was)
			w.remember()
			w.revive(was)
			machines := w.living()
			w.start()
			defer w.end()
			time.Sleep(time.Minute)
			if got := w.living(); !slices.Equal(got, machines) {
				t.Errorf("machines %v cost money, before the upgrade %v", got, machines)
			}
			time.Sleep(90 * time.Minute)
			for name, want := range map[string]string{
				"finished": "done", "broken": "failed", "stopped": "terminated", "rented": "done", "guest-done": "done", "served": "running", "steady": "done",
				"pair": "done", "guest-busy": "done", "ending": "terminated", "desk": "running", "retried": "done", "scheduled": "pending",
				"pulled": "done", "waiting": "done", "waiting-pair": "done", "booting": "done",
			} {
				if got := w.texts(`SELECT status FROM run WHERE NOT deleted AND name = '` + name + `'`); !slices.Equal(got, []string{want}) {
					t.Errorf("run %s is %q, want %s", name, got, want)
				}
			}
			for _, h := range was.Hosts {
				for _, task := range h.Tasks {
					if f := w.fact(task.Spec.ID); task.State.State == agentapi.Running && task.Ending == nil && task.Spec.Job.Env[scriptEnv] != "" && f.ended {
						if stored := w.storedLog(task.Spec.ID); string(stored) != string(f.log) || !strings.HasSuffix(string(stored), lastLine) {
							t.Errorf("the log of %s is %q, printed %q", task.Spec.Name, stored, f.log)
						}
					}
				}
			}
			w.applyRun("new", object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil}, "fleets": []string{"hosts"}, "env": object{"TOKEN": "${{ secrets.token }}"}}, script{Run: 10 * time.Minute})
			time.Sleep(time.Minute)
			if got := w.secretOf("new"); got != "s3cret" {
				t.Errorf("a new run has the secret %q", got)
			}
			w.endAll()
			w.call("project/main/volumes/delete", object{"names": []string{"data"}}, nil)
			w.settle(over, 1)
			w.compareLists()
			w.holds()
			if t.Failed() {
				t.Log(w.trace.text(w.current().db))
			}
		})
	})
}

// lastLine is what tasks print at their end that ran when the older server was killed.
const lastLine = "after the upgrade\n"

// living are the machines that cost money, of whomever.
func (w *world) living() (keys []string) {
	for _, name := range cloudNames {
		for _, m := range w.clouds[name].Live() {
			keys = append(keys, name+"/"+m.ID)
		}
	}
	return keys
}

// remember tells the checker of the tasks that had ended, as the older server has stored them.
func (w *world) remember() {
	db, err := sql.Open("sqlite3", "file:"+w.database())
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT id, json_extract(data, '$.spec.job_name'), json_extract(data, '$.reason'), COALESCE(json_extract(data, '$.exit'), '') FROM job WHERE status IN ('terminated', 'aborted', 'failed', 'done')`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		f := fact{ended: true, gone: true, at: time.Now()}
		err := rows.Scan(&id, &f.name, &f.why, &f.exit)
		f.log = w.storedLog(id)
		w.checks.tasks[id] = &f
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// revive makes clouds and hosts as they were, which takes as long as it took.
func (w *world) revive(was oldWorld) {
	for _, name := range cloudNames {
		w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 30 * time.Second, Deletion: 5 * time.Second, Fabrics: map[string]string{"gpu.one": "fast"}})
	}
	for _, o := range was.Orders {
		w.sleepUntil(w.began.Add(o.At))
		if err := o.again(w.clouds[o.Cloud]); err != nil {
			w.t.Fatalf("%s %s: %v", o.Cloud, o.Op, err)
		}
	}
	w.sleepUntil(w.began.Add(was.At))
	for _, o := range was.Hosts {
		h := newHost(w, o.Name, 0, o.Installed)
		h.ip, h.key, h.boot, h.skew, h.count, h.seq = o.IP, o.Key, o.Boot, o.Skew, o.Count, o.Seq
		if o.Machine {
			h.gpus, h.made = 1, 1
			w.machines[o.Name] = h
		} else {
			w.hosts[o.Name] = h
		}
		for _, task := range o.Tasks {
			h.revive(task)
		}
	}
}

// again makes a call that was made before.
func (o oldOrder) again(c *fake.Cloud) (err error) {
	ctx := context.Background()
	switch o.Op {
	case "Create":
		_, err = c.Create(ctx, *o.Machine)
	case "Terminate":
		err = c.Terminate(ctx, o.Refs[0])
	case "CreatePlacement":
		_, err = c.CreatePlacement(ctx, *o.Group)
	case "DeletePlacement":
		err = c.DeletePlacement(ctx, o.Refs[0])
	case "CreateVolume":
		_, err = c.CreateVolume(ctx, *o.Disk)
	case "DeleteVolume":
		err = c.DeleteVolume(ctx, o.Refs[0])
	case "AttachVolume":
		_, err = c.AttachVolume(ctx, o.Refs[0], o.Refs[1])
	case "DetachVolume":
		err = c.DetachVolume(ctx, o.Refs[0], o.Refs[1], false)
	default:
		err = fmt.Errorf("no such call")
	}
	return err
}

// revive gives a host a task that it had. One that ran, or was on its way, goes on and ends well, after five minutes
// at the earliest; services and the like go on until they are stopped.
func (h *agent) revive(o oldTask) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := &task{h: h, num: o.Num, spec: o.Spec, script: h.w.scriptOf(o.Spec), stop: make(chan struct{}), ending: o.Ending, state: o.State, version: o.Version, log: o.Log, acked: o.Acked}
	h.tasks[o.Spec.ID] = t
	h.order = append(h.order, o.Spec.ID)
	h.w.checks.arrived(t)
	h.w.checks.printed(o.Spec.ID, t.log)
	switch {
	case o.State.State == agentapi.Terminated:
		h.w.checks.finished(t)
		close(t.stop)
		return
	case o.Ending != nil:
		close(t.stop)
	}
	go t.goOn()
}

func (t *task) goOn() {
	if t.state.State != agentapi.Running {
		t.script.Lines = 1
		t.live()
		return
	}
	t.ready = time.Now()
	if !t.sleep(max(5*time.Minute, t.script.Run-10*time.Minute)) {
		t.stopped(t.script.Stop)
		return
	}
	t.print(lastLine)
	t.h.mu.Lock()
	defer t.h.mu.Unlock()
	exit := t.script.Exit
	t.finish(map[bool]string{true: agentapi.DoneByRunner, false: agentapi.ContainerExitedWithError}[exit == 0], "", &exit)
}

// fact is what is known of a task.
func (w *world) fact(id string) fact {
	w.checks.mu.Lock()
	defer w.checks.mu.Unlock()
	return *w.checks.tasks[id]
}

// secretOf is what a job of a run has in its environment as TOKEN.
func (w *world) secretOf(run string) string {
	for _, h := range w.every() {
		h.mu.Lock()
		for _, t := range h.tasks {
			if t.spec.Job.RunName == run {
				h.mu.Unlock()
				return t.spec.Job.Env["TOKEN"]
			}
		}
		h.mu.Unlock()
	}
	return ""
}

// disked is an account at a cloud that has volumes.
type disked struct{ grouped }

// CreateVolume implements backend.VolumeBackend.
func (a disked) CreateVolume(ctx context.Context, req backend.VolumeRequest) (v backend.Volume, err error) {
	err = a.call("CreateVolume "+req.Name, func() (err error) {
		v, err = a.cloud.CreateVolume(ctx, req)
		return err
	})
	return v, err
}

// DescribeVolume implements backend.VolumeBackend.
func (a disked) DescribeVolume(ctx context.Context, ref backend.Ref) (v backend.Volume, err error) {
	err = a.call("DescribeVolume "+ref.ID, func() (err error) {
		v, err = a.cloud.DescribeVolume(ctx, ref)
		return err
	})
	return v, err
}

// DeleteVolume implements backend.VolumeBackend.
func (a disked) DeleteVolume(ctx context.Context, ref backend.Ref) error {
	return a.call("DeleteVolume "+ref.ID, func() error { return a.cloud.DeleteVolume(ctx, ref) })
}

// AttachVolume implements backend.VolumeBackend.
func (a disked) AttachVolume(ctx context.Context, volume, instance backend.Ref) (device string, err error) {
	err = a.call("AttachVolume "+volume.ID, func() (err error) {
		device, err = a.cloud.AttachVolume(ctx, volume, instance)
		return err
	})
	return device, err
}

// DetachVolume implements backend.VolumeBackend.
func (a disked) DetachVolume(ctx context.Context, volume, instance backend.Ref, force bool) error {
	return a.call("DetachVolume "+volume.ID, func() error { return a.cloud.DetachVolume(ctx, volume, instance, force) })
}
