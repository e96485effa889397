package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/archive"
	"dstack/internal/cli/gitrepo"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// slowDiff is how long collecting changes may take before it is worth a hint.
const slowDiff = 5 * time.Second

// uploadFiles packs the `files` of a configuration and uploads those that the server does not have yet.
// Relative paths count from base.
func (o Options) uploadFiles(ctx context.Context, c *program.Conn, base string, files []config.FileMapping) ([]api.FileArchiveMapping, error) {
	if err := o.checkFiles(base, files); err != nil {
		return nil, err
	}
	mappings := []api.FileArchiveMapping{}
	ignore := archive.NewIgnore(o.globalIgnore())
	for _, f := range files {
		id, err := o.uploadFile(ctx, c, o.Path(base, f.LocalPath), f.LocalPath, ignore)
		if err != nil {
			return nil, err
		}
		mappings = append(mappings, api.FileArchiveMapping{ID: id, Path: f.Path})
	}
	return mappings, nil
}

// checkFiles wants all files to be there, and names all that are not.
func (o Options) checkFiles(base string, files []config.FileMapping) error {
	var missing []error
	for _, f := range files {
		if _, err := os.Stat(o.Path(base, f.LocalPath)); err != nil {
			missing = append(missing, fmt.Errorf("Path '%s' specified in `files` does not exist", f.LocalPath))
		}
	}
	return errors.Join(missing...)
}

func (o Options) uploadFile(ctx context.Context, c *program.Conn, path, name string, ignore *archive.Ignore) (string, error) {
	tmp, err := os.CreateTemp("", "dstack-files-*.tar")
	if err != nil {
		return "", fmt.Errorf("archive '%s': %w", name, err)
	}
	defer func() {
		_ = tmp.Close() // only read from here
		_ = os.Remove(tmp.Name())
	}()
	hash, err := archive.Pack(ctx, path, ignore, tmp)
	if err != nil {
		return "", fmt.Errorf("failed to archive '%s': %w", name, err)
	}
	known, err := c.GetArchiveByHash(ctx, api.GetArchiveRequest{Hash: hash})
	if err == nil {
		return known.ID, nil
	}
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != 400 && e.Status != 404 && e.Status != 405 {
		return "", err
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("archive '%s': %w", name, err)
	}
	a, err := c.UploadArchive(ctx, hash, tmp)
	if err != nil {
		return "", fmt.Errorf("upload '%s': %w", name, err)
	}
	return a.ID, nil
}

// globalIgnore is git's file of rules for all repositories.
func (o Options) globalIgnore() string {
	if dir := o.Env("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "git", "ignore")
	}
	return filepath.Join(o.Home, ".config", "git", "ignore")
}

// A repo is what a run spec says about the code.
type repo struct {
	id   string
	data api.RepoData
	hash *string // of the diff
	diff []byte
}

// virtual is the absence of a repository.
func virtual() repo { return repo{id: "none", data: api.RepoData{RepoType: "virtual"}} }

// findRepo describes the repository of a run and makes sure that the server knows it and its credentials.
func (o Options) findRepo(ctx context.Context, c *program.Conn, base string, run *config.RunCommon) (repo, error) {
	if o.Repo.None && o.Repo.Repo != "" {
		return repo{}, errors.New("Either --repo or --no-repo can be specified")
	}
	if o.Repo.None || o.Repo.Repo == "" && len(run.Repos) == 0 {
		req := api.InitRepoRequest{RepoID: "none", RepoInfo: api.RepoInfo{RepoType: "virtual"}}
		return virtual(), c.InitRepo(ctx, c.Project, req)
	}
	state, err := o.repoState(ctx, base, run)
	if err != nil {
		return repo{}, err
	}
	if err := o.initRepo(ctx, c, state.URL); err != nil {
		return repo{}, err
	}
	r := repo{id: state.URL.ID(), diff: state.Diff}
	r.data = api.RepoData{
		RepoType: "remote", RepoName: some(state.URL.Name()), RepoBranch: some(state.Branch), RepoHash: some(state.Hash),
		RepoConfigName: some(state.UserName), RepoConfigEmail: some(state.UserEmail),
	}
	if len(r.diff) > 0 {
		h := sha256Hex(r.diff)
		r.hash = &h
	}
	return r, nil
}

