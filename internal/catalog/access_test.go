package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

func source(t *testing.T, name string) collect.Source {
	t.Helper()
	all := collect.Sources()
	i := slices.IndexFunc(all, func(s collect.Source) bool { return s.Name() == name })
	if i < 0 {
		t.Fatalf("there is no source %s", name)
	}
	return all[i]
}

// What collections may use comes from one place: the environment, or one project.
func TestAccesses(t *testing.T) {
	const id, secret, more = "VERDA_CLIENT_ID", "VERDA_CLIENT_SECRET", "VERDA_MORE"
	values := func(pairs ...string) map[string]backend.Secret {
		m := map[string]backend.Secret{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = backend.Secret(pairs[i+1])
		}
		return m
	}
	whole := func(of string) map[string]backend.Secret { return values(id, of, secret, of) }
	verda := source(t, "verda")
	for name, tt := range map[string]struct {
		change   func(*collect.Source)
		env      map[string]string
		projects map[string]map[string]backend.Secret
		first    string
		want     []string // whose, "" for the environment's
	}{
		"nobody":                      {want: nil},
		"the environment":             {env: map[string]string{id: "e", secret: "e"}, projects: map[string]map[string]backend.Secret{"p": whole("p")}, want: []string{""}},
		"half of the environment":     {env: map[string]string{id: "e"}, projects: map[string]map[string]backend.Secret{"p": whole("p")}, want: []string{"p"}},
		"halves":                      {env: map[string]string{id: "e"}, projects: map[string]map[string]backend.Secret{"p": values(secret, "p"), "q": values(id, "q")}},
		"an empty value":              {projects: map[string]map[string]backend.Secret{"p": values(id, "p", secret, "")}},
		"several":                     {projects: map[string]map[string]backend.Secret{"r": whole("r"), "p": whole("p"), "q": whole("q")}, want: []string{"p", "q", "r"}},
		"one whose turn it is":        {projects: map[string]map[string]backend.Secret{"r": whole("r"), "p": whole("p"), "q": whole("q")}, first: "q", want: []string{"q", "r", "p"}},
		"all but one":                 {projects: map[string]map[string]backend.Secret{"r": whole("r"), "p": whole("p"), "q": whole("q")}, first: "q\x00", want: []string{"r", "p", "q"}},
		"what is told to each":        {change: func(s *collect.Source) { s.PerAccount = true }, projects: map[string]map[string]backend.Secret{"p": whole("p")}},
		"the environment's, the same": {change: func(s *collect.Source) { s.PerAccount = true }, env: map[string]string{id: "e", secret: "e"}, want: []string{""}},
		"public":                      {change: func(s *collect.Source) { s.Needs = nil }, projects: map[string]map[string]backend.Secret{"p": whole("p")}, want: []string{""}},
		"optional ones": {
			change:   func(s *collect.Source) { s.Needs, s.May = nil, []string{id, secret} },
			env:      map[string]string{id: "e"},
			projects: map[string]map[string]backend.Secret{"p": values(id, "p"), "q": whole("q")}, want: []string{"q", ""},
		},
		"all of the optional ones": {
			change:   func(s *collect.Source) { s.Needs, s.May = nil, []string{id, secret} },
			env:      map[string]string{id: "e", secret: "e"},
			projects: map[string]map[string]backend.Secret{"q": whole("q")}, want: []string{""},
		},
		"both kinds": {
			change:   func(s *collect.Source) { s.May = []string{more} },
			projects: map[string]map[string]backend.Secret{"p": whole("p"), "q": values(id, "q", secret, "q", more, "q")}, want: []string{"q", "p"},
		},
		"both kinds, the environment one": {
			change:   func(s *collect.Source) { s.May = []string{more} },
			env:      map[string]string{id: "e", secret: "e"},
			projects: map[string]map[string]backend.Secret{"p": whole("p"), "q": values(id, "q", secret, "q", more, "q")}, want: []string{"q", ""},
		},
		"published catalogs": {env: map[string]string{collect.CatalogsVariable: "http://catalogs.example"}, projects: map[string]map[string]backend.Secret{"p": whole("p")}, want: []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			s := verda
			if tt.change != nil {
				tt.change(&s)
			}
			p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: t.TempDir()}, Transport: &accounts{}, Env: func(name string) string { return tt.env[name] }, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			for project, values := range tt.projects {
				p.Use(ledger.Account{ProjectID: project, Backend: "verda"}, values)
				p.Use(ledger.Account{ProjectID: project, Backend: "lambda"}, whole("another provider's"))
			}
			p.first[s.Name()] = tt.first
			var got []string
			for _, a := range p.accesses(s) {
				got = append(got, a.project)
				if v := a.env(id); v != "" && v != a.project && a.project != "" {
					t.Errorf("the credentials of %s have %q", a.project, v)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("accesses (-want +got):\n%s", diff)
			}
		})
	}
}

