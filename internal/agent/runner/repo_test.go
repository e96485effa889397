package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/agentapi"
)

// gitServer serves bare repositories over HTTP, as hosting services do.
type gitServer struct {
	t     *testing.T
	url   string
	dir   string
	token string // needed for repositories below private/
}

func newGitServer(t *testing.T) *gitServer {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatalf("these tests need git: %v", err)
	}
	g := &gitServer{t: t, dir: t.TempDir(), token: "sesame"}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + g.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=uploadpack.allowReachableSHA1InWant", "GIT_CONFIG_VALUE_0=true", "GIT_CONFIG_KEY_1=safe.directory", "GIT_CONFIG_VALUE_1=*"}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		switch private := strings.HasPrefix(r.URL.Path, "/private/"); {
		case private && password != g.token:
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			w.WriteHeader(http.StatusUnauthorized)
		case !private && password != "" && strings.HasPrefix(r.URL.Path, "/other/"):
			t.Errorf("the token was sent to %s", r.URL.Path)
		default:
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	g.url = srv.URL
	return g
}

// git runs git in a folder and returns its output.
func (g *gitServer) git(dir string, args ...string) string {
	g.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repo makes a bare repository name from what change does to a working copy, and returns
// the working copy.
func (g *gitServer) repo(name string, change func(work string)) string {
	g.t.Helper()
	work := g.t.TempDir()
	g.git(work, "init", "-q")
	change(work)
	g.git(work, "add", "-A")
	g.git(work, "commit", "-q", "-m", "first")
	bare := filepath.Join(g.dir, name)
	g.git(work, "clone", "-q", "--bare", work, bare)
	g.git(work, "remote", "add", "origin", bare)
	return work
}

func put(t testing.TB, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// cloned runs a job that prints a script's output in the repository's folder.
func cloned(t *testing.T, repo agentapi.Repo, diff []byte, script string, prepare func(work string)) (State, string) {
	t.Helper()
	dir := t.TempDir()
	repo.Type, repo.Dir = "remote", "code"
	if diff != nil {
		sum := sha256.Sum256(diff)
		repo.Blob = hex.EncodeToString(sum[:])
		put(t, dir, filepath.Join("blobs", repo.Blob), string(diff))
	}
	spec := sh("cd code && " + script)
	spec.Repo = &repo
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, SpecFile, string(data))
	if prepare != nil {
		prepare(filepath.Join(dir, "work"))
	}
	return startIn(t, dir).wait()
}

func TestClone(t *testing.T) {
	g := newGitServer(t)
	work := g.repo("open/code.git", func(dir string) { put(t, dir, "a", "one\n") })
	first := g.git(work, "rev-parse", "HEAD")
	put(t, work, "a", "two\n")
	g.git(work, "commit", "-qam", "second")
	second := g.git(work, "rev-parse", "HEAD")
	g.git(work, "push", "-q", "origin", "HEAD:main", "HEAD:refs/heads/feature/x")
	g.git(work, "checkout", "-q", "-b", "side", first)
	put(t, work, "side", "side\n")
	g.git(work, "add", "-A")
	g.git(work, "commit", "-qm", "side")
	side := g.git(work, "rev-parse", "HEAD")
	g.git(work, "push", "-q", "origin", "side")
	g.repo("private/code.git", func(dir string) { put(t, dir, "a", "private\n") })
	g.repo("other/lib.git", func(dir string) { put(t, dir, "lib", "library\n") })
	g.repo("private/super.git", func(dir string) {
		put(t, dir, "a", "super\n")
		g.git(dir, "submodule", "--quiet", "add", "file://"+filepath.Join(g.dir, "private/code.git"), "inner")
		g.git(dir, "config", "-f", ".gitmodules", "submodule.inner.url", "../code.git")
	})

	state := `cat a; cat .git/HEAD`
	for _, c := range []struct {
		name  string
		repo  agentapi.Repo
		path  string
		what  string
		want  string
		fails string
	}{
		{name: "the default branch", path: "open/code.git", want: "two\nref: refs/heads/main\n"},
		{name: "a branch", path: "open/code.git", repo: agentapi.Repo{Branch: "feature/x"}, want: "two\nref: refs/heads/feature/x\n"},
		{name: "a branch at its head", path: "open/code.git", repo: agentapi.Repo{Branch: "main", Hash: second, SingleBranch: true}, want: "two\nref: refs/heads/main\n"},
		{name: "an older commit of a branch", path: "open/code.git", repo: agentapi.Repo{Branch: "main", Hash: first}, want: "one\n" + first + "\n"},
		{name: "a commit of another branch", path: "open/code.git", repo: agentapi.Repo{Branch: "main", Hash: side, SingleBranch: true}, want: "one\n" + side + "\n"},
		{name: "the author", path: "open/code.git", repo: agentapi.Repo{ConfigName: "Ann B", ConfigEmail: "ann@example.com"}, what: "grep -A2 '\\[user\\]' .git/config | tr -d ' \\t'", want: "[user]\nname=AnnB\nemail=ann@example.com\n"},
		{name: "a token", path: "private/code.git", repo: agentapi.Repo{OAuthToken: "sesame"}, want: "private\nref: refs/heads/main\n"},
		{name: "submodules", path: "private/super.git", repo: agentapi.Repo{OAuthToken: "sesame"}, what: "cat a inner/a", want: "super\nprivate\n"},
		{name: "a wrong token", path: "private/code.git", repo: agentapi.Repo{OAuthToken: "guess"}, fails: "authentication required"},
		{name: "no such branch", path: "open/code.git", repo: agentapi.Repo{Branch: "nope"}, fails: "reference not found"},
		{name: "no such commit", path: "open/code.git", repo: agentapi.Repo{Hash: strings.Repeat("1", 40)}, fails: strings.Repeat("1", 40)},
		{name: "no such repo", path: "open/none.git", fails: "open/none.git"},
		{name: "a broken key", path: "open/code.git", repo: agentapi.Repo{PrivateKey: "nonsense"}, fails: "private key cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.repo.CloneURL = g.url + "/" + c.path
			if c.what == "" {
				c.what = state
			}
			s, log := cloned(t, c.repo, nil, c.what, nil)
			if c.fails != "" {
				if s.Reason != agentapi.ContainerExitedWithError || !strings.HasPrefix(s.Message, "Failed to set up the repo (") || !strings.Contains(s.Message, c.fails) {
					t.Errorf("%s: %s", s.Reason, s.Message)
				}
				if strings.Contains(s.Message, "guess") {
					t.Errorf("the token is in the message: %s", s.Message)
				}
				return
			}
			if log != c.want {
				t.Errorf("%q, want %q (%s %s)", log, c.want, s.Reason, s.Message)
			}
		})
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		sub, repo string
		want      bool
	}{
		{"../lib.git", "https://example.com/a/b.git", true},
		{"https://example.com/a/lib.git", "https://example.com/a/b.git", true},
		{"https://evil.example/a/lib.git", "https://example.com/a/b.git", false},
		{"http://example.com/a/lib.git", "https://example.com/a/b.git", false},
		{"https://example.com:444/a/lib.git", "https://example.com/a/b.git", false},
		{"git@example.com:a/lib.git", "ssh://git@example.com/a/b.git", true},
		{"https://example.com@evil.example/lib.git", "https://example.com/a/b.git", false},
	} {
		if got := sameHost(c.sub, c.repo); got != c.want {
			t.Errorf("%s in %s: %v", c.sub, c.repo, got)
		}
	}
}

