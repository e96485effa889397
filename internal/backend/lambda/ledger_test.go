package lambda

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest/openapi"
	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/ledger"
	"dstack/internal/offer"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// cloud gives the ledger one backend.
type cloud struct{ only backend.Backend }

func (c cloud) Backend(context.Context, string, string) (backend.Backend, error) { return c.only, nil }

func (c cloud) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: "p", Backend: Name}}, nil
}

// storm is a transport that fails a share of requests, some after their effect.
type storm struct {
	next  http.RoundTripper
	mu    sync.Mutex
	rnd   *rand.Rand
	share float64
}

func (s *storm) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	kind := 9
	if s.rnd.Float64() < s.share {
		kind = s.rnd.IntN(4)
	}
	s.mu.Unlock()
	reset := errors.New("connection reset by peer")
	switch kind {
	case 0:
		return nil, reset
	case 1:
		_, _ = s.next.RoundTrip(r) // done, the answer is lost
		return nil, reset
	case 2:
		_, _ = s.next.RoundTrip(r) // done, the answer never comes
		<-r.Context().Done()
		return nil, r.Context().Err()
	case 3:
		return &http.Response{StatusCode: http.StatusInternalServerError, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	return s.next.RoundTrip(r)
}

// TestLedger has the ledger buy and give back machines while the network fails: at most one
// machine for each intent, none without, no key left, strangers untouched.
func TestLedger(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			path := storetest.Path(t)
			synctest.Test(t, func(t *testing.T) { life(t, spec, storetest.Open(t, path), seed) })
		})
	}
}

