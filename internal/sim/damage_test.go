package sim

import (
	"context"
	"database/sql"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/backend/fake"
	"dstack/internal/store"
)

// TestDamagedRows edits the database by hand under a running job. Whatever it says then, nothing
// panics, everything can be listed, others get on, and what the user ends leaves nothing behind.
func TestDamagedRows(t *testing.T) {
	tp := newTemplate(t)
	for name, edit := range map[string]string{
		"run is no JSON":                `UPDATE run SET data = '{broken', version = version + 1 WHERE name = 'victim'`,
		"run is empty":                  `UPDATE run SET data = '{}', version = version + 1 WHERE name = 'victim'`,
		"run has no name":               `UPDATE run SET data = json_set(data, '$.spec.run_name', json('null')), version = version + 1 WHERE name = 'victim'`,
		"job has no variables":          `UPDATE job SET data = json_set(data, '$.spec.env', json('null')), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job asks for nothing":          `UPDATE job SET data = json_set(data, '$.spec.requirements', json('{}')), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job was never placed":          `UPDATE job SET status = 'provisioning', data = json_remove(data, '$.runtime'), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job has no commands":           `UPDATE job SET data = json_set(data, '$.spec.commands', json('null'), '$.spec.probes', json('null')), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"run has no owner":              `UPDATE run SET user_id = 'nobody', version = version + 1 WHERE name = 'victim'`,
		"run has a strange status":      `UPDATE run SET status = 'bogus', version = version + 1 WHERE name = 'victim'`,
		"run is of the far future":      `UPDATE run SET submitted_at = 9000000000000000000, version = version + 1 WHERE name = 'victim'`,
		"job is of the far past":        `UPDATE job SET submitted_at = -9000000000000000000, version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"fleet is of the far past":      `UPDATE fleet SET created_at = -9000000000000000000, version = version + 1 WHERE name = 'nodes'`,
		"run is gone":                   `DELETE FROM run WHERE name = 'victim'`,
		"job of a service has no run":   `UPDATE job SET run_id = 'nothing', data = json_set(data, '$.spec.service_port', 80), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job is no object":              `UPDATE job SET data = '[1,2', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job is empty":                  `UPDATE job SET data = '{}', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job was told nonsense":         `UPDATE job SET observed = '{"State": 5', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job is elsewhere":              `UPDATE job SET instance_id = 'nowhere', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job has a strange status":      `UPDATE job SET status = 'bogus', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"run is over":                   `UPDATE run SET status = 'done', version = version + 1 WHERE name = 'victim'`,
		"run is said to wait":           `UPDATE run SET status = 'pending', version = version + 1 WHERE name = 'victim'`,
		"run is deleted":                `UPDATE run SET deleted = TRUE, version = version + 1 WHERE name = 'victim'`,
		"job is over":                   `UPDATE job SET status = 'failed', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job has no instance":           `UPDATE job SET instance_id = '', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job is of another project":     `UPDATE job SET project_id = (SELECT id FROM project WHERE name = 'guests'), version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job is of another replica":     `UPDATE job SET replica_num = 5, job_num = 7, version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job has an odd number":         `UPDATE job SET replica_num = -1, job_num = -7, submission_num = -3, version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"job has two attempts":          `INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, shard, data, observed) SELECT 'again', run_id, project_id, replica_num, job_num, submission_num + 1, status, instance_id, submitted_at, shard, data, observed FROM job`,
		"hold is of no job":             `UPDATE assignment SET job_id = 'nothing'`,
		"hold is nowhere":               `UPDATE assignment SET instance_id = 'nothing'`,
		"job is gone":                   `DELETE FROM job WHERE run_id = (SELECT id FROM run WHERE name = 'victim')`,
		"instance is no JSON":           `UPDATE instance SET data = '{bad', version = version + 1 WHERE status = 'busy'`,
		"instance is empty":             `UPDATE instance SET data = '{}', version = version + 1 WHERE status = 'busy'`,
		"instance has another intent":   `UPDATE instance SET intent_id = 'nothing', version = version + 1 WHERE status = 'busy'`,
		"instance has a strange status": `UPDATE instance SET status = 'bogus', version = version + 1 WHERE status = 'busy'`,
		"instance has no fleet":         `UPDATE instance SET fleet_id = 'nothing', version = version + 1 WHERE status = 'busy'`,
		"instance is gone":              `DELETE FROM instance WHERE status = 'busy'`,
		"fleet is a list":               `UPDATE fleet SET data = '[]', version = version + 1 WHERE name = 'nodes'`,
		"fleet is empty":                `UPDATE fleet SET data = '{}', version = version + 1 WHERE name = 'nodes'`,
		"fleet has a strange status":    `UPDATE fleet SET status = 'bogus', version = version + 1 WHERE name = 'nodes'`,
		"intent is no JSON":             `UPDATE intent SET doc = '{bad', version = version + 1`,
		"intent is not wanted":          `UPDATE intent SET wanted = FALSE, version = version + 1`,
		"intent is of a disk":           `UPDATE intent SET kind = 'volume', version = version + 1`,
		"intent is of a group":          `UPDATE intent SET kind = 'placement', version = version + 1`,
		"intent was not asked for":      `UPDATE intent SET state = 'intended', version = version + 1`,
		"intent is being deleted":       `UPDATE intent SET state = 'deleting', version = version + 1`,
		"intent is gone":                `UPDATE intent SET state = 'gone', version = version + 1`,
		"intent names no resource":      `UPDATE intent SET doc = json_set(doc, '$.instance.ref.id', 'nothing'), version = version + 1`,
		"secret is not sealed":          `INSERT INTO secret (id, project_id, name, sealed, created_at) SELECT id, id, 'S', 'zzz', 0 FROM project`,
		"hold is nonsense":              `UPDATE assignment SET blocks = -3`,
		"hold is gone":                  `DELETE FROM assignment`,
		"shards are gone":               `DELETE FROM shard WHERE id % 2 = 0`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { damage(t, tp, edit, true, true) })
		})
	}
}

