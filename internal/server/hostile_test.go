package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"dstack/internal/blobstore"
	"dstack/internal/object/s3"
	"dstack/internal/object/s3/s3test"
)

// count is how many rows every table has.
func (s *Server) count(t testing.TB) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, table := range []string{"account", "project", "member", "backend_config", "secret", "repo", "code", "archive", "fleet", "instance", "run", "job", "event", "public_key", "intent"} {
		var n int
		if err := s.db.Read().QueryRowContext(context.Background(), "SELECT count(*) FROM "+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		counts[table] = n
	}
	return counts
}

// unchanged fails when f leaves traces in the database.
func (s *Server) unchanged(t testing.TB, f func()) {
	t.Helper()
	before := s.count(t)
	f()
	for table, n := range s.count(t) {
		if n != before[table] {
			t.Errorf("%s: %d rows, %d before", table, n, before[table])
		}
	}
}

// clear checks that an answer blames the request, in the form that clients read.
func (a answer) clear(t testing.TB, what string) {
	t.Helper()
	if a.Status < 400 || a.Status >= 500 {
		t.Errorf("%s: %d %s, want a 4xx", what, a.Status, short(a.Body))
		return
	}
	var body struct{ Detail json.RawMessage }
	if err := json.Unmarshal(a.Body, &body); err != nil || len(body.Detail) == 0 {
		t.Errorf("%s: %d without detail: %s", what, a.Status, short(a.Body))
	}
}

func posts(s *Server) []string {
	var paths []string
	for _, rt := range s.routes() {
		if path, ok := strings.CutPrefix(rt.pattern, "POST "); ok && !strings.Contains(path, "upload_") && !strings.HasPrefix(path, "/proxy/services/") {
			paths = append(paths, strings.NewReplacer("{project}", "main", "{backend_name}", "aws").Replace(path))
		}
	}
	return paths
}

// TestBadBodies sends every route what it cannot read.
func TestBadBodies(t *testing.T) {
	s := newServer(t)
	bodies := map[string][]byte{
		"no JSON":        []byte("{"),
		"a list":         []byte("[]"),
		"a number":       []byte("7"),
		"null":           []byte("null"),
		"broken UTF-8":   []byte("{\"name\": \"\xff\xfe\"}"),
		"two documents":  []byte("{}{}"),
		"an odd field":   []byte(`{"no-such-field": 1}`),
		"deeply nested":  []byte(strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)),
		"a deep list":    []byte(strings.Repeat("[", 100000)),
		"half a pair":    []byte(`{"name": "\ud800", "\udfff": 1}`),
		"a NUL":          []byte(`{"name": "\u0000", "run_name": "\u0000", "username": "\u0000"}`),
		"a huge number":  []byte(`{"limit": 1e999, "instance_num": 99999999999999999999999}`),
		"too many bytes": bytes.Repeat([]byte(" "), maxBody+1),
	}
	for _, path := range posts(s) {
		for name, body := range bodies {
			s.unchanged(t, func() {
				a := s.call(t, "POST", path, adminToken, body)
				if a.Status >= 500 || a.Status == http.StatusOK && !takesNoBody(path) && !(name == "null" && takesNull(path)) {
					t.Errorf("%s with %s: %d %s", path, name, a.Status, short(a.Body))
				} else if a.Status != http.StatusOK {
					a.clear(t, path+" with "+name)
				}
			})
		}
	}
}

// takesNull lists the routes whose body may be missing, where null means that, as with the
// published server.
func takesNull(path string) bool {
	return slices.Contains([]string{"/api/users/list", "/api/projects/list", "/api/project/main/fleets/list", "/api/project/main/gateways/list"}, path)
}

// takesNoBody lists the routes that do not read one.
func takesNoBody(path string) bool {
	for _, end := range []string{"get_info", "server/doctor", "list_providers", "get_my_user", "public_keys/list", "list_types", "projects/main/get", "config_info", "get_yaml", "repos/list",
		"secrets/list", "templates/list", "main/volumes/list", "exports/list", "imports/list", "list_only_no_fleets"} {
		if strings.HasSuffix(path, end) {
			return true
		}
	}
	return false
}

