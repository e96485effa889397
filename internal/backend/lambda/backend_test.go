package lambda

import (
	"context"
	"encoding/json"
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
	"dstack/internal/backend/backendtest"
	"dstack/internal/backend/backendtest/openapi"
	"dstack/internal/offer"
)

// openAt opens the backend with a key on the server's shared transport.
func openAt(t *testing.T, key, endpoint string, base http.RoundTripper, log *slog.Logger) backend.Backend {
	t.Helper()
	c, err := Type.Decode(fmt.Appendf(nil, `{"creds": {"type": "api_key", "api_key": %q}}`, key))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Type.Open(t.Context(), c, backend.Deps{
		Endpoint: endpoint, Log: log, Transport: backend.NewTransport(backend.TransportConfig{Base: base, Log: log, Version: "test"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestConformance(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	backendtest.RunVirtual(t, func(t *testing.T, transport http.RoundTripper) backendtest.Subject {
		a := newAccount()
		t.Cleanup(func() {
			if a.throttled > 0 {
				t.Errorf("Lambda's rate limits were exceeded %d times", a.throttled)
			}
		})
		return backendtest.Subject{
			Backend:   openAt(t, goodKey, "", transport, quiet()),
			BadAuth:   func(t *testing.T) backend.Backend { return openAt(t, "wrong", "", transport, quiet()) },
			Handler:   a.serve(t, spec),
			Transport: true,
			Foreign: func(*testing.T) backend.Ref {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.keys = append(a.keys, map[string]any{"id": "f0", "name": "laptop", "public_key": "ssh-ed25519 AAAAC3Nza laptop"})
				tags := []any{map[string]any{"key": "team", "value": "others"}}
				return backend.Ref{Region: "us-west-1", ID: a.add("us-west-1", "gpu_1x_a10", "dstack-notours", "laptop", tags)}
			},
			Invent: func(_ *testing.T, ref backend.Ref) {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.find(ref.ID).invented = "unhealthy" // the strangest that the description allows
			},
			Leftovers: func() int {
				a.mu.Lock()
				defer a.mu.Unlock()
				return len(a.keys)
			},
			Many: 30,
		}
	})
}

// request is a wish for an offer of the double.
func request(token, typ string) backend.CreateRequest {
	return backend.CreateRequest{
		Token: token, Name: "dstack-" + token, Offer: offer.Offer{Region: "us-east-1", Instance: typ},
		Tags:    map[string]string{backend.TagServer: "s1", backend.TagIntent: token},
		SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 project\n", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE6 user"},
	}
}

// direct is a transport to a handler in memory.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// bubble runs a test in virtual time on a fresh account.
func bubble(t *testing.T, run func(t *testing.T, a *account, b *lambda)) {
	t.Helper()
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	synctest.Test(t, func(t *testing.T) {
		a := newAccount()
		run(t, a, openAt(t, goodKey, "", direct{a.serve(t, spec)}, quiet()).(*lambda))
	})
}

// TestLaunchBurst asks for more launches than the limit lets through in some minutes: all are told
// when to come back, and find their turn.
func TestLaunchBurst(t *testing.T) {
	bubble(t, func(t *testing.T, a *account, b *lambda) {
		const wanted = 20
		began := time.Now()
		var wg sync.WaitGroup
		for i := range wanted {
			wg.Go(func() {
				for tries := 1; ; tries++ {
					_, err := b.Create(t.Context(), request(fmt.Sprint("t", i), "gpu_1x_a10"))
					if limit, ok := errors.AsType[*backend.RateLimitedError](err); ok && limit.Queued && limit.After <= longestAway {
						time.Sleep(limit.After)
						continue
					}
					if err != nil {
						t.Errorf("Create = %v", err)
					}
					if tries > 10 {
						t.Errorf("came %d times", tries)
					}
					return
				}
			})
		}
		wg.Wait()
		if took := time.Since(began); len(a.machines) != wanted || took > wanted*(launchEvery+2*time.Second) {
			t.Errorf("%d machines after %v, want %d", len(a.machines), took, wanted)
		}
		if a.throttled > 0 {
			t.Errorf("Lambda had to throttle %d requests", a.throttled)
		}
	})
}

// TestOldestFirst has wishes ask an idle Lambda at the same time, the youngest first: the oldest is launched
// first, and the others by age. One that is alone does not wait for others.
func TestOldestFirst(t *testing.T) {
	bubble(t, func(t *testing.T, a *account, b *lambda) {
		const wanted = 6
		began := time.Now()
		var mu sync.Mutex
		var order []string
		create := func(n int) {
			req := request(fmt.Sprint("t", n), "gpu_1x_a10")
			req.Since = began.Add(time.Duration(n) * time.Millisecond)
			for {
				_, err := b.Create(t.Context(), req)
				if limit, ok := errors.AsType[*backend.RateLimitedError](err); ok {
					time.Sleep(limit.After)
					continue
				}
				if err != nil {
					t.Errorf("Create = %v", err)
				}
				mu.Lock()
				order = append(order, req.Token)
				mu.Unlock()
				return
			}
		}
		var wg sync.WaitGroup
		for n := wanted - 1; n >= 0; n-- {
			wg.Go(func() { create(n) })
			synctest.Wait()
			time.Sleep(5 * time.Millisecond) // as long as a busy server takes for the next
		}
		wg.Wait()
		if want := []string{"t0", "t1", "t2", "t3", "t4", "t5"}; !slices.Equal(order, want) {
			t.Errorf("launched in the order %v, want %v", order, want)
		}
		time.Sleep(time.Minute)
		asked := time.Now()
		create(wanted)
		if took := time.Since(asked); took > 4*requestEvery {
			t.Errorf("one alone took %v", took)
		}
	})
}

// TestDescribeMany asks about many machines at once, as the ledger does while they boot.
func TestDescribeMany(t *testing.T) {
	bubble(t, func(t *testing.T, a *account, b *lambda) {
		var ids []string
		for range 100 {
			ids = append(ids, a.add("us-east-1", "gpu_1x_a10", "n", "k", []any{}))
		}
		ask := func() {
			var wg sync.WaitGroup
			for _, id := range ids {
				wg.Go(func() {
					if got, err := b.Describe(t.Context(), backend.Ref{Region: "us-east-1", ID: id}); err != nil || got.Ref.ID != id {
						t.Errorf("Describe(%s) = %+v, %v", id, got, err)
					}
				})
			}
			wg.Wait()
		}
		ask()
		if a.served > 2 {
			t.Errorf("%d requests for 100 questions at once, want a shared list", a.served)
		}
		a.mu.Lock()
		a.machines = a.machines[:0]
		a.mu.Unlock()
		if got, err := b.Describe(t.Context(), backend.Ref{Region: "us-east-1", ID: ids[0]}); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("Describe after the end = %+v, %v: an old list was used", got, err)
		}
	})
}

func TestNoCapacity(t *testing.T) {
	bubble(t, func(t *testing.T, a *account, b *lambda) {
		a.capacity["gpu_8x_h100_sxm5"] = 0
		_, err := b.Create(t.Context(), request("t", "gpu_8x_h100_sxm5"))
		if !errors.Is(err, backend.ErrNoCapacity) || !backend.Refused(err) {
			t.Errorf("Create = %v, want ErrNoCapacity", err)
		}
	})
}

// TestKeyTidiedMeanwhile loses the key between the look and the launch, as another server
// of the same database may do.
func TestKeyTidiedMeanwhile(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	synctest.Test(t, func(t *testing.T) {
		a := newAccount()
		serve := a.serve(t, spec)
		robbed := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/launch") {
				a.keys = nil
			}
			serve.ServeHTTP(w, r)
		})
		_, err := openAt(t, goodKey, "", direct{robbed}, quiet()).Create(t.Context(), request("t", "gpu_1x_a10"))
		if _, ok := errors.AsType[*backend.RateLimitedError](err); !ok {
			t.Errorf("Create = %v, want to be told to ask again", err)
		}
	})
}