// What only goes with credentials, or stands for them, is taken from the environment too.
func TestAccessOfTheEnvironment(t *testing.T) {
	for name, set := range map[string][]string{
		"aws-spot": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
		"aws":      {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"},
		"gcp":      {"GOOGLE_APPLICATION_CREDENTIALS", "GCP_PROJECT_ID"},
		"nebius":   {"NEBIUS_IAM_TOKEN"},
	} {
		p := &Prices{PricesConfig: PricesConfig{Env: func(name string) string {
			if slices.Contains(set, name) {
				return "value of " + name
			}
			return ""
		}}}
		got := p.accesses(source(t, name))
		if len(got) != 1 {
			t.Errorf("%s: %d accesses, want that of the environment", name, len(got))
			continue
		}
		for _, variable := range set {
			if v := got[0].env(variable); v != "value of "+variable {
				t.Errorf("%s: %s is %q", name, variable, v)
			}
		}
	}
}

// accounts is Lambda, as far as its list prices go, with the accounts that it knows.
type accounts struct {
	mu    sync.Mutex
	good  []string // keys
	hangs string   // for this one
	down  bool
	asked []string // the keys of questions for types
}

func (a *accounts) RoundTrip(r *http.Request) (*http.Response, error) {
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	if strings.HasSuffix(r.URL.Path, "/instance-types") {
		a.asked = append(a.asked, key)
	}
	good, hangs, down, n := slices.Contains(a.good, key), a.hangs == key, a.down, len(a.asked)
	a.mu.Unlock()
	rec := httptest.NewRecorder()
	switch {
	case hangs:
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	case down:
		rec.WriteHeader(http.StatusTeapot)
	case !good:
		rec.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(rec, `{"error": {"code": "global/invalid-api-key", "message": "no account has the key %s"}}`, key)
	case strings.HasSuffix(r.URL.Path, "/regions"):
		_, _ = io.WriteString(rec, `{"data": [{"name": "asia-south-1"}, {"name": "europe-central-1"}, {"name": "me-west-1"}, {"name": "us-east-1"}, {"name": "us-midwest-1"}, {"name": "us-south-2"}, {"name": "us-west-1"}, {"name": "us-west-2"}]}`)
	default:
		var types []string
		for _, gpu := range []string{"A10 (24 GB PCIe)", "A100 (40 GB SXM4)", "H100 (80 GB SXM5)"} {
			types = append(types, fmt.Sprintf(`%q: {"instance_type": {"name": %[1]q, "description": "1x %[1]s", "price_cents_per_hour": %d, "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1}}}`, gpu, n))
		}
		_, _ = io.WriteString(rec, `{"data": {`+strings.Join(types, ",")+`}}`)
	}
	return rec.Result(), nil
}

// since lists whose keys were used after a time, and forgets.
func (a *accounts) since() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.asked
	a.asked = nil
	return list
}