// TestBadValues sends well-formed requests that must not be carried out.
func TestBadValues(t *testing.T) {
	s := newServer(t)
	task := func(change string) string {
		return `{"run_spec": {"configuration": {"type": "task", "commands": ["true"]` + change + `}, "ssh_key_pub": "x"}}`
	}
	for _, c := range []struct{ path, body string }{
		{"/api/users/create", `{"username": "../etc", "global_role": "user"}`},
		{"/api/users/create", `{"username": "` + strings.Repeat("a", 61) + `", "global_role": "user"}`},
		{"/api/users/create", `{"username": "ADMIN", "global_role": "user"}`},
		{"/api/users/delete", `{"users": ["admin"]}`},
		{"/api/projects/create", `{"project_name": "a/b"}`},
		{"/api/projects/create", `{"project_name": "MAIN"}`},
		{"/api/project/main/secrets/create_or_update", `{"name": "", "value": "x"}`},
		{"/api/project/main/secrets/create_or_update", `{"name": "a b", "value": "x"}`},
		{"/api/project/main/repos/get", `{"repo_id": "../..", "include_creds": true}`},
		{"/api/project/main/runs/get_plan", task(`, "resources": {"gpu": "H100:-1"}`)},
		{"/api/project/main/runs/get_plan", task(`, "nodes": 0`)},
		{"/api/project/main/runs/get_plan", task(`, "nodes": 1000000000`)},
		{"/api/project/main/runs/get_plan", task(`, "nodes": 9223372036854775807`)},
		{"/api/project/main/runs/apply", `{"plan": {"run_spec": {"configuration": {"type": "task", "groups": [{"nodes": 9223372036854775807, "commands": ["true"]}, {"nodes": 2, "commands": ["true"]}]}, "ssh_key_pub": "x"}}}`},
		{"/api/project/main/fleets/apply", `{"plan": {"spec": {"configuration": {"type": "fleet", "name": "big", "nodes": 1000000000}, "profile": {"name": "x"}}}, "force": false}`},
		{"/api/project/main/runs/get_plan", task(`, "name": "UPPER"`)},
		{"/api/project/main/runs/get_plan", task(`, "volumes": ["/etc/../..:/x"]`)},
		{"/api/project/main/runs/get_plan", task(`, "max_price": -1`)},
		{"/api/project/main/runs/apply", `{"plan": ` + task("") + `}`},
		{"/api/project/main/runs/stop", `{"runs_names": ["x"]}`},
		{"/api/project/main/fleets/get_plan", `{"spec": {"configuration": {"type": "fleet", "ssh_config": {}}, "profile": {"name": "x"}}}`},
		{"/api/project/main/logs/poll", `{"run_name": "x", "job_submission_id": "../../etc/passwd"}`},
		{"/api/users/public_keys/add", `{"key": "command=\"rm -rf /\" ssh-ed25519 AAAA"}`},
		{"/api/users/public_keys/add", `{"key": "ssh-dss AAAAB3NzaC1kc3MAAAAA"}`},
	} {
		s.unchanged(t, func() { s.call(t, "POST", c.path, adminToken, []byte(c.body)).clear(t, c.path+" "+c.body) })
	}
}

func uploaded(name string, content []byte) []byte {
	return fmt.Appendf(nil, "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=%q\r\n\r\n%s\r\n--b--\r\n", name, content)
}

func TestBadUploads(t *testing.T) {
	s := newServer(t)
	const kind = "multipart/form-data; boundary=b"
	for name, c := range map[string]struct {
		path, kind string
		body       []byte
	}{
		"an oversized archive":   {"/api/files/upload_archive", kind, uploaded("big.tar", make([]byte, codeLimit+1))},
		"no form":                {"/api/files/upload_archive", "application/json", []byte("{}")},
		"no boundary":            {"/api/files/upload_archive", "multipart/form-data", uploaded("a", nil)},
		"a form without a file":  {"/api/files/upload_archive", kind, []byte("--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nx\r\n--b--\r\n")},
		"a broken form":          {"/api/files/upload_archive", kind, []byte("--b\r\nConte")},
		"an unknown repo":        {"/api/project/main/repos/upload_code?repo_id=nosuch", kind, uploaded("code", []byte("x"))},
		"code without a repo":    {"/api/project/main/repos/upload_code", kind, uploaded("code", []byte("x"))},
		"oversized code":         {"/api/project/main/repos/upload_code?repo_id=nosuch", kind, uploaded("code", make([]byte, codeLimit+1))},
		"a path as the name":     {"/api/files/upload_archive", kind, uploaded("../../../../tmp/evil", []byte("x"))},
		"an archive with no end": {"/api/files/upload_archive", kind, []byte("--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\nabc")},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "a path as the name" { // a name is only a key
				if a := s.call(t, "POST", c.path, adminToken, c.body, "Content-Type", c.kind); a.Status >= 500 {
					t.Errorf("%d %s", a.Status, a.Body)
				}
				return
			}
			s.unchanged(t, func() { s.call(t, "POST", c.path, adminToken, c.body, "Content-Type", c.kind).clear(t, name) })
		})
	}
}

