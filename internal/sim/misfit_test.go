package sim

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/backend/fake"
)

// TestContradictions edits rows so that each makes sense for itself and all together do not, without a new version,
// or with one and a restart. What can be put right goes on, what cannot is ended, within a few looks; the log tells once,
// others get on, and nothing is left that costs money.
func TestContradictions(t *testing.T) {
	const (
		victim = `(SELECT j.id FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'victim')`
		other  = `(SELECT j.instance_id FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'bystander')`
	)
	onRun := func(set string) string { return `UPDATE run SET ` + set + ` WHERE name = 'victim'` }
	onJob := func(set string) string { return `UPDATE job SET ` + set + ` WHERE id = ` + victim }
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		edit   string
		goesOn bool
		told   string // "" for nothing
	}{
		"run is pending":       {onRun(`status = 'pending'`), true, "a run is said to wait while its jobs go on"},
		"run is submitted":     {onRun(`status = 'submitted'`), true, ""},
		"run is done":          {onRun(`status = 'done'`), false, "a job goes on that nobody follows"},
		"run is failed":        {onRun(`status = 'failed'`), false, "a job goes on that nobody follows"},
		"run is terminated":    {onRun(`status = 'terminated'`), false, "a job goes on that nobody follows"},
		"run is terminating":   {onRun(`status = 'terminating'`), false, ""},
		"run is deleted":       {onRun(`deleted = TRUE`), false, "a run is deleted and not over"},
		"run is over, deleted": {onRun(`deleted = TRUE, status = 'done'`), false, "a job goes on that nobody follows"},
		"job is submitted":     {onJob(`status = 'submitted'`), true, "a job is elsewhere than what it holds"},
		"job is provisioning":  {onJob(`status = 'provisioning'`), true, ""},
		"job is pulling":       {onJob(`status = 'pulling'`), true, ""},
		"job is terminating":   {onJob(`status = 'terminating'`), false, ""},
		"job is done":          {onJob(`status = 'done'`), false, "blocks were held by no job"},
		"job is failed":        {onJob(`status = 'failed'`), false, "blocks were held by no job"},
		"job is elsewhere":     {onJob(`instance_id = ` + other), true, "a job is elsewhere than what it holds"},
		"job is nowhere":       {onJob(`instance_id = 'nowhere'`), true, "a job is elsewhere than what it holds"},
		"job has no instance":  {onJob(`instance_id = ''`), true, "a job is elsewhere than what it holds"},
		"job waits, elsewhere": {onJob(`status = 'submitted', instance_id = ` + other), true, "a job is elsewhere than what it holds"},
		"replica has a number": {onJob(`replica_num = 5`), true, ""},
		"job has a number":     {onJob(`job_num = 7`), true, ""},
		"attempt has a number": {onJob(`submission_num = 3`), true, ""},
		"hold is elsewhere":    {`UPDATE assignment SET instance_id = ` + other + ` WHERE job_id = ` + victim, true, "a job is elsewhere than what it holds"},
		"hold is nowhere":      {`UPDATE assignment SET instance_id = 'nowhere' WHERE job_id = ` + victim, true, "a job is elsewhere than what it holds"},
		"hold is gone":         {`DELETE FROM assignment WHERE job_id = ` + victim, true, "a job is elsewhere than what it holds"},
		"hold of no job":       {`UPDATE assignment SET job_id = 'nothing' WHERE job_id = ` + victim, true, "blocks were held by no job"},
		"another hold":         {`INSERT INTO assignment (job_id, instance_id, blocks, created_at) SELECT 'nothing', ` + other + `, 1, 0`, true, "blocks were held by no job"},
		"another attempt": {`INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, shard, data, observed)
			SELECT 'again', run_id, project_id, replica_num, job_num, 1, status, instance_id, submitted_at, shard, data, observed FROM job WHERE id = ` + victim, false, "a job goes on that nobody follows"},
	} {
		counted := tt.edit
		if strings.HasPrefix(counted, "UPDATE run") || strings.HasPrefix(counted, "UPDATE job") {
			counted = strings.Replace(counted, " SET ", " SET version = version + 1, ", 1)
		}
		for how, world := range map[string]contradiction{
			"in place":        {edit: tt.edit},
			"after a restart": {edit: counted, restart: true},
			"on SSH hosts":    {edit: tt.edit, hosts: true},
		} {
			world.goesOn, world.told = tt.goesOn, tt.told
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { contradict(t, tp, world) })
			})
		}
	}
}

