package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli/sshuser"
	"dstack/internal/recorded"
)

// The recorded cases are what the published client makes of addresses.
func TestURLRecorded(t *testing.T) {
	type row struct {
		In     string
		Error  *string
		Crash  bool
		Config map[string]struct{ Hostname, Port, User string } `json:"ssh_config"`
		Out    *struct {
			HTTPS string `json:"as_https"`
			Token string `json:"as_https_token"`
			SSH   string `json:"as_ssh"`
			ID    string `json:"repo_id"`
			Name  string `json:"repo_name"`
		}
	}
	recorded.Rows(t, "testdata/repo-url.jsonl", func(t *testing.T, r row) {
		t.Run(r.In, func(t *testing.T) {
			home := t.TempDir()
			for alias, own := range r.Config {
				put(t, home, ".ssh/config", fmt.Sprintf("Host %s\n  HostName %s\n  Port %s\n  User %s\n", alias, own.Hostname, own.Port, own.User))
			}
			u, err := ParseURL(r.In, home)
			if r.Out == nil {
				if err == nil || !r.Crash && !strings.HasPrefix(err.Error(), *r.Error) {
					t.Errorf("got %+v, %v, recorded %q", u, err, *r.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := *r.Out
			got.HTTPS, got.Token, got.SSH, got.ID, got.Name = u.HTTPS(""), u.HTTPS("tok"), u.SSH(sshuser.Options{}), u.ID(), u.Name()
			if diff := cmp.Diff(*r.Out, got); diff != "" {
				t.Errorf("-recorded +got:\n%s", diff)
			}
		})
	})
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME="+dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func TestReadState(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q", "-b", "feature")
	put(t, dir, "a.txt", "one\n")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "first")
	if _, err := ReadState(t.Context(), dir, dir); !errors.Is(err, ErrNoRemote) || strings.Contains(err.Error(), "--no-repo") { // which is of one command only
		t.Errorf("ReadState without upstream: %v", err)
	}
	git(t, dir, "remote", "add", "origin", "https://github.com/dstackai/dstack.git")
	git(t, dir, "update-ref", "refs/remotes/origin/main", "HEAD")
	git(t, dir, "branch", "-q", "-u", "origin/main")
	put(t, dir, "a.txt", "two\n")
	put(t, dir, "new.bin", "\x00\x01")
	put(t, dir, "ignored", "x")
	put(t, dir, ".git/info/exclude", "ignored\n")

	s, err := ReadState(t.Context(), dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Branch != "main" || len(s.Hash) != 40 || s.URL.ID() != "dstack-nizdmsg0" {
		t.Errorf("state = %+v", s)
	}
	for _, want := range []string{"-one", "+two", "b/new.bin", "GIT binary patch"} {
		if !strings.Contains(string(s.Diff), want) {
			t.Errorf("diff lacks %q:\n%s", want, s.Diff)
		}
	}
	if strings.Contains(string(s.Diff), "ignored") {
		t.Errorf("diff has an ignored file:\n%s", s.Diff)
	}
	git(t, dir, "checkout", "-q", "--detach")
	if _, err := ReadState(t.Context(), dir, dir); err == nil || !strings.Contains(err.Error(), "detached HEAD") {
		t.Errorf("ReadState of a detached HEAD: %v", err)
	}
}

func TestFindCreds(t *testing.T) {
	home := t.TempDir()
	put(t, home, ".ssh/config", "Host git.example\n  IdentityFile ~/.ssh/work\n  User me\n")
	put(t, home, ".ssh/work", "WORK")
	put(t, home, ".ssh/id_rsa", "RSA")
	put(t, home, ".config/gh/hosts.yml", "git.example:\n  oauth_token: gho\n")
	u, err := ParseURL("https://git.example/a/b", home)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		opens string // what the double lets in
		given Given
		want  Creds
	}{
		"public":           {"https://git.example/a/b", Given{}, Creds{CloneURL: "https://git.example/a/b"}},
		"flag":             {"https://anything:t@git.example/a/b", Given{Token: "t"}, Creds{CloneURL: "https://git.example/a/b", Token: "t"}},
		"ssh config":       {"ssh://me@git.example/a/b work", Given{}, Creds{CloneURL: "ssh://me@git.example/a/b", PrivateKey: "WORK"}},
		"gh":               {"https://anything:gho@git.example/a/b", Given{}, Creds{CloneURL: "https://git.example/a/b", Token: "gho"}},
		"id_rsa":           {"ssh://me@git.example/a/b id_rsa", Given{}, Creds{CloneURL: "ssh://me@git.example/a/b", PrivateKey: "RSA"}},
		"none":             {"-", Given{}, Creds{}},
		"bad flag is told": {"ssh://me@git.example/a/b work", Given{Token: "bad"}, Creds{}},
	} {
		t.Run(name, func(t *testing.T) {
			f := finder{ctx: t.Context(), url: u, home: home}
			f.user.IdentityFile, f.user.User = filepath.Join(home, ".ssh", "work"), "me"
			f.probe = func(_ context.Context, address, key string) error {
				if key != "" {
					address += " " + filepath.Base(key)
				}
				if address == tt.opens {
					return nil
				}
				return errors.New("no")
			}
			got, err := f.find(tt.given)
			if (err != nil) != (tt.want == Creds{}) {
				t.Errorf("find: %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("find (-want +got):\n%s", diff)
			}
		})
	}
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
