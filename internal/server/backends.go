package server

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/backend/local"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/store"
)

// settings is a backend's configuration with its credentials, as the project's
// administrators write it. It is stored sealed.
type settings map[string]any

func (c settings) backend() string {
	name, _ := c["type"].(string)
	if name == "datacrunch" { // renamed
		return "verda"
	}
	return name
}

// knownBackend says that a word names a backend, whether or not this build has it.
func knownBackend(name string) bool {
	return name == local.Name || slices.Contains(config.BackendWords(), name)
}

func unknownBackend(name string) string {
	return fmt.Sprintf("Input tag '%s' found using 'type' does not match any of the expected tags: '%s'", name, strings.Join(config.BackendWords(), "', '"))
}

// implemented finds what this build has of a backend.
func (s *Server) implemented(c settings) (backend.Type, error) {
	t, ok := s.clouds.types[c.backend()]
	if !ok {
		return t, api.BadRequest(api.CodeBackendNotAvailable, "Backend not available")
	}
	return t, nil
}

// saveBackend checks a configuration, stores it and takes it into use. loc begins the paths
// of errors about its form.
func (s *Server) saveBackend(ctx context.Context, sc project.Scope, c settings, create bool, loc ...any) error {
	if _, err := s.implemented(c); err != nil {
		return err
	}
	known := s.clouds.has(sc.Project.ID, c.backend())
	switch {
	case create && known:
		return api.Exists("")
	case !create && !known:
		return api.NotExists("")
	}
	b, err := s.clouds.check(ctx, c, loc...)
	if err != nil {
		return invalidBackend(err)
	}
	a := ledger.Account{ProjectID: sc.Project.ID, Backend: c.backend()}
	cover, err := s.cover(ctx, a, b)
	if err != nil {
		return err
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode the configuration: %w", err)
	}
	sealed, err := s.box.Seal(string(data))
	if err != nil {
		return err
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if err := covered(ctx, tx, a, cover); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `
INSERT INTO backend_config (project_id, type, sealed, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (project_id, type) DO UPDATE SET sealed = excluded.sealed`, sc.Project.ID, c.backend(), sealed, store.Micros(time.Now()))
		if err != nil {
			return err
		}
		verb := "updated"
		if create {
			verb = "created"
		}
		return event.Record(ctx, tx, sc.Event("Backend "+c.backend()+" "+verb))
	})
	if err != nil {
		return fmt.Errorf("store the backend: %w", err)
	}
	if err := s.clouds.add(sc.Project, c, sealed); err != nil {
		return err
	}
	s.engine.Tell(backendTopic, sc.Project.ID)
	s.ledger.Sweep(a)
	if c.backend() == local.Name {
		return s.fleets.EnsureLocal(ctx, sc)
	}
	return nil
}

// maxNamed bounds the resources that a refusal names.
const maxNamed = 5

// cover asks what credentials show of what exists.
func (s *Server) cover(ctx context.Context, a ledger.Account, b backend.Backend) (ledger.Cover, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errors.New("no answer in time"))
	defer cancel()
	c, err := s.ledger.Cover(ctx, a, b)
	if err != nil {
		return c, invalidBackend(fmt.Errorf("the provider does not say what exists with these credentials: %w", err))
	}
	return c, nil
}

// covered refuses credentials that do not show what exists and may cost money: with them nothing
// could be deleted any more. Something may be asked for with the present ones until others are stored,
// so it is for the transaction that does it.
func covered(ctx context.Context, tx *store.Tx, a ledger.Account, cover ledger.Cover) error {
	missed, err := cover.Missed(ctx, tx)
	if err != nil || len(missed) == 0 {
		return err
	}
	return api.Invalid("These credentials of backend %s seem to be of another account: they do not show what was made with the present ones and may cost money (%s). "+
		"Delete it first and wait until `dstack server doctor` shows it no more, or use credentials of the same account.", a.Backend, resources(missed))
}

// resources says which resources there are, for a refusal.
func resources(list []ledger.Record) string {
	var names []string
	for _, r := range list[:min(len(list), maxNamed)] {
		id := r.Instance().Ref.ID
		if id == "" {
			id = "asked for, its id is not known yet"
		}
		names = append(names, fmt.Sprintf("%s %s in %s", r.Kind, id, r.Region))
	}
	if more := len(list) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, "; ")
}

// invalidBackend makes the fields of a refused configuration known to the client.
func invalidBackend(err error) error {
	if _, ok := errors.AsType[*config.Errors](err); ok {
		return err
	}
	e := api.Invalid("%v", err)
	invalid, ok := errors.AsType[*backend.InvalidError](err)
	if ok {
		e.Msg = invalid.Msg
	}
	if ok && invalid.Path != "" {
		e.Msg, e.Fields = invalid.Error(), [][]string{strings.Split(invalid.Path, ".")}
	}
	if errors.Is(err, backend.ErrAuth) {
		e.Code, e.Msg = api.CodeInvalidCredentials, "Invalid credentials"
	}
	return e
}

// oneText says in one text what is wrong with the form, for requests that carry YAML.
func oneText(err error) error {
	if problems, ok := errors.AsType[*config.Errors](err); ok {
		return api.Invalid("%v", problems)
	}
	return err
}

// storedBackend is a configuration that was made over the API.
type storedBackend struct {
	account ledger.Account
	sealed  string
}

func readBackends(ctx context.Context, q store.Querier) ([]storedBackend, error) {
	var list []storedBackend
	rows, err := q.QueryContext(ctx, `SELECT project_id, type, sealed FROM backend_config ORDER BY created_at, type`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var b storedBackend
		err := rows.Scan(&b.account.ProjectID, &b.account.Backend, &b.sealed)
		list = append(list, b)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the backends: %w", err)
	}
	return list, nil
}

