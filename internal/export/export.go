// Package export owns what projects share with each other: an export lists SSH fleets and
// gateways of one project, and each project that imports it may use them. Jobs of importers
// run on the exporter's hosts; who loses an import loses the jobs there.
//
// It lies below the packages of the shared objects, which ask it who may use them.
package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/project"
	"dstack/internal/store"
)

// freedKind is the engine's name for projects whose capacity others may wait for.
const freedKind = "shared capacity"

// Config is what New needs; all fields are required.
type Config struct {
	DB       *store.DB
	Engine   *engine.Engine
	Projects *project.Service
	// Find returns the objects of a project that have the names, and refuses those that are
	// not there or cannot be shared.
	Find func(ctx context.Context, q store.Querier, kind Kind, p project.Project, names []string) ([]string, error)
	// Lost is told, in the transaction, that a project may not use an object any more.
	Lost func(ctx context.Context, tx *store.Tx, kind Kind, projectID, objectID string) error
	// Usable is called after a commit that lets a project's jobs use more.
	Usable func(projectID string)
}

// Service creates, changes and deletes exports and imports.
type Service struct {
	Config
	// news counts the exports that were made, as far as this replica heard; none is its value
	// when there was no export at all, so that a server without exports asks for them once.
	news, none atomic.Int64
}

// newsTopic is what replicas tell each other of new exports.
const newsTopic = "export created"

// New returns a Service and registers with the engine what tells importers of capacity.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Engine == nil || c.Projects == nil || c.Find == nil || c.Lost == nil || c.Usable == nil {
		return nil, errors.New("export: every field of Config is required")
	}
	s := &Service{Config: c}
	s.none.Store(-1)
	c.Engine.Hear(newsTopic, func(string) { s.news.Add(1) })
	c.Engine.Register(engine.Kind{Name: freedKind, Workers: 2, Reconcile: s.tell,
		Live: func(context.Context, store.Querier, []int) ([]string, error) { return nil, nil }}) // what is missed, the queues find: they look every few minutes while somebody waits
	return s, nil
}

// Freed is told that instances of a project can take jobs: importers may wait for them.
func (s *Service) Freed(projectID string) {
	if s.none.Load() != s.news.Load() {
		s.Engine.Wake(freedKind, projectID)
	}
}

func (s *Service) tell(ctx context.Context, it engine.Item) (time.Time, error) {
	heard := s.news.Load()
	importers, err := ids(ctx, s.DB.Read(), selectProjectsUsing, it.ID)
	for _, id := range importers {
		s.Usable(id)
	}
	if err != nil || len(importers) > 0 {
		return time.Time{}, err
	}
	exists, err := some(ctx, s.DB.Read(), anyExport)
	if err == nil && !exists {
		s.none.Store(heard)
	}
	return time.Time{}, err
}

// List returns a project's exports, newest first.
func (s *Service) List(ctx context.Context, sc project.Scope, _ struct{}) ([]api.Export, error) {
	return views(ctx, s.DB.Read(), "project_id = $1", sc.Project.ID)
}

func (s *Service) view(ctx context.Context, id string) (api.Export, error) {
	list, err := views(ctx, s.DB.Read(), "id = $1", id)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("export %s: %w", id, store.ErrConflict)
	}
	if err != nil {
		return api.Export{}, err
	}
	return list[0], nil
}

