package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/fake"
)

// newCloudServer opens a server whose project main has a cloud called aws, with disks but
// without gateways.
func newCloudServer(t *testing.T) *Server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte("projects:\n  - name: main\n    backends: [{type: aws}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cloud := fake.New(fake.Config{Name: "aws", Offers: fake.SomeOffers()})
	type none struct{}
	aws := backend.Define("aws", "", func(context.Context, none, backend.Deps) (backend.Backend, error) { return cloud, nil })
	s, err := New(t.Context(), Config{Dir: dir, Token: adminToken, Log: slog.New(slog.DiscardHandler), Backends: []backend.Type{aws}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	return s
}

// What no backend can make is refused with what there is, and nothing is stored.
func TestUnableBackends(t *testing.T) {
	volume := map[string]any{"configuration": map[string]any{"type": "volume", "backend": "aws", "name": "data", "size": 10, "region": "north"}}
	gateway := map[string]any{"configuration": map[string]any{"type": "gateway", "backend": "aws", "name": "gw", "region": "north"}}
	plan := map[string]any{"force": false, "plan": map[string]any{"spec": gateway}}
	for name, tt := range map[string]struct {
		s        *Server
		path     string
		body     any
		code     string
		refusals string
	}{
		"a volume without backends":  {newServer(t), "volumes/create", volume, "backend_not_available", "Backend aws not available. Available backends with volumes support: []. Configured backends of project main: []."},
		"a gateway without backends": {newServer(t), "gateways/apply", plan, "backend_not_available", "Backend aws not available. Available backends with gateways support: []. Configured backends of project main: []."},
		"a plan for it":              {newServer(t), "gateways/get_plan", map[string]any{"spec": gateway}, "backend_not_available", "Backend aws not available. Available backends with gateways support: []. Configured backends of project main: []."},
		"as old clients ask":         {newServer(t), "gateways/create", gateway, "backend_not_available", "Backend aws not available. Available backends with gateways support: []. Configured backends of project main: []."},
		"a gateway in a cloud":       {newCloudServer(t), "gateways/apply", plan, "error", "Gateways are not supported for aws backend. Available backends with gateways support: []. Configured backends of project main: ['aws']."},
		"a volume of another cloud": {newCloudServer(t), "volumes/create", map[string]any{"configuration": map[string]any{"type": "volume", "backend": "gcp", "name": "data", "size": 10, "region": "north"}},
			"backend_not_available", "Backend gcp not available. Available backends with volumes support: ['aws']. Configured backends of project main: ['aws']."},
	} {
		a := tt.s.call(t, "POST", "/api/project/main/"+tt.path, adminToken, tt.body)
		var got struct{ Detail []struct{ Msg, Code string } }
		if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusBadRequest || len(got.Detail) != 1 || got.Detail[0].Code != tt.code || got.Detail[0].Msg != tt.refusals {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
		for _, path := range []string{"volumes/list", "gateways/list"} {
			if a := tt.s.call(t, "POST", "/api/project/main/"+path, adminToken, nil); string(a.Body) != "[]" {
				t.Errorf("%s: %s has %s", name, path, a.Body)
			}
		}
	}
}

// The answers about volumes have the published form; what uses a volume's backend or project
// keeps it.
func TestVolumes(t *testing.T) {
	s := newCloudServer(t)
	create := func(fields string) answer {
		return s.call(t, "POST", "/api/project/main/volumes/create", adminToken, []byte(`{"configuration": {"type": "volume", "backend": "aws", "region": "north", `+fields+`}}`))
	}
	for fields, status := range map[string]int{
		`"name": "data", "size": "100GB", "tags": {"a": "b"}, "auto_cleanup_duration": "1d"`: 200,
		`"name": "old", "volume_id": "vol-1"`:                                                200,
		`"name": "x", "size": 1, "volume_id": "y", "auto_cleanup_duration": "1h"`:            400,
		`"name": "none"`:               400,
		`"name": "more", "colour": ""`: 422,
	} {
		if a := create(fields); a.Status != status {
			t.Errorf("%s: %d %s", fields, a.Status, a.Body)
		}
	}
	var v api.Volume
	s.must(t, "/api/project/main/volumes/get", map[string]any{"name": "data"}, &v)
	if v.Status != api.VolumeSubmitted || *v.Configuration.Size != 100 || *v.Configuration.AutoCleanupDuration != 86400 || v.User != "admin" {
		t.Errorf("the volume is %+v", v)
	}
	var list []api.Volume
	s.must(t, "/api/volumes/list", map[string]any{"limit": 1, "ascending": true}, &list)
	if len(list) != 1 {
		t.Errorf("a page of one has %d", len(list))
	}
	if a := s.call(t, "POST", "/api/project/main/backends/delete", adminToken, map[string]any{"backends_names": []string{"aws"}}); refusal(a) != "Backend aws has active volumes. Delete volumes before deleting the backend." {
		t.Errorf("delete the backend: %d %s", a.Status, a.Body)
	}
	if a := s.call(t, "POST", "/api/projects/delete", adminToken, map[string]any{"projects_names": []string{"main"}}); refusal(a) != "Failed to delete project with active volumes: ['data', 'old']" {
		t.Errorf("delete the project: %d %s", a.Status, a.Body)
	}
	var bill api.Doctor
	s.must(t, "/api/server/doctor", nil, &bill)
	if len(bill.Resources) != 1 || bill.Resources[0].Name != "data" || bill.Resources[0].Kind != "volume" {
		t.Errorf("what costs money is %+v", bill.Resources)
	}
	token := s.addUser(t, "stranger", "user")
	if a := s.call(t, "POST", "/api/volumes/list", token, map[string]any{}); string(a.Body) != "[]" {
		t.Errorf("a stranger sees %s", a.Body)
	}
	s.must(t, "/api/project/main/volumes/delete", map[string]any{"names": []string{"data", "nosuch"}}, nil)
}

// Each release gets gateways in the form that it reads.
func TestGatewayDowngrade(t *testing.T) {
	s := newServer(t)
	var p api.Project
	s.must(t, "/api/projects/main/get", nil, &p)
	write(t, s, `INSERT INTO gateway (id, project_id, name, status, created_at, data) VALUES ($1, $2, 'gw', 'running', 1, '{"configuration": {"type": "gateway", "name": "gw", "backend": "aws", "region": "r", "domain": "*.example.com"}}')`,
		"2f4e6d8c-1b3a-4957-8e6f-0a1b2c3d4e5f", p.ProjectID)
	for version, want := range map[string]map[string]any{
		"0.22.5":  {"hostname": nil, "ip_address": nil, "instance_id": nil},
		"0.20.25": {"hostname": nil, "ip_address": nil, "instance_id": nil},
		"0.20.24": {"hostname": "", "ip_address": "", "instance_id": ""},
		"0.19.40": {"hostname": "", "ip_address": "", "instance_id": ""},
	} {
		var list []map[string]any
		if err := json.Unmarshal(s.call(t, "POST", "/api/project/main/gateways/list", adminToken, nil, "X-API-VERSION", version).Body, &list); err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", version, list, err)
		}
		for field, v := range want {
			if list[0][field] != v {
				t.Errorf("%s: %s is %v, want %v", version, field, list[0][field], v)
			}
		}
		if list[0]["wildcard_domain"] != "*.example.com" || list[0]["default"] != false {
			t.Errorf("%s: %v", version, list[0])
		}
	}
	replicas := `{"wildcard_domain": null, "hostname": null, "configuration": {"backend": "aws"}, "replicas": [{"hostname": "198.51.100.7", "region": "r", "backend": "aws"}, {"hostname": null, "region": null, "backend": null}, {"hostname": "198.51.100.8", "region": "r", "backend": "aws"}]}`
	for _, c := range []struct {
		v    release
		want string
	}{
		{release{0, 20, 24}, `{"wildcard_domain": null, "hostname": "198.51.100.7\n198.51.100.8", "ip_address": "198.51.100.7\n198.51.100.8", "instance_id": "", "configuration": {"backend": "aws"}, "replicas": [{"hostname": "198.51.100.7", "region": "r", "backend": "aws"}, {"hostname": null, "region": null, "backend": null}, {"hostname": "198.51.100.8", "region": "r", "backend": "aws"}]}`},
		{release{0, 20, 30}, `{"wildcard_domain": null, "hostname": null, "configuration": {"backend": "aws"}, "replicas": [{"hostname": "198.51.100.7", "region": "r", "backend": "aws"}, {"hostname": null, "region": null, "backend": null}, {"hostname": "198.51.100.8", "region": "r", "backend": "aws"}]}`},
		{release{0, 20, 26}, `{"wildcard_domain": null, "hostname": null, "configuration": {"backend": "aws"}, "replicas": [{"hostname": "198.51.100.7", "region": "r", "backend": "aws"}, {"hostname": "", "region": "", "backend": "aws"}, {"hostname": "198.51.100.8", "region": "r", "backend": "aws"}]}`},
	} {
		data, err := downgrade(c.v, []byte(replicas))
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.v, diff)
		}
	}
}

