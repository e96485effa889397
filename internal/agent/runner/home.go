package runner

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dstack/internal/agentapi"
)

// provisionHome lets the nodes of a cluster reach each other.
func (r *runner) provisionHome() error {
	c := r.spec.Cluster
	if c.PrivateKey == "" || len(c.NodeIPs) < 2 || !r.Container || r.acct.home == "/" {
		return nil
	}
	dir := filepath.Join(r.acct.home, ".ssh")
	if err := r.acct.own(r.acct.home); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key := filepath.Join(dir, "dstack_job")
	if err := WriteFile(key, []byte(c.PrivateKey), 0o600); err != nil {
		return err
	}
	var b strings.Builder
	for _, ip := range c.NodeIPs {
		fmt.Fprintf(&b, "\nHost %s\n  Port %d\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  IdentityFile %s\n", ip, agentapi.RunnerSSHPort, key)
	}
	f, err := os.OpenFile(filepath.Join(dir, "config"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	r.chown(dir)
	r.ssh.AddKey(c.PublicKey)
	return err
}

// clone fetches a remote repository with the image's git and applies the uploaded diff.
func (r *runner) clone(ctx context.Context, repo agentapi.Repo, dir string) error {
	git, err := lookPath("git", os.Getenv("PATH")+":/usr/local/bin:/usr/bin:/bin", "/")
	if err != nil {
		return fmt.Errorf("the image has no git; use an image with git, or `files` instead of `repos`")
	}
	env := append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "HOME="+r.home)
	if repo.PrivateKey != "" {
		key := filepath.Join(r.Dir, "git_key")
		if err := WriteFile(key, []byte(repo.PrivateKey), 0o600); err != nil {
			return err
		}
		defer os.Remove(key)
		env = append(env, "GIT_SSH_COMMAND=ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i "+key)
	}
	if repo.OAuthToken != "" {
		// The token goes through the environment, so that no other process sees it.
		env = append(env, "DSTACK_GIT_TOKEN="+repo.OAuthToken, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=credential.helper",
			`GIT_CONFIG_VALUE_0=!f() { echo username=anything; echo "password=$DSTACK_GIT_TOKEN"; }; f`)
	}
	run := func(args ...string) error {
		cmd := exec.CommandContext(ctx, git, args...)
		cmd.Env, cmd.Dir = env, dir
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(out.String()))
		}
		return nil
	}
	args := []string{"clone", "--recurse-submodules", "--config", "safe.directory=" + dir}
	if repo.SingleBranch {
		args = append(args, "--single-branch")
	}
	if repo.Branch != "" {
		args = append(args, "--branch", repo.Branch)
	}
	if err := run(append(args, "--", repo.CloneURL, dir)...); err != nil {
		return err
	}
	if repo.Hash != "" {
		if err := r.checkout(run, repo); err != nil {
			return err
		}
	}
	for k, v := range map[string]string{"user.name": repo.ConfigName, "user.email": repo.ConfigEmail} {
		if v != "" {
			if err := run("config", k, v); err != nil {
				return err
			}
		}
	}
	if repo.Blob == "" {
		return nil
	}
	diff := filepath.Join(r.Dir, BlobsDir, filepath.Base(repo.Blob))
	if st, err := os.Stat(diff); err != nil || st.Size() == 0 {
		return err
	}
	return run("apply", "--whitespace=nowarn", "--binary", diff)
}

// checkout goes to the wanted commit; a branch whose head it is stays checked out.
func (r *runner) checkout(run func(...string) error, repo agentapi.Repo) error {
	if repo.Branch != "" && run("merge-base", "--is-ancestor", "HEAD", repo.Hash) == nil && run("merge-base", "--is-ancestor", repo.Hash, "HEAD") == nil {
		return nil
	}
	if err := run("checkout", "--quiet", "--detach", repo.Hash); err != nil {
		if ferr := run("fetch", "--quiet", "origin", repo.Hash); ferr != nil {
			return err
		}
		return run("checkout", "--quiet", "--detach", repo.Hash)
	}
	return run("submodule", "update", "--init", "--recursive")
}