// begin starts a ledger with one backend.
func begin(t *testing.T, db *store.DB, b backend.Backend) *ledger.Ledger {
	t.Helper()
	e, err := engine.New(engine.Config{DB: db, Log: quiet(), Owner: "x", Bus: &enginetest.Bus{}, Drain: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.New(ledger.Config{
		DB: db, Engine: e, Clouds: cloud{b}, Log: quiet(), OnChange: func(string, string) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	enginetest.Start(t, e)
	return l
}

// wish is for one machine.
func wish() ledger.Intent {
	return ledger.Intent{
		Kind: backend.InstanceResource, Backend: Name, Region: "us-east-1", ProjectID: "p", OwnerKind: "instance", OwnerID: "i", Name: "n",
		Create: &backend.CreateRequest{Project: "main", Offer: offer.Offer{Region: "us-east-1", Instance: "gpu_1x_a10"}, SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1l p"}},
	}
}

// intend records n wishes.
func intend(t *testing.T, db *store.DB, l *ledger.Ledger, n int) {
	t.Helper()
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		for range n {
			if _, err := l.Intend(t.Context(), tx, wish()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// withdraw takes all wishes back.
func withdraw(t *testing.T, db *store.DB, l *ledger.Ledger) {
	t.Helper()
	var ids []string
	rows, err := db.Read().QueryContext(t.Context(), `SELECT id FROM intent`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *store.Tx) error {
		for _, id := range ids {
			if err := l.Release(t.Context(), tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// count counts the intents of a state.
func count(t *testing.T, db *store.DB, state ledger.State) (n int) {
	t.Helper()
	if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM intent WHERE state = $1`, string(state)).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// delayed is a transport whose launches are answered after some time.
type delayed struct {
	next http.RoundTripper
	by   time.Duration
}

func (d delayed) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.next.RoundTrip(r)
	if strings.HasSuffix(r.URL.Path, "/launch") {
		time.Sleep(d.by)
	}
	return resp, err
}

// TestSlowLaunches wants more than the limit lets through soon, of a Lambda that takes its time:
// the wait is no reason to refuse any.
func TestSlowLaunches(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	for _, by := range []time.Duration{0, 5 * time.Second, 15 * time.Second, 30 * time.Second} {
		t.Run(by.String(), func(t *testing.T) {
			path := storetest.Path(t)
			synctest.Test(t, func(t *testing.T) {
				const wanted = 14
				a, db := newAccount(), storetest.Open(t, path)
				l := begin(t, db, openAt(t, goodKey, "", delayed{direct{a.serve(t, spec)}, by}, quiet()))
				intend(t, db, l, wanted)
				time.Sleep(wanted * (by + 2*launchEvery))
				if n := count(t, db, ledger.Created); n != wanted {
					t.Errorf("%d of %d machines exist, %d were refused", n, wanted, count(t, db, ledger.Gone))
				}
			})
		})
	}
}

// TestReplicas has four servers buy on one account, each with a queue of its own, so that Lambda
// refuses most of their launches. Nothing is lost: every wish gets one machine, and gives it back.
func TestReplicas(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	paths := make([]string, 4)
	for n := range paths {
		paths[n] = storetest.Path(t)
	}
	synctest.Test(t, func(t *testing.T) {
		const each = 10
		a := newAccount()
		api := a.serve(t, spec)
		var dbs []*store.DB
		var ledgers []*ledger.Ledger
		for n, path := range paths {
			db := storetest.Open(t, path)
			dbs, ledgers = append(dbs, db), append(ledgers, begin(t, db, openAt(t, goodKey, "", direct{api}, quiet())))
			time.Sleep(2 * time.Second)
			intend(t, db, ledgers[n], each)
		}
		time.Sleep(4 * each * 4 * launchEvery)
		for n, db := range dbs {
			if made := count(t, db, ledger.Created); made != each {
				t.Errorf("server %d has %d of %d machines, %d were refused", n, made, each, count(t, db, ledger.Gone))
			}
		}
		if made := 1000 - a.capacity["gpu_1x_a10"]; made != len(paths)*each || a.throttled == 0 {
			t.Errorf("%d machines were launched, want %d; %d requests were refused", made, len(paths)*each, a.throttled)
		}
		for n, db := range dbs {
			withdraw(t, db, ledgers[n])
		}
		time.Sleep(time.Hour)
		for n, db := range dbs {
			if gone := count(t, db, ledger.Gone); gone != each {
				t.Errorf("server %d has given back %d of %d machines", n, gone, each)
			}
		}
	})
}

// TestWithdrawn takes back wishes while they wait for Lambda's limit: nothing is launched for
// them, and they are in nobody's way.
func TestWithdrawn(t *testing.T) {
	spec := openapi.Load(t, "testdata/openapi.json.gz")
	path := storetest.Path(t)
	synctest.Test(t, func(t *testing.T) {
		a, db := newAccount(), storetest.Open(t, path)
		l := begin(t, db, openAt(t, goodKey, "", direct{a.serve(t, spec)}, quiet()))
		intend(t, db, l, 12)
		time.Sleep(25 * time.Second)
		withdraw(t, db, l)
		time.Sleep(2 * time.Second)
		if n := count(t, db, ledger.Intended); n != 0 {
			t.Errorf("%d intents still wait", n)
		}
		launched := 1000 - a.capacity["gpu_1x_a10"]
		intend(t, db, l, 1)
		time.Sleep(launchEvery + 10*time.Second)
		if n := 1000 - a.capacity["gpu_1x_a10"] - launched; n != 1 || launched > 3 {
			t.Errorf("%d machines were launched, and %d for the next wish, want 1", launched, n)
		}
		withdraw(t, db, l)
		time.Sleep(10 * time.Minute)
		if n := 1000 - a.capacity["gpu_1x_a10"]; n != launched+1 || count(t, db, ledger.Gone) != 13 {
			t.Errorf("%d machines were launched, and %d of 13 intents are gone", n, count(t, db, ledger.Gone))
		}
	})
}

func life(t *testing.T, spec *openapi.Spec, db *store.DB, seed uint64) {
	a := newAccount()
	stranger := a.add("us-west-1", "gpu_1x_a10", "mine", "laptop", []any{})
	net := &storm{next: direct{a.serve(t, spec)}, rnd: rand.New(rand.NewPCG(seed, 1)), share: 0.3}
	l := begin(t, db, openAt(t, goodKey, "", net, quiet()))
	write := func(fn func(tx *store.Tx) error) {
		t.Helper()
		if err := db.Write(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	pauses := rand.New(rand.NewPCG(seed, 2)) // the storm's is used by others
	for range 12 {
		write(func(tx *store.Tx) error {
			id, err := l.Intend(t.Context(), tx, wish())
			ids = append(ids, id)
			return err
		})
		time.Sleep(time.Duration(pauses.IntN(60)) * time.Second)
	}
	time.Sleep(10 * time.Minute)
	release := func(ids []string) {
		for _, id := range ids {
			write(func(tx *store.Tx) error { return l.Release(t.Context(), tx, id) })
		}
	}
	release(ids[:6])
	net.mu.Lock()
	net.share = 0
	net.mu.Unlock()
	a.mu.Lock()
	if n := 1000 - a.capacity["gpu_1x_a10"]; n > len(ids) { // of what is launched twice the sweep ends one soon
		t.Errorf("%d machines were launched for %d intents", n, len(ids))
	}
	a.mu.Unlock()
	time.Sleep(time.Hour)

	machines := func() map[string]int {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pass()
		n := map[string]int{}
		for _, m := range a.machines {
			intent := ""
			for _, tag := range m.doc["tags"].([]any) {
				if tag := tag.(map[string]any); tag["key"] == backend.TagIntent {
					intent = tag["value"].(string)
				}
			}
			n[intent]++
		}
		return n
	}
	live := machines()
	for i, id := range ids {
		r, err := ledger.Get(t.Context(), db.Read(), id)
		if err != nil {
			t.Fatal(err)
		}
		created := r.State == ledger.Created && live[id] == 1
		gone := r.State == ledger.Gone && live[id] == 0
		if i < 6 && !gone || i >= 6 && !created && !gone {
			t.Errorf("intent %d is %s (%s) with %d machines", i, r.State, r.Message(), live[id])
		}
	}
	release(ids[6:])
	time.Sleep(time.Hour)
	if live := machines(); len(live) != 1 || live[""] != 1 || a.find(stranger) == nil {
		t.Errorf("machines are left, or a stranger's is not: %v", live)
	}
	if len(a.keys) != 0 {
		t.Errorf("SSH keys are left: %v", a.keys)
	}
}