// TestUploadToABucketThatIsDown says so in the form that clients print.
func TestUploadToABucketThatIsDown(t *testing.T) {
	s := newServer(t)
	bucket, err := s3.New(t.Context(), s3.Config{Bucket: s3test.Name, Region: s3test.Region, Endpoint: "http://127.0.0.1:1", Backoff: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider("k", "s", "")})
	if err != nil {
		t.Fatal(err)
	}
	s.repos.Blobs = blobstore.NewBucket(bucket, "blobs/", maxBlob)
	a := s.call(t, "POST", "/api/files/upload_archive", adminToken, uploaded("a", []byte("x")), "Content-Type", "multipart/form-data; boundary=b")
	if a.Status != 400 || !strings.Contains(string(a.Body), `"msg":"The storage of uploads does not answer: `) || !strings.Contains(string(a.Body), `"code":"error"`) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// Deleting the same things at the same time deletes them once, and nobody sees a 500.
func TestConcurrentDeletes(t *testing.T) {
	s := newServer(t)
	for i := range 5 {
		s.must(t, "/api/users/create", map[string]any{"username": fmt.Sprintf("u%d", i), "global_role": "user"}, nil)
		s.must(t, "/api/projects/create", map[string]any{"project_name": fmt.Sprintf("p%d", i)}, nil)
		s.must(t, "/api/project/main/secrets/create_or_update", map[string]any{"name": fmt.Sprintf("s%d", i), "value": "x"}, nil)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 5 {
				for path, body := range map[string]any{
					"/api/users/delete":                map[string]any{"users": []string{fmt.Sprintf("u%d", i)}},
					"/api/projects/delete":             map[string]any{"projects_names": []string{fmt.Sprintf("p%d", i)}},
					"/api/project/main/secrets/delete": map[string]any{"secrets_names": []string{fmt.Sprintf("s%d", i)}},
				} {
					if a := s.call(t, "POST", path, adminToken, body); a.Status >= 500 {
						t.Errorf("%s: %d %s", path, a.Status, a.Body)
					}
				}
			}
		})
	}
	wg.Wait()
	var users []any
	s.must(t, "/api/users/list", nil, &users)
	if len(users) != 1 {
		t.Errorf("%d users are left, want 1", len(users))
	}
}

// FuzzAPI sends routes whatever the fuzzer thinks of: no 5xx, and nothing changes on a 4xx.
func FuzzAPI(f *testing.F) {
	f.Add(uint8(0), []byte(`{"run_name": "x"}`))
	f.Add(uint8(40), []byte(`{"plan": {"run_spec": {"configuration": {"type": "task"}}}, "force": false}`))
	s := newServer(f)
	paths := posts(s)
	f.Fuzz(func(t *testing.T, n uint8, body []byte) {
		path := paths[int(n)%len(paths)]
		before := s.count(t)
		a := s.call(t, "POST", path, adminToken, body)
		if a.Status >= 500 {
			t.Fatalf("%s: %d %s", path, a.Status, a.Body)
		}
		if a.Status < 400 {
			return
		}
		for table, rows := range s.count(t) {
			if rows != before[table] {
				t.Errorf("%s: %d rows in %s, %d before, although refused: %s", path, rows, table, before[table], a.Body)
			}
		}
	})
}

