package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog"
	"dstack/internal/catalog/collect"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/version"
)

// clouds are the configured backends of all projects, opened when they are needed.
type clouds struct {
	dir       string
	log       *slog.Logger
	types     map[string]backend.Type
	endpoints map[string]string // by type: where its API is instead
	transport http.RoundTripper // that all of them share
	prices    *catalog.Prices   // for those that need them
	mu        sync.Mutex
	accounts  []ledger.Account
	written   map[ledger.Account]settings
	configs   map[ledger.Account]any
	open      map[ledger.Account]backend.Backend // all comparable
	sealed    map[ledger.Account]string          // those that are stored in the database
}

// newClouds takes the endpoints of the types from the environment.
func newClouds(dir string, log *slog.Logger, env func(string) string, types ...backend.Type) (*clouds, error) {
	c := &clouds{
		dir: dir, log: log, types: map[string]backend.Type{}, endpoints: map[string]string{},
		transport: backend.NewTransport(backend.TransportConfig{Log: log, Version: version.Version}),
		written:   map[ledger.Account]settings{}, configs: map[ledger.Account]any{}, open: map[ledger.Account]backend.Backend{},
		sealed: map[ledger.Account]string{},
	}
	var err error
	if c.prices, err = catalog.NewPrices(catalog.PricesConfig{Shelf: collect.Shelf{Dir: filepath.Join(dir, "catalog")}, Transport: c.transport, Env: env, Log: log}); err != nil {
		return nil, err
	}
	for _, t := range types {
		endpoint, err := t.Endpoint(env)
		if err != nil {
			return nil, err
		}
		if endpoint != "" {
			log.Warn("the API of a backend is replaced", "backend", t.Name, "endpoint", endpoint)
		}
		c.types[t.Name], c.endpoints[t.Name] = t, endpoint
	}
	return c, nil
}

// decodeSettings reads a backend's configuration as it was written. loc begins the paths of
// errors.
func decodeSettings(t backend.Type, written settings, loc ...any) (any, error) {
	fields := maps.Clone(written)
	delete(fields, "type")
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encode the configuration: %w", err)
	}
	return t.Decode(data, loc...)
}

// checkTimeout bounds the question whether credentials work, in which somebody waits.
const checkTimeout = 20 * time.Second

// errUnchecked says that a provider could not be asked about credentials.
var errUnchecked = errors.New("the provider does not say whether it takes these credentials")

// check reads a configuration, asks the provider whether it takes its credentials and returns
// the backend, which is not in use. loc begins the paths of errors about the form.
func (c *clouds) check(ctx context.Context, written settings, loc ...any) (backend.Backend, error) {
	t := c.types[written.backend()]
	cfg, err := decodeSettings(t, written, loc...)
	if err != nil {
		return nil, err
	}
	b, err := c.start(ctx, t, cfg)
	if err != nil {
		return nil, err
	}
	checker, ok := b.(backend.CheckBackend)
	if !ok {
		return b, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errors.New("no answer in time"))
	defer cancel()
	err = checker.Check(ctx)
	_, invalid := errors.AsType[*backend.InvalidError](err)
	if err == nil || invalid || errors.Is(err, backend.ErrAuth) {
		return b, err
	}
	return nil, fmt.Errorf("%w: %w", errUnchecked, err)
}

func (c *clouds) start(ctx context.Context, t backend.Type, cfg any) (backend.Backend, error) {
	return t.Open(ctx, cfg, backend.Deps{Transport: c.transport, Endpoint: c.endpoints[t.Name], Prices: c.prices, Log: c.log, Dir: filepath.Join(c.dir, t.Name)})
}

// add configures a backend of a project, which is stored as the sealed text, "" for one of config.yml.
// One that this build does not have is left out with a warning, so that the others work.
func (c *clouds) add(p project.Project, written settings, sealed string) error {
	name := written.backend()
	t, ok := c.types[name]
	if !ok {
		c.log.Warn("this server has no such backend; it is left out", "project", p.Name, "backend", name)
		return nil
	}
	cfg, err := decodeSettings(t, written)
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
	if sealed != "" {
		c.sealed[a] = sealed
	}
	c.prices.Use(a, t.Variables(cfg))
	return nil
}

// HasBackend says that some project has a backend of this name.
func (s *Server) HasBackend(name string) bool {
	accounts, err := s.clouds.Accounts(context.Background())
	return err == nil && slices.ContainsFunc(accounts, func(a ledger.Account) bool { return a.Backend == name })
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
	delete(c.sealed, a)
	c.prices.Use(a, nil)
}

// leave takes backends that a project gives up out of use, at once, and returns what has them remove
// what no sweep will remove any more. One that does not answer then is left as it is, since giving up
// has to work without it.
func (c *clouds) leave(ctx context.Context, projectID string, names ...string) (tidy func(ctx context.Context, serverID string)) {
	left := map[string]func(context.Context, string) error{}
	for _, name := range names {
		if !c.has(projectID, name) {
			continue
		}
		b, err := c.Backend(ctx, projectID, name)
		if t, ok := b.(backend.TidyBackend); ok && err == nil {
			left[name] = t.Tidy
		} else if err != nil {
			left[name] = func(context.Context, string) error { return err }
		}
		c.remove(projectID, name)
	}
	return func(ctx context.Context, serverID string) {
		ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errors.New("no answer in time"))
		defer cancel()
		for name, tidy := range left {
			if err := tidy(ctx, serverID); err != nil {
				c.log.Warn("a removed backend may have left keys or the like behind", "project", projectID, "backend", name, "err", err)
			}
		}
	}
}

// uses says whether b is in use, and as which sealed text it is stored.
func (c *clouds) uses(a ledger.Account, b backend.Backend) (sealed string, used bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sealed[a], c.open[a] == b
}

// current says in a transaction whether b is in use here and stored as it is, so that no other server
// has changed or deleted it. What config.yml has is stored nowhere.
func (c *clouds) current(ctx context.Context, q store.Querier, a ledger.Account, b backend.Backend) (bool, error) {
	sealed, used := c.uses(a, b)
	if !used || sealed == "" {
		return used, nil
	}
	var stored string
	err := store.One(q.QueryRowContext(ctx, `SELECT sealed FROM backend_config WHERE project_id = $1 AND type = $2`, a.ProjectID, a.Backend).Scan(&stored))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether backend %s of project %s is stored: %w", a.Backend, a.ProjectID, err)
	}
	return stored == sealed, nil
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
	b, err := c.start(ctx, c.types[name], cfg)
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
