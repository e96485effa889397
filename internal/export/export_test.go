package export

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/event"
	"dstack/internal/project"
	"dstack/internal/project/projecttest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// world is a running server with projects, whose every fleet can be shared.
type world struct {
	*Service
	scopes map[string]project.Scope

	mu     sync.Mutex
	usable []string // projects that were told
	lost   []string // project/object
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		w := &world{scopes: map[string]project.Scope{}}
		log := slog.New(slog.DiscardHandler)
		projects := projecttest.New(t, db, project.Config{
			Created: func(ctx context.Context, tx *store.Tx, p project.Project) error { return w.Created(ctx, tx, p) },
			Deleted: func(ctx context.Context, tx *store.Tx, p project.Project) error { return w.Deleted(ctx, tx, p) },
		})
		e, err := engine.New(engine.Config{DB: db, Log: log, Owner: "x", Bus: &enginetest.Bus{}, Drain: time.Millisecond})
		check(t, err)
		w.Service, err = New(Config{DB: db, Engine: e, Projects: projects.Service,
			Find: func(_ context.Context, _ store.Querier, _ Kind, _ project.Project, names []string) ([]string, error) {
				return names, nil // named by their ids
			},
			Lost: func(_ context.Context, _ *store.Tx, _ Kind, projectID, objectID string) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.lost = append(w.lost, w.name(projectID)+"/"+objectID)
				return nil
			},
			Usable: func(projectID string) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.usable = append(w.usable, w.name(projectID))
			}})
		check(t, err)
		for _, name := range []string{"lab", "team", "guest"} {
			w.scopes[name] = projects.Scope(t, name)
		}
		enginetest.Start(t, e)
		synctest.Wait()
		fn(t, w)
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) name(id string) string {
	for name, sc := range w.scopes {
		if sc.Project.ID == id {
			return name
		}
	}
	return id
}

// told returns who was told of capacity and who lost what since the last time.
func (w *world) told() (usable, lost []string) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	usable, lost = w.usable, w.lost
	w.usable, w.lost = nil, nil
	slices.Sort(usable)
	slices.Sort(lost)
	return usable, lost
}

// Who may use more is told of it, and who may use less loses it: exactly those.
func TestEffects(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, lab := t.Context(), w.scopes["lab"]
		create := func(name string, importers []string, fleets ...string) func() error {
			return func() error {
				_, err := w.Create(ctx, lab, api.CreateExportRequest{Name: name, ImporterProjects: importers, ExportedFleets: fleets})
				return err
			}
		}
		update := func(r api.UpdateExportRequest) func() error {
			return func() error { _, err := w.Update(ctx, lab, r); return err }
		}
		for _, c := range []struct {
			what         string
			do           func() error
			usable, lost []string
		}{
			{"an export of nothing", create("empty", []string{"team"}), nil, nil},
			{"a shared fleet", create("one", []string{"team"}, "f1"), []string{"team"}, nil},
			{"it again", create("two", []string{"team", "guest"}, "f1"), []string{"guest"}, nil},
			{"one more fleet", update(api.UpdateExportRequest{Name: "empty", AddExportedFleets: []string{"f2"}}), []string{"team"}, nil},
			{"one way less", update(api.UpdateExportRequest{Name: "one", RemoveExportedFleets: []string{"f1"}}), nil, nil},
			{"the other way, too", update(api.UpdateExportRequest{Name: "two", RemoveImporterProjects: []string{"team"}}), nil, []string{"team/f1"}},
			{"for all", update(api.UpdateExportRequest{Name: "empty", SetGlobal: true}), []string{"guest"}, nil},
			{"not for all to come", update(api.UpdateExportRequest{Name: "empty", UnsetGlobal: true}), nil, nil},
			{"freed capacity", func() error { w.Freed(lab.Project.ID); return nil }, []string{"guest", "team"}, nil},
			{"freed capacity of others", func() error { w.Freed(w.scopes["team"].Project.ID); return nil }, nil, nil},
			{"an import given back", func() error {
				_, err := w.DeleteImport(ctx, w.scopes["guest"], api.DeleteImportRequest{ExportName: "empty", ExportProjectName: "lab"})
				return err
			}, nil, []string{"guest/f2"}},
			{"the project deleted", func() error {
				_, err := w.Projects.Delete(ctx, lab.User, api.DeleteProjectsRequest{ProjectsNames: []string{"lab"}})
				return err
			}, nil, []string{"guest/f1", "team/f2"}},
		} {
			if err := c.do(); err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			usable, lost := w.told()
			if diff := cmp.Diff(c.usable, usable); diff != "" {
				t.Errorf("%s: told of capacity (-want +got):\n%s", c.what, diff)
			}
			if diff := cmp.Diff(c.lost, lost); diff != "" {
				t.Errorf("%s: lost (-want +got):\n%s", c.what, diff)
			}
		}
	})
}

// A server without exports asks for them once, and hears of the first.
func TestFreedWithoutExports(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		lab := w.scopes["lab"]
		passes := func() int64 {
			for _, s := range w.Engine.Stats() {
				if s.Kind == freedKind {
					return s.Passes
				}
			}
			return 0
		}
		for range 3 {
			w.Freed(lab.Project.ID)
			synctest.Wait()
		}
		if n := passes(); n != 1 {
			t.Errorf("%d passes, want 1", n)
		}
		_, err := w.Create(t.Context(), lab, api.CreateExportRequest{Name: "one", ImporterProjects: []string{"team"}, ExportedFleets: []string{"f1"}})
		check(t, err)
		w.told()
		w.Freed(lab.Project.ID)
		if usable, _ := w.told(); len(usable) != 1 {
			t.Errorf("told %v, want team", usable)
		}
	})
}

// Every change is in the audit log of the projects that it concerns.
func TestEvents(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		lab, team := w.scopes["lab"], w.scopes["team"]
		_, err := w.Create(t.Context(), lab, api.CreateExportRequest{Name: "one", ImporterProjects: []string{"team"}})
		check(t, err)
		_, err = w.Update(t.Context(), lab, api.UpdateExportRequest{Name: "one", AddExportedFleets: []string{"f1"}, RemoveImporterProjects: []string{"team"}})
		check(t, err)
		_, err = w.Delete(t.Context(), lab, api.NameRequest{Name: "one"})
		check(t, err)
		for project, want := range map[string][]string{
			lab.Project.ID:  {"Export 'one' created", "Export 'one' deleted", "Export 'one' updated. Updated fields: imports, exported_fleets", "Project created"},
			team.Project.ID: {"Import of 'lab/one' added", "Import of 'lab/one' removed", "Project created"},
		} {
			list, err := event.List(t.Context(), w.DB.Read(), event.Viewer{Admin: true}, api.ListEventsRequest{TargetProjects: []string{project}})
			check(t, err)
			var got []string
			for _, e := range list {
				got = append(got, e.Message)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("events of %s (-want +got):\n%s", w.name(project), diff)
			}
		}
	})
}
