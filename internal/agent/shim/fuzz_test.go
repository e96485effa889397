package shim

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/agentapi"
)

// Whatever a server sends as a task: what is accepted has names that stay inside the
// agent's folders, and what is refused is refused in words.
func FuzzTask(f *testing.F) {
	good, err := json.Marshal(spec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"id":"../..","name":"/","volumes":[{"name":"../x"}],"job":{"files":[{"blob":"../../etc/passwd"}]}}`))
	f.Add([]byte(`{"gpus":-9223372036854775808,"cpus":1e308,"job":{"cluster":null,"env":{"":""}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPut, "/v1/tasks/x", strings.NewReader(string(body)))
		var s agentapi.TaskSpec
		if !decode(w, r, &s) {
			var e agentapi.Error
			if w.Code < 400 || w.Code >= 500 || json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Message == "" {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return
		}
		if validate(s) != nil {
			return
		}
		sh := &Shim{Config: Config{Home: "/home"}}
		inside := func(path, dir string) {
			if filepath.Dir(filepath.Clean(path)) != dir {
				t.Fatalf("%q is outside of %s", path, dir)
			}
		}
		inside(sh.taskDir(s.ID), "/home/tasks")
		inside("/mnt/"+s.Name, "/mnt")
		for _, sum := range blobsOf(s) {
			inside(sh.blobPath(sum), "/home/blobs")
		}
		for _, v := range s.Volumes {
			inside("/mnt/"+v.Name, "/mnt")
		}
	})
}
