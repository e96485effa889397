// Package template reads the templates of the web interface from git repositories: YAML files
// in .dstack/templates.
package template

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"
	"go.yaml.in/yaml/v4"

	"dstack/internal/api"
	"dstack/internal/config"
)

const (
	folder    = ".dstack/templates"
	freshFor  = 3 * time.Minute // how long what was read counts
	timeout   = 30 * time.Second
	maxFiles  = 200
	maxFile   = 64 << 10 // bytes
	maxCached = 100      // repositories
)

var errTimeout = errors.New("the repository did not answer in time")

// Repos reads templates and remembers them for a while. The zero value is ready; it is safe
// for concurrent use.
type Repos struct {
	mu    sync.Mutex
	known map[string]*read
}

// read is what a repository had.
type read struct {
	mu        sync.Mutex // held while the repository is read
	at        time.Time
	templates []api.UITemplate
}

// List returns the templates of a repository, by the names of their files. Files that are no
// templates are left out.
func (r *Repos) List(ctx context.Context, repo string) ([]api.UITemplate, error) {
	e := r.entry(repo)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.templates != nil && time.Since(e.at) < freshFor {
		return e.templates, nil
	}
	list, err := fetch(ctx, repo)
	if err != nil {
		return nil, fmt.Errorf("read the templates of %s: %w", repo, err)
	}
	e.at, e.templates = time.Now(), list
	return list, nil
}

func (r *Repos) entry(repo string) *read {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.known[repo]
	if e == nil {
		if r.known == nil || len(r.known) >= maxCached {
			r.known = map[string]*read{}
		}
		e = &read{}
		r.known[repo] = e
	}
	return e
}

// Check says whether a repository can be read.
func Check(ctx context.Context, repo string) error {
	if err := remote(repo); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	_, err := git.NewRemote(memory.NewStorage(), &gitconfig.RemoteConfig{Name: "origin", URLs: []string{repo}}).ListContext(ctx, &git.ListOptions{})
	return err
}

// remote refuses what would read this machine's own files.
func remote(repo string) error {
	if user, rest, ok := strings.Cut(repo, "@"); ok && !strings.Contains(user, "/") && strings.Contains(rest, ":") {
		return nil // git@host:path
	}
	u, err := url.Parse(repo)
	if err != nil || u.Host == "" || !slices.Contains([]string{"https", "http", "ssh", "git"}, u.Scheme) {
		return errors.New("write the URL of a repository: https://host/path")
	}
	return nil
}

// fetch copies the newest state of a repository to a folder that is removed again.
func fetch(ctx context.Context, repo string) ([]api.UITemplate, error) {
	if err := remote(repo); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "dstack-templates-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	cloned, err := git.PlainCloneContext(ctx, dir, true, &git.CloneOptions{URL: repo, Depth: 1, SingleBranch: true, Tags: git.NoTags})
	if err != nil {
		return nil, err
	}
	head, err := cloned.Head()
	if err != nil {
		return nil, err
	}
	commit, err := cloned.CommitObject(head.Hash())
	if err != nil {
		return nil, err
	}
	tree, err := commit.Tree()
	if err != nil {
		return nil, err
	}
	return inTree(tree)
}

func inTree(root *object.Tree) ([]api.UITemplate, error) {
	list := []api.UITemplate{}
	tree, err := root.Tree(folder)
	if errors.Is(err, object.ErrDirectoryNotFound) {
		return list, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range tree.Entries { // by name
		if ext := path.Ext(entry.Name); !entry.Mode.IsFile() || ext != ".yml" && ext != ".yaml" || len(list) == maxFiles {
			continue
		}
		f, err := tree.TreeEntryFile(&entry)
		if err != nil {
			return nil, err
		}
		data, err := text(f)
		if err != nil {
			return nil, err
		}
		if t, ok := parse(data); ok {
			list = append(list, t)
		}
	}
	return list, nil
}

// text is a file's content, cut off after what no template needs.
func text(f *object.File) ([]byte, error) {
	r, err := f.Reader()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxFile+1))
}

// parse reads a template, false when the text is none.
func parse(data []byte) (api.UITemplate, bool) {
	var doc map[string]any
	if len(data) > maxFile || yaml.Unmarshal(data, &doc) != nil {
		return api.UITemplate{}, false
	}
	written, err := json.Marshal(doc)
	if err != nil {
		return api.UITemplate{}, false
	}
	t := api.UITemplate{Parameters: []api.UITemplateParameter{}}
	if config.DecodeJSON(written, &t) != nil {
		return api.UITemplate{}, false
	}
	for _, p := range t.Parameters {
		if p.Type != "env" && (p.Title != nil || p.Name != nil || p.Value != nil) {
			return api.UITemplate{}, false
		}
	}
	return t, true
}
