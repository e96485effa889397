//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestExports shares a fleet of one project with another, whose runs are placed there as long
// as it is shared.
func TestExports(t *testing.T) {
	w := newWorld(t)
	m := w.startHost(hostOptions{})
	w.fleet("boxes", m)
	w.addTeam()

	if out := w.run("apply", "--project", "team", "-y", "-d", "-f", w.task("early", "echo never", "")); w.teamRun("early").Status == "running" {
		t.Errorf("a run of a project without fleets runs: %s", out.both())
	}
	if out := w.must("export", "create", "shared", "--importer", "team", "--fleet", "boxes").Out; !strings.Contains(out, "boxes") || !strings.Contains(out, "team") {
		t.Errorf("the new export:\n%s", out)
	}
	if out := w.must("import", "list", "--project", "team").Out; !strings.Contains(out, "main/shared") {
		t.Errorf("the imports of team:\n%s", out)
	}
	for project, want := range map[string]string{"main": " boxes", "team": " main/boxes"} {
		if out := w.must("fleet", "--project", project).Out; !strings.Contains(out, want+" ") || !strings.Contains(out, "idle") {
			t.Errorf("the fleets of %s:\n%s", project, out)
		}
	}

	if out := w.must("fleet", "get", "main/boxes", "--json", "--project", "team").Out; !strings.Contains(out, m.Addr) {
		t.Errorf("the imported fleet as JSON:\n%s", out)
	}

	r := w.must("apply", "--project", "team", "-y", "-f", w.task("guest", "echo hello from $DSTACK_RUN_NAME", ""))
	if !strings.Contains(r.both(), "hello from guest") {
		t.Errorf("an attached run on an imported fleet:\n%s", r.both())
	}
	if out := w.must("ps", "--project", "team", "-a").Out; !strings.Contains(out, "guest") || !strings.Contains(out, "ssh (remote)") || !strings.Contains(out, "exited (0)") {
		t.Errorf("ps of team:\n%s", out)
	}
	if out := w.must("ps", "-a").Out; strings.Contains(out, "guest") {
		t.Errorf("ps of main shows the run of team:\n%s", out)
	}

	// A host that the exporter's run leaves is taken by a run of the importer that waits.
	w.must("apply", "-y", "-d", "-f", w.task("own", "sleep 600", ""))
	w.waitStatus("own", "running")
	w.must("apply", "--project", "team", "-y", "-d", "-f", w.task("next", "sleep 600", "fleets: [main/boxes]\nretry: true\n"))
	if out := w.must("fleet", "--project", "team").Out; !strings.Contains(out, "busy") {
		t.Errorf("the fleet is not busy for team:\n%s", out)
	}
	w.must("stop", "own", "-y", "-x")
	eventually(t, 60*time.Second, "the waiting run of the importer runs", func() bool { return w.teamRun("next").Status == "running" })

	if r := w.run("fleet", "delete", "boxes", "-y"); r.Code == 0 || !strings.Contains(r.both(), "in use") {
		t.Errorf("deleting a fleet that another project uses: exit code %d\n%s", r.Code, r.both())
	}
	w.must("export", "delete", "shared", "-y")
	eventually(t, 60*time.Second, "the run ends with its access", func() bool {
		r := w.teamRun("next")
		return len(r.Jobs) > 0 && len(r.Jobs[0].Submissions) > 0 && r.Jobs[0].Submissions[0].Reason == "instance_access_revoked"
	})
	noTraces(t, w, m)
	w.must("stop", "next", "--project", "team", "-y", "-x") // it would wait for the fleet
	if out := w.must("fleet", "--project", "team").Out; strings.Contains(out, "boxes") {
		t.Errorf("team still sees the fleet:\n%s", out)
	}

	// The published client says it in its words.
	c := w.publishedClient(newestPublished)
	c.login()
	c.expect(0, words("project add --name team --url "+c.url()+" --token "+c.token+" -n"), "Configuration updated")
	c.expect(0, words("export create again --importer team --fleet boxes"), "again", "boxes", "team")
	c.expect(1, words("export create again --fleet boxes"), "exists")
	c.expect(1, words("export update again --remove-importer team --set-global"), "at the same time")
	c.expect(0, words("export update again --set-global"), "boxes", "*")
	c.expect(0, words("export list"), "again", "*")
	c.expect(0, words("export update again --unset-global"), "team")
	c.expect(0, words("import --project team list"), "main/again", "boxes")
	c.expect(0, words("fleet --project team"), "main/boxes", "idle")
	c.expect(0, words("fleet --project team get main/boxes --json"), m.Addr)
	c.expect(0, words("import --project team delete main/again -y"), "deleted")
	c.expect(0, words("export delete again -y"), "deleted")
	c.expect(1, words("export delete again -y"), "Export 'again' not found in project 'main'")
}

// addTeam makes a second project, which the user's client knows too.
func (w *world) addTeam() {
	w.t.Helper()
	if status := w.api("/api/projects/create", map[string]any{"project_name": "team"}, nil); status != http.StatusOK {
		w.t.Fatalf("create a project: %d", status)
	}
	w.must("project", "add", "--name", "team", "--url", w.url(), "--token", w.token, "-n")
}

// task writes a task of one command and returns the path.
func (w *world) task(name, command, more string) string {
	return w.write(name+".dstack.yml", "type: task\nname: "+name+"\nimage: job:1\ncommands:\n  - "+command+"\n"+more+anyResources)
}

// teamRun is a run of the second project as the API gives it.
func (w *world) teamRun(name string) (r teamRun) {
	w.t.Helper()
	w.api("/api/project/team/runs/get", map[string]any{"run_name": name}, &r)
	return r
}

type teamRun struct {
	Status string `json:"status"`
	Jobs   []struct {
		Submissions []struct {
			Reason string `json:"termination_reason"`
		} `json:"job_submissions"`
	} `json:"jobs"`
}
