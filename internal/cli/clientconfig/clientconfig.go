// Package clientconfig reads and writes what the client keeps in ~/.dstack: the configured projects in config.yml.
//
// Tests give it a directory of their own.
package clientconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v4"
)

// maxSize bounds config.yml, in bytes.
const maxSize = 1 << 20

// A Project is one entry of config.yml. Fields are in the order in which they are written.
type Project struct {
	Default bool   `yaml:"default"`
	Name    string `yaml:"name"`
	Token   string `yaml:"token"`
	URL     string `yaml:"url"`
}

type file struct {
	Projects []Project `yaml:"projects"`
}

// Dir is the directory of client data, usually ~/.dstack.
type Dir string

// Path of config.yml.
func (d Dir) Path() string { return filepath.Join(string(d), "config.yml") }

// SSH is the directory of keys and of the generated SSH configuration.
func (d Dir) SSH() string { return filepath.Join(string(d), "ssh") }

// An InvalidError says that config.yml exists and cannot be used.
type InvalidError struct {
	Path string
	Err  error
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%s is not valid: %v\nMend it, or add your projects again with `dstack project add`, which keeps this file as %s",
		e.Path, e.Err, filepath.Base(keptPath(e.Path)))
}

func (e *InvalidError) Unwrap() error { return e.Err }

// keptPath is where an invalid file is kept that is replaced: it may hold the only copy of a token.
func keptPath(path string) string { return path + ".invalid" }

// Load returns the configured projects; a missing file means none.
// With an [InvalidError] it also returns an empty list, so that the caller may warn and go on.
func (d Dir) Load() ([]Project, error) {
	data, err := os.ReadFile(d.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read client configuration: %w", err)
	}
	if len(data) > maxSize {
		return nil, &InvalidError{d.Path(), fmt.Errorf("larger than %d bytes", maxSize)}
	}
	var f file
	if err := yaml.Unmarshal(data, &f); err != nil {
		return nil, &InvalidError{d.Path(), err}
	}
	for _, p := range f.Projects {
		if p.Name == "" || p.URL == "" || p.Token == "" {
			return nil, &InvalidError{d.Path(), errors.New("each project needs name, url and token")}
		}
	}
	return f.Projects, nil
}

// Update changes the projects under a lock that other processes respect, and replaces the file in one step.
// An invalid file counts as empty; it is kept beside the new one.
func (d Dir) Update(change func([]Project) []Project) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("create client directory: %w", err)
	}
	return WithLock(d.Path()+".lock", func() error {
		ps, err := d.Load()
		if _, invalid := errors.AsType[*InvalidError](err); invalid {
			err = os.Rename(d.Path(), keptPath(d.Path()))
		}
		if err != nil {
			return fmt.Errorf("update client configuration: %w", err)
		}
		var buf bytes.Buffer
		enc := yaml.NewEncoder(&buf)
		enc.SetIndent(2)
		enc.CompactSeqIndent()
		if err := enc.Encode(file{Projects: change(ps)}); err != nil {
			return fmt.Errorf("encode client configuration: %w", err)
		}
		return WriteFile(d.Path(), buf.Bytes(), 0o600)
	})
}

// Find returns the project with that name, or the default one if name is empty.
func Find(ps []Project, name string) (Project, bool) {
	for _, p := range ps {
		if name != "" && p.Name == name || name == "" && p.Default {
			return p, true
		}
	}
	return Project{}, false
}

// Put adds p, or replaces the entry with its name, which stays default unless another one becomes it.
// The only entry is always the default.
func Put(ps []Project, p Project) []Project {
	out := make([]Project, 0, len(ps)+1)
	found := false
	for _, q := range ps {
		if p.Default {
			q.Default = false
		}
		if q.Name == p.Name && !found {
			found = true
			q = Project{Default: p.Default || q.Default, Name: p.Name, URL: p.URL, Token: p.Token}
		}
		out = append(out, q)
	}
	if !found {
		p.Default = p.Default || len(ps) == 0
		out = append(out, p)
	}
	return out
}

// SetDefault makes the named project the only default and reports whether it exists.
func SetDefault(ps []Project, name string) bool {
	if _, ok := Find(ps, name); !ok || name == "" {
		return false
	}
	for i := range ps {
		ps[i].Default = ps[i].Name == name
	}
	return true
}

// Remove deletes the entries with that name. No new default is chosen.
func Remove(ps []Project, name string) []Project {
	out := ps[:0:0]
	for _, p := range ps {
		if p.Name != name {
			out = append(out, p)
		}
	}
	return out
}