// Create shares fleets and gateways.
func (s *Service) Create(ctx context.Context, sc project.Scope, r api.CreateExportRequest) (api.Export, error) {
	if err := config.CheckName(r.Name); err != nil {
		return api.Export{}, api.Invalid("%v", err)
	}
	if r.IsGlobal && len(r.ImporterProjects) > 0 {
		return api.Export{}, api.Invalid("A global export is imported by all projects and cannot have importers of its own")
	}
	if err := mayMakeGlobal(sc, r.IsGlobal); err != nil {
		return api.Export{}, err
	}
	e := row{id: uuid.NewString(), projectID: sc.Project.ID, name: r.Name}
	err := s.change(ctx, sc, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO export (id, project_id, name, created_at) VALUES ($1, $2, $3, $4)`, e.id, e.projectID, e.name, store.Micros(time.Now()))
		if err != nil {
			return err
		}
		if err := s.add(ctx, tx, sc, e, Fleets, r.ExportedFleets); err != nil {
			return err
		}
		if err := s.add(ctx, tx, sc, e, Gateways, r.ExportedGateways); err != nil {
			return err
		}
		if err := record(ctx, tx, sc, fmt.Sprintf("Export '%s' created", e.name), sc.Project); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Tell(newsTopic, e.id) })
		if r.IsGlobal {
			return s.makeGlobal(ctx, tx, sc, e)
		}
		return s.addImporters(ctx, tx, sc, e, r.ImporterProjects)
	})
	if store.Constraint(err) == "export_project_id_name_key" {
		return api.Export{}, api.Exists("")
	}
	if err != nil {
		return api.Export{}, err
	}
	return s.view(ctx, e.id)
}

// Update changes what is shared, and with whom: all that is asked for or nothing.
func (s *Service) Update(ctx context.Context, sc project.Scope, r api.UpdateExportRequest) (api.Export, error) {
	if err := consistent(r); err != nil {
		return api.Export{}, err
	}
	var e row
	err := s.change(ctx, sc, func(tx *store.Tx) (err error) {
		if e, err = s.get(ctx, tx, sc.Project, r.Name); err != nil {
			return err
		}
		if err := mayMakeGlobal(sc, r.SetGlobal); err != nil {
			return err
		}
		importers := len(r.AddImporterProjects)+len(r.RemoveImporterProjects) > 0
		switch {
		case e.global && importers:
			return api.Invalid("Export '%s' is global: it is imported by all projects, importers cannot be added or removed", e.name)
		case e.global && r.SetGlobal:
			return api.Invalid("Export '%s' is already global", e.name)
		case !e.global && r.UnsetGlobal:
			return api.Invalid("Export '%s' is not global", e.name)
		}
		return s.update(ctx, tx, sc, e, r)
	})
	if err != nil {
		return api.Export{}, err
	}
	return s.view(ctx, e.id)
}

func (s *Service) update(ctx context.Context, tx *store.Tx, sc project.Scope, e row, r api.UpdateExportRequest) error {
	for _, do := range []func() error{
		func() error { return s.remove(ctx, tx, sc, e, Fleets, r.RemoveExportedFleets) },
		func() error { return s.remove(ctx, tx, sc, e, Gateways, r.RemoveExportedGateways) },
		func() error { return s.add(ctx, tx, sc, e, Fleets, r.AddExportedFleets) },
		func() error { return s.add(ctx, tx, sc, e, Gateways, r.AddExportedGateways) },
		func() error { return s.removeImporters(ctx, tx, sc, e, r.RemoveImporterProjects) },
		func() error { return s.addImporters(ctx, tx, sc, e, r.AddImporterProjects) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	if r.SetGlobal {
		if err := s.makeGlobal(ctx, tx, sc, e); err != nil {
			return err
		}
	}
	if r.UnsetGlobal { // those who import it go on
		if _, err := tx.ExecContext(ctx, `UPDATE export SET is_global = FALSE, version = `+store.NextVersion+` WHERE id = $1`, e.id); err != nil {
			return err
		}
	}
	return record(ctx, tx, sc, fmt.Sprintf("Export '%s' updated. Updated fields: %s", e.name, strings.Join(fields(r), ", ")), sc.Project)
}

// fields names what an update changes, as an export shows it.
func fields(r api.UpdateExportRequest) []string {
	var list []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"is_global", r.SetGlobal || r.UnsetGlobal}, {"imports", len(r.AddImporterProjects)+len(r.RemoveImporterProjects) > 0},
		{"exported_fleets", len(r.AddExportedFleets)+len(r.RemoveExportedFleets) > 0}, {"exported_gateways", len(r.AddExportedGateways)+len(r.RemoveExportedGateways) > 0},
	} {
		if f.set {
			list = append(list, f.name)
		}
	}
	return list
}

// consistent refuses requests that ask for nothing or contradict themselves.
func consistent(r api.UpdateExportRequest) error {
	switch {
	case r.SetGlobal && r.UnsetGlobal:
		return api.Invalid("Cannot set and unset global at the same time")
	case len(fields(r)) == 0:
		return api.Invalid("No changes specified")
	case (r.SetGlobal || r.UnsetGlobal) && len(r.AddImporterProjects)+len(r.RemoveImporterProjects) > 0:
		return api.Invalid("Cannot change importers and set or unset global at the same time")
	}
	for _, c := range []struct {
		what        string
		add, remove []string
		same        func(string) string
	}{
		{"project", r.AddImporterProjects, r.RemoveImporterProjects, strings.ToLower},
		{"fleet", r.AddExportedFleets, r.RemoveExportedFleets, strings.TrimSpace},
		{"gateway", r.AddExportedGateways, r.RemoveExportedGateways, strings.TrimSpace},
	} {
		remove := map[string]bool{}
		for _, name := range c.remove {
			remove[c.same(name)] = true
		}
		for _, name := range c.add {
			if remove[c.same(name)] {
				return api.Invalid("Cannot add and remove the %s '%s' at the same time", c.what, name)
			}
		}
	}
	return nil
}

// mayMakeGlobal refuses what only global admins may do.
func mayMakeGlobal(sc project.Scope, asked bool) error {
	if asked && !sc.User.Admin() {
		return &api.Error{Kind: api.KindForbidden, Msg: "Only global admins can make the export global"}
	}
	return nil
}

// Delete shares no longer.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.NameRequest) (*struct{}, error) {
	return nil, s.change(ctx, sc, func(tx *store.Tx) error {
		e, err := s.get(ctx, tx, sc.Project, r.Name)
		if err != nil {
			return err
		}
		if err := drop(ctx, tx, e.id); err != nil {
			return err
		}
		return record(ctx, tx, sc, fmt.Sprintf("Export '%s' deleted", e.name), sc.Project)
	})
}

func drop(ctx context.Context, tx *store.Tx, id string) error {
	for _, text := range []string{`DELETE FROM import WHERE export_id = $1`, `DELETE FROM export_item WHERE export_id = $1`, `DELETE FROM export WHERE id = $1`} {
		if _, err := tx.ExecContext(ctx, text, id); err != nil {
			return fmt.Errorf("delete an export: %w", err)
		}
	}
	return nil
}

// get finds an export of a project by its name.
func (s *Service) get(ctx context.Context, q store.Querier, p project.Project, name string) (row, error) {
	e, err := find(ctx, q, p.ID, name)
	if errors.Is(err, store.ErrNotFound) {
		return row{}, api.NotExists("Export '%s' not found in project '%s'", name, p.Name)
	}
	return e, err
}

// change runs fn, which changes exports of a project, in a transaction, and tells those who
// may use less or more after it.
func (s *Service) change(ctx context.Context, sc project.Scope, fn func(tx *store.Tx) error) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error { return s.within(ctx, tx, sc.Project.ID, func() error { return fn(tx) }) })
}

// within is the part of change inside a transaction.
func (s *Service) within(ctx context.Context, tx *store.Tx, projectID string, fn func() error) error {
	before, err := uses(ctx, tx, projectID)
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	after, err := uses(ctx, tx, projectID)
	if err != nil {
		return err
	}
	for u := range before {
		if after[u] {
			continue
		}
		if err := s.Lost(ctx, tx, u.kind, u.project, u.object); err != nil {
			return err
		}
	}
	more := map[string]bool{}
	for u := range after {
		if !before[u] {
			more[u.project] = true
		}
	}
	tx.OnCommit(func() {
		for id := range more {
			s.Usable(id)
		}
	})
	return nil
}

// record writes an entry about projects.
func record(ctx context.Context, tx *store.Tx, sc project.Scope, text string, projects ...project.Project) error {
	e := sc.Actor(event.Event{Message: text})
	for _, p := range projects {
		e.Targets = append(e.Targets, event.Target{Type: api.EventTargetProject, ID: p.ID, Name: p.Name, ProjectID: p.ID})
	}
	return event.Record(ctx, tx, e)
}
