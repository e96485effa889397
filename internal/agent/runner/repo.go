package runner

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
)

// setupRepo puts the run's code into place (host-agents 2.9).
func (r *runner) setupRepo(ctx context.Context, dir string) error {
	repo := r.spec.Repo
	if repo == nil || repo.Type != "remote" && repo.Blob == "" {
		return nil
	}
	target, err := r.place(repo.Dir, dir)
	if err != nil {
		return err
	}
	empty, err := isEmpty(target)
	if err != nil {
		return err
	}
	if !empty {
		if repo.ExistsAction == "error" {
			return fmt.Errorf("repo dir is not empty: %s", target)
		}
		return nil
	}
	if err := r.acct.own(target); err != nil {
		return err
	}
	if repo.Type == "remote" {
		err = r.clone(ctx, *repo, target)
	} else {
		err = r.unpack(repo.Blob, target, "")
	}
	if err != nil {
		return err
	}
	r.chown(target)
	return nil
}

// isEmpty says that nothing is in the way; a file system's lost+found is not.
func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "lost+found", nil
}

// maxSubmodules bounds how deep submodules are nested.
const maxSubmodules = 10

// clone fetches a remote repository and applies the uploaded diff. It is done in this
// process, because images need not have git.
func (r *runner) clone(ctx context.Context, spec agentapi.Repo, dir string) error {
	auth, err := gitAuth(spec)
	if err != nil {
		return err
	}
	opts := &git.CloneOptions{URL: spec.CloneURL, Auth: auth, SingleBranch: spec.SingleBranch, NoCheckout: true}
	if spec.Branch != "" {
		opts.ReferenceName = plumbing.NewBranchReferenceName(spec.Branch)
	}
	repo, err := git.PlainCloneContext(ctx, dir, false, opts)
	if err != nil {
		return fmt.Errorf("clone %s: %w", withoutPassword(spec.CloneURL), err)
	}
	if err := checkout(ctx, repo, spec, auth); err != nil {
		return err
	}
	if err := identify(repo, spec); err != nil {
		return err
	}
	if err := submodules(ctx, repo, spec.CloneURL, auth, maxSubmodules); err != nil {
		return err
	}
	if spec.Blob == "" {
		return nil
	}
	f, err := r.openBlob(spec.Blob)
	if err != nil {
		return err
	}
	defer f.Close()
	return applyDiff(f, dir)
}

// gitAuth is how to log in at the repository's host; nil for public ones.
func gitAuth(spec agentapi.Repo) (transport.AuthMethod, error) {
	switch {
	case spec.PrivateKey != "":
		keys, err := gitssh.NewPublicKeys("git", []byte(spec.PrivateKey), "")
		if err != nil {
			return nil, fmt.Errorf("the repo's private key cannot be read: %w", err)
		}
		keys.HostKeyCallback = ssh.InsecureIgnoreHostKey() //nolint:gosec // nobody has told us the host's key
		return keys, nil
	case spec.OAuthToken != "":
		return &githttp.BasicAuth{Username: "anything", Password: spec.OAuthToken}, nil
	}
	return nil, nil
}

func withoutPassword(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Redacted()
}

// checkout goes to the wanted commit; a branch whose head it is stays checked out.
func checkout(ctx context.Context, repo *git.Repository, spec agentapi.Repo, auth transport.AuthMethod) error {
	tree, err := repo.Worktree()
	if err != nil {
		return err
	}
	head, err := repo.Head()
	if err != nil {
		return fmt.Errorf("the repo has no commits: %w", err)
	}
	want := plumbing.NewHash(spec.Hash)
	if spec.Hash == "" || head.Hash() == want {
		return tree.Reset(&git.ResetOptions{Mode: git.HardReset, Commit: head.Hash()})
	}
	if _, err := repo.CommitObject(want); err != nil { // of another branch, or of none any more
		ref := gitconfig.RefSpec(spec.Hash + ":refs/dstack/" + spec.Hash)
		if err := repo.FetchContext(ctx, &git.FetchOptions{RefSpecs: []gitconfig.RefSpec{ref}, Auth: auth}); err != nil {
			return fmt.Errorf("fetch commit %s: %w", spec.Hash, err)
		}
	}
	if err := tree.Checkout(&git.CheckoutOptions{Hash: want, Force: true}); err != nil {
		return fmt.Errorf("check out commit %s: %w", spec.Hash, err)
	}
	return nil
}