// TestPlacedJobIsSaidToWait has a job wait, says its row, that holds an instance: it cannot be placed, and
// holds up nobody else in its queue.
func TestPlacedJobIsSaidToWait(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second})
		}
		w.start()
		defer w.end()
		task := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}
		time.Sleep(time.Second)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 3}})
		w.applyRun("victim", task, script{Run: 24 * time.Hour})
		time.Sleep(2 * time.Minute)
		w.current().sql(`UPDATE job SET status = 'submitted', version = version + 1 WHERE status = 'running'`)
		w.applyRun("other", task, script{Run: 10 * time.Second})
		time.Sleep(5 * time.Minute)
		if w.texts(`SELECT j.status FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'other' AND j.status = 'done'`) == nil {
			t.Errorf("another run did not get on: %q", w.texts(`SELECT name || ' is ' || status FROM run`))
		}
	})
}

// TestDamagedNumbers writes into one column of numbers after the other what is none, as SQLite lets
// anybody do, with the same ends as [TestDamagedRows].
func TestDamagedNumbers(t *testing.T) {
	tp := newTemplate(t)
	var edits []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers()})
		}
		w.start()
		defer w.end()
		edits = w.texts(`SELECT 'UPDATE OR IGNORE ' || t.name || ' SET ' || c.name || ' = ' || iif(c.type LIKE 'DOUBLE%', '9e999', '''two''')
			FROM sqlite_schema t JOIN pragma_table_info(t.name) c
			WHERE t.type = 'table' AND (c.type LIKE '%INT%' OR c.type LIKE 'BOOL%' OR c.type LIKE 'DOUBLE%')
			  AND NOT (t.name = 'shard' AND c.name = 'id') -- SQLite refuses it
			  AND NOT (t.name = 'account' AND c.name = 'active') -- who is not active is refused
			  AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE 'goose%'`)
	})
	if len(edits) < 80 {
		t.Fatalf("%d columns, want those of all tables: %q", len(edits), edits)
	}
	for _, edit := range edits {
		t.Run(strings.TrimPrefix(edit, "UPDATE OR IGNORE "), func(t *testing.T) {
			for _, restart := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) { damage(t, tp, edit, restart, true) })
			}
		})
	}
}