// An SSH proxy with the token learns the way to a running job, and who may use it.
func TestSSHProxy(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		w := newSharing(t, s, "lab", "team")
		fleet := w.sshFleet(t, "lab", "rack", "10.0.0.1")
		s.must(t, "/api/project/team/runs/apply", applyPlan(spec("job", `"type": "task"`), nil, false), nil)
		var r api.Run
		s.must(t, "/api/project/team/runs/get", map[string]any{"run_name": "job"}, &r)
		id := r.LatestJobSubmission.ID
		ask := func(token, id string) answer {
			return s.call(t, "POST", "/api/sshproxy/get_upstream", token, map[string]any{"id": id})
		}
		if a := ask("", id); a.Status != http.StatusForbidden {
			t.Errorf("without a token at the server: %d %s", a.Status, a.Body)
		}
		s.SSHProxyToken = "sesame"
		for _, c := range []struct {
			token, id string
			status    int
		}{
			{"sesame", id, 400}, // it does not run
			{"sesame", "nosuch", 400}, {"sesame", "11111111-2222-4333-8444-555555555555", 400},
			{"", id, 403}, {"sesam", id, 403}, {adminToken, id, 403},
		} {
			if a := ask(c.token, c.id); a.Status != c.status {
				t.Errorf("as %q about %s: %d %s, want %d", c.token, c.id, a.Status, a.Body, c.status)
			}
		}
		write(t, s, `UPDATE job SET instance_id = (SELECT id FROM instance WHERE fleet_id = $1), status = 'running', version = version + 1 WHERE id = $2`, fleet, id)
		data := map[string]any{}
		row := s.db.Read().QueryRowContext(t.Context(), `SELECT data FROM job WHERE id = $1`, id)
		var text string
		if err := row.Scan(&text); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			t.Fatal(err)
		}
		data["runtime"] = map[string]any{"network_mode": "bridge", "ports": map[string]int{"10022": 40022}, "volume_names": []string{}, "username": "root"}
		changed, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		write(t, s, `UPDATE job SET data = $1 WHERE id = $2`, string(changed), id)
		s.must(t, "/api/users/public_keys/add", map[string]any{"key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0zW6tHZ7QY8o7y2J6i0m0ql9g2wvXyQ2iQbD9d2c4B mine"}, nil)
		var up upstream
		a := ask("sesame", strings.ReplaceAll(id, "-", ""))
		if err := json.Unmarshal(a.Body, &up); err != nil || len(up.Hosts) != 2 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		host, job := up.Hosts[0], up.Hosts[1]
		if host.Host != "10.0.0.1" || host.Port != 22 || host.User != "u" || job.Host != "localhost" || job.Port != 40022 || job.User != "root" {
			t.Errorf("the way is %s@%s:%d, %s@%s:%d", host.User, host.Host, host.Port, job.User, job.Host, job.Port)
		}
		if host.PrivateKey == job.PrivateKey || !strings.Contains(host.PrivateKey, "PRIVATE KEY") || !strings.Contains(job.PrivateKey, "PRIVATE KEY") {
			t.Error("the host is the exporter's and the job the importer's, but the keys are not")
		}
		if len(up.AuthorizedKeys) != 3 || up.AuthorizedKeys[0] != "x" || !strings.HasSuffix(up.AuthorizedKeys[2], "mine") {
			t.Errorf("authorized keys %q", up.AuthorizedKeys)
		}
	})
}
