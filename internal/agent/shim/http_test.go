package shim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
)

func sumOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// raw sends a request as it is and returns the status and the error's words.
func (a *agent) raw(method, path, body string) (int, agentapi.Error) {
	a.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(a.home, agentapi.SocketName))
	}}}
	req, err := http.NewRequestWithContext(a.t.Context(), method, "http://agent"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	var e agentapi.Error
	_ = json.NewDecoder(resp.Body).Decode(&e) // some answers have no body
	return resp.StatusCode, e
}

// Whatever is asked, the answer is a clear refusal and nothing has changed.
func TestBadRequests(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	good := spec()
	with := func(change func(*agentapi.TaskSpec)) string {
		s := good
		change(&s)
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	path := "/v1/tasks/" + good.ID
	other := sumOf("other")
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		words                    string
	}{
		{"no JSON", "PUT", path, "{", 400, "cannot read the body"},
		{"no body", "PUT", path, "", 400, "cannot read the body"},
		{"a wrong type", "PUT", path, `{"id":7}`, 400, "cannot read the body"},
		{"too large", "PUT", path, `{"id":"` + strings.Repeat("x", agentapi.MaxBody) + `"}`, 413, "larger than"},
		{"another id", "PUT", "/v1/tasks/" + sumOf("")[:32], with(func(*agentapi.TaskSpec) {}), 400, "id: "},
		{"an id that is a path", "PUT", "/v1/tasks/..%2f..%2fetc", with(func(s *agentapi.TaskSpec) { s.ID = "../../etc" }), 400, "id: not a UUID"},
		{"an id in capitals", "PUT", "/v1/tasks/" + strings.ToUpper(good.ID), with(func(s *agentapi.TaskSpec) { s.ID = strings.ToUpper(good.ID) }), 400, "id: not a UUID"},
		{"a name that is a path", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Name = "../x" }), 400, "name: "},
		{"a name that is an option", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Name = "-x" }), 400, "name: "},
		{"fewer than no GPUs", "PUT", path, with(func(s *agentapi.TaskSpec) { s.GPUs = -2 }), 400, "gpus: "},
		{"less than no memory", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Memory = -1 }), 400, "memory"},
		{"an unknown network", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Network = "container:x" }), 400, "network: "},
		{"a relative mount", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Mounts = []agentapi.Mount{{Source: "x", Target: "/x"}} }), 400, "mounts[0]: "},
		{"a volume that is a path", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Volumes = []agentapi.VolumeMount{{Name: "../../etc", Target: "/x"}} }), 400, "volumes[0]: "},
		{"a user that is a path", "PUT", path, with(func(s *agentapi.TaskSpec) { s.HostUser = "../root" }), 400, "host_user: "},
		{"a blob that is a path", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Job.Files = []agentapi.FileArchive{{Blob: "../task.json"}} }), 400, "blob: "},
		{"a blob that is not there", "PUT", path, with(func(s *agentapi.TaskSpec) { s.Job.Files = []agentapi.FileArchive{{Blob: other}} }), 409, other},
		{"ending nothing", "POST", path + "/terminate", "{}", 404, "no such task"},
		{"forgetting nothing", "DELETE", path, "", 404, "no such task"},
		{"a log of nothing", "GET", path + "/logs?source=job&offset=0", "", 404, "no such task"},
		{"a negative grace", "POST", path + "/terminate", `{"grace":-1}`, 400, "grace: "},
		{"an endless grace", "POST", path + "/terminate", `{"grace":9223372036854775807}`, 400, "grace: "},
		{"an acknowledgement of nothing", "POST", "/v1/events/ack", "[]", 400, "cannot read the body"},
		{"an upload under a name", "PUT", "/v1/blobs/..%2fx", "x", 400, "not a SHA-256"},
		{"an upload of something else", "PUT", "/v1/blobs/" + other, "x", 400, "another hash"},
		{"a look for a name", "HEAD", "/v1/blobs/x", "", 400, ""},
		{"a look for an unknown upload", "HEAD", "/v1/blobs/" + other, "", 404, ""},
		{"another method", "PATCH", path, "", 405, ""},
		{"another path", "GET", "/v2/host", "", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, e := a.raw(c.method, c.path, c.body)
			if status != c.status || !strings.Contains(e.Message, c.words) {
				t.Errorf("%d %q, want %d %q", status, e.Message, c.status, c.words)
			}
		})
	}
	for _, dir := range []string{"tasks", "blobs"} {
		if entries, err := os.ReadDir(filepath.Join(a.home, dir)); err != nil || len(entries) != 0 {
			t.Errorf("%s holds %v (%v)", dir, entries, err)
		}
	}
}