// TestDamageIsTold edits a number of each kind: people and the log are told, and what the document says stays.
func TestDamageIsTold(t *testing.T) {
	tp := newTemplate(t)
	for edit, logged := range map[string]string{
		`UPDATE run SET priority = 'high'`:          "the stored record of a run",
		`UPDATE run SET submitted_at = 'now'`:       "the stored record of a run",
		`UPDATE job SET submitted_at = 'now'`:       "the stored record of a job",
		`UPDATE instance SET blocks = 'two'`:        "the stored record of an instance",
		`UPDATE instance SET created_at = x'00'`:    "the stored record of an instance",
		`UPDATE fleet SET created_at = 'yesterday'`: "the stored record of a fleet",
	} {
		t.Run(edit, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				for _, name := range cloudNames {
					w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second})
				}
				w.start()
				defer w.end()
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}})
				w.applyRun("victim", object{"type": "task", "commands": []string{"work"}}, script{Run: 24 * time.Hour})
				time.Sleep(2 * time.Minute)
				w.current().sql(edit)
				w.stop()
				w.start()
				time.Sleep(2 * time.Minute)
				var runs []api.Run
				var fleets []api.Fleet
				w.call("runs/list", object{}, &runs)
				w.call("project/main/fleets/list", object{}, &fleets)
				if len(runs) != 1 || len(fleets) != 1 || runs[0].Status != api.RunRunning || runs[0].RunSpec.Configuration.Task.Commands[0] != "work" {
					t.Fatalf("%d runs, %d fleets: %+v", len(runs), len(fleets), runs)
				}
				said := ""
				for _, text := range []*string{runs[0].Error, fleets[0].StatusMessage} {
					if text != nil {
						said += *text
					}
				}
				if !strings.Contains(logged, "job") && !strings.Contains(said, "cannot be read (stored value: ") {
					t.Errorf("people are told %q", said)
				}
				if !strings.Contains(w.trace.text(w.current().db), logged) {
					t.Error("the log does not tell")
				}
			})
		})
	}
}

// damage makes an edit, which has to change something, under a running job and looks whether others get on and the
// user can end everything; named says that the edit leaves names as they are, by which the user deletes.
func damage(t *testing.T, tp template, edit string, restart, named bool) {
	w := newWorld(t, 1, tp)
	for _, name := range cloudNames {
		w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond, Deletion: 3 * time.Second})
	}
	w.start()
	defer w.end()
	small := object{"cpu": "1..", "memory": "1GB.."}
	task := object{"type": "task", "commands": []string{"work"}, "resources": small}
	w.sleepUntil(w.began.Add(time.Second))
	w.insist(func() int {
		return w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "idle_duration": 30})
	})
	w.insist(func() int { return w.applyRun("victim", task, script{Run: 24 * time.Hour}) })
	time.Sleep(2 * time.Minute)
	w.fill()
	if restart { // what it remembers would hide it
		w.stop()
		w.start()
	}
	if w.current().sql(edit) == 0 {
		t.Errorf("%s changes nothing", edit)
	}
	if restart {
		w.stop()
		w.start()
	}
	time.Sleep(2 * time.Minute)

	w.applyFleet("others", object{"nodes": object{"min": 0, "max": 2}, "idle_duration": 30})
	w.insist(func() int { return w.applyRun("other", task, script{Run: 10 * time.Second}) })
	w.lists()
	time.Sleep(8 * time.Minute)
	if w.texts(`SELECT j.status FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'other' AND j.status = 'done'`) == nil {
		t.Errorf("another run did not get on: %q", w.texts(`SELECT name || ' is ' || status FROM run`))
	}
	w.endAll()
	if refused := w.empty(); named && len(refused) > 0 {
		t.Errorf("cannot be deleted: %q", refused)
	}
	time.Sleep(45 * time.Minute)
	for _, m := range w.ours() {
		t.Errorf("machine %s is left", m.key())
	}
	for _, left := range w.texts(`SELECT 'job ' || job_id || ' holds ' || instance_id FROM assignment
		UNION ALL SELECT 'instance ' || name || ' is ' || status FROM instance WHERE NOT deleted`) {
		t.Error(left)
	}
	for _, kind := range []string{"runs", "fleets"} {
		if left := w.names(kind); len(left) > 0 {
			t.Errorf("%s cannot be ended: %v", kind, left)
		}
	}
	for _, v := range w.checks.violations {
		if v.invariant == "I12" || v.invariant == "I0" && !strings.Contains(v.what, "the database cannot be read") { // by the checker
			t.Error(v)
		}
	}
	if t.Failed() {
		t.Log(w.trace.text(w.current().db))
	}
}

