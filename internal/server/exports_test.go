package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

// sharing is a server with projects, each with an administrator named like it, and SSH fleets.
type sharing struct {
	*Server
	tokens map[string]string
}

// newSharing makes the projects. The administrator of the server is no member of them.
func newSharing(t *testing.T, s *Server, projects ...string) *sharing {
	t.Helper()
	w := &sharing{s, map[string]string{"global": adminToken}}
	for _, p := range projects {
		w.tokens[p] = s.addUser(t, p, "user")
		if a := s.call(t, "POST", "/api/projects/create", w.tokens[p], map[string]any{"project_name": p}); a.Status != http.StatusOK {
			t.Fatalf("create project %s: %d %s", p, a.Status, a.Body)
		}
	}
	return w
}

// sshFleet makes a fleet of hosts that can take jobs, and returns its id.
func (w *sharing) sshFleet(t *testing.T, project, name string, hosts ...string) string {
	t.Helper()
	key, err := sshkey.Generate("test")
	if err != nil {
		t.Fatal(err)
	}
	var f api.Fleet
	w.must(t, "/api/project/"+project+"/fleets/apply", map[string]any{"force": false, "plan": map[string]any{"spec": map[string]any{"profile": map[string]any{"name": "default"},
		"configuration": map[string]any{"type": "fleet", "name": name, "ssh_config": map[string]any{"user": "u", "hosts": hosts,
			"ssh_key": map[string]any{"public": key.Public, "private": key.Private}}}}}}, &f)
	groups := map[string]recordings{}
	for _, g := range readRecordings(t, "testdata/commands.json.gz") {
		groups[g.Name] = g
	}
	w.hostsReady(t, groups)
	return f.ID
}

// as calls a project's route as somebody and returns the status and the text of a refusal.
func (w *sharing) as(t *testing.T, who, project, path string, body any) (int, string) {
	t.Helper()
	a := w.call(t, "POST", "/api/project/"+project+"/"+path, w.tokens[who], body)
	return a.Status, refusal(a)
}

// refusal is the message of an error, "" for none.
func refusal(a answer) string {
	var many struct{ Detail []struct{ Msg string } }
	var one struct{ Detail struct{ Msg string } }
	switch {
	case a.Status == http.StatusOK:
		return ""
	case json.Unmarshal(a.Body, &many) == nil && len(many.Detail) > 0:
		return many.Detail[0].Msg
	case json.Unmarshal(a.Body, &one) == nil:
		return one.Detail.Msg
	}
	return string(a.Body)
}

// fleets lists those of a project as project/name.
func (w *sharing) fleets(t *testing.T, who, project string, imported bool) []string {
	t.Helper()
	a := w.call(t, "POST", "/api/project/"+project+"/fleets/list", w.tokens[who], map[string]any{"include_imported": imported})
	var list []api.Fleet
	if err := json.Unmarshal(a.Body, &list); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	names := []string{}
	for _, f := range list {
		names = append(names, f.ProjectName+"/"+f.Name)
	}
	return names
}

func (w *sharing) exports(t *testing.T, who, project string) []string {
	t.Helper()
	a := w.call(t, "POST", "/api/project/"+project+"/exports/list", w.tokens[who], nil)
	var list []api.Export
	if err := json.Unmarshal(a.Body, &list); err != nil {
		t.Fatalf("%v in %s", err, a.Body)
	}
	out := []string{}
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s %v %v %v", e.Name, e.IsGlobal, named(e.ExportedFleets), e.Imports))
	}
	return out
}

func named(list []api.Named) []string {
	names := []string{}
	for _, n := range list {
		names = append(names, n.Name)
	}
	return names
}

// about is a request about an object.
func about(name string, fields ...any) map[string]any {
	m := map[string]any{"name": name}
	for i := 0; i < len(fields); i += 2 {
		m[fields[i].(string)] = fields[i+1]
	}
	return m
}

func of(names ...string) []string { return append([]string{}, names...) }