// What is in the way of the code ends the job, or keeps the code away, as the user chose.
func TestCloneIntoSomething(t *testing.T) {
	g := newGitServer(t)
	g.repo("code.git", func(dir string) { put(t, dir, "a", "one\n") })
	repo := agentapi.Repo{CloneURL: g.url + "/code.git"}
	full := func(work string) { put(t, work, "code/mine", "mine\n") }
	repo.ExistsAction = "error"
	if s, _ := cloned(t, repo, nil, "ls", full); !strings.Contains(s.Message, "repo dir is not empty") {
		t.Errorf("%+v", s)
	}
	repo.ExistsAction = "skip"
	if _, log := cloned(t, repo, nil, "ls", full); log != "mine\n" {
		t.Errorf("%q", log)
	}
	repo.ExistsAction = "error"
	volume := func(work string) {
		if err := os.MkdirAll(filepath.Join(work, "code", "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if s, log := cloned(t, repo, nil, "ls", volume); log != "a  lost+found\n" && log != "a lost+found\n" && log != "a\nlost+found\n" {
		t.Errorf("%q %s", log, s.Message)
	}
}

// The uploaded diff makes the tree what the user has, whatever changed.
func TestDiff(t *testing.T) {
	g := newGitServer(t)
	binary := string([]byte{0, 1, 2, 3, 0xff, 0, 9}) + strings.Repeat("\x00x", 500)
	work := g.repo("code.git", func(dir string) {
		put(t, dir, "changed", "1\n2\n3\n4\n5\n6\n7\n8\n9\n")
		put(t, dir, "removed", "x\n")
		put(t, dir, "dir/renamed", strings.Repeat("line\n", 20))
		put(t, dir, "binary", binary)
		put(t, dir, "script", "#!/bin/sh\n")
		put(t, dir, "no-newline", "end")
		if err := os.Symlink("changed", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
	})
	put(t, work, "changed", "1\n2\nthree\n4\n5\n6\n7\n8\nnine\n")
	put(t, work, "new/deep/file", "new\n")
	put(t, work, "empty", "")
	put(t, work, "binary", binary+"more\x00")
	put(t, work, "new-binary", "\x00\x01\x02")
	put(t, work, "no-newline", "end of it")
	g.git(work, "mv", "dir/renamed", "moved")
	for _, err := range []error{
		os.Remove(filepath.Join(work, "removed")),
		os.Chmod(filepath.Join(work, "script"), 0o755),
		os.Remove(filepath.Join(work, "link")),
		os.Symlink("/etc", filepath.Join(work, "link")),
		os.Symlink("moved", filepath.Join(work, "new-link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g.git(work, "add", "-A")
	for _, flags := range [][]string{{"--binary"}, {"--binary", "--find-renames", "--find-copies"}, {"--binary", "--no-renames", "--full-index"}} {
		cmd := exec.Command("git", append([]string{"diff", "--cached"}, flags...)...)
		cmd.Dir = work
		diff, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		g.git(dir, "clone", "-q", filepath.Join(g.dir, "code.git"), ".")
		if err := applyDiff(bytes.NewReader(diff), dir); err != nil {
			t.Fatalf("%v: %v", flags, err)
		}
		if out := g.git(dir, "add", "-A"); out != "" {
			t.Error(out)
		}
		if want, got := g.git(work, "write-tree"), g.git(dir, "write-tree"); got != want {
			t.Errorf("%v: the trees differ:\n%s", flags, g.git(dir, "status", "--short"))
		}
	}
	diff := g.git(work, "diff", "--cached", "--binary") + "\n"
	if s, log := cloned(t, agentapi.Repo{CloneURL: g.url + "/code.git"}, []byte(diff), "cat new/deep/file; ls", nil); !strings.HasPrefix(log, "new\n") || strings.Contains(log, "removed") {
		t.Errorf("%q %s", log, s.Message)
	}
	if s, _ := cloned(t, agentapi.Repo{CloneURL: g.url + "/code.git"}, []byte("diff --git a/none b/none\n--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n"), "true", nil); !strings.Contains(s.Message, "apply the diff to none") {
		t.Errorf("a diff that does not fit: %+v", s)
	}
	if _, log := cloned(t, agentapi.Repo{CloneURL: g.url + "/code.git"}, []byte{}, "cat no-newline; echo", nil); log != "end\n" {
		t.Errorf("an empty diff: %q", log)
	}
}

func TestDiffStaysInside(t *testing.T) {
	const create = "diff --git a/%s b/%s\nnew file mode %s\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+evil\n"
	file := func(name, mode string) string {
		return strings.NewReplacer("%s b", name+" b", "mode %s", "mode "+mode, "b/%s", "b/"+name).Replace(create)
	}
	for name, diff := range map[string]string{
		"dots":           file("../evil", "100644"),
		"absolute":       strings.ReplaceAll(file("X", "100644"), "b/X", "/evil"),
		"through a link": "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+..\n\\ No newline at end of file\n" + file("l/evil", "100644"),
		"removal":        "diff --git a/../secret b/../secret\ndeleted file mode 100644\n--- a/../secret\n+++ /dev/null\n@@ -1 +0,0 @@\n-secret\n\\ No newline at end of file\n",
	} {
		t.Run(name, func(t *testing.T) {
			outer, inner := nested(t)
			_ = applyDiff(strings.NewReader(diff), inner) // refused or harmless
			outside(t, outer)
		})
	}
}

func nested(t testing.TB) (outer, inner string) {
	t.Helper()
	outer = t.TempDir()
	inner = filepath.Join(outer, "inner")
	if err := os.WriteFile(filepath.Join(outer, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	return outer, inner
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte("diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+..\n\\ No newline at end of file\n"))
	f.Add([]byte("diff --git a/a b/a\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzWMT#Y01f~L\n\nliteral 0\nHcmV?d00001\n\n"))
	f.Add([]byte("--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+two\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		outer, inner := nested(t)
		put(t, inner, "a", "one\n")
		_ = applyDiff(bytes.NewReader(data), inner) // whether it can be applied is not the question
		outside(t, outer)
	})
}