// A collection uses the credentials of projects, when there are some, as long as they are there.
func TestPricesWithCredentialsOfProjects(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // the bubble's clock begins before the embedded prices
		cloud := &accounts{good: []string{"good-key-of-q", "good-key-of-r"}}
		var said bytes.Buffer
		p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: dir}, Transport: cloud, Env: func(string) string { return "" }, Log: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		has := func(project, key string) {
			var values map[string]backend.Secret
			if key != "" {
				values = map[string]backend.Secret{"LAMBDA_API_KEY": backend.Secret(key)}
			}
			p.Use(ledger.Account{ProjectID: project, Backend: "lambda"}, values)
		}
		expect := func(when string, after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if diff := cmp.Diff(want, cloud.since()); diff != "" {
				t.Errorf("%s: asked with (-want +got):\n%s", when, diff)
			}
		}
		has("p", "bad-key-of-p")
		expect("nobody wants prices", 48*time.Hour)
		has("p", "")
		if offers, err := p.Offers("lambda", offer.Query{}); err != nil || len(offers) == 0 {
			t.Fatalf("%d offers, %v", len(offers), err)
		}
		expect("nobody has credentials", 48*time.Hour)
		has("p", "bad-key-of-p")
		expect("a project with wrong ones", time.Minute, "bad-key-of-p")
		expect("until it is tried again", 50*time.Minute)
		has("r", "good-key-of-r")
		has("q", "good-key-of-q") // at the same time
		expect("projects with right ones", time.Minute, "good-key-of-q")
		if offers, err := p.Offers("lambda", offer.Query{}); err != nil || len(offers) != 3*8 {
			t.Errorf("%d offers, %v, want those that were collected", len(offers), err)
		}
		expect("a day later", 24*time.Hour, "good-key-of-q")
		cloud.down = true
		expect("the provider fails: the next attempt is another project's", 26*time.Hour, "good-key-of-q", "good-key-of-r", "bad-key-of-p")
		cloud.down = false
		expect("it is well again", time.Hour, "good-key-of-q")

		cloud.hangs = "good-key-of-q"
		midnight := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour) // when the prices of a day are old
		expect("it hangs", time.Until(midnight.Add(time.Minute)), "good-key-of-q")
		has("q", "")
		expect("and the project gives its backend up", time.Minute, "good-key-of-r")
		has("r", "")
		has("p", "")
		expect("all have", 240*time.Hour)
		stop()
		<-done
		for _, key := range []string{"bad-key-of-p", "good-key-of-q", "good-key-of-r"} {
			if strings.Contains(said.String(), key) {
				t.Errorf("the log has the key %s:\n%s", key, said.String())
			}
		}
		if want := `msg="the provider refuses the credentials of a project" prices_of=lambda project=p err="with the credentials of project p: `; !strings.Contains(said.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, said.String())
		}
	})
}

// A source of which anybody is told something is asked with the next project's credentials when one's
// are refused; what anybody is told does not replace a list that has more, for a week.
func TestPricesOfWhomAccountsKnowMore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour)
		p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: dir}, Transport: published{}, Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s := source(t, "azure")
		if len(s.May) == 0 || len(s.Needs) > 0 || s.Huge {
			t.Fatalf("%+v is not such a source", s)
		}
		for _, project := range []string{"p", "q", "r"} {
			values := map[string]backend.Secret{}
			for _, name := range s.May {
				values[name] = backend.Secret("key-of-" + project)
			}
			p.Use(ledger.Account{ProjectID: project, Backend: s.Provider}, values)
		}
		list := func(n int) *pricelist.List {
			var b pricelist.Builder
			for i := range n {
				if err := b.Add(pricelist.Row{Backend: s.Provider, Instance: fmt.Sprint("t", i), Region: "r", CPUs: 1, MemoryMiB: 1024, Arch: "x86", Price: 1, AsOf: time.Now().Format("2006-01-02")}); err != nil {
					t.Fatal(err)
				}
			}
			return b.List()
		}
		refuses := func(bad ...string) collect.Collection {
			var asked []string
			found, err := p.collect(t.Context(), s, p.Log, func(_ context.Context, a access) (collect.Collection, error) {
				asked = append(asked, a.project)
				if slices.Contains(bad, a.project) {
					return collect.Collection{List: list(1), NoAccount: backend.ErrAuth}, nil
				}
				return collect.Collection{List: list(3)}, nil
			})
			if err != nil || len(asked) != min(len(bad)+1, 3) || slices.Contains(asked, "") {
				t.Errorf("asked with %q: %v", asked, err)
			}
			return found
		}
		now := time.Now()
		whole := refuses("p")
		if whole.NoAccount != nil || whole.List.Len() != 3 {
			t.Errorf("%+v, want the list of another project", whole)
		}
		if err := p.keep(s, whole, now); err != nil {
			t.Fatal(err)
		}
		if err := p.load(); err != nil {
			t.Fatal(err)
		}
		p.heard[s.Name()] = now // the file's time is that of the world
		less := refuses("p", "q", "r")
		if !errors.Is(less.NoAccount, backend.ErrAuth) || less.List.Len() != 1 {
			t.Errorf("%+v, want what anybody is told", less)
		}
		if err := p.keep(s, less, now.Add(6*24*time.Hour)); err == nil || !strings.Contains(err.Error(), "fewer than the 3 before") {
			t.Errorf("it is kept: %v", err)
		}
		if err := p.keep(s, less, now.Add(8*24*time.Hour)); err != nil {
			t.Errorf("after a week: %v", err)
		}
	})
}
