package server

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
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
	configs  map[ledger.Account]any
	open     map[ledger.Account]backend.Backend
}

func newClouds(dir string, log *slog.Logger, types ...backend.Type) *clouds {
	c := &clouds{dir: dir, log: log, types: map[string]backend.Type{}, configs: map[ledger.Account]any{}, open: map[ledger.Account]backend.Backend{}}
	for _, t := range types {
		c.types[t.Name] = t
	}
	return c
}

// add configures a backend of a project. One that this build does not have is left out
// with a warning, so that the others work.
func (c *clouds) add(p project.Project, settings map[string]any) error {
	name, _ := settings["type"].(string)
	t, ok := c.types[name]
	if !ok {
		c.log.Warn("this server has no such backend; it is left out", "project", p.Name, "backend", name)
		return nil
	}
	cfg := t.New()
	if err := t.Validate(cfg); err != nil {
		return fmt.Errorf("project %s: backend %s: %w", p.Name, name, err)
	}
	a := ledger.Account{ProjectID: p.ID, Backend: name}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.configs[a]; again {
		return nil
	}
	c.accounts, c.configs[a] = append(c.accounts, a), cfg
	return nil
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