func TestExportRules(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team", "guest")
		w.sshFleet(t, "lab", "rack", "10.0.0.1")
		s.must(t, "/api/project/lab/fleets/apply", map[string]any{"force": false, "plan": map[string]any{"spec": map[string]any{"profile": map[string]any{"name": "default"},
			"configuration": map[string]any{"type": "fleet", "name": "cloud", "nodes": "0..1"}}}}, nil)
		// The administrator of lab may speak for team, too.
		s.must(t, "/api/projects/team/add_members", map[string]any{"members": []map[string]string{{"username": "lab", "project_role": "admin"}}}, nil)
		for _, c := range []struct {
			who, path string
			body      any
			status    int
			refusal   string
		}{
			{"team", "exports/create", about("shared"), 403, "Access denied"},
			{"lab", "exports/create", about("Bad Name"), 400, "Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
			{"lab", "exports/create", about("shared", "exported_fleets", of("nosuch")), 400, "Fleets ['nosuch'] not found in project 'lab'"},
			{"lab", "exports/create", about("shared", "exported_fleets", of("cloud")), 400, "Fleets ['cloud'] are cloud fleets. Can only export SSH fleets"},
			{"lab", "exports/create", about("shared", "exported_fleets", of("rack", "rack")), 400, "The fleet 'rack' is listed more than once"},
			{"lab", "exports/create", about("shared", "exported_gateways", of("gw")), 400, "Gateways ['gw'] not found in project 'lab'"},
			{"lab", "exports/create", about("shared", "importer_projects", of("LAB")), 400, "Project 'lab' cannot import from itself"},
			{"lab", "exports/create", about("shared", "importer_projects", of("guest", "nosuch")), 400, "Projects {'guest', 'nosuch'} not found or you are not allowed to add them as importers. Only project admins can add a project as importer"},
			{"lab", "exports/create", about("shared", "importer_projects", of("team", "Team")), 400, "The project 'team' is listed more than once"},
			{"lab", "exports/create", about("shared", "is_global", true), 403, "Only global admins can make the export global"},
			{"lab", "exports/create", about("shared", "is_global", true, "importer_projects", of("team")), 400, "A global export is imported by all projects and cannot have importers of its own"},
			{"lab", "exports/create", about("shared", "importer_projects", of("Team"), "exported_fleets", of("rack")), 200, ""},
			{"lab", "exports/create", about("shared"), 400, "Resource exists"},
			{"lab", "exports/update", about("nosuch", "add_exported_fleets", of("rack")), 400, "Export 'nosuch' not found in project 'lab'"},
			{"lab", "exports/update", about("shared"), 400, "No changes specified"},
			{"lab", "exports/update", about("shared", "set_global", true, "unset_global", true), 400, "Cannot set and unset global at the same time"},
			{"lab", "exports/update", about("shared", "set_global", true, "add_importer_projects", of("team")), 400, "Cannot change importers and set or unset global at the same time"},
			{"lab", "exports/update", about("shared", "add_exported_fleets", of("rack"), "remove_exported_fleets", of("rack")), 400, "Cannot add and remove the fleet 'rack' at the same time"},
			{"lab", "exports/update", about("shared", "add_importer_projects", of("TEAM"), "remove_importer_projects", of("team")), 400, "Cannot add and remove the project 'TEAM' at the same time"},
			{"lab", "exports/update", about("shared", "add_exported_fleets", of("rack")), 400, "The fleet 'rack' is already exported in 'shared'"},
			{"lab", "exports/update", about("shared", "remove_exported_gateways", of("gw")), 400, "Gateways ['gw'] not found in project 'lab'"},
			{"lab", "exports/update", about("shared", "add_importer_projects", of("team")), 400, "Project 'team' already imports 'lab/shared'"},
			{"lab", "exports/update", about("shared", "remove_importer_projects", of("guest")), 400, "Project 'guest' does not import 'lab/shared'"},
			{"lab", "exports/update", about("shared", "unset_global", true), 400, "Export 'shared' is not global"},
			{"lab", "exports/update", about("shared", "set_global", true), 403, "Only global admins can make the export global"},
			{"lab", "exports/delete", about("nosuch"), 400, "Export 'nosuch' not found in project 'lab'"},
		} {
			if status, msg := w.as(t, c.who, "lab", c.path, c.body); status != c.status || msg != c.refusal {
				t.Errorf("%s %v as %s: %d %q, want %d %q", c.path, c.body, c.who, status, msg, c.status, c.refusal)
			}
		}
		if diff := cmp.Diff([]string{"shared false [rack] [{team}]"}, w.exports(t, "lab", "lab")); diff != "" {
			t.Errorf("after refusals (-want +got):\n%s", diff)
		}
		if status, _ := w.as(t, "lab", "lab", "exports/update", about("shared", "remove_exported_fleets", of("rack"), "remove_importer_projects", of("team"))); status != 200 {
			t.Errorf("removing all: %d", status)
		}
		if diff := cmp.Diff([]string{"shared false [] []"}, w.exports(t, "lab", "lab")); diff != "" {
			t.Errorf("emptied (-want +got):\n%s", diff)
		}
	})
}

