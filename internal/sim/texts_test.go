package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestDamagedTexts writes into one column of text after the other, of who may do what and of what runs use, something
// that makes no sense there, with the same ends as [TestDamagedRows]. The row is that of another user or project.
func TestDamagedTexts(t *testing.T) {
	tp := newTemplate(t)
	others := map[string]string{"account": "name = 'somebody'", "project": "name = 'guests'"}
	tables := []string{"account", "project", "member", "backend_config", "export", "export_item", "import", "public_key", "repo", "repo_creds", "secret", "volume_attachment"}
	var edits []string
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers()})
		}
		w.start()
		defer w.end()
		for _, table := range tables {
			columns := w.texts(fmt.Sprintf(`SELECT name FROM pragma_table_info('%s') WHERE type = 'TEXT' AND name <> 'id'`, table))
			if columns == nil {
				t.Errorf("there is no table %s", table)
			}
			for _, column := range columns {
				edits = append(edits, "UPDATE OR IGNORE "+table+" SET "+column+" = 'zzz'")
				if strings.HasSuffix(column, "sealed") {
					edits = append(edits, "UPDATE OR IGNORE "+table+" SET "+column+" = 'enc:identity:noname:{bad'")
				}
			}
		}
	})
	for _, edit := range edits {
		t.Run(strings.TrimPrefix(edit, "UPDATE OR IGNORE "), func(t *testing.T) {
			table, _, _ := strings.Cut(strings.TrimPrefix(edit, "UPDATE OR IGNORE "), " ")
			if row := others[table]; row != "" {
				edit += " WHERE " + row
			}
			synctest.Test(t, func(t *testing.T) { damage(t, tp, edit, true, false) })
		})
	}
}

// TestSpoiledProjectKey spoils the key with which the server logs in to all hosts of a project. What is there can be
// listed and ended, nothing is left that costs money, and other projects get on.
func TestSpoiledProjectKey(t *testing.T) {
	tp := newTemplate(t)
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { spoiledProjectKey(t, tp, restart) })
		})
	}
}

func spoiledProjectKey(t *testing.T, tp template, restart bool) {
	w := newWorld(t, 1, tp)
	for _, name := range cloudNames {
		w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond})
	}
	w.hosts["host0.example"] = newHost(w, "host0.example", 1, false)
	w.start()
	defer w.end()
	task := func(fleet string) object {
		return object{"type": "task", "commands": []string{"work"}, "fleets": []string{fleet}, "resources": object{"cpu": "1..", "memory": "1GB.."}}
	}
	machines := object{"nodes": object{"min": 0, "max": 2}, "idle_duration": 30}
	w.applyFleet("nodes", machines)
	w.applyFleet("hosts", w.sshFleet("host0.example"))
	time.Sleep(time.Minute)
	w.applyRun("on-machine", task("nodes"), script{Run: 24 * time.Hour})
	w.applyRun("on-host", task("hosts"), script{Run: 24 * time.Hour})
	time.Sleep(2 * time.Minute)
	if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"running", "running"}) {
		t.Fatalf("the jobs are %q, want both running", got)
	}
	if w.current().sql(`UPDATE project SET private_sealed = 'zzz' WHERE name = 'main'`) != 1 {
		t.Fatal("no key was changed")
	}
	if restart {
		w.stop()
		w.start()
	}
	time.Sleep(2 * time.Minute)
	w.applyRun("later", task("nodes"), script{Run: 10 * time.Second})
	w.call("project/guests/backends/create", object{"type": "crusoe"}, nil)
	w.call("project/guests/fleets/apply", object{"plan": object{"spec": object{
		"configuration": object{"type": "fleet", "name": "own", "nodes": object{"min": 0, "max": 1}, "idle_duration": 30}, "profile": object{"name": "default"}}}, "force": true}, nil)
	w.applyRun("guest-1", task("own"), script{Run: 10 * time.Second})
	time.Sleep(5 * time.Minute)
	w.lists()
	if got := w.texts(`SELECT status FROM run WHERE name = 'guest-1'`); !slices.Equal(got, []string{"done"}) {
		t.Errorf("the run of another project is %q, want done", got)
	}
	if text := w.trace.text(w.current().db); !strings.Contains(text, "key of project main: ") {
		t.Error("the log does not tell")
	}
	w.endAll()
	w.call("project/guests/fleets/delete", object{"names": []string{"own"}}, nil)
	time.Sleep(45 * time.Minute)
	for _, left := range w.texts(`SELECT 'job ' || job_id || ' holds ' || instance_id FROM assignment
		UNION ALL SELECT 'instance ' || name || ' is ' || status FROM instance WHERE NOT deleted
		UNION ALL SELECT 'run ' || name || ' is ' || status FROM run WHERE status NOT IN ('terminated', 'failed', 'done')
		UNION ALL SELECT 'fleet ' || name || ' is left' FROM fleet WHERE NOT deleted`) {
		t.Error(left)
	}
	for _, m := range w.ours() {
		t.Errorf("machine %s is left", m.key())
	}
	for _, v := range w.checks.violations {
		if v.invariant == "I0" || v.invariant == "I12" {
			t.Error(v)
		}
	}
	if t.Failed() {
		t.Log(w.trace.text(w.current().db))
	}
}