// identify makes the user the author of commits.
func identify(repo *git.Repository, spec agentapi.Repo) error {
	if spec.ConfigName == "" && spec.ConfigEmail == "" {
		return nil
	}
	cfg, err := repo.Config()
	if err != nil {
		return err
	}
	cfg.User.Name, cfg.User.Email = spec.ConfigName, spec.ConfigEmail
	return repo.SetConfig(cfg)
}

// submodules fetches the repository's submodules and theirs. The credentials go to the
// repository's own host only.
func submodules(ctx context.Context, repo *git.Repository, cloneURL string, auth transport.AuthMethod, depth int) error {
	tree, err := repo.Worktree()
	if err != nil {
		return err
	}
	subs, err := tree.Submodules()
	if err != nil {
		return fmt.Errorf("read the repo's submodules: %w", err)
	}
	for _, sub := range subs {
		if depth == 0 {
			return fmt.Errorf("submodules are nested deeper than %d", maxSubmodules)
		}
		opts := &git.SubmoduleUpdateOptions{Init: true}
		if sameHost(sub.Config().URL, cloneURL) {
			opts.Auth = auth
		}
		if err := sub.UpdateContext(ctx, opts); err != nil {
			return fmt.Errorf("fetch submodule %s: %w", sub.Config().Path, err)
		}
		inner, err := sub.Repository()
		if err != nil {
			return fmt.Errorf("open submodule %s: %w", sub.Config().Path, err)
		}
		if err := submodules(ctx, inner, cloneURL, auth, depth-1); err != nil {
			return err
		}
	}
	return nil
}

func sameHost(submodule, cloneURL string) bool {
	if strings.HasPrefix(submodule, "./") || strings.HasPrefix(submodule, "../") {
		return true
	}
	a, err1 := transport.NewEndpoint(submodule)
	b, err2 := transport.NewEndpoint(cloneURL)
	return errors.Join(err1, err2) == nil && a.Protocol == b.Protocol && a.Host == b.Host && port(a) == port(b)
}

// port knows the default that an SSH URL leaves out and its short form has.
func port(e *transport.Endpoint) int {
	if e.Port == 0 && e.Protocol == "ssh" {
		return 22
	}
	return e.Port
}

// gitCredentials leaves the repository's credentials where the job's own git and gh look,
// unless there are others (host-agents 2.8). remove takes them away again.
func (r *runner) gitCredentials() (remove func(), err error) {
	repo := r.spec.Repo
	if repo == nil || !r.Container || r.acct.home == "/" {
		return func() {}, nil
	}
	var path, content string
	switch {
	case repo.PrivateKey != "":
		path, content = filepath.Join(r.acct.home, ".ssh", "id_rsa"), repo.PrivateKey
	case repo.OAuthToken != "":
		u, err := url.Parse(repo.CloneURL)
		if err != nil {
			return func() {}, err
		}
		path = filepath.Join(r.acct.home, ".config", "gh", "hosts.yml")
		content = fmt.Sprintf("%s:\n    oauth_token: %q\n", u.Hostname(), repo.OAuthToken)
	default:
		return func() {}, nil
	}
	if err := r.acct.own(r.acct.home); err != nil {
		return func() {}, err
	}
	if err := r.acct.ownPrivate(filepath.Dir(path)); err != nil {
		return func() {}, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return func() {}, err
	}
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Close(), os.Lchown(path, int(r.acct.uid), int(r.acct.gid)))
	return func() { _ = os.Remove(path) }, err // the job may have removed it
}