// TestDamagedHosts stops jobs on hosts whose own records were destroyed. A machine of a cloud is found by what
// the ledger knows of it. The host key of a host of the user is lost: it is reached as long as the connection
// lasts; later the server says that it is not, and once the host is added again nothing is left on it.
func TestDamagedHosts(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		hosts   []string // none: a cloud
		restart bool
		lost    bool // nobody can end the container until the host is added again
	}{
		"machine":                   {},
		"machine, after a restart":  {restart: true},
		"SSH host":                  {hosts: []string{"host0.example"}},
		"SSH host, after a restart": {hosts: []string{"host0.example"}, restart: true, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				for _, name := range cloudNames {
					w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond})
				}
				config := object{"nodes": object{"min": 0, "max": 1}}
				if tt.hosts != nil {
					config = object{"ssh_config": object{"user": "root", "ssh_key": w.keys, "hosts": tt.hosts}}
					w.hosts[tt.hosts[0]] = newHost(w, tt.hosts[0], 1, false)
				}
				w.start()
				defer w.end()
				w.applyFleet("nodes", config)
				time.Sleep(time.Minute)
				w.applyRun("victim", object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}, script{Run: 24 * time.Hour, Lines: 24})
				time.Sleep(2 * time.Minute)
				running := func() (n int) {
					for _, h := range w.every() {
						for _, task := range h.list() {
							if task.State == agentapi.Running {
								n++
							}
						}
					}
					return n
				}
				if running() != 1 {
					t.Fatalf("%d tasks run, want 1: %q", running(), w.texts(`SELECT status FROM job`))
				}
				w.current().sql(`UPDATE instance SET data = '{bad', version = version + 1`)
				if tt.restart {
					w.stop()
					w.start()
				}
				time.Sleep(2 * time.Minute)
				w.stopRun("victim", false)
				time.Sleep(time.Minute)
				if got := running() > 0; got != tt.lost {
					t.Errorf("the task still runs: %v, want %v", got, tt.lost)
				}
				if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"terminated"}) {
					t.Errorf("the job is %q, want terminated", got)
				}
				var fleet api.Fleet
				w.call("project/main/fleets/get", object{"name": "nodes"}, &fleet)
				m := ""
				if fleet.StatusMessage != nil {
					m = *fleet.StatusMessage
				}
				if strings.Contains(m, "may run on there") != (tt.hosts != nil) {
					t.Errorf("the fleet says %q, want what may be left on hosts of users: %v", m, tt.hosts != nil)
				}
				w.deleteFleets("nodes")
				time.Sleep(10 * time.Minute)
				if tt.hosts != nil {
					w.applyFleet("again", config)
					time.Sleep(2 * time.Minute)
				}
				if n := running() + len(w.ours()); n > 0 {
					t.Errorf("%d tasks and machines are left", n)
				}
				if t.Failed() {
					t.Log(w.trace.text(w.current().db))
				}
			})
		})
	}
}