// What is shared can be seen and planned with by those who import it, and by nobody else.
func TestImportedFleet(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team", "guest")
		id := w.sshFleet(t, "lab", "rack", "10.0.0.1")
		hidden := w.sshFleet(t, "lab", "vault", "10.0.0.2")
		s.must(t, "/api/project/lab/exports/create", about("shared", "exported_fleets", of("rack"), "importer_projects", of("team")), nil)

		for _, c := range []struct {
			who, project string
			imported     bool
			want         []string
		}{
			{"team", "team", true, of("lab/rack")},
			{"team", "team", false, of()},
			{"guest", "guest", true, of()},
			{"lab", "lab", true, of("lab/vault", "lab/rack")},
		} {
			if diff := cmp.Diff(c.want, w.fleets(t, c.who, c.project, c.imported)); diff != "" {
				t.Errorf("fleets of %s, imported %v (-want +got):\n%s", c.project, c.imported, diff)
			}
		}
		for path, body := range map[string]map[string]any{"/api/fleets/list": {"include_imported": true}, "/api/instances/list": {"include_imported": true}} {
			for who, want := range map[string]int{"team": 1, "guest": 0, "lab": 2} {
				var got []struct{ ProjectName string }
				if err := json.Unmarshal(w.call(t, "POST", path, w.tokens[who], body).Body, &got); err != nil || len(got) != want {
					t.Errorf("%s as %s: %v, %v, want %d", path, who, got, err, want)
				}
			}
			body["include_imported"] = false
			if a := w.call(t, "POST", path, w.tokens["team"], body); string(a.Body) != "[]" {
				t.Errorf("%s without imports: %s", path, a.Body)
			}
		}
		var rows []api.Instance
		s.must(t, "/api/instances/list", map[string]any{"fleet_ids": of(id)}, &rows)
		for _, c := range []struct {
			who, path string
			body      any
			status    int
		}{
			{"team", "fleets/get", map[string]any{"name": "rack"}, 200},
			{"team", "fleets/get", map[string]any{"id": id}, 200},
			{"team", "fleets/get", map[string]any{"name": "vault"}, 403},
			{"team", "fleets/get", map[string]any{"id": hidden}, 403},
			{"team", "fleets/get", map[string]any{"name": "nosuch"}, 403},
			{"guest", "fleets/get", map[string]any{"name": "rack"}, 403},
			{"team", "instances/get", map[string]any{"id": rows[0].ID}, 200},
			{"guest", "instances/get", map[string]any{"id": rows[0].ID}, 403},
			{"team", "fleets/list", map[string]any{}, 403},
			{"team", "fleets/delete", map[string]any{"names": of("rack")}, 403},
			{"team", "fleets/delete_instances", map[string]any{"name": "rack", "instance_nums": []int{0}}, 403},
			{"team", "exports/list", nil, 403},
		} {
			if status, msg := w.as(t, c.who, "lab", c.path, c.body); status != c.status {
				t.Errorf("%s %v of lab as %s: %d %s, want %d", c.path, c.body, c.who, status, msg, c.status)
			}
		}
		for fleets, want := range map[string]int{`null`: 1, `["lab/rack"]`: 1, `["rack"]`: 0, `["lab/vault"]`: 0} {
			plan := json.RawMessage(`{"run_name": "job", "ssh_key_pub": "x", "configuration": {"type": "task", "image": "x", "commands": ["x"], "resources": {"cpu": "1..", "memory": "0..", "disk": "1GB.."}, "fleets": ` + fleets + `}}`)
			for who, n := range map[string]int{"team": want, "guest": 0} {
				a := w.call(t, "POST", "/api/project/"+who+"/runs/get_plan", w.tokens[who], map[string]any{"run_spec": plan})
				var p api.RunPlan
				if err := json.Unmarshal(a.Body, &p); err != nil || len(p.JobPlans[0].Offers) != n {
					t.Errorf("plan of %s with fleets %s: %s, %v, want %d offers", who, fleets, short(a.Body), err, n)
				}
			}
		}
		var empty []api.Project
		if err := json.Unmarshal(w.call(t, "POST", "/api/projects/list_only_no_fleets", w.tokens["team"], nil).Body, &empty); err != nil || len(empty) != 0 {
			t.Errorf("projects without fleets: %v, %v, but team imports one", empty, err)
		}
	})
}

