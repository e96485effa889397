package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// refused is an answer's status with, of what is not valid, the type and the place.
type refused struct {
	Status int
	Places []string
}

func (a answer) refusedAt(t testing.TB) refused {
	t.Helper()
	var body struct {
		Detail []struct {
			Type string
			Loc  []string
		}
	}
	if err := json.Unmarshal(a.Body, &body); err != nil {
		t.Fatalf("%d %s: %v", a.Status, a.Body, err)
	}
	r := refused{Status: a.Status}
	for _, p := range body.Detail {
		if p.Type != "" {
			r.Places = append(r.Places, p.Type+" "+strings.Join(p.Loc, "."))
		}
	}
	return r
}

// TestPublishedErrors holds refusals to what the published server was seen to answer.
func TestPublishedErrors(t *testing.T) {
	const (
		form    = "multipart/form-data; boundary=b"
		code    = "/api/project/main/repos/upload_code"
		archive = "/api/files/upload_archive"
		metrics = "/api/project/main/metrics/job/nosuch"
		noFile  = "missing body.file"
		noRepo  = "missing query.repo_id"
	)
	part := func(head string) string {
		return "--b\r\nContent-Disposition: form-data; " + head + "\r\n\r\nx\r\n--b--\r\n"
	}
	whole := part(`name="file"; filename="x"`)
	s := newServer(t)
	for _, c := range []struct {
		method, path, kind, body string
		want                     refused
	}{
		{"POST", code, "", "", refused{422, []string{noRepo, noFile}}},
		{"POST", code + "?repo_id=x", "", "", refused{422, []string{noFile}}},
		{"POST", code, "application/json", "{}", refused{422, []string{noRepo, noFile}}},
		{"POST", code + "?repo_id=x", "text/plain", "xx", refused{422, []string{noFile}}},
		{"POST", code, form, whole, refused{422, []string{noRepo}}},
		{"POST", code + "?repo_id=x", form, whole, refused{400, nil}},
		{"POST", code + "?repo_id=", form, whole, refused{400, nil}},
		{"POST", code + "?repo_id=x", form, "", refused{422, []string{noFile}}},
		{"POST", code + "?repo_id=x", form, part(`name="other"; filename="x"`), refused{422, []string{noFile}}},
		{"POST", code + "?repo_id=x", form, part(`name="file"`), refused{422, []string{"value_error body.file"}}},
		{"POST", code + "?repo_id=x", "multipart/form-data", whole, refused{400, nil}},
		{"POST", archive, "", "", refused{422, []string{noFile}}},
		{"POST", archive, "application/json", "{}", refused{422, []string{noFile}}},
		{"POST", archive, form, part(`name="file"`), refused{422, []string{"value_error body.file"}}},

		{"GET", metrics + "?run_id=notauuid", "", "", refused{422, []string{"uuid_parsing query.run_id"}}},
		{"GET", metrics + "?run_id=", "", "", refused{422, []string{"uuid_parsing query.run_id"}}},
		{"GET", metrics + "?run_id=27bb4e3a4a2c4c5e8f5c000000000001", "", "", refused{400, nil}},
		{"GET", metrics + "?replica_num=-1", "", "", refused{400, nil}},
		{"GET", metrics + "?replica_num=1.0&limit=1_0&job_num=%201", "", "", refused{400, nil}},
		{"GET", metrics + "?replica_num=x&limit=1e3", "", "", refused{422, []string{"int_parsing query.replica_num", "int_parsing query.limit"}}},
		{"GET", metrics + "?replica_num=0&replica_num=x", "", "", refused{422, []string{"int_parsing query.replica_num"}}},
		{"GET", metrics + "?after=x&before=", "", "", refused{422, []string{"datetime_from_date_parsing query.after", "datetime_from_date_parsing query.before"}}},
		{"GET", metrics + "?limit=100000&unknown=1", "", "", refused{400, nil}},

		{"POST", "/api/project/main/instances/get_instance_health_checks", "application/json", `{"fleet_name": "f", "instance_num": 0, "limit": 100000}`, refused{400, nil}},
		{"POST", "/api/project/main/instances/get_instance_health_checks", "application/json", `{"fleet_name": "f", "instance_num": 0, "after": "x"}`, refused{422, []string{"datetime_from_date_parsing body.after"}}},
	} {
		a := s.call(t, c.method, c.path, adminToken, []byte(c.body), "Content-Type", c.kind)
		if diff := cmp.Diff(c.want, a.refusedAt(t)); diff != "" {
			t.Errorf("%s %s %s %q (-want +got):\n%s%s", c.method, c.path, c.kind, c.body, diff, a.Body)
		}
	}
}

