package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
)

// TestDowngrade asks for a plan as clients of different ages. The forms are those that the
// published server gave them.
func TestDowngrade(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		client string // "": none is said
		fleets string
	}{
		{"", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
		{"latest", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
		{"0.0.0", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
		{"0.19.0", `["f","main/g"]`},
		{"0.20.13", `["f","main/g"]`},
		{"0.20.14", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
		{"0.20.30", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
		{"0.22.5", `[{"name":"f","project":null},{"name":"g","project":"main"}]`},
	} {
		var header []string
		if c.client != "" {
			header = []string{"X-API-Version", c.client}
		}
		body := []byte(`{"run_spec": {"run_name": "xx", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": ["a"], "fleets": ["f", "main/g"]}}}`)
		a := s.call(t, "POST", "/api/project/main/runs/get_plan", adminToken, body, header...)
		var plan struct {
			RunSpec          struct{ Configuration map[string]any } `json:"run_spec"`
			EffectiveRunSpec struct{ Configuration map[string]any } `json:"effective_run_spec"`
		}
		if err := json.Unmarshal(a.Body, &plan); err != nil || a.Status != 200 {
			t.Fatalf("client %q: %d %s, %v", c.client, a.Status, short(a.Body), err)
		}
		if got := string(marshal(plan.RunSpec.Configuration["nodes"])); got != "1" {
			t.Errorf("client %q: nodes %s, want 1", c.client, got)
		}
		for what, configuration := range map[string]map[string]any{"submitted": plan.RunSpec.Configuration, "effective": plan.EffectiveRunSpec.Configuration} {
			if got := string(marshal(configuration["fleets"])); got != c.fleets {
				t.Errorf("client %q: fleets of the %s spec %s, want %s", c.client, what, got, c.fleets)
			}
		}
	}
}

func TestDowngradeService(t *testing.T) {
	const now = `{"id": 12345678901234567890, "run_spec": {"configuration": {"type": "service", "probes": null, "https": null, "replicas": null, "gateway": {"name": "g", "project": "p"}}, "profile": {"fleets": [{"name": "f", "project": null}]}}}`
	for v, want := range map[release]string{
		{0, 19, 40}: `{"probes":[],"https":true,"replicas":{"min":1,"max":1},"gateway":"p/g","fleets":["f"]}`,
		{0, 20, 7}:  `{"probes":[],"https":true,"replicas":null,"gateway":"p/g","fleets":["f"]}`,
		{0, 20, 8}:  `{"probes":null,"https":true,"replicas":null,"gateway":"p/g","fleets":["f"]}`,
		{0, 20, 12}: `{"probes":null,"https":null,"replicas":null,"gateway":"p/g","fleets":["f"]}`,
		{0, 20, 14}: `{"probes":null,"https":null,"replicas":null,"gateway":"p/g","fleets":[{"name":"f","project":null}]}`,
		{0, 20, 20}: `{"probes":null,"https":null,"replicas":null,"gateway":{"name":"g","project":"p"},"fleets":[{"name":"f","project":null}]}`,
	} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			data, err := downgrade(v, []byte(now))
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				ID      json.Number
				RunSpec struct {
					Configuration, Profile map[string]any
				} `json:"run_spec"`
			}
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if got.ID != "12345678901234567890" {
				t.Errorf("a number became %s", got.ID)
			}
			c := got.RunSpec.Configuration
			have := marshal(map[string]any{"probes": c["probes"], "https": c["https"], "replicas": c["replicas"], "gateway": c["gateway"], "fleets": got.RunSpec.Profile["fleets"]})
			var a, b any
			_, _ = json.Unmarshal(have, &a), json.Unmarshal([]byte(want), &b) // both are written here
			if diff := cmp.Diff(b, a); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestUpgrade(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		client string
		dir    any
	}{{"0.19.26", "/workflow"}, {"0.19.27", nil}, {"0.22.5", nil}, {"latest", nil}} {
		body := []byte(`{"run_spec": {"run_name": "xx", "ssh_key_pub": "x", "configuration": {"type": "task", "commands": [":"]}}}`)
		a := s.call(t, "POST", "/api/project/main/runs/get_plan", adminToken, body, "X-API-Version", c.client)
		var plan struct {
			EffectiveRunSpec struct{ Configuration map[string]any } `json:"effective_run_spec"`
		}
		if err := json.Unmarshal(a.Body, &plan); err != nil || a.Status != 200 {
			t.Fatalf("client %s: %d %s, %v", c.client, a.Status, short(a.Body), err)
		}
		if got := plan.EffectiveRunSpec.Configuration["working_dir"]; got != c.dir {
			t.Errorf("client %s: working_dir %v, want %v", c.client, got, c.dir)
		}
	}
}

// Published clients refuse an answer with a word that they do not know.
func TestPublishedWords(t *testing.T) {
	s, err := open(t, t.TempDir(), "projects:\n  - name: main\n    backends:\n      - type: local\n")
	if err != nil {
		t.Fatal(err)
	}
	defer s.shut(t)
	for _, c := range []struct {
		header []string
		want   string
	}{
		{nil, `["local"]`},
		{[]string{"X-API-Version", "0.22.5"}, `["remote"]`},
		{[]string{"X-API-Version", "0.22.5", "X-Dstack-Extensions", "1"}, `["local"]`},
	} {
		var fleets []struct {
			Name string
			Spec struct {
				Configuration struct{ Backends []string }
			}
		}
		a := s.call(t, "POST", "/api/project/main/fleets/list", adminToken, map[string]any{}, c.header...)
		if err := json.Unmarshal(a.Body, &fleets); err != nil || len(fleets) != 1 {
			t.Fatalf("%v: %d %s, %v", c.header, a.Status, short(a.Body), err)
		}
		if got := string(marshal(fleets[0].Spec.Configuration.Backends)); got != c.want || fleets[0].Name != "local" {
			t.Errorf("%v: fleet %s with backends %s, want %s", c.header, fleets[0].Name, got, c.want)
		}
	}
	data, err := rewrite([]byte(`{"backend":"local","repo_type":"local","backends":[{"name":"local","config":{"type":"local"}},"aws"]}`), publishedWords)
	if want := `{"backend":"remote","backends":[{"config":{"type":"remote"},"name":"remote"},"aws"],"repo_type":"local"}`; err != nil || string(data) != want {
		t.Errorf("%s, %v, want %s", data, err, want)
	}
}

// Jobs of published clients stay attachable for a while after their end.
func TestPublishedRuns(t *testing.T) {
	s := newServer(t)
	for i, c := range []struct {
		header []string
		want   bool
	}{
		{nil, false}, // scripts
		{[]string{"X-API-Version", "latest"}, false},
		{[]string{"X-API-Version", "0.19.40"}, true},
		{[]string{"X-API-Version", "0.22.5"}, true},
		{[]string{"X-API-Version", "0.22.5", "X-Dstack-Extensions", "1"}, false},
	} {
		spec := map[string]any{"configuration": map[string]any{"type": "task", "image": "x", "commands": []string{"true"}}, "run_name": fmt.Sprintf("run-%d", i),
			"repo_id": "none", "repo_data": map[string]any{"repo_type": "virtual"}, "ssh_key_pub": "ssh-ed25519 AAAA"}
		a := s.call(t, "POST", "/api/project/main/runs/apply", adminToken, map[string]any{"plan": map[string]any{"run_spec": spec}, "force": false}, c.header...)
		if a.Status != http.StatusOK {
			t.Fatalf("%v: %d %s", c.header, a.Status, a.Body)
		}
		var stored struct {
			Published bool `json:"published"`
		}
		if err := s.db.Read().QueryRowContext(t.Context(), `SELECT data FROM run WHERE name = $1`, spec["run_name"]).Scan(store.JSON(&stored)); err != nil {
			t.Fatal(err)
		}
		if stored.Published != c.want {
			t.Errorf("%v: published %v, want %v", c.header, stored.Published, c.want)
		}
	}
}

// A client that reads an older form changes a run that it has seen in that form, and only as it is.
func TestUpdateByOldClients(t *testing.T) {
	s, err := open(t, t.TempDir(), "projects:\n  - name: main\n    backends:\n      - type: local\n")
	if err != nil {
		t.Fatal(err)
	}
	defer s.shut(t)
	service := func(more string) json.RawMessage {
		return spec("web", `"type": "service", "port": 80, "commands": ["a"], "probes": [], "gateway": false, "backends": ["local"]`+more)
	}
	s.must(t, "/api/project/main/runs/apply", applyPlan(service(""), nil, false), nil)
	for n, client := range []string{"0.19.40", "0.20.7", "0.20.29", "0.21.5", "0.22.5", "latest"} {
		get := s.call(t, "POST", "/api/project/main/runs/get", adminToken, map[string]any{"run_name": "web"}, "X-API-Version", client)
		seen, err := rewrite(get.Body, func(m map[string]any) {
			if m["type"] == "service" && client == "0.19.40" {
				delete(m, "probes") // which it leaves out when there are none
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		changed, err := rewrite(seen, func(m map[string]any) {
			if m["type"] == "service" {
				m["port"] = 81
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		more := service(fmt.Sprintf(`, "replicas": %d`, 2+n))
		for _, c := range []struct {
			what     string
			resource json.RawMessage
			status   int
		}{{"changed since", changed, http.StatusBadRequest}, {"as it is", seen, http.StatusOK}} {
			if a := s.call(t, "POST", "/api/project/main/runs/apply", adminToken, applyPlan(more, c.resource, false), "X-API-Version", client); a.Status != c.status {
				t.Errorf("client %s, %s: %d %s, want %d", client, c.what, a.Status, short(a.Body), c.status)
			}
		}
	}
}
