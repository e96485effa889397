package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/export"
	"dstack/internal/project"
	"dstack/internal/project/projecttest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// world is a service whose projects have a backend aws that can make gateways.
type world struct {
	*Service
	scopes map[string]project.Scope
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		projects := projecttest.New(t, db, project.Config{})
		w := &world{scopes: map[string]project.Scope{}}
		for _, name := range []string{"main", "team"} {
			w.scopes[name] = projects.Scope(t, name)
		}
		var err error
		w.Service, err = New(Config{DB: db, Projects: projects.Service, Backends: func(_ context.Context, _ project.Project, backend string) error {
			if backend != "aws" {
				return api.Invalid("Gateways are not supported for %s backend.", backend)
			}
			return nil
		}})
		check(t, err)
		fn(t, w)
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// conf reads a configuration as a file has it.
func conf(t *testing.T, name, fields string) config.Gateway {
	t.Helper()
	var r api.CreateGatewayRequest
	err := config.DecodeJSON([]byte(`{"configuration": {"type": "gateway", "name": "`+name+`", "backend": "aws", "region": "eu-west-1"`+fields+`}}`), &r)
	check(t, err)
	return r.Configuration
}

func (w *world) create(t *testing.T, name, fields string) (api.Gateway, error) {
	t.Helper()
	return w.Create(t.Context(), w.scopes["main"], api.CreateGatewayRequest{Configuration: conf(t, name, fields)})
}

func (w *world) must(t *testing.T, name, fields string) api.Gateway {
	t.Helper()
	g, err := w.create(t, name, fields)
	check(t, err)
	return g
}

func (w *world) apply(t *testing.T, name, fields string, seen *api.Gateway, force bool) (api.Gateway, error) {
	t.Helper()
	r := api.ApplyGatewayPlanRequest{Force: force}
	r.Plan.Spec.Configuration = conf(t, name, fields)
	if seen != nil {
		data, err := json.Marshal(seen)
		check(t, err)
		r.Plan.CurrentResource = data
	}
	return w.Apply(t.Context(), w.scopes["main"], r)
}

func (w *world) get(t *testing.T, name string) api.Gateway {
	t.Helper()
	g, err := w.Get(t.Context(), w.scopes["main"], api.NameRequest{Name: name})
	check(t, err)
	return g
}

// defaults lists the gateways that a project sees; a star marks the default.
func (w *world) defaults(t *testing.T, project string) []string {
	t.Helper()
	list, err := w.List(t.Context(), w.scopes[project], api.ListGatewaysRequest{IncludeImported: true})
	check(t, err)
	names := []string{}
	for _, g := range list {
		name := g.ProjectName + "/" + g.Name
		if g.Default {
			name += "*"
		}
		if g.Configuration.Default == nil || *g.Configuration.Default != g.Default {
			t.Errorf("%s: the configuration says default %v", name, g.Configuration.Default)
		}
		names = append(names, name)
	}
	return names
}

func (w *world) events(t *testing.T, id string) []string {
	t.Helper()
	list, err := event.List(t.Context(), w.DB.Read(), event.Viewer{Admin: true}, api.ListEventsRequest{TargetGateways: []string{id}, Ascending: true})
	check(t, err)
	texts := []string{}
	for _, e := range list {
		texts = append(texts, e.Message)
	}
	return texts
}

func TestDefault(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		want := func(what string, names ...string) {
			t.Helper()
			if diff := cmp.Diff(names, w.defaults(t, "main")); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		first := w.must(t, "first", `, "domain": "*.example.com"`)
		if !first.Default || first.Status != api.GatewaySubmitted || *first.WildcardDomain != "*.example.com" || first.Configuration.Certificate.Type != "lets-encrypt" {
			t.Errorf("the first gateway is %+v", first)
		}
		w.must(t, "plain", "")
		want("the first one", "main/plain", "main/first*")
		w.must(t, "wanted", `, "default": true`)
		want("one that asks for it", "main/wanted*", "main/plain", "main/first")
		_, err := w.SetDefault(t.Context(), w.scopes["main"], api.SetDefaultGatewayRequest{Name: "plain"})
		check(t, err)
		want("chosen", "main/wanted", "main/plain*", "main/first")
		plain := w.get(t, "plain")
		_, err = w.apply(t, "plain", `, "default": false`, &plain, false)
		check(t, err)
		want("unset", "main/wanted", "main/plain", "main/first")
		if _, err := w.SetDefault(t.Context(), w.scopes["main"], api.SetDefaultGatewayRequest{Name: "nosuch"}); !api.IsNotExists(err) {
			t.Errorf("an unknown default: %v", err)
		}
		if diff := cmp.Diff([]string{"Gateway created. Status: SUBMITTED", "Gateway set as project default", "Gateway unset as project default"}, w.events(t, first.ID)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestApply(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g, err := w.apply(t, "gw", `, "domain": "a.example.com", "certificate": null`, nil, false)
		check(t, err)
		for _, c := range []struct {
			fields string
			seen   *api.Gateway
			force  bool
			want   string
		}{
			{`, "domain": "b.example.com", "certificate": null`, nil, false, "Failed to apply plan. Resource has been changed. Try again or use force apply."},
			{`, "domain": "b.example.com", "certificate": null, "tags": {"a": "b"}`, &g, false, "Gateway 'gw' cannot be updated in-place. Delete it and re-apply."},
			{`, "domain": "a.example.com", "certificate": null, "instance_type": "t3.large"`, &g, true, "Gateway 'gw' cannot be updated in-place. Delete it and re-apply."},
			{`, "domain": "b.example.com", "certificate": null, "replicas": 2`, &g, false, ""},
			{`, "domain": "c.example.com", "certificate": null, "replicas": 2`, &g, false, "Failed to apply plan. Resource has been changed. Try again or use force apply."},
			{`, "domain": "c.example.com", "certificate": null`, &g, true, ""},
		} {
			_, err := w.apply(t, "gw", c.fields, c.seen, c.force)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("%s: %v, want %q", c.fields, err, c.want)
			}
		}
		now := w.get(t, "gw")
		if *now.WildcardDomain != "c.example.com" || now.Configuration.Replicas != nil || now.ID != g.ID || !now.Default {
			t.Errorf("after updates: %+v", now)
		}
		plan := func(fields string) api.GatewayPlan {
			p, err := w.Plan(t.Context(), w.scopes["main"], api.GetGatewayPlanRequest{Spec: api.GatewaySpec{Configuration: conf(t, "gw", fields)}})
			check(t, err)
			return p
		}
		for fields, want := range map[string]api.ApplyAction{
			`, "domain": "d.example.com", "certificate": null`:                     api.ActionUpdate,
			`, "domain": "c.example.com", "certificate": null, "public_ip": false`: api.ActionCreate,
		} {
			if p := plan(fields); p.Action != want || p.CurrentResource == nil || p.CurrentResource.ID != g.ID || p.EffectiveSpec == nil {
				t.Errorf("plan of %s: %+v", fields, p)
			}
		}
		if _, err := w.create(t, "gw", ""); !api.IsExists(err) {
			t.Errorf("a second one of that name: %v", err)
		}
		set, err := w.SetWildcardDomain(t.Context(), w.scopes["main"], api.SetWildcardDomainRequest{Name: "gw"})
		if err != nil || set.WildcardDomain != nil {
			t.Errorf("without a domain: %+v, %v", set, err)
		}
		want := []string{"Gateway created. Status: SUBMITTED", "Gateway set as project default", "Gateway updated. Changed fields: domain, replicas", "Gateway updated. Changed fields: domain, replicas", "Gateway updated. Changed fields: domain"}
		if diff := cmp.Diff(want, w.events(t, g.ID)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

func TestRules(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, c := range []struct{ name, fields, want string }{
			{"Bad Name", "", "Resource name should match regex '^[a-z][a-z0-9-]{1,40}$'"},
			{"gw", `, "backend": "gcp"`, "Gateways are not supported for gcp backend."},
			{"gw", `, "replicas": 10, "certificate": null`, "Cannot provision 10 gateway replicas. This server allows at most 9"},
			{"gw", `, "replicas": 2`, "lets-encrypt certificate type is not supported for gateways with more than one replica"},
			{"gw", `, "public_ip": false`, "lets-encrypt certificate type is not supported for private gateways"},
			{"gw", `, "backend": "gcp", "certificate": {"type": "acm", "arn": "a"}`, "acm certificate type is supported for aws backend only"},
			{"gw", `, "certificate": {"type": "gcp-cm", "name": "a"}`, "gcp-cm certificate type is supported for gcp backend only"},
			{"gw", `, "backend": "gcp", "certificate": null, "load_balancer": {"type": "alb"}`, "alb load balancer type is supported for aws backend only"},
		} {
			_, err := w.create(t, c.name, c.fields)
			var refused *api.Error
			if !errors.As(err, &refused) || refused.Msg != c.want {
				t.Errorf("%s%s: %v, want %q", c.name, c.fields, err, c.want)
			}
			if _, err := w.Plan(t.Context(), w.scopes["main"], api.GetGatewayPlanRequest{Spec: api.GatewaySpec{Configuration: conf(t, c.name, c.fields)}}); err == nil {
				t.Errorf("%s%s: there is a plan", c.name, c.fields)
			}
		}
		for domain, ok := range map[string]bool{"*.${{ run.project_name }}.example.com": true, "${{ run.nosuch }}.example.com": false, "${{ secrets.x }}": false} {
			if _, err := w.create(t, "gw", `, "domain": "`+domain+`"`); (err == nil) != ok {
				t.Errorf("domain %s: %v", domain, err)
			}
		}
		if got := w.defaults(t, "main"); len(got) != 1 {
			t.Errorf("after refusals: %v", got)
		}
	})
}

// An imported gateway can be the default of the importer until it is shared no longer.
func TestImported(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		g := w.must(t, "gw", "")
		team, main := w.scopes["team"].Project.ID, w.scopes["main"].Project.Name
		choose := func() error {
			_, err := w.SetDefault(t.Context(), w.scopes["team"], api.SetDefaultGatewayRequest{Name: "gw", GatewayProject: &main})
			return err
		}
		if err := choose(); !api.IsNotExists(err) {
			t.Errorf("a gateway that is not imported as default: %v", err)
		}
		write := func(statements ...string) {
			check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error {
				for _, s := range statements {
					if _, err := tx.ExecContext(t.Context(), s); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		write(`INSERT INTO export (id, project_id, name, created_at) VALUES ('e', '`+g.ID+`', 'shared', 1)`,
			`INSERT INTO export_item (export_id, object_id, kind) VALUES ('e', '`+g.ID+`', 'gateway')`,
			`INSERT INTO import (id, export_id, project_id, created_at) VALUES ('i', 'e', '`+team+`', 1)`)
		check(t, choose())
		for project, want := range map[string][]string{"team": {"main/gw*"}, "main": {"main/gw*"}} {
			if diff := cmp.Diff(want, w.defaults(t, project)); diff != "" {
				t.Errorf("gateways of %s (-want +got):\n%s", project, diff)
			}
		}
		check(t, w.DB.Write(t.Context(), func(tx *store.Tx) error { return w.Lost(t.Context(), tx, team, g.ID) }))
		if diff := cmp.Diff([]string{"main/gw"}, w.defaults(t, "team")); diff != "" {
			t.Errorf("after the access is lost (-want +got):\n%s", diff)
		}
		_, err := w.Delete(t.Context(), w.scopes["main"], api.NamesRequest{Names: []string{"gw", "nosuch"}})
		check(t, err)
		if left, err := export.Imported(t.Context(), w.DB.Read(), export.Gateways, team); err != nil || len(left) != 0 || len(w.defaults(t, "main")) != 0 {
			t.Errorf("after the deletion: %v, %v, %v", left, err, w.defaults(t, "main"))
		}
		if got := w.events(t, g.ID); got[len(got)-1] != "Gateway deleted" {
			t.Errorf("events %q", got)
		}
	})
}