// contradiction is an edit of a row, in which world, and what is to come of it.
type contradiction struct {
	edit           string
	restart, hosts bool
	goesOn         bool   // the job does
	told           string // by the log, "" for nothing
}

func contradict(t *testing.T, tp template, c contradiction) {
	edit, goesOn, told := c.edit, c.goesOn, c.told
	w := newWorld(t, 1, tp)
	for _, name := range cloudNames {
		w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond, Deletion: 3 * time.Second})
	}
	fleet := object{"nodes": object{"min": 0, "max": 3}, "idle_duration": 30}
	if c.hosts {
		names := []string{"host0.example", "host1.example", "host2.example"}
		for _, name := range names {
			w.hosts[name] = newHost(w, name, 1, false)
		}
		fleet = w.sshFleet(names...)
	}
	w.start()
	defer w.end()
	task := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}
	w.sleepUntil(w.began.Add(time.Second))
	w.applyFleet("nodes", fleet)
	if c.hosts {
		time.Sleep(time.Minute)
	}
	w.applyRun("bystander", task, script{Run: 24 * time.Hour})
	w.applyRun("victim", task, script{Run: 24 * time.Hour})
	time.Sleep(2 * time.Minute)
	victim := w.texts(`SELECT j.id FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'victim'`)[0]
	on := w.texts(`SELECT instance_id FROM job WHERE id = '` + victim + `'`)
	running := func() (list []string) {
		for _, h := range w.every() {
			for _, task := range h.list() {
				if task.State == agentapi.Running {
					list = append(list, task.ID)
				}
			}
		}
		return list
	}
	if n := len(running()); n != 2 {
		t.Fatalf("%d tasks run, want 2: %q", n, w.texts(`SELECT status FROM job`))
	}
	if w.current().sql(edit) != 1 {
		t.Fatalf("%s changes nothing", edit)
	}
	if c.restart {
		w.stop()
		w.start()
	}
	time.Sleep(4 * time.Minute)
	if got := slices.Contains(running(), victim); got != goesOn {
		t.Errorf("the task runs: %v, want %v", got, goesOn)
	}
	if got := w.texts(`SELECT status || ' ' || instance_id FROM job WHERE id = '` + victim + `'`); goesOn && !slices.Equal(got, []string{"running " + on[0]}) {
		t.Errorf("the job is %q, want it to run on %s", got, on)
	}
	if got := w.texts(`SELECT instance_id FROM assignment WHERE job_id = '` + victim + `'`); goesOn && !slices.Equal(got, on) || !goesOn && got != nil {
		t.Errorf("the job holds %q, want %q: %v", got, on, goesOn)
	}
	if got := w.texts(`SELECT status FROM job WHERE id <> '` + victim + `' AND status NOT IN ('failed', 'terminated', 'terminating')`); !slices.Equal(got, []string{"running"}) {
		t.Errorf("the other jobs are %q, want one that runs", got)
	}
	if got := w.texts(`SELECT status FROM run WHERE name = 'victim'`); goesOn && !slices.Equal(got, []string{"running"}) {
		t.Errorf("the run is %q, want it to run", got)
	}
	if got, want := w.texts(`SELECT id FROM instance WHERE status = 'busy'`), 2; goesOn && len(got) != want || !goesOn && len(got) != want-1 {
		t.Errorf("%d instances are busy, of two less what has ended", len(got))
	}
	w.applyRun("other", task, script{Run: 10 * time.Second})
	time.Sleep(16 * time.Minute) // all have been looked at anyway
	text := w.trace.text(w.current().db)
	if n := strings.Count(text, told); told != "" && n != 1 && !(n == 2 && strings.HasPrefix(edit, "INSERT INTO job")) { // both attempts
		t.Errorf("the log tells %d times that %s, want once", n, told)
	}
	for _, v := range w.checks.violations { // the checker does not like to see edited rows
		if v.invariant == "I12" || v.invariant == "I0" && !strings.Contains(v.what, "the database cannot be read") {
			t.Error(v)
		}
	}
	if got := w.texts(`SELECT status FROM run WHERE name = 'other'`); !slices.Equal(got, []string{"done"}) {
		t.Errorf("another run is %q, want done", got)
	}
	w.endAll()
	w.deleteFleets("nodes")
	time.Sleep(10 * time.Minute)
	for _, m := range w.ours() {
		t.Errorf("machine %s is left", m.key())
	}
	for _, left := range w.texts(`SELECT 'job ' || job_id || ' holds ' || instance_id FROM assignment
		UNION ALL SELECT 'instance ' || name || ' is ' || status FROM instance WHERE NOT deleted
		UNION ALL SELECT 'job ' || id || ' is ' || status FROM job WHERE status NOT IN ('terminated', 'aborted', 'failed', 'done')`) {
		t.Error(left)
	}
	if t.Failed() {
		t.Log(text)
	}
}