// lists reads what there is as clients do, the published ones included: they refuse what they do not know.
func (w *world) lists() {
	var runs []api.Run
	var fleets, own []api.Fleet
	var instances []api.Instance
	var users []api.User
	var main api.Project
	for path, out := range map[string]any{"runs/list": &runs, "fleets/list": &fleets, "instances/list": &instances, "project/main/fleets/list": &own,
		"server/doctor": nil, "costs/get": nil, "volumes/list": nil, "events/list": nil, "projects/list": nil, "project/main/gateways/list": nil, "project/main/exports/list": nil,
		"users/list": &users, "projects/main/get": &main, "project/main/repos/list": nil, "project/main/secrets/list": nil, "users/public_keys/list": nil} {
		if code := w.call(path, object{}, out); code != http.StatusOK {
			w.t.Errorf("%s: %d", path, code)
		}
	}
	for _, r := range runs {
		if r.Status != r.Status.Shown() {
			w.t.Errorf("run %s is %s", r.ID, r.Status)
		}
		for _, j := range r.Jobs {
			if j.JobSpec.AppSpecs == nil || j.JobSpec.Commands == nil || j.JobSpec.Volumes == nil || j.JobSpec.Env == nil {
				w.t.Errorf("job %s lacks lists", j.JobSpec.JobName)
			}
			for _, sub := range j.JobSubmissions {
				if sub.Status != sub.Status.Shown() {
					w.t.Errorf("job %s is %s", j.JobSpec.JobName, sub.Status)
				}
			}
		}
	}
	for _, f := range append(fleets, own...) {
		if f.Status != f.Status.Shown() {
			w.t.Errorf("fleet %s is %s", f.Name, f.Status)
		}
	}
	for _, i := range instances {
		if i.Status != i.Status.Shown() {
			w.t.Errorf("instance %s is %s", i.Name, i.Status)
		}
	}
	for _, m := range main.Members {
		users = append(users, m.User)
		if m.ProjectRole != m.ProjectRole.Shown() {
			w.t.Errorf("member %s is %s", m.User.Username, m.ProjectRole)
		}
	}
	for _, u := range users {
		if u.GlobalRole != u.GlobalRole.Shown() {
			w.t.Errorf("user %s is %s", u.Username, u.GlobalRole)
		}
	}
	for path, body := range map[string]object{ // may be refused
		"users/get_user": {"username": "somebody"}, "project/main/repos/get": {"repo_id": "code", "include_creds": true}, "project/main/secrets/get": {"name": "TOKEN"},
		"project/guests/imports/list": {}, "project/guests/fleets/list": {"include_imported": true}, "project/guests/backends/crusoe/config_info": {},
	} {
		w.call(path, body, nil)
	}
}

// TestOrphanedQueue deletes the run of a job that waits: the job ends, and the next gets on.
func TestOrphanedQueue(t *testing.T) {
	tp := newTemplate(t)
	waits := object{"resources": object{"gpu": 64}, "retry": object{"on_events": []string{"no-capacity"}, "duration": "1d"}, "commands": []string{"work"}}
	for name, own := range map[string]object{"task": {"type": "task"}, "service": {"type": "service", "port": 8000}} {
		t.Run(name, func(t *testing.T) {
			victim := maps.Clone(waits)
			maps.Copy(victim, own)
			orphanedQueue(t, tp, victim)
		})
	}
}

func orphanedQueue(t *testing.T, tp template, victim object) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second})
		}
		w.start()
		defer w.end()
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "idle_duration": 30})
		w.applyRun("victim", victim, script{Run: time.Minute})
		time.Sleep(time.Minute)
		if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"submitted"}) {
			t.Fatalf("jobs %q, want one that waits", got)
		}
		w.current().sql(`DELETE FROM run`)
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"terminated"}) {
			t.Errorf("the job without a run is %q, want terminated", got)
		}
		w.applyRun("other", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Second})
		time.Sleep(5 * time.Minute)
		if got := w.texts(`SELECT status FROM run`); !slices.Equal(got, []string{"done"}) {
			t.Errorf("the other run is %q, want done", got)
		}
		if text := w.trace.text(w.current().db); !strings.Contains(text, "a job has no run: it is ended") {
			t.Error("the log does not tell")
		}
	})
}

// texts are the rows of a query for one text.
func (w *world) texts(query string) (list []string) {
	rows, err := w.current().db.Read().QueryContext(context.Background(), query)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var text string
		err := rows.Scan(&text)
		list = append(list, text)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}
