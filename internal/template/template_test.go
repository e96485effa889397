package template

import (
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
)

const good = `type: template
name: notebook
title: A notebook
description: With a GPU
parameters:
  - type: name
  - type: env
    name: TOKEN
    title: Your token
configuration:
  type: task
  commands: [jupyter]
`

// host serves a repository over HTTP with these files and counts the reads.
func host(t *testing.T, files map[string]string) (url string, reads *atomic.Int32) {
	t.Helper()
	dir := t.TempDir()
	work, bare := filepath.Join(dir, "work"), filepath.Join(dir, "repos", "t.git")
	for name, text := range files {
		path := filepath.Join(work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"-C", work, "init", "-q"}, {"-C", work, "add", "-A"}, {"-C", work, "commit", "-q", "-m", "first"}, {"clone", "-q", "--bare", work, bare},
	} {
		cmd := exec.Command("git", append([]string{"-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("these tests need git: %v\n%s", err, out)
		}
	}
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Env: []string{
		"GIT_PROJECT_ROOT=" + filepath.Dir(bare), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	reads = &atomic.Int32{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/git-upload-pack") {
			reads.Add(1)
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/t.git", reads
}

func TestList(t *testing.T) {
	second := strings.NewReplacer("notebook", "other", "\ndescription: With a GPU", "").Replace(good)
	url, reads := host(t, map[string]string{
		".dstack/templates/b.yml": good, ".dstack/templates/a.yaml": second,
		".dstack/templates/notes.txt": good, ".dstack/templates/deeper/c.yml": good, "d.yml": good,
		".dstack/templates/broken.yml": "type: [template", ".dstack/templates/large.yml": good + "#" + strings.Repeat("x", maxFile),
	})
	var repos Repos
	for range 2 {
		list, err := repos.List(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, one := range list {
			names = append(names, one.Name)
		}
		if diff := cmp.Diff([]string{"other", "notebook"}, names); diff != "" {
			t.Errorf("templates (-want +got):\n%s", diff)
		}
	}
	if n := reads.Load(); n != 1 {
		t.Errorf("the repository was read %d times, want once", n)
	}
	if err := Check(t.Context(), url); err != nil {
		t.Errorf("Check: %v", err)
	}
	if err := Check(t.Context(), strings.Replace(url, "t.git", "nosuch.git", 1)); err == nil {
		t.Error("Check of a repository that is not there: no error")
	}
}

func TestListNone(t *testing.T) {
	url, _ := host(t, map[string]string{"README": "nothing here"})
	var repos Repos
	if list, err := repos.List(t.Context(), url); err != nil || list == nil || len(list) != 0 {
		t.Errorf("List = %v, %v, want an empty list", list, err)
	}
}

func TestParse(t *testing.T) {
	title, name, description := "Your token", "TOKEN", "With a GPU"
	got, ok := parse([]byte(good))
	want := api.UITemplate{Type: "template", Name: "notebook", Title: "A notebook", Description: &description,
		Parameters:    []api.UITemplateParameter{{Type: "name"}, {Type: "env", Title: &title, Name: &name}},
		Configuration: map[string]any{"type": "task", "commands": []any{"jupyter"}}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("parse (-want +got):\n%s", diff)
	}
	for what, change := range map[string][2]string{
		"another type":          {"type: template", "type: task"},
		"no title":              {"title: A notebook\n", ""},
		"no configuration":      {"configuration:\n  type: task\n  commands: [jupyter]\n", ""},
		"an unknown field":      {"title:", "colour: red\ntitle:"},
		"an unknown parameter":  {"type: name", "type: colour"},
		"a name with a default": {"- type: name", "- type: name\n    value: x"},
		"not a number":          {"commands: [jupyter]", "commands: [.nan]"},
		"a list":                {good, "[1, 2]"},
	} {
		if got, ok := parse([]byte(strings.Replace(good, change[0], change[1], 1))); ok {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

// Nobody reads the server's own files.
func TestRemote(t *testing.T) {
	for repo, ok := range map[string]bool{
		"https://example.com/a.git": true, "ssh://git@example.com/a": true, "git@example.com:a/b.git": true,
		"": false, "/etc": false, "file:///etc": false, "../a": false, "ext::sh -c id": false, "--upload-pack=x": false, "/a/b@c:d": false,
	} {
		if err := remote(repo); (err == nil) != ok {
			t.Errorf("remote(%q) = %v", repo, err)
		}
	}
}