// repoState reads the working copy, or just the URL.
func (o Options) repoState(ctx context.Context, base string, run *config.RunCommon) (gitrepo.State, error) {
	remote := gitrepo.State{Branch: o.Repo.Branch, Hash: o.Repo.Hash}
	given, path := o.Repo.Repo, ""
	if given != "" {
		u, err := gitrepo.ParseURL(given, o.Home)
		if err == nil {
			remote.URL = u
			return remote, nil
		}
		wd, err := o.WorkDir()
		if err != nil {
			return remote, err
		}
		path = o.Path(wd, given)
	} else if spec := run.Repos[0]; spec.URL != nil {
		u, err := gitrepo.ParseURL(*spec.URL, o.Home)
		if err != nil {
			return remote, err
		}
		remote.URL = u
		if remote.Branch == "" && spec.Branch != nil {
			remote.Branch = *spec.Branch
		}
		if remote.Hash == "" && spec.Hash != nil {
			remote.Hash = *spec.Hash
		}
		return remote, nil
	} else {
		given = *spec.LocalPath
		path = o.Path(base, given)
	}
	if _, err := os.Stat(path); err != nil {
		return remote, fmt.Errorf("Invalid repo path: %s -> %s", given, path)
	}
	start := o.Time()
	s, err := gitrepo.ReadState(ctx, path, o.Home)
	if errors.Is(err, gitrepo.ErrNoGit) || errors.Is(err, gitrepo.ErrNoRemote) {
		return s, fmt.Errorf("%w, or pass --no-repo", err)
	}
	if err == nil && o.Time().Sub(start) > slowDiff {
		o.Say(o.Paint(term.Warning, "Collecting the changes of the repository took long. Commit and push large files, or add them to .gitignore, to start faster."))
	}
	return s, err
}

// initRepo tells the server about the repository, unless it has it with credentials of this user.
func (o Options) initRepo(ctx context.Context, c *program.Conn, u gitrepo.URL) error {
	head, err := c.GetRepo(ctx, c.Project, api.GetRepoRequest{RepoID: u.ID(), IncludeCreds: true})
	known := err == nil
	if err != nil && !program.NotFound(err) {
		return err
	}
	if known && head.RepoCreds != nil && o.Repo.Token == "" && o.Repo.Identity == "" {
		return nil
	}
	given := gitrepo.Given{IdentityFile: o.Repo.Identity, Token: o.Repo.Token}
	if known && head.RepoCreds != nil {
		given.Stored = storedCreds(*head.RepoCreds)
	}
	return InitRepo(ctx, o.Program, c, u, given)
}

// InitRepo finds credentials for a repository and stores them on the server.
func InitRepo(ctx context.Context, p *program.Program, c *program.Conn, u gitrepo.URL, given gitrepo.Given) error {
	creds, err := gitrepo.FindCreds(ctx, u, p.Home, given)
	if err != nil {
		return err
	}
	return c.InitRepo(ctx, c.Project, api.InitRepoRequest{
		RepoID:   u.ID(),
		RepoInfo: api.RepoInfo{RepoType: "remote", RepoName: some(u.Name())},
		RepoCreds: &api.RepoCreds{
			CloneURL: creds.CloneURL, PrivateKey: some(creds.PrivateKey), OAuthToken: some(creds.Token),
		},
	})
}

func storedCreds(c api.RepoCreds) *gitrepo.Creds {
	out := gitrepo.Creds{CloneURL: c.CloneURL}
	if c.PrivateKey != nil {
		out.PrivateKey = *c.PrivateKey
	}
	if c.OAuthToken != nil {
		out.Token = *c.OAuthToken
	}
	return &out
}

func some(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