// TestBadAddresses puts what no database takes into paths and queries.
func TestBadAddresses(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		for _, c := range []struct {
			method, path string
			want         int
		}{
			{"POST", "/api/project/%00/fleets/list", 400},
			{"POST", "/api/project/a%00b/secrets/list", 400},
			{"POST", "/api/project/%ff%fe/secrets/list", 400},
			{"POST", "/api/project/..%2f..%2fetc/secrets/list", 404},
			{"POST", "/api/project/" + strings.Repeat("x", 5000) + "/secrets/list", 404},
			{"POST", "/api/project/main/backends/%00/get_yaml", 400},
			{"POST", "/api/project/main/backends/nosuch/get_yaml", 422},
			{"GET", "/schemas/..%2f..%2fetc%2fpasswd", 404},
			{"GET", "/api/project/main/metrics/job/a%00", 400},
			{"GET", "/api/project/main/metrics/job/x?run_id=%00", 400},
			{"GET", "/api/project/main/metrics/job/x?run_id=%ff", 400},
			{"GET", "/api/project/main/metrics/job/x?limit=-1", 422},
			{"GET", "/api/project/main/metrics/job/x?limit=99999999999999999999", 422},
			{"GET", "/api/project/main/metrics/job/x?limit=many", 422},
			{"GET", "/api/project/main/metrics/job/x?after=never", 422},
			{"GET", "/api/project/main/metrics/job/x?after=2026-13-01T00:00:00Z", 422},
			{"GET", "/api/project/main/metrics/job/x?after=0001-01-01T00:00:00Z&before=9999-12-31T23:59:59Z&limit=1", 400}, // no such job
			{"GET", "/api/project/main/metrics/job/x?replica_num=-1", 400},                                                 // no such job,
			{"POST", "/api/project/main/repos/upload_code?repo_id=%00", 400},
			{"POST", "/api/project/main/repos/upload_code?repo_id=" + strings.Repeat("x", 5000), 400},
		} {
			s.unchanged(t, func() {
				a := s.call(t, c.method, c.path, adminToken, uploaded("hash", []byte("x")), "Content-Type", "multipart/form-data; boundary=b")
				if a.Status != c.want && !(c.want == 400 && a.Status == 404) { // the router itself may know no such path
					t.Errorf("%s %.80s: %d %s, want %d", c.method, c.path, a.Status, short(a.Body), c.want)
				}
				a.clear(t, c.path)
			})
		}
	})
}

// TestBadHeaders sends tokens and versions that nobody has.
func TestBadHeaders(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct {
		authorization string
		want          int
	}{
		{"", 401}, {"Bearer", 401}, {"Bearer ", 401}, {"Basic YWRtaW46YWRtaW4=", 401}, {adminToken, 401}, {"Bearer x", 403}, {"Bearer " + adminToken + " x", 403},
		{"Bearer " + strings.Repeat("x", 100000), 403}, {"Bearer \xff\xfe", 403}, {"Bearer ' OR 1=1 --", 403}, {"bearer " + adminToken, 200},
	} {
		a := s.call(t, "POST", "/api/users/get_my_user", "", nil, "Authorization", c.authorization)
		if a.Status != c.want {
			t.Errorf("%.40q: %d %s, want %d", c.authorization, a.Status, short(a.Body), c.want)
		}
	}
	for _, v := range []string{"", "x", "1.2.3.4.5", "-1", "99999999999999999999.0.0", "0.22.5\xff", strings.Repeat("9", 100000)} {
		if a := s.call(t, "POST", "/api/users/get_my_user", adminToken, nil, "X-API-Version", v); a.Status >= 500 {
			t.Errorf("version %.40q: %d %s", v, a.Status, short(a.Body))
		}
	}
}

// A body that may be missing may also be null.
func TestOptionalBodies(t *testing.T) {
	s := newServer(t)
	for _, path := range []string{"/api/users/list", "/api/projects/list", "/api/project/main/fleets/list", "/api/project/main/gateways/list"} {
		for _, body := range []string{"", "null", " null\n", "{}"} {
			var sent any
			if body != "" {
				sent = []byte(body)
			}
			if a := s.call(t, "POST", path, adminToken, sent); a.Status != http.StatusOK {
				t.Errorf("%s with %q: %d %s", path, body, a.Status, short(a.Body))
			}
		}
	}
	if a := s.call(t, "POST", "/api/runs/list", adminToken, []byte("null")); a.Status != http.StatusUnprocessableEntity {
		t.Errorf("null where a body is required: %d %s", a.Status, short(a.Body))
	}
}
