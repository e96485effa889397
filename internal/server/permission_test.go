package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
)

// role is somebody who calls the API.
type role struct {
	name  string
	token string
}

// pass tells for each class of permission (http-api 1.3) which roles get through. All
// others are refused.
var pass = map[string]string{
	"none":              "nobody wrong stranger user manager admin global",
	"auth":              "stranger user manager admin global",
	"global-admin":      "global",
	"project-member":    "user manager admin global",
	"project-manager":   "manager admin global",
	"project-admin":     "admin global",
	"member-or-public":  "user manager admin global",
	"manager-or-public": "manager admin global",
	"member-self":       "user manager admin global",
	"fleet-access":      "user manager admin global",
	"gateway-access":    "user manager admin global",
	"instance-access":   "user manager admin global",
	"manages-secrets":   "admin global", // default_permissions may add managers
	"sshproxy-token":    "-",            // no such token is configured
	"model-caller":      "user manager admin global",
	"service-token":     "nobody wrong stranger user manager admin global",
}

// TestPermissions calls every route as everybody. What is allowed is written down in
// testdata/permissions.txt, in the words of the specification.
func TestPermissions(t *testing.T) {
	classes := readPermissions(t)
	s := newServer(t)
	s.must(t, "/api/projects/create", map[string]any{"project_name": "team"}, nil)
	roles := []role{{"nobody", ""}, {"wrong", "00000000-0000-4000-8000-000000000000"}, {"stranger", s.addUser(t, "stranger", "user")}, {"global", adminToken}}
	for _, name := range []string{"user", "manager", "admin"} {
		roles = append(roles, role{name, s.addUser(t, "the-"+name, "user")})
		s.must(t, "/api/projects/team/add_members", map[string]any{"members": []map[string]string{{"username": "the-" + name, "project_role": name}}}, nil)
	}
	unseen := map[string]bool{}
	for path := range classes {
		unseen[path] = true
	}
	for _, rt := range s.routes() {
		method, path := rt.split()
		class, ok := classes[path]
		if !ok {
			t.Errorf("%s is not in testdata/permissions.txt", path)
			continue
		}
		unseen[path] = false
		inside := strings.Contains(path, "{project}")
		path = strings.NewReplacer("{project}", "team", "{run}", "nosuch", "{backend_name}", "aws").Replace(path)
		for _, r := range roles {
			t.Run(fmt.Sprintf("%s as %s", path, r.name), func(t *testing.T) {
				// An unknown field is refused right behind the check, before anything happens.
				a := s.call(t, method, path, r.token, map[string]any{"no-such-field": 1})
				allowed := strings.Contains(" "+pass[class]+" ", " "+r.name+" ")
				switch {
				case allowed && (a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden):
					t.Errorf("%s: %d %s, but may", class, a.Status, a.Body)
				case allowed && a.Status >= 500:
					t.Errorf("%d %s", a.Status, a.Body)
				case allowed:
				case r.name == "nobody" && class != "sshproxy-token" && class != "model-caller" && a.Status != http.StatusUnauthorized:
					t.Errorf("%s: %d %s, want 401", class, a.Status, a.Body)
				case (r.name != "nobody" || class == "sshproxy-token" || class == "model-caller") && a.Status != http.StatusForbidden:
					t.Errorf("%s: %d %s, want 403", class, a.Status, a.Body)
				}
			})
		}
		if inside && !strings.HasSuffix(path, "/nosuch") { // a service's path without a slash is sent on
			if a := s.call(t, method, strings.Replace(path, "/team/", "/nosuch/", 1), adminToken, map[string]any{}); a.Status != http.StatusNotFound {
				t.Errorf("%s of an unknown project: %d %s, want 404", path, a.Status, a.Body)
			}
		}
	}
	for path := range classes {
		if !unseen[path] {
			continue
		}
		t.Errorf("%s is in testdata/permissions.txt, but not served", path)
	}
}

func readPermissions(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/permissions.txt")
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]string{}
	for line := range strings.Lines(string(data)) {
		path, class, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		class = strings.TrimSpace(class)
		if pass[class] == "" {
			t.Fatalf("%s: unknown class %q", path, class)
		}
		classes[path] = class
	}
	return classes
}

