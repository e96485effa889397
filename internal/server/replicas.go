package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/store"
)

// What replicas tell each other beside the wake-ups of objects.
const (
	logTopic     = "log"     // output of a job was stored
	backendTopic = "backend" // the backends of a project changed
	accessTopic  = "access"  // users, or members of projects, changed
)

// backendSweep is the time between looks for backends that changed without this replica
// hearing of it.
const backendSweep = time.Minute

// hear connects what replicas tell each other with who wants to know.
func (s *Server) hear() {
	s.engine.Hear(logTopic, s.logs.Wake)
	s.engine.Hear(accessTopic, func(string) { s.proxy.AccessChanged() })
	s.engine.Hear(backendTopic, func(string) { s.backendsChanged() })
}

// backendsChanged has [Server.followBackends] look at once.
func (s *Server) backendsChanged() {
	select {
	case s.backendNews <- struct{}{}:
	default: // a look is due already
	}
}

// currentBackend is [ledger.Config.Current]. Where the answer is no, this server has not heard yet.
func (s *Server) currentBackend(ctx context.Context, q store.Querier, a ledger.Account, b backend.Backend) (bool, error) {
	current, err := s.clouds.current(ctx, q, a, b)
	if err == nil && !current {
		s.backendsChanged()
	}
	return current, err
}

// followBackends takes over what other replicas save and delete, until ctx ends, and has new
// backends asked what they offer before anybody wants to know.
func (s *Server) followBackends(ctx context.Context) error {
	tick := time.NewTicker(backendSweep)
	defer tick.Stop()
	for {
		if err := s.catalog.Warm(ctx); err != nil {
			s.Log.Warn("backends not asked for their first offers", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.backendNews:
		case <-tick.C:
		}
		if err := s.loadBackends(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("backends not read again, the next look will", "err", err)
		}
	}
}

// loadBackends takes the backends that are stored into use, but where the configuration file
// has one, which wins, and gives up those that are stored no more.
func (s *Server) loadBackends(ctx context.Context) error {
	rows, err := readBackends(ctx, s.db.Read())
	if err != nil {
		return err
	}
	gone := s.clouds.stored()
	for _, r := range rows {
		if gone[r.account] != r.sealed && (gone[r.account] != "" || !s.clouds.has(r.account.ProjectID, r.account.Backend)) {
			if err := s.loadBackend(ctx, r); err != nil {
				return err
			}
		}
		delete(gone, r.account)
	}
	for a := range gone {
		s.clouds.remove(a.ProjectID, a.Backend)
	}
	return nil
}

// loadBackend takes one into use. What makes it useless is logged, once as long as it stays so, and keeps no
// other from being used. One whose project is gone is of use still: only with it can be ended what was made there.
func (s *Server) loadBackend(ctx context.Context, r storedBackend) error {
	p, err := s.projects.ByID(ctx, s.db.Read(), r.account.ProjectID)
	gone := errors.Is(err, store.ErrNotFound)
	if gone {
		p = project.Project{ID: r.account.ProjectID, Name: r.account.ProjectID}
	} else if err != nil || p.Deleted {
		return err
	}
	log := s.Log.With("project", p.Name, "backend", r.account.Backend)
	if gone {
		log.Error("the project of a backend is gone: it stays in use for what was made there")
	}
	s.clouds.remove(r.account.ProjectID, r.account.Backend)
	s.clouds.note(r.account, r.sealed)
	data, err := s.box.Open(r.sealed)
	if err != nil {
		log.Error("a backend's credentials cannot be read: it is left out", "err", err)
		return nil
	}
	var c settings
	err = json.Unmarshal([]byte(data), &c)
	if err == nil && c.backend() != r.account.Backend {
		err = fmt.Errorf("it is of type %q", c.backend())
	}
	if err == nil {
		err = s.clouds.add(p, c, r.sealed)
	}
	if err != nil {
		log.Error("a backend's configuration cannot be used: it is left out", "err", err)
	}
	return nil
}

// note remembers that a backend is stored, as which sealed text.
func (c *clouds) note(a ledger.Account, sealed string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sealed[a] = sealed
}

// stored are the backends that are known from the database, with their sealed texts.
func (c *clouds) stored() map[ledger.Account]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sealed)
}