// TestHalfPairs sends texts that no UTF-8 text can hold: nothing is stored in their place.
func TestHalfPairs(t *testing.T) {
	s := newServer(t)
	run := func(configuration string) string {
		return `{"run_spec": {"run_name": "a-run", "repo_id": "r", "repo_data": {"repo_type": "virtual"}, "configuration": {"type": "task", ` + configuration + `}, "ssh_key_pub": "k"}}`
	}
	for _, c := range []struct{ path, body, place string }{
		{"/api/project/main/secrets/create_or_update", `{"name": "s", "value": "a\ud800b"}`, "body.value"},
		{"/api/project/main/runs/get_plan", run(`"commands": ["a", "\ud800"]`), "body.run_spec.configuration.commands.1"},
		{"/api/project/main/runs/get_plan", run(`"commands": ["a"], "env": {"A": "\ud800"}`), "body.run_spec.configuration.env.A"},
		{"/api/project/main/runs/get_plan", run(`"commands": ["a"], "env": ["A=\ud800"]`), "body.run_spec.configuration.env.0"},
		{"/api/users/create", `{"username": "u", "global_role": "user", "email": "\ud800"}`, "body.email"},
		{"/api/project/main/backends/create", `{"type": "lambda", "creds": {"api_key": "\ud800"}}`, "body.creds.api_key"},
	} {
		s.unchanged(t, func() {
			a := s.call(t, "POST", c.path, adminToken, []byte(c.body))
			var body struct {
				Detail []struct {
					Type string
					Loc  []any
				}
			}
			if err := json.Unmarshal(a.Body, &body); err != nil || a.Status != http.StatusUnprocessableEntity || len(body.Detail) != 1 {
				t.Fatalf("%s: %d %s (%v)", c.body, a.Status, a.Body, err)
			}
			var place []string
			for _, part := range body.Detail[0].Loc {
				place = append(place, strings.Trim(string(marshal(part)), `"`))
			}
			if got := strings.Join(place, "."); got != c.place || body.Detail[0].Type != "string_unicode" {
				t.Errorf("%s: refused at %s: %s", c.body, got, a.Body)
			}
		})
	}
	s.must(t, "/api/project/main/secrets/create_or_update", json.RawMessage(`{"name": "s", "value": "\ud83d\ude00 \ufffd"}`), nil)
}

// TestPages asks for what browsers do.
func TestPages(t *testing.T) {
	s := newServer(t)
	for path, want := range map[string]string{"/": "no web interface", "/redoc": "/openapi.json", "/api/docs": "/openapi.json"} {
		a := s.call(t, "GET", path, "", nil)
		if a.Status != http.StatusOK || !strings.Contains(string(a.Body), want) || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, a.Status, short(a.Body))
		}
		if a := s.call(t, "HEAD", path, "", nil); a.Status != http.StatusOK {
			t.Errorf("HEAD %s: %d", path, a.Status)
		}
	}
	if a := s.call(t, "GET", "/nosuch", "", nil); a.Status != http.StatusNotFound {
		t.Errorf("GET /nosuch: %d", a.Status)
	}
	if a := s.call(t, "POST", "/", "", nil); a.Status != http.StatusMethodNotAllowed {
		t.Errorf("POST /: %d", a.Status)
	}
}