// TestRandomContradictions edits rows of runs, jobs and holds at random, some after each other, in worlds with runs of all
// sorts. Others get on, all can be ended, and nothing is left that costs money.
func TestRandomContradictions(t *testing.T) {
	tp := newTemplate(t)
	for seed := uint64(1); seed <= uint64(*contradictions); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { contradictAtRandom(t, tp, seed) })
		})
	}
}

// contradictions are few: one world takes as long as one of TestSeeds.
var contradictions = flag.Int("contradictions", 10, "how many seeds TestRandomContradictions runs")

func contradictAtRandom(t *testing.T, tp template, seed uint64) {
	w := newWorld(t, seed, tp)
	for _, name := range cloudNames {
		w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond, Deletion: 3 * time.Second})
	}
	hosts := []string{"host0.example", "host1.example"}
	for _, name := range hosts {
		w.hosts[name] = newHost(w, name, 1, false)
	}
	w.start()
	defer w.end()
	w.sleepUntil(w.began.Add(time.Second))
	w.applyFleet("hosts", w.sshFleet(hosts...))
	w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 8}, "idle_duration": 30})
	w.applyFleet("cluster", object{"nodes": object{"min": 0, "max": 4}, "placement": "cluster", "idle_duration": 30})
	time.Sleep(time.Minute)
	small := object{"cpu": "1..", "memory": "1GB.."}
	forever := script{Run: 24 * time.Hour}
	w.applyRun("single", object{"type": "task", "commands": []string{"work"}, "resources": small}, forever)
	w.applyRun("several", object{"type": "task", "commands": []string{"work"}, "nodes": 2, "fleets": []string{"cluster"}, "resources": small}, forever)
	w.applyRun("again", object{"type": "task", "commands": []string{"work"}, "retry": object{"on_events": retryEvents, "duration": "1h"}, "resources": small}, forever)
	forever.Serves = true
	w.applyRun("serves", object{"type": "service", "port": servicePort, "commands": []string{"serve"}, "replicas": 2, "resources": small}, forever)
	time.Sleep(2 * time.Minute)
	dice := w.dice("edits")
	pick := func(list ...string) string { return list[dice.IntN(len(list))] }
	one := func(table string) string {
		return fmt.Sprintf("(SELECT id FROM %s ORDER BY id LIMIT 1 OFFSET %d %% (SELECT count(*) FROM %s))", table, dice.IntN(1000), table)
	}
	for range 2 + dice.IntN(5) {
		counted := pick("", ", version = version + 1")
		statuses := []string{"submitted", "provisioning", "pulling", "running", "terminating", "terminated", "aborted", "failed", "done"}
		edit := pick(
			"UPDATE run SET status = '"+pick("pending", "submitted", "provisioning", "running", "terminating", "terminated", "failed", "done")+"'"+counted+" WHERE id = "+one("run"),
			"UPDATE OR IGNORE run SET deleted = NOT deleted"+counted+" WHERE id = "+one("run"),
			"UPDATE job SET status = '"+pick(statuses...)+"'"+counted+" WHERE id = "+one("job"),
			"UPDATE job SET instance_id = "+pick("''", "'nowhere'", one("instance"))+counted+" WHERE id = "+one("job"),
			"UPDATE job SET status = '"+pick(statuses...)+"', instance_id = "+pick("''", one("instance"))+counted+" WHERE id = "+one("job"),
			"UPDATE OR IGNORE job SET "+pick("replica_num", "job_num", "submission_num")+" = "+pick("-1", "0", "1", "7")+counted+" WHERE id = "+one("job"),
			"UPDATE OR IGNORE job SET run_id = "+pick("'nothing'", one("run"))+counted+" WHERE id = "+one("job"),
			"INSERT OR IGNORE INTO job SELECT 'copy' || id, run_id, project_id, replica_num, job_num, submission_num + 1, status, instance_id, submitted_at, shard, version, data, observed FROM job WHERE id = "+one("job"),
			"UPDATE OR IGNORE assignment SET job_id = "+pick("'nothing'", one("job"))+" WHERE job_id = "+one("job"),
			"UPDATE assignment SET instance_id = "+pick("'nowhere'", one("instance"))+" WHERE job_id = "+one("job"),
			"DELETE FROM assignment WHERE job_id = "+one("job"),
			"DELETE FROM job WHERE id = "+one("job"),
			"DELETE FROM run WHERE id = "+one("run"),
		)
		w.trace.add("somebody", "edits", edit)
		w.current().sql(edit)
		if dice.IntN(4) == 0 {
			w.stop()
			w.start()
		}
		time.Sleep(time.Duration(dice.IntN(90)) * time.Second)
	}
	time.Sleep(20 * time.Minute)
	w.applyRun("other", object{"type": "task", "commands": []string{"work"}, "resources": small, "fleets": []string{"nodes"}}, script{Run: 10 * time.Second})
	time.Sleep(5 * time.Minute)
	if got := w.texts(`SELECT status FROM run WHERE name = 'other'`); !slices.Equal(got, []string{"done"}) {
		t.Errorf("another run is %q, want done", got)
	}
	w.endAll()
	time.Sleep(30 * time.Minute)
	for _, m := range w.ours() {
		t.Errorf("machine %s is left", m.key())
	}
	for _, name := range hosts {
		for _, task := range w.hosts[name].list() {
			if task.State == agentapi.Running {
				t.Errorf("task %s is left on %s", task.ID, name)
			}
		}
	}
	for _, left := range w.texts(`SELECT 'job ' || job_id || ' holds ' || instance_id FROM assignment
		UNION ALL SELECT 'instance ' || name || ' is ' || status FROM instance WHERE NOT deleted
		UNION ALL SELECT 'job ' || id || ' is ' || status FROM job WHERE status NOT IN ('terminated', 'aborted', 'failed', 'done')
		UNION ALL SELECT 'run ' || name || ' is ' || status FROM run WHERE status NOT IN ('terminated', 'failed', 'done')`) {
		t.Error(left)
	}
	for _, v := range w.checks.violations {
		if v.invariant == "I12" || v.invariant == "I0" && !strings.Contains(v.what, "the database cannot be read") {
			t.Error(v)
		}
	}
	if t.Failed() {
		t.Log(w.trace.text(w.current().db))
	}
}