// TestKeyAddedMeanwhile has another server of the same database add the project's key between the look
// and the addition: it is there, which is all that a launch needs.
func TestKeyAddedMeanwhile(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	synctest.Test(t, func(t *testing.T) {
		a, req := newAccount(), request("t", "gpu_1x_a10")
		serve := a.serve(t, spec)
		hurried := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/ssh-keys") {
				public := strings.TrimSpace(req.SSHKeys[0])
				a.keys = []map[string]any{{"id": "k", "name": keyName("s1", public), "public_key": public}}
			}
			serve.ServeHTTP(w, r)
		})
		if _, err := openAt(t, goodKey, "", direct{hurried}, quiet()).Create(t.Context(), req); err != nil || len(a.machines) != 1 || len(a.keys) != 1 {
			t.Errorf("Create = %v, %d machines, keys %v", err, len(a.machines), a.keys)
		}
	})
}

// TestKeyOfSomebodyElse uses a key that the account has already, and never deletes it.
func TestKeyOfSomebodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, a *account, b *lambda) {
		a.keys = []map[string]any{{"id": "k", "name": "mine", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 other comment"}}
		inst, err := b.Create(t.Context(), request("t", "gpu_1x_a10"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Terminate(t.Context(), inst.Ref); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if err := b.Tidy(t.Context(), "s1"); err != nil || len(a.keys) != 1 {
			t.Errorf("Tidy = %v, keys %v", err, a.keys)
		}
	})
}

func TestLaunchRequest(t *testing.T) {
	good := request("t", "gpu_1x_a10")
	good.Tags["Team"], good.Tags["cost:center"], good.Tags["long"] = "x", "7", strings.Repeat("x", 129)
	body, err := launchOf(good)
	if err != nil {
		t.Fatal(err)
	}
	want := []tag{{"cost:center", "7"}, {backend.TagIntent, "t"}, {backend.TagServer, "s1"}}
	if diff := cmp.Diff(want, body.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	for path, spoil := range map[string]func(*backend.CreateRequest){
		"name":      func(r *backend.CreateRequest) { r.Name = strings.Repeat("x", 65) },
		"ssh_keys":  func(r *backend.CreateRequest) { r.SSHKeys = nil },
		"user_data": func(r *backend.CreateRequest) { r.UserData = strings.Repeat("x", 1<<20) },
		"offer":     func(r *backend.CreateRequest) { r.Offer.Resources.Spot = true },
		"volumes":   func(r *backend.CreateRequest) { r.Volumes = []backend.Ref{{ID: "v"}} },
	} {
		r := request("t", "gpu_1x_a10")
		spoil(&r)
		_, err := launchOf(r)
		if invalid, ok := errors.AsType[*backend.InvalidError](err); !ok || invalid.Path != path {
			t.Errorf("launchOf with a bad %s = %v", path, err)
		}
	}
}

func TestUserData(t *testing.T) {
	ours, ok := strings.CutPrefix(userData(request("t", "x")), "#cloud-config\n")
	var got setup
	if err := json.Unmarshal([]byte(ours), &got); !ok || err != nil {
		t.Fatalf("user data %q: %v", ours, err)
	}
	want := []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 project", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE6 user"}
	if diff := cmp.Diff(want, got.Keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	var daemon map[string]any
	if err := json.Unmarshal([]byte(got.Files[0].Content), &daemon); err != nil {
		t.Errorf("daemon.json: %v", err)
	}
	both := request("t", "x")
	both.UserData = "#!/bin/sh\necho hi\n"
	text := userData(both)
	if strings.Count(text, "--"+boundary) != 3 || !strings.Contains(text, "text/x-shellscript") || !strings.Contains(text, ours) {
		t.Errorf("user data of two parts:\n%s", text)
	}
}

func TestState(t *testing.T) {
	for _, tt := range []struct {
		status    string
		addressed bool
		want      backend.State
		message   bool
	}{
		{"booting", false, backend.StatePending, false},
		{"booting", true, backend.StatePending, false},
		{"active", true, backend.StateRunning, false},
		{"active", false, backend.StatePending, false},
		{"unhealthy", true, backend.StateRunning, true},
		{"unhealthy", false, backend.StatePending, true},
		{"terminating", true, backend.StateDeleting, false},
		{"terminated", true, backend.StateGone, false},
		{"preempted", true, backend.StateFailed, true},
		{"migrating", true, backend.StatePending, true},
		{"TERMINATED", false, backend.StatePending, true},
	} {
		got, message := state(tt.status, tt.addressed)
		if got != tt.want || (message != "") != tt.message {
			t.Errorf("state(%q, %v) = %s, %q, want %s", tt.status, tt.addressed, got, message, tt.want)
		}
	}
}

func TestEmptyAnswers(t *testing.T) {
	for _, body := range []string{`{}`, `{"data": null}`, `[]`, `null`, `{"data": {}}`, `{"data": [{}]}`, `{"data": [{"id": "x", "status": "active"}]}`} {
		synctest.Test(t, func(t *testing.T) {
			b := openAt(t, goodKey, "", direct{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })}, quiet())
			if owned, err := b.List(t.Context(), "s1"); err == nil {
				t.Errorf("List answered with %s = %v: no machine looks gone", body, owned)
			}
			if inst, err := b.Describe(t.Context(), backend.Ref{ID: "x"}); err == nil && inst.State != backend.StatePending || errors.Is(err, backend.ErrNotFound) {
				t.Errorf("Describe answered with %s = %+v, %v", body, inst, err)
			}
			if err := b.Terminate(t.Context(), backend.Ref{ID: "x"}); err == nil {
				t.Errorf("Terminate answered with %s = nil: Lambda did not say that it ends it", body)
			}
		})
	}
}

// TestOverHTTP runs a life over a real connection, and looks for the key in the log.
func TestOverHTTP(t *testing.T) {
	a := newAccount()
	a.requests.every, a.launches.every, a.boot, a.end = 0, 0, 0, 0
	srv := httptest.NewServer(a.serve(t, openapi.Load(t, "testdata/openapi.json.gz")))
	t.Cleanup(srv.Close)
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := openAt(t, goodKey, srv.URL, http.DefaultTransport, log).(*lambda)
	b.api.requests.every = 0
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	inst, err := b.Create(ctx, request("t", "gpu_1x_a10"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Describe(ctx, inst.Ref); err != nil || !got.Ready() || got.Price != 0.75 || got.Username != "ubuntu" {
		t.Errorf("Describe = %+v, %v", got, err)
	}
	if err := b.Terminate(ctx, inst.Ref); err != nil {
		t.Error(err)
	}
	if err := b.Tidy(ctx, "s1"); err != nil || len(a.keys) != 0 {
		t.Errorf("Tidy = %v, keys %v", err, a.keys)
	}
	log.Debug("opened", "config", b.config, "key", b.config.Creds.APIKey)
	if fmt.Fprintf(&text, "%v %+v %#v %s", b.config, b.config, b.config, b.config.Creds.APIKey); strings.Contains(text.String(), goodKey) {
		t.Errorf("the key is in the log:\n%s", text.String())
	}
}

func TestConfig(t *testing.T) {
	for text, path := range map[string]string{
		`{"creds": {"api_key": "k"}}`:                                     "",
		`{"creds": {"type": "api_key", "api_key": "k"}, "regions": null}`: "",
		`{"creds": {"api_key": "k"}, "regions": ["us-east-1"]}`:           "",
		`{"creds": {"api_key": "a b"}}`:                                   "creds.api_key",
		`{"creds": {"api_key": "a\nb"}}`:                                  "creds.api_key",
		`{"creds": {"api_key": ""}}`:                                      "creds.api_key",
		`{"creds": {"api_key": "k"}, "regions": ["us-east-1", ""]}`:       "regions[1]",
		`{}`:                                    "creds",
		`{"creds": {}}`:                         "creds.api_key",
		`{"creds": {"api_key": null}}`:          "creds.api_key",
		`{"creds": {"api_key": "k", "x": 1}}`:   "creds.x",
		`{"creds": {"type": "default"}}`:        "creds.type",
		`{"creds": {"api_key": "k"}, "vpc": 1}`: "vpc",
		`{"creds": {"api_key": "k"}, "regions": "us-east-1"}`: "regions",
	} {
		_, err := Type.Decode([]byte(text))
		if path == "" {
			if err != nil {
				t.Errorf("Decode(%s) = %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), path+": ") {
			t.Errorf("Decode(%s) = %v, want an error at %s", text, err, path)
		}
	}
}

// Its config answers what the collection of Lambda's prices asks the environment for.
func TestVariables(t *testing.T) {
	c := &Config{Creds: Credentials{APIKey: "k"}}
	if got := Type.Variables(c); len(got) != 1 || got["LAMBDA_API_KEY"].Reveal() != "k" {
		t.Errorf("Variables = %v", got)
	}
}