func TestImports(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team", "guest")
		w.sshFleet(t, "lab", "rack", "10.0.0.1")
		s.must(t, "/api/project/lab/exports/create", about("shared", "exported_fleets", of("rack"), "importer_projects", of("team")), nil)
		s.must(t, "/api/project/lab/exports/create", about("all", "exported_fleets", of("rack"), "is_global", true), nil)
		imports := func(project string) []string {
			var list []api.Import
			s.must(t, "/api/project/"+project+"/imports/list", nil, &list)
			out := []string{}
			for _, i := range list {
				out = append(out, fmt.Sprintf("%s/%s %v", i.Export.ProjectName, i.Export.Name, named(i.Export.ExportedFleets)))
			}
			return out
		}
		s.must(t, "/api/projects/create", map[string]any{"project_name": "later"}, nil)
		for project, want := range map[string][]string{
			"team": {"lab/all [rack]", "lab/shared [rack]"}, "guest": {"lab/all [rack]"}, "later": {"lab/all [rack]"}, "lab": {},
		} {
			if diff := cmp.Diff(want, imports(project)); diff != "" {
				t.Errorf("imports of %s (-want +got):\n%s", project, diff)
			}
		}
		gone := func(name, from string) map[string]any {
			return map[string]any{"export_name": name, "export_project_name": from}
		}
		for _, c := range []struct {
			who, project string
			body         any
			status       int
			refusal      string
		}{
			{"guest", "team", gone("shared", "lab"), 403, "Access denied"},
			{"guest", "guest", gone("shared", "lab"), 400, "Import 'lab/shared' not found in project 'guest'"},
			{"guest", "guest", gone("nosuch", "lab"), 400, "Import 'lab/nosuch' not found in project 'guest'"},
			{"guest", "guest", gone("shared", "nosuch"), 400, "Import 'nosuch/shared' not found in project 'guest'"},
			{"guest", "guest", gone("all", "lab"), 400, "'lab/all' is a global export, cannot stop importing"},
			{"team", "team", gone("shared", "lab"), 200, ""},
			{"team", "team", gone("shared", "lab"), 400, "Import 'lab/shared' not found in project 'team'"},
		} {
			if status, msg := w.as(t, c.who, c.project, "imports/delete", c.body); status != c.status || msg != c.refusal {
				t.Errorf("%v of %s as %s: %d %q, want %d %q", c.body, c.project, c.who, status, msg, c.status, c.refusal)
			}
		}
		for _, c := range []struct {
			body    map[string]any
			status  int
			refusal string
		}{
			{about("all", "set_global", true), 400, "Export 'all' is already global"},
			{about("all", "remove_importer_projects", of("team")), 400, "Export 'all' is global: it is imported by all projects, importers cannot be added or removed"},
			{about("all", "unset_global", true), 200, ""},
		} {
			if status, msg := w.as(t, "global", "lab", "exports/update", c.body); status != c.status || msg != c.refusal {
				t.Errorf("%v: %d %q", c.body, status, msg)
			}
		}
		if got := w.exports(t, "lab", "lab"); !strings.HasPrefix(got[0], "all false [rack] [{guest} {later} {main} {team}]") {
			t.Errorf("after it was global: %v", got)
		}
		if status, _ := w.as(t, "guest", "guest", "imports/delete", gone("all", "lab")); status != 200 {
			t.Errorf("giving back what was global: %d", status)
		}
	})
}