// yamlRequest carries a configuration as people write it.
type yamlRequest struct {
	ConfigYAML string `json:"config_yaml" cfg:"req"`
}

// parseBackend reads a configuration in YAML. Unlike elsewhere its problems come in one text.
func parseBackend(text string) (settings, error) {
	var c settings
	if err := config.DecodeYAML("", []byte(text), (*map[string]any)(&c)); err != nil || c == nil {
		return nil, api.Invalid("Error parsing YAML")
	}
	name, _ := c["type"].(string)
	if !knownBackend(name) {
		return nil, api.Invalid("%s", unknownBackend(name))
	}
	return c, nil
}

func (s *Server) createBackendYAML(ctx context.Context, sc project.Scope, r yamlRequest) (*struct{}, error) {
	c, err := parseBackend(r.ConfigYAML)
	if err != nil {
		return nil, err
	}
	return nil, oneText(s.saveBackend(ctx, sc, c, true, c.backend()))
}

func (s *Server) updateBackendYAML(ctx context.Context, sc project.Scope, r yamlRequest) (*struct{}, error) {
	c, err := parseBackend(r.ConfigYAML)
	if err != nil {
		return nil, err
	}
	if !s.clouds.has(sc.Project.ID, c.backend()) {
		return nil, api.NotExists("")
	}
	return nil, oneText(s.saveBackend(ctx, sc, c, false, c.backend()))
}

// saveBackendJSON returns the handler of create and update.
func saveBackendJSON(create bool) handler {
	return func(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
		var in settings
		if err := decode(w, r, (*map[string]any)(&in)); err != nil {
			return err
		}
		if !knownBackend(in.backend()) {
			return &config.Errors{Problems: []config.Problem{{Loc: []any{"body"}, Type: "union_tag_invalid",
				Msg: unknownBackend(in.backend())}}}
		}
		if err := s.saveBackend(r.Context(), c.Scope, in, create, "body", in.backend()); err != nil {
			return err
		}
		encode(w, http.StatusOK, in)
		return nil
	}
}

type deleteBackendsRequest struct {
	Names []api.BackendType `json:"backends_names" cfg:"req"`
}

func (s *Server) deleteBackends(ctx context.Context, sc project.Scope, r deleteBackendsRequest) (*struct{}, error) {
	for i, name := range r.Names {
		if !knownBackend(string(name)) {
			return nil, backendWordError(string(name), "body", "backends_names", i)
		}
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		for _, name := range r.Names {
			if err := s.unused(ctx, tx, sc.Project.ID, string(name)); err != nil {
				return err
			}
			err := store.Guarded(tx.ExecContext(ctx, `DELETE FROM backend_config WHERE project_id = $1 AND type = $2`, sc.Project.ID, name))
			if errors.Is(err, store.ErrConflict) {
				continue // there is none
			}
			if err == nil {
				err = event.Record(ctx, tx, sc.Event("Backend "+string(name)+" deleted"))
			}
			if err != nil {
				return fmt.Errorf("delete a backend: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	names := make([]string, len(r.Names))
	for i, name := range r.Names {
		names[i] = string(name)
	}
	tidy := s.clouds.leave(ctx, sc.Project.ID, names...)
	s.engine.Tell(backendTopic, sc.Project.ID)
	tidy(ctx, s.db.ServerID())
	return nil, nil
}

// unused refuses to delete a backend that is needed to end something. What is asked for meanwhile is
// seen by the transaction that deletes it, or sees it deleted ([ledger.Config.Current]).
func (s *Server) unused(ctx context.Context, tx *store.Tx, projectID, name string) error {
	var n int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM instance WHERE NOT deleted AND project_id = $1 AND backend = $2`, projectID, name).Scan(&n)
	if err != nil {
		return fmt.Errorf("look for instances: %w", err)
	}
	if n > 0 {
		return api.Invalid("Backend %s has active instances. Delete instances before deleting the backend.", name)
	}
	volumes, err := s.volumes.InBackend(ctx, tx, projectID, name)
	if err != nil {
		return err
	}
	if volumes {
		return api.Invalid("Backend %s has active volumes. Delete volumes before deleting the backend.", name)
	}
	left, err := s.ledger.Left(ctx, tx, projectID, name)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return api.Invalid("Backend %s has what may cost money and could not be ended without it (%s). "+
			"Wait until `dstack server doctor` shows it no more, or forget it there, before deleting the backend.", name, resources(left))
	}
	return nil
}

func backendWordError(name string, loc ...any) error {
	return &config.Errors{Problems: []config.Problem{{Loc: loc, Type: "enum", Msg: "Input should be " + config.BackendChoice(), Input: name}}}
}

// backendYAML is a configuration as its file has it, with its credentials.
type backendYAML struct {
	Name       string `json:"name"`
	ConfigYAML string `json:"config_yaml"`
}

// backendInfo answers config_info and get_yaml: the configuration with its credentials.
func backendInfo(asYAML bool) handler {
	return func(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
		name := r.PathValue("backend_name")
		if !knownBackend(name) {
			return backendWordError(name, "path", "backend_name")
		}
		if _, err := s.implemented(settings{"type": name}); err != nil {
			return err
		}
		cfg, ok := s.clouds.settings(c.Project.ID, name)
		if !ok {
			return api.NotExists("")
		}
		if !asYAML {
			encode(w, http.StatusOK, cfg)
			return nil
		}
		text, err := config.EncodeYAML(cfg)
		if err != nil {
			return err
		}
		encode(w, http.StatusOK, backendYAML{Name: name, ConfigYAML: string(text)})
		return nil
	}
}
