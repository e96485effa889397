package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	gocmp "github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/backend/lambda"
	"dstack/internal/ledger"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// lambdaStub is as much of a provider as checking credentials needs. It notes when it is
// asked for keys to tidy.
func lambdaStub(t *testing.T, tidied *atomic.Bool) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch key := r.Header.Get("Authorization"); {
		case key == "Bearer good" && r.URL.Path == "/api/v1/ssh-keys":
			_, _ = w.Write([]byte(`{"data": []}`)) // the client may be gone
			tidied.Store(true)
		case r.URL.Path != "/api/v1/instance-types" || key == "Bearer slow":
			http.Error(w, "out of order", http.StatusInternalServerError)
		case key == "Bearer good":
			_, _ = w.Write([]byte(`{"data": {}}`)) // the client may be gone
		default:
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error": {"code": "global/invalid-api-key", "message": "no", "suggestion": "no"}}`))
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestBackendConfigurations creates a backend in both forms, rightly and wrongly.
func TestBackendConfigurations(t *testing.T) {
	s := newServer(t)
	var tidied atomic.Bool
	s.clouds.endpoints["lambda"] = lambdaStub(t, &tidied)
	creds := func(key any) map[string]any {
		return map[string]any{"type": "lambda", "creds": map[string]any{"type": "api_key", "api_key": key}}
	}
	const create, createYAML = "/api/project/main/backends/create", "/api/project/main/backends/create_yaml"
	for _, tt := range []struct {
		name, path string
		body       any
		status     int
		want       string // part of the body
	}{
		{"no credentials", create, map[string]any{"type": "lambda"}, 422, `"loc":["body","lambda","creds"]`},
		{"no key", create, map[string]any{"type": "lambda", "creds": map[string]any{}}, 422, `"loc":["body","lambda","creds","api_key"]`},
		{"unknown field", create, map[string]any{"type": "lambda", "vpc": "x", "creds": map[string]any{"api_key": "good"}}, 422, `"loc":["body","lambda","vpc"]`},
		{"empty key", create, creds(""), 400, `"fields":["creds","api_key"]`},
		{"wrong key", create, creds("bad"), 400, `{"detail":[{"msg":"Invalid credentials","code":"invalid_credentials","fields":["creds","api_key"]}]}`},
		{"broken provider", create, creds("slow"), 400, "the provider does not say whether it takes these credentials"},
		{"no credentials in YAML", createYAML, map[string]string{"config_yaml": "type: lambda\n"}, 400, `lambda.creds: Field required`},
		{"wrong key in YAML", createYAML, map[string]string{"config_yaml": "type: lambda\ncreds: {api_key: bad}\n"}, 400, `"code":"invalid_credentials"`},
		{"right", create, creds("good"), 200, `"type":"lambda"`},
		{"again", create, creds("good"), 400, `"code":"resource_exists"`},
		{"wrong update", "/api/project/main/backends/update", creds("bad"), 400, `"code":"invalid_credentials"`},
		{"update", "/api/project/main/backends/update", creds("good"), 200, `"type":"lambda"`},
	} {
		got := s.call(t, http.MethodPost, tt.path, adminToken, tt.body)
		if got.Status != tt.status || !strings.Contains(string(got.Body), tt.want) {
			t.Errorf("%s: %d %s, want %d with %s", tt.name, got.Status, got.Body, tt.status, tt.want)
		}
		if tt.status != 200 && tt.name != "again" && tt.name != "wrong update" && s.clouds.has(mainID(t, s), "lambda") {
			t.Errorf("%s: refused, but taken into use", tt.name)
		}
	}
	got := s.call(t, http.MethodPost, "/api/project/main/backends/delete", adminToken, map[string]any{"backends_names": []string{"lambda"}})
	if got.Status != 200 || s.clouds.has(mainID(t, s), "lambda") || !tidied.Load() {
		t.Errorf("delete: %d %s, asked to tidy: %v", got.Status, got.Body, tidied.Load())
	}
}

// TestCredentialsOfAnotherAccount changes a key while a machine may cost money: one that does not
// show it is refused, one that does is taken, and so is any when nothing is left. Nor can the backend or
// the project be deleted before, with which nobody could end it any more: it may be for no instance.
func TestCredentialsOfAnotherAccount(t *testing.T) {
	s := newServer(t)
	intent := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		machines := `{"data": []}`
		if r.Header.Get("Authorization") != "Bearer other" && intent != "" {
			machines = `{"data": [{"id": "m1", "name": "n", "status": "active", "region": {"name": "us-east-1"}, "tags": [
				{"key": "dstack-server", "value": "` + s.db.ServerID() + `"}, {"key": "dstack-intent", "value": "` + intent + `"}]}]}`
		}
		answers := map[string]string{"/api/v1/instances": machines, "/api/v1/instance-types": `{"data": {}}`, "/api/v1/ssh-keys": `{"data": []}`}
		_, _ = w.Write([]byte(answers[r.URL.Path])) // the client may be gone
	}))
	t.Cleanup(srv.Close)
	s.clouds.endpoints["lambda"] = srv.URL
	save := func(what, key string, status int, want string) {
		t.Helper()
		got := s.call(t, http.MethodPost, "/api/project/main/backends/"+what, adminToken, map[string]any{"type": "lambda", "creds": map[string]any{"api_key": key}})
		if got.Status != status || !strings.Contains(string(got.Body), want) {
			t.Errorf("%s with key %s: %d %s, want %d with %q", what, key, got.Status, got.Body, status, want)
		}
	}
	save("create", "good", 200, "")
	err := s.db.Write(t.Context(), func(tx *store.Tx) (err error) {
		intent, err = s.ledger.Intend(t.Context(), tx, ledger.Intent{Kind: backend.InstanceResource, Backend: "lambda", Region: "us-east-1", ProjectID: mainID(t, s), Create: &backend.CreateRequest{}})
		if err == nil {
			_, err = tx.ExecContext(t.Context(), `UPDATE intent SET state = 'created', resource_id = 'm1' WHERE id = $1`, intent)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	save("update", "other", 400, "seem to be of another account")
	if c, _ := s.clouds.settings(mainID(t, s), "lambda"); c["creds"].(map[string]any)["api_key"] != "good" {
		t.Errorf("refused, but in use: %v", c)
	}
	save("update", "good-too", 200, "")
	remove := func(path, field, name string) answer {
		t.Helper()
		return s.call(t, http.MethodPost, path, adminToken, map[string]any{field: []string{name}})
	}
	const deleteBackends, deleteProjects = "/api/project/main/backends/delete", "/api/projects/delete"
	for _, got := range []answer{remove(deleteBackends, "backends_names", "lambda"), remove(deleteProjects, "projects_names", "main")} {
		if got.Status != 400 || !strings.Contains(refusal(got), "may cost money and could not be ended without it") || !strings.Contains(refusal(got), "in us-east-1") {
			t.Errorf("delete what is needed to end a machine: %d %s", got.Status, got.Body)
		}
	}
	if !s.clouds.has(mainID(t, s), "lambda") {
		t.Error("the backend was refused to be deleted, and is gone")
	}
	err = s.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE intent SET state = 'gone' WHERE id = $1`, intent)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	save("update", "other", 200, "")
	if got := remove(deleteBackends, "backends_names", "lambda"); got.Status != 200 {
		t.Errorf("delete the backend when nothing is left: %d %s", got.Status, got.Body)
	}
}

// changeable is a server whose backend lambda is one cloud for each key; it has the first.
func changeable(t *testing.T, url string, clouds map[string]backend.Backend) *Server {
	t.Helper()
	kind := lambda.Type
	kind.Open = func(_ context.Context, c any, _ backend.Deps) (backend.Backend, error) {
		return clouds[c.(*lambda.Config).Creds.APIKey.Reveal()], nil
	}
	s, err := New(t.Context(), Config{Dir: t.TempDir(), NoFile: true, DBURL: url, Token: adminToken, Log: slog.New(slog.DiscardHandler), Backends: []backend.Type{kind}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	if got := s.call(t, http.MethodPost, "/api/project/main/backends/create", adminToken, keyed("first")); got.Status != 200 {
		t.Fatalf("create: %d %s", got.Status, got.Body)
	}
	return s
}

func keyed(key string) map[string]any {
	return map[string]any{"type": "lambda", "creds": map[string]any{"api_key": key}}
}

// wish records that a machine is wanted of lambda.
func (s *Server) wish(t *testing.T) (intent string) {
	t.Helper()
	o := fake.SomeOffers()[1]
	err := s.db.Write(t.Context(), func(tx *store.Tx) (err error) {
		intent, err = s.ledger.Intend(t.Context(), tx, ledger.Intent{Kind: backend.InstanceResource, Backend: "lambda", Region: o.Region, ProjectID: mainID(t, s), Create: &backend.CreateRequest{Offer: o}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return intent
}

// became is the state of an intent.
func (s *Server) became(t *testing.T, intent string) ledger.State {
	t.Helper()
	r, err := ledger.Get(t.Context(), s.db.Read(), intent)
	if err != nil {
		t.Fatal(err)
	}
	return r.State
}

// TestBackendGoesWhileSomethingIsAskedFor deletes a backend, or gives it the key of another account, in
// the moment in which a machine is asked for with the present one: only one of the two happens.
func TestBackendGoesWhileSomethingIsAskedFor(t *testing.T) {
	for path, body := range map[string]map[string]any{
		"delete": {"backends_names": []string{"lambda"}},
		"update": keyed("second"),
	} {
		t.Run(path, func(t *testing.T) {
			storetest.EachURL(t, func(t *testing.T, url string) {
				synctest.Test(t, func(t *testing.T) {
					s := changeable(t, url, map[string]backend.Backend{"first": fake.New(fake.Config{ID: "first"}), "second": fake.New(fake.Config{ID: "second"})})
					a := ledger.Account{ProjectID: mainID(t, s), Backend: "lambda"}
					b, err := s.clouds.Backend(t.Context(), a.ProjectID, a.Backend)
					if err != nil {
						t.Fatal(err)
					}
					intent := s.wish(t)
					begun, done := false, make(chan answer, 1)
					err = s.db.Write(t.Context(), func(tx *store.Tx) error { // as the ledger does
						current, err := s.currentBackend(t.Context(), tx, a, b)
						if err != nil || !current {
							return cmp.Or(err, errors.New("not current"))
						}
						if _, err := tx.ExecContext(t.Context(), `UPDATE intent SET state = 'unknown' WHERE id = $1`, intent); err != nil {
							return err
						}
						if !begun { // else it is repeated
							begun = true
							go func() { done <- s.call(t, http.MethodPost, "/api/project/main/backends/"+path, adminToken, body) }()
							synctest.Wait()
						}
						return nil
					})
					got := <-done
					if asked, changed := err == nil, got.Status == 200; asked == changed {
						t.Errorf("asked for a machine: %v (%v), backend changed: %v (%d %s)", asked, err, changed, got.Status, got.Body)
					}
				})
			})
		})
	}
}

// TestBackendChangedByAnotherServer has a server that has not heard of it ask for a machine.
func TestBackendChangedByAnotherServer(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		first, second := fake.New(fake.Config{ID: "first", Offers: fake.SomeOffers()}), fake.New(fake.Config{ID: "second", Offers: fake.SomeOffers()})
		s := changeable(t, url, map[string]backend.Backend{"first": first, "second": second})
		work(t, s)
		sealed, err := s.box.Seal(`{"type": "lambda", "creds": {"api_key": "second"}}`)
		if err != nil {
			t.Fatal(err)
		}
		s.edit(t, `UPDATE backend_config SET sealed = $1`, sealed)
		intent := s.wish(t)
		until(t, "the machine is made", func() bool { return s.became(t, intent) == ledger.Created })
		if n, m := first.Calls("Create"), second.Calls("Create"); n != 0 || m != 1 {
			t.Errorf("%d requests with the old key, %d with the new one", n, m)
		}
		s.edit(t, `DELETE FROM backend_config`)
		intent = s.wish(t)
		until(t, "the wish is given up", func() bool { return s.became(t, intent) == ledger.Gone })
		if n := second.Calls("Create"); n != 1 {
			t.Errorf("%d machines were asked for of a deleted backend", n-1)
		}
	})
}

// TestSpoiledBackends edits the row of a stored backend, or of its project. The server starts all the same, says
// once what is wrong, and uses the backends of others; one that it cannot use can be made again.
func TestSpoiledBackends(t *testing.T) {
	kind := lambda.Type
	kind.Open = func(context.Context, any, backend.Deps) (backend.Backend, error) { return fake.New(fake.Config{}), nil }
	const unused, orphan = "it is left out", "the project of a backend is gone"
	for name, tt := range map[string]struct{ edit, logged string }{
		"not sealed":          {`UPDATE backend_config SET sealed = 'zzz'`, unused},
		"no JSON":             {`UPDATE backend_config SET sealed = 'enc:identity:noname:{bad'`, unused},
		"a list":              {`UPDATE backend_config SET sealed = 'enc:identity:noname:[1]'`, unused},
		"nothing":             {`UPDATE backend_config SET sealed = 'enc:identity:noname:null'`, unused},
		"no key":              {`UPDATE backend_config SET sealed = 'enc:identity:noname:{"type": "lambda"}'`, unused},
		"of another type":     {`UPDATE backend_config SET sealed = 'enc:identity:noname:{"type": "local"}'`, unused},
		"its project is gone": {`DELETE FROM project WHERE name = 'spoiled'`, orphan},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.EachURL(t, func(t *testing.T, url string) {
				var log bytes.Buffer
				open := func() *Server {
					t.Helper()
					s, err := New(t.Context(), Config{Dir: t.TempDir(), NoFile: true, DBURL: url, Token: adminToken, Backends: []backend.Type{kind},
						Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError}))})
					if err != nil {
						t.Fatal(err)
					}
					return s
				}
				s := open()
				var made struct {
					ID string `json:"project_id"`
				}
				s.must(t, "/api/projects/create", map[string]any{"project_name": "spoiled"}, &made)
				s.must(t, "/api/project/spoiled/backends/create", keyed("first"), nil)
				s.edit(t, tt.edit)
				s.must(t, "/api/project/main/backends/create", keyed("first"), nil)
				s.shut(t)

				s = open()
				defer func() { s.shut(t) }()
				s.must(t, "/api/projects/create", map[string]any{"project_name": "later"}, nil)
				s.edit(t, `INSERT INTO backend_config SELECT id, 'lambda', 'enc:identity:noname:{"type": "lambda", "creds": {"api_key": "first"}}', 9000000000000000 FROM project WHERE name = 'later'`)
				if err := s.loadBackends(t.Context()); err != nil {
					t.Error(err)
				}
				has := map[string]bool{}
				for _, a := range s.clouds.accounts {
					has[s.projectName(t.Context(), a.ProjectID)] = true
				}
				want := map[string]bool{"main": true, "later": true}
				if tt.logged == orphan {
					want[made.ID] = true
				}
				if diff := gocmp.Diff(want, has); diff != "" {
					t.Errorf("projects with a backend (-want +got):\n%s", diff)
				}
				if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), tt.logged) {
					t.Errorf("the log does not have %q once:\n%s", tt.logged, log.String())
				}
				if tt.logged == orphan {
					return
				}
				s.must(t, "/api/project/spoiled/backends/create", keyed("first"), nil)
				if !s.clouds.has(made.ID, "lambda") {
					t.Error("a backend that was made again is not used")
				}
			})
		})
	}
}

// edit changes the database by hand.
func (s *Server) edit(t *testing.T, statement string, args ...any) {
	t.Helper()
	err := s.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), statement, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// slowTidy is a cloud that takes as long to tidy as the test likes.
type slowTidy struct {
	*fake.Cloud
	began, end chan struct{}
}

// Tidy implements backend.TidyBackend.
func (b slowTidy) Tidy(context.Context, string) error {
	b.began <- struct{}{}
	<-b.end
	return nil
}

// TestDeletedBackendIsOutOfUse deletes a backend that takes long to tidy: nothing is bought there meanwhile.
func TestDeletedBackendIsOutOfUse(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		b := slowTidy{fake.New(fake.Config{Offers: fake.SomeOffers()}), make(chan struct{}), make(chan struct{})}
		s := changeable(t, url, map[string]backend.Backend{"first": b})
		done := make(chan answer, 1)
		go func() {
			done <- s.call(t, http.MethodPost, "/api/project/main/backends/delete", adminToken, map[string]any{"backends_names": []string{"lambda"}})
		}()
		<-b.began
		if s.clouds.has(mainID(t, s), "lambda") {
			t.Error("a deleted backend is in use until it is tidy")
		}
		close(b.end)
		if got := <-done; got.Status != 200 {
			t.Errorf("delete: %d %s", got.Status, got.Body)
		}
	})
}

func mainID(t *testing.T, s *Server) string {
	t.Helper()
	var id string
	if err := s.db.Read().QueryRowContext(t.Context(), `SELECT id FROM project WHERE name = 'main'`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestEndpoints reads the environment once, at the start.
func TestEndpoints(t *testing.T) {
	env := map[string]string{"DSTACK_ENDPOINT_LAMBDA": "http://127.0.0.1:9/"}
	s, err := New(t.Context(), Config{Dir: t.TempDir(), Log: newServer(t).Log, Env: func(k string) string { return env[k] }})
	if err != nil {
		t.Fatal(err)
	}
	s.pool.Close()
	s.catalog.Close()
	if err := s.db.Close(); err != nil {
		t.Error(err)
	}
	if diff := gocmp.Diff(map[string]string{"lambda": "http://127.0.0.1:9", "local": ""}, s.clouds.endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	env["DSTACK_ENDPOINT_LAMBDA"] = "cloud.lambda.ai"
	if _, err := New(t.Context(), Config{Dir: t.TempDir(), Log: s.Log, Env: func(k string) string { return env[k] }}); err == nil || !strings.Contains(err.Error(), "DSTACK_ENDPOINT_LAMBDA") {
		t.Errorf("New with a broken endpoint = %v", err)
	}
}