// Deleting a project ends what it shares and uses; one with fleets or volumes stays.
func TestDeleteSharingProject(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team")
		id := w.sshFleet(t, "lab", "rack", "10.0.0.1")
		s.must(t, "/api/project/lab/exports/create", about("shared", "exported_fleets", of("rack"), "importer_projects", of("team")), nil)
		a := s.call(t, "POST", "/api/projects/delete", adminToken, map[string]any{"projects_names": of("lab")})
		if a.Status != 400 || refusal(a) != "Failed to delete project with active fleets: ['rack']" {
			t.Errorf("delete a project with a fleet: %d %s", a.Status, a.Body)
		}
		write(t, s, `UPDATE fleet SET deleted = TRUE, version = version + 1 WHERE id = $1`, id)
		s.must(t, "/api/projects/delete", map[string]any{"projects_names": of("lab")}, nil)
		for _, table := range []string{"export", "export_item", "import"} {
			var n int
			if err := s.db.Read().QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d rows are left in %s, %v", n, table, err)
			}
		}
	})
}

func write(t *testing.T, s *Server, statement string, args ...any) {
	t.Helper()
	err := s.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), statement, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Jobs on what a project may not use any more end, whichever way the access ends.
func TestAccessRevoked(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team")
		fleet := w.sshFleet(t, "lab", "rack", "10.0.0.1")
		instance := func() (id string) {
			if err := s.db.Read().QueryRowContext(t.Context(), `SELECT id FROM instance WHERE fleet_id = $1`, fleet).Scan(&id); err != nil {
				t.Fatal(err)
			}
			return id
		}()
		for i, c := range []struct {
			project, path string
			body          map[string]any
			ends          bool
		}{
			{"lab", "exports/delete", about("shared"), true},
			{"lab", "exports/update", about("shared", "remove_exported_fleets", of("rack")), true},
			{"lab", "exports/update", about("shared", "remove_importer_projects", of("team")), true},
			{"team", "imports/delete", map[string]any{"export_name": "shared", "export_project_name": "lab"}, true},
			{"lab", "exports/delete", about("other"), false}, // the second way stays
		} {
			for _, name := range []string{"shared", "other"} {
				if c.ends && name == "other" {
					continue
				}
				s.must(t, "/api/project/lab/exports/create", about(name, "exported_fleets", of("rack"), "importer_projects", of("team")), nil)
			}
			run := fmt.Sprintf("job-%d", i)
			s.must(t, "/api/project/team/runs/apply", applyPlan(spec(run, `"type": "task"`), nil, false), nil)
			write(t, s, `UPDATE job SET instance_id = $1, status = 'running', version = version + 1 WHERE run_id = (SELECT id FROM run WHERE name = $2)`, instance, run)
			s.must(t, "/api/project/"+c.project+"/"+c.path, c.body, nil)
			var r api.Run
			s.must(t, "/api/project/team/runs/get", map[string]any{"run_name": run}, &r)
			job := r.LatestJobSubmission
			ended := job.Status == api.JobTerminating && job.TerminationReason != nil && *job.TerminationReason == "instance_access_revoked"
			if ended != c.ends {
				t.Errorf("after %s %v the job is %s, reason %v", c.path, c.body, job.Status, job.TerminationReason)
			}
			if c.ends && *job.TerminationReasonMessage != "The instance is no longer imported into the job's project" {
				t.Errorf("after %s: %s", c.path, *job.TerminationReasonMessage)
			}
			if c.ends && c.path != "exports/delete" {
				s.must(t, "/api/project/lab/exports/delete", about("shared"), nil)
			}
		}
	})
}
