package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// maxDiff bounds what is kept of a diff in memory, in bytes; servers take far less.
const maxDiff = 512 << 20

// State is the state of a working tree. Branch and Hash are those of the upstream branch.
type State struct {
	URL          URL
	Branch, Hash string
	UserName     string // git's user.name, may be empty
	UserEmail    string // git's user.email, may be empty
	// Diff leads from the commit Hash to the working tree, with new files that are not ignored.
	Diff []byte
}

// Errors of [ReadState] that a command may add an advice to.
var (
	ErrNoGit    = errors.New("the git program was not found: install git")
	ErrNoRemote = errors.New("No remote branch is configured: push the branch with `git push -u`")
)

// isRepo reports whether dir is the top directory of a git working tree.
func isRepo(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, ".git"))
	return err == nil
}

// ReadState returns the state of the working tree at dir, which must be its top directory. The user's SSH configuration
// is looked for beneath home.
func ReadState(ctx context.Context, dir, home string) (State, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return State{}, fmt.Errorf("path does not exist: %s", dir)
	case !info.IsDir():
		return State{}, fmt.Errorf("path is not a directory: %s", dir)
	case !isRepo(dir):
		return State{}, fmt.Errorf("Git repo not found: %s\nUse `files` in the configuration to mount an arbitrary directory", dir)
	}
	if _, err := exec.LookPath("git"); err != nil {
		return State{}, ErrNoGit
	}
	r := runner{ctx, dir}
	if _, err := r.line("symbolic-ref", "-q", "HEAD"); err != nil {
		return State{}, fmt.Errorf("Git repo in 'detached HEAD' state: %s\nCheck out to a branch", dir)
	}
	upstream, err := r.line("rev-parse", "--symbolic-full-name", "@{upstream}")
	if err != nil {
		return State{}, ErrNoRemote
	}
	var s State
	if s.Hash, err = r.line("rev-parse", upstream); err != nil {
		return State{}, err
	}
	remote, branch, ok := strings.Cut(strings.TrimPrefix(upstream, "refs/remotes/"), "/")
	if !ok {
		return State{}, fmt.Errorf("upstream branch %s is not of a remote: set another with `git branch -u`", upstream)
	}
	s.Branch = branch
	address, err := r.line("remote", "get-url", remote)
	if err != nil {
		return State{}, err
	}
	if s.URL, err = ParseURL(address, home); err != nil {
		return State{}, err
	}
	s.UserName, _ = r.line("config", "user.name")   // not set is fine
	s.UserEmail, _ = r.line("config", "user.email") // not set is fine
	s.Diff, err = r.diff(s.Hash)
	return s, err
}

type runner struct {
	ctx context.Context //nolint:containedctx // a few commands in a row
	dir string
}

func (r runner) diff(hash string) ([]byte, error) {
	var buf bytes.Buffer
	if err := r.run(&buf, 0, "diff", "--no-ext-diff", "--no-color", "--binary", hash); err != nil {
		return nil, err
	}
	var list bytes.Buffer
	if err := r.run(&list, 0, "ls-files", "--others", "--exclude-standard", "-z"); err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimRight(list.String(), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		// With --no-index a difference is reported by exit code 1.
		if err := r.run(&buf, 1, "diff", "--no-ext-diff", "--no-color", "--no-index", "--binary", "--", os.DevNull, name); err != nil {
			return nil, err
		}
		if buf.Len() > maxDiff {
			return nil, fmt.Errorf("the changes that are not pushed are larger than %d MB: commit and push, or add files to .gitignore", maxDiff>>20)
		}
	}
	return buf.Bytes(), nil
}

func (r runner) line(args ...string) (string, error) {
	var buf bytes.Buffer
	err := r.run(&buf, 0, args...)
	return strings.TrimSpace(buf.String()), err
}

// run writes the output of git to w; exit codes up to tolerated are not errors.
func (r runner) run(w io.Writer, tolerated int, args ...string) error {
	cmd := exec.CommandContext(r.ctx, "git", args...)
	cmd.Dir = r.dir
	cmd.Stdout = w
	var msg bytes.Buffer
	cmd.Stderr = &msg
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 && exit.ExitCode() <= tolerated {
		return nil
	}
	if err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(msg.String()))
	}
	return nil
}