// A project that is public shows itself and its gateways, and lets people join; nothing else.
func TestPublicProject(t *testing.T) {
	s := newServer(t)
	s.must(t, "/api/projects/create", map[string]any{"project_name": "open", "is_public": true}, nil)
	token := s.addUser(t, "stranger", "user")
	join := func(role string) map[string]any {
		return map[string]any{"members": []map[string]string{{"username": "stranger", "project_role": role}}}
	}
	for _, c := range []struct {
		path string
		body any
		want int
	}{
		{"/api/projects/open/get", nil, 200},
		{"/api/project/open/gateways/list", nil, 200},
		{"/api/project/open/fleets/list", map[string]any{}, 403},
		{"/api/project/open/runs/get", map[string]any{"run_name": "x"}, 403},
		{"/api/projects/open/add_members", join("admin"), 403},
		{"/api/projects/open/add_members", join("user"), 200},
		{"/api/project/open/fleets/list", map[string]any{}, 200},
		{"/api/projects/open/update", map[string]any{"is_public": false}, 403},
	} {
		if a := s.call(t, "POST", c.path, token, c.body); a.Status != c.want {
			t.Errorf("%s: %d %s, want %d", c.path, a.Status, a.Body, c.want)
		}
	}
}

// Users see themselves, and their own projects only.
func TestIsolation(t *testing.T) {
	s := newServer(t)
	token := s.addUser(t, "alice", "user")
	s.addUser(t, "bob", "user")
	var users []struct{ Username string }
	if err := json.Unmarshal(s.call(t, "POST", "/api/users/list", token, nil).Body, &users); err != nil || len(users) != 1 || users[0].Username != "alice" {
		t.Errorf("alice sees the users %v (%v)", users, err)
	}
	if a := s.call(t, "POST", "/api/users/get_user", token, map[string]string{"username": "bob"}); a.Status != 400 || !strings.Contains(string(a.Body), "resource_not_exists") {
		t.Errorf("bob's credentials for alice: %d %s", a.Status, a.Body)
	}
	if a := s.call(t, "POST", "/api/users/refresh_token", token, map[string]string{"username": "bob"}); a.Status != 403 {
		t.Errorf("bob's new token for alice: %d %s", a.Status, a.Body)
	}
	if a := s.call(t, "POST", "/api/projects/list", token, nil); string(a.Body) != "[]" {
		t.Errorf("alice sees the projects %s", a.Body)
	}
	if a := s.call(t, "POST", "/api/events/list", token, map[string]any{}); strings.Contains(string(a.Body), "bob") {
		t.Errorf("alice sees events of others: %s", a.Body)
	}
}

// The server's file may give managers the secrets, and take projects from people who are no
// admins.
func TestDefaultPermissions(t *testing.T) {
	for _, c := range []struct {
		file              string
		secrets, projects int // status for a manager, for a user
	}{
		{"", 403, 200},
		{"default_permissions: {allow_managers_manage_secrets: true}\n", 200, 200},
		{"default_permissions: {allow_non_admins_create_projects: false}\n", 403, 403},
	} {
		s, err := open(t, t.TempDir(), empty+c.file)
		if err != nil {
			t.Fatal(err)
		}
		manager, user := s.addUser(t, "the-manager", "user"), s.addUser(t, "the-user", "user")
		s.must(t, "/api/projects/main/add_members", map[string]any{"members": []map[string]string{
			{"username": "the-manager", "project_role": "manager"}, {"username": "the-user", "project_role": "user"}}}, nil)
		for path, body := range map[string]any{"list": nil, "create_or_update": map[string]string{"name": "K", "value": "v"}} {
			if a := s.call(t, "POST", "/api/project/main/secrets/"+path, manager, body); a.Status != c.secrets {
				t.Errorf("%q: secrets/%s as a manager: %d %s, want %d", c.file, path, a.Status, a.Body, c.secrets)
			}
			if a := s.call(t, "POST", "/api/project/main/secrets/"+path, user, body); a.Status != 403 {
				t.Errorf("%q: secrets/%s as a user: %d %s, want 403", c.file, path, a.Status, a.Body)
			}
		}
		if a := s.call(t, "POST", "/api/projects/create", user, map[string]string{"project_name": "mine"}); a.Status != c.projects {
			t.Errorf("%q: projects/create as a user: %d %s, want %d", c.file, a.Status, a.Body, c.projects)
		}
		s.shut(t)
	}
}