func TestLogs(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	a.print(s.ID, "0123456789")
	for offset, want := range map[int64]string{0: "0123456789", 4: "456789", 10: "", 99: ""} {
		r, err := a.Logs(t.Context(), s.ID, agentapi.JobLog, offset)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if err != nil || string(data) != want {
			t.Errorf("from %d: %q (%v)", offset, data, err)
		}
	}
	for _, query := range []string{"source=job&offset=-1", "source=job&offset=x", "source=job", "source=other&offset=0", "offset=0"} {
		if status, e := a.raw("GET", "/v1/tasks/"+s.ID+"/logs?"+query, ""); status != 400 || e.Code != agentapi.CodeInvalid {
			t.Errorf("%s: %d %+v", query, status, e)
		}
	}
}

// Uploads are kept for the next run and go when nobody has used them for a day.
func TestBlobs(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	sum := sumOf("code")
	if has, err := a.HasBlob(t.Context(), sum); err != nil || has {
		t.Fatalf("%v %v", has, err)
	}
	for range 2 {
		if err := a.PutBlob(t.Context(), sum, strings.NewReader("code")); err != nil {
			t.Fatal(err)
		}
	}
	if has, err := a.HasBlob(t.Context(), sum); err != nil || !has {
		t.Fatalf("%v %v", has, err)
	}
	s := spec()
	s.Job.Files = []agentapi.FileArchive{{Blob: sum, Path: "/x"}}
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
	data, err := os.ReadFile(filepath.Join(a.dir(s.ID), "blobs", sum))
	if err != nil || string(data) != "code" {
		t.Errorf("the task has %q (%v)", data, err)
	}
	names := func() []string {
		entries, err := os.ReadDir(filepath.Join(a.home, "blobs"))
		if err != nil {
			t.Fatal(err)
		}
		list := []string{}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	if err := os.WriteFile(filepath.Join(a.home, "blobs", ".upload-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := &Shim{Config: Config{Home: a.home}}
	sh.sweepBlobs(time.Now().Add(blobKeep - time.Minute))
	if got := names(); len(got) != 2 {
		t.Errorf("swept too early: %v", got)
	}
	sh.sweepBlobs(time.Now().Add(blobKeep + time.Minute))
	if diff := cmp.Diff([]string{sum}, names()); diff != "" {
		t.Errorf("a task uses the blob, an upload was cut off:\n%s", diff)
	}
	a.finish(s.ID, 0)
	a.reaches(s.ID, agentapi.Terminated)
	if err := a.Delete(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) != 1 {
		t.Errorf("the next run has to upload it again: %v", got)
	}
	sh.sweepBlobs(time.Now().Add(blobKeep + time.Minute))
	if got := names(); len(got) != 0 {
		t.Errorf("left for ever: %v", got)
	}
}

// A lost upload does not count.
func TestCutUpload(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	sum := sumOf("whole")
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "who")
		w.CloseWithError(errors.New("cable"))
	}()
	if err := a.PutBlob(t.Context(), sum, r); err == nil {
		t.Error("a cut upload was accepted")
	}
	if has, err := a.HasBlob(t.Context(), sum); err != nil || has {
		t.Errorf("%v %v", has, err)
	}
}

// The socket is for root and one user.
func TestSocketMode(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	st, err := os.Stat(filepath.Join(a.home, agentapi.SocketName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
}
