package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"dstack/internal/cli/sshuser"
)

// probeTimeout bounds one attempt to reach a repository.
const probeTimeout = 30 * time.Second

// Creds are what a host needs to clone the repository. At most one of key and token is set.
type Creds struct {
	CloneURL   string
	PrivateKey string // PEM
	Token      string
}

// Given are credentials that the user named, or that the server has.
type Given struct {
	IdentityFile string // from a flag
	Token        string // from a flag
	Stored       *Creds // used only if there is no flag
}

// errNoCreds means that no default credentials open the repository.
var errNoCreds = errors.New("No valid default Git credentials found. Pass valid `--token` or `--git-identity`.")

// FindCreds tries, in this order: none, those that were given, and the user's defaults beneath home.
func FindCreds(ctx context.Context, u URL, home string, given Given) (Creds, error) {
	f := finder{ctx: ctx, url: u, home: home, user: sshuser.Lookup(home, u.alias), probe: probe}
	return f.find(given)
}

type finder struct {
	ctx   context.Context //nolint:containedctx // a few attempts in a row
	url   URL
	home  string
	user  sshuser.Options
	probe func(ctx context.Context, address, keyFile string) error
}

func (f finder) find(given Given) (Creds, error) {
	if c := (Creds{CloneURL: f.url.HTTPS("")}); f.probe(f.ctx, c.CloneURL, "") == nil {
		return c, nil
	}
	if given.IdentityFile == "" && given.Token == "" && given.Stored != nil {
		if c, err := f.stored(*given.Stored); err == nil {
			return c, nil
		}
	}
	if given.IdentityFile != "" {
		return f.key(expand(f.home, given.IdentityFile))
	}
	if given.Token != "" {
		return f.token(given.Token)
	}
	if f.user.IdentityFile != "" {
		if c, err := f.key(f.user.IdentityFile); err == nil {
			return c, nil
		}
	}
	if t := ghToken(f.home, f.url.host+portSuffix(f.url.httpsPort)); t != "" {
		if c, err := f.token(t); err == nil {
			return c, nil
		}
	}
	if c, err := f.key(filepath.Join(f.home, ".ssh", "id_rsa")); err == nil {
		return c, nil
	}
	return Creds{}, errNoCreds
}

func (f finder) stored(c Creds) (Creds, error) {
	if c.Token != "" {
		return f.token(c.Token)
	}
	if c.PrivateKey == "" {
		return Creds{}, errNoCreds
	}
	dir, err := os.MkdirTemp("", "dstack-key-")
	if err != nil {
		return Creds{}, fmt.Errorf("store the repository's key for git: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a private temporary directory
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(path, []byte(c.PrivateKey), 0o600); err != nil {
		return Creds{}, fmt.Errorf("store the repository's key for git: %w", err)
	}
	return f.key(path)
}

func (f finder) key(path string) (Creds, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return Creds{}, fmt.Errorf("Unable to read the SSH key at %s", path)
	}
	c := Creds{CloneURL: f.url.SSH(f.user), PrivateKey: string(pem)}
	if err := f.probe(f.ctx, c.CloneURL, path); err != nil {
		return Creds{}, fmt.Errorf("the SSH key at %s does not open %s: %w", path, c.CloneURL, err)
	}
	return c, nil
}

func (f finder) token(token string) (Creds, error) {
	if err := f.probe(f.ctx, f.url.HTTPS(token), ""); err != nil {
		return Creds{}, fmt.Errorf("the token does not open %s: %w", f.url.HTTPS(""), err)
	}
	return Creds{CloneURL: f.url.HTTPS(""), Token: token}, nil
}

// probe asks for the repository's HEAD with nothing but the given credentials. Its error never holds the address.
func probe(ctx context.Context, address, keyFile string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errors.New("no answer from the git server"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "-c", "credential.helper=", "ls-remote", "--symref", address, "HEAD")
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=",
		"GIT_CONFIG_SYSTEM="+os.DevNull, "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_DIR="+os.DevNull)
	if keyFile != "" {
		cmd.Env = append(cmd.Env, `GIT_SSH_COMMAND=ssh -F none -i "`+keyFile+`" -o BatchMode=yes`+
			" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o IdentitiesOnly=yes")
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errors.New("git could not read it")
	}
	return nil
}

// ghToken is the token that the GitHub command-line client keeps for host, "" if there is none.
func ghToken(home, host string) string {
	data, err := os.ReadFile(filepath.Join(home, ".config", "gh", "hosts.yml"))
	if err != nil || len(data) > 1<<20 {
		return ""
	}
	var hosts map[string]struct {
		Token string `yaml:"oauth_token"`
	}
	if yaml.Unmarshal(data, &hosts) != nil {
		return ""
	}
	return hosts[host].Token
}

func expand(home, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return path
}
