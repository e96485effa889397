package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/project"
)

// clouds are the configured backends of all projects, opened when they are needed.
type clouds struct {
	dir      string
	log      *slog.Logger
	types    map[string]backend.Type
	mu       sync.Mutex
	accounts []ledger.Account
	written  map[ledger.Account]settings
	configs  map[ledger.Account]any
	open     map[ledger.Account]backend.Backend
}

func newClouds(dir string, log *slog.Logger, types ...backend.Type) *clouds {
	c := &clouds{dir: dir, log: log, types: map[string]backend.Type{}, written: map[ledger.Account]settings{}, configs: map[ledger.Account]any{}, open: map[ledger.Account]backend.Backend{}}
	for _, t := range types {
		c.types[t.Name] = t
	}
	return c
}

// add configures a backend of a project. One that this build does not have is left out
// with a warning, so that the others work.
func (c *clouds) add(p project.Project, written settings) error {
	name := written.backend()
	t, ok := c.types[name]
	if !ok {
		c.log.Warn("this server has no such backend; it is left out", "project", p.Name, "backend", name)
		return nil
	}
	fields := maps.Clone(written)
	delete(fields, "type")
	data, err := json.Marshal(fields)
	if err != nil {
		return fmt.Errorf("project %s: backend %s: %w", p.Name, name, err)
	}
	cfg, err := t.Decode(data)
	if err != nil {
		return fmt.Errorf("project %s: backend %s: %w", p.Name, name, err)
	}
	a := ledger.Account{ProjectID: p.ID, Backend: name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.configs[a]; !again {
		c.accounts = append(c.accounts, a)
	}
	c.configs[a], c.written[a] = cfg, written
	delete(c.open, a) // the next use opens it anew
	return nil
}

func (c *clouds) has(projectID, name string) bool {
	_, ok := c.settings(projectID, name)
	return ok
}

// settings is a backend's configuration as it was written.
func (c *clouds) settings(projectID, name string) (settings, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cfg, ok := c.written[ledger.Account{ProjectID: projectID, Backend: name}]
	return cfg, ok
}

func (c *clouds) remove(projectID, name string) {
	a := ledger.Account{ProjectID: projectID, Backend: name}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts = slices.DeleteFunc(c.accounts, func(b ledger.Account) bool { return a == b })
	delete(c.configs, a)
	delete(c.written, a)
	delete(c.open, a)
}

// Backend opens the backend of a project.
func (c *clouds) Backend(ctx context.Context, projectID, name string) (backend.Backend, error) {
	a := ledger.Account{ProjectID: projectID, Backend: name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.open[a]; ok {
		return b, nil
	}
	cfg, ok := c.configs[a]
	if !ok {
		return nil, fmt.Errorf("project %s has no backend %s", projectID, name)
	}
	b, err := c.types[name].Open(ctx, cfg, backend.Deps{Log: c.log, Dir: filepath.Join(c.dir, name)})
	if err != nil {
		return nil, err
	}
	c.open[a] = b
	return b, nil
}

// Accounts lists the configured backends.
func (c *clouds) Accounts(context.Context) ([]ledger.Account, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]ledger.Account(nil), c.accounts...), nil
}
