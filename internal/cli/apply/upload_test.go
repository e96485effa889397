package apply

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/cli/gitrepo"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

func options(dir string) Options {
	return Options{Program: &program.Program{IO: term.New(strings.NewReader(""), nil, nil), Home: dir, Getwd: func() (string, error) { return dir, nil }}}
}

// All files that are missing are named, before anything is sent.
func TestMissingFiles(t *testing.T) {
	dir := t.TempDir()
	files := []config.FileMapping{{LocalPath: "a", Path: "/a"}, {LocalPath: ".", Path: "/here"}, {LocalPath: "~/b", Path: "/b"}}
	_, err := options(dir).uploadFiles(t.Context(), nil, dir, files)
	if err == nil {
		t.Fatal("no error")
	}
	want := "Path 'a' specified in `files` does not exist\nPath '~/b' specified in `files` does not exist"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// interpolate names all references that nothing stands for.
func TestInterpolate(t *testing.T) {
	run := config.AnyRun{Task: &config.Task{Commands: []string{"ok ${{ run.args }}", "${{ run.no }}"}}}
	run.Task.RegistryAuth = &config.RegistryAuth{Username: "${{ env.A }}", Password: "${{ env.B }}"}
	run.Task.Env = config.Env{"A": {Value: "x"}}
	o := options(t.TempDir())
	o.Args = []string{"a b"}
	want := "commands[1]: Failed to interpolate due to missing vars: ['run.no']\n" +
		"registry_auth.password: Failed to interpolate due to missing vars: ['env.B']"
	if err := o.interpolate(&run); err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if got := run.Task.Commands[0] + " " + run.Task.RegistryAuth.Username; got != "ok 'a b' x" {
		t.Errorf("got %s", got)
	}
}

// Without a remote branch there is a way out that only apply has.
func TestNoRemoteBranch(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	here := "."
	_, err := options(dir).repoState(t.Context(), dir, &config.RunCommon{Repos: []config.Repo{{LocalPath: &here}}})
	if !errors.Is(err, gitrepo.ErrNoRemote) || !strings.HasSuffix(err.Error(), ", or pass --no-repo") {
		t.Errorf("error %v", err)
	}
}
