package ledger_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/ledger"
	"dstack/internal/offer"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// world is a server that has nothing but a ledger, and its cloud.
type world struct {
	*testing.T
	db      *store.DB
	cloud   *fake.Cloud
	other   *fake.Cloud // another provider; nil for most
	bus     *enginetest.Bus
	ledger  *ledger.Ledger
	stop    func()
	starts  int
	kills   int
	broken  error // of Clouds.Backend
	stale   bool  // another server has changed or deleted the backend
	key     string
	bare    bool              // see untagged
	tags    map[string]string // see mistagged
	late    time.Duration     // see there
	blurs   []string          // see blurred
	prices  ledger.QuoteFunc
	mu      sync.Mutex
	changes int
}

func (w *world) breakBackend(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

func (w *world) outdate(stale bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stale = stale
}

// change gives the backend other credentials, as a restart does or an update.
func (w *world) change(c *fake.Cloud) {
	w.mu.Lock()
	w.cloud, w.key = c, c.ID
	w.mu.Unlock()
	w.ledger.Sweep(ledger.Account{ProjectID: "p", Backend: "fake"})
}

// quote has prices be told by fn.
func (w *world) quote(fn ledger.QuoteFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prices = fn
}

// rekey gives the backend another key of its account.
func (w *world) rekey(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key = key
}

// keyed is a cloud that does not tell its account: the key stands for it.
type keyed struct {
	*fake.Cloud
	key string
}

// Account implements backend.AccountBackend.
func (k keyed) Account() string { return k.key }

// Backend and Accounts implement ledger.Clouds.
func (w *world) Backend(_ context.Context, _, name string) (backend.Backend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return nil, w.broken
	}
	if name == "other" {
		return keyed{w.other, ""}, nil
	}
	if name != "fake" {
		return nil, errors.New("no such backend")
	}
	if w.bare {
		return untagged{keyed{w.cloud, w.key}}, nil
	}
	if w.late > 0 {
		return late{keyed{w.cloud, w.key}, w.late}, nil
	}
	if w.blurs != nil {
		return blurred{keyed{w.cloud, w.key}, w.blurs}, nil
	}
	if w.tags != nil {
		return mistagged{keyed{w.cloud, w.key}, w.tags}, nil
	}
	return keyed{w.cloud, w.key}, nil
}

// untagged is a cloud that does not keep the intent of what it makes: the name alone tells.
type untagged struct{ keyed }

// Describe implements backend.Backend.
func (u untagged) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	inst, err := u.keyed.Describe(ctx, ref)
	inst.IntentID = ""
	return inst, err
}

// List implements backend.Backend.
func (u untagged) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	owned, err := u.keyed.List(ctx, serverID)
	for i := range owned {
		owned[i].IntentID = ""
	}
	return owned, err
}

// late is a cloud that takes its time to answer what there was when it was asked.
type late struct {
	keyed
	by time.Duration
}

// List implements backend.Backend.
func (l late) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	owned, err := l.keyed.List(ctx, serverID)
	time.Sleep(l.by)
	return owned, err
}

// mistagged is a cloud that lists some machines with other intents than theirs, by the machines' ids.
type mistagged struct {
	keyed
	tags map[string]string
}

// List implements backend.Backend.
func (m mistagged) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	owned, err := m.keyed.List(ctx, serverID)
	for i := range owned {
		if tag, ok := m.tags[owned[i].Ref.ID]; ok {
			owned[i].IntentID = tag
		}
	}
	return owned, err
}

func (w *world) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: "p", Backend: "fake"}}, nil
}

// each runs fn in virtual time on both engines with a running ledger.
func each(t *testing.T, c fake.Config, fn func(w *world)) {
	t.Helper()
	storetest.Bubble(t, func(t *testing.T, db *store.DB) { fn(start(t, db, c)) })
}

func start(t *testing.T, db *store.DB, c fake.Config) *world {
	t.Helper()
	c.Offers = fake.SomeOffers()
	w := &world{T: t, db: db, cloud: fake.New(c), key: c.ID, bus: &enginetest.Bus{}}
	w.restart()
	t.Cleanup(func() { w.stop() })
	return w
}

// restart starts the server, again if it ran.
func (w *world) restart() {
	w.Helper()
	w.starts++
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	e, err := engine.New(engine.Config{DB: w.db, Log: log, Owner: strings.Repeat("x", w.starts), Bus: w.bus, Drain: time.Millisecond})
	if err != nil {
		w.Fatal(err)
	}
	w.ledger, err = ledger.New(ledger.Config{DB: w.db, Engine: e, Clouds: w, Log: log, OnChange: func(string, string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.changes++
	}, Current: func(_ context.Context, _ store.Querier, a ledger.Account, b backend.Backend) (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if b == nil || a.Backend != "fake" && a.Backend != "other" {
			w.Errorf("asked whether %v of %+v is current", b, a)
		}
		return !w.stale, nil
	}, Quote: func(ctx context.Context, projectID string, what offer.Key) (ledger.Quote, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.prices(ctx, projectID, what)
	}})
	if err != nil {
		w.Fatal(err)
	}
	w.stop = sync.OnceFunc(enginetest.StartStoppable(w.T, e))
	settle()
}

// crash starts another server while the present one is in the middle of something. The old
// one, fenced, cannot store what it learns any more: as if it had been killed.
func (w *world) crash() {
	w.Helper()
	w.overtake()()
}

// overtake starts another server beside the present one and returns what stops the old one.
func (w *world) overtake() func() {
	w.Helper()
	dead := w.stop
	if w.db.Engine() == store.Postgres { // its lease ran out
		w.write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(context.Background(), `UPDATE shard SET expires_at = 0, owner = ''`)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(context.Background(), `DELETE FROM replica`)
			return err
		})
	}
	w.restart()
	return dead
}

func settle() {
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

// intend records a wish for one machine.
func (w *world) intend() string { return w.intendFor(nil) }

// intendFor records a wish for one machine that costs no more than a limit, in dollars per hour.
func (w *world) intendFor(limit *float64) string {
	w.Helper()
	var id string
	w.write(func(tx *store.Tx) (err error) {
		id, err = w.ledger.Intend(context.Background(), tx, ledger.Intent{
			Kind: backend.InstanceResource, Backend: "fake", Region: "north", ProjectID: "p",
			OwnerKind: "instance", OwnerID: "inst", Price: 2.50, MaxPrice: limit, Name: "train-0",
			Create: &backend.CreateRequest{Project: "main", Fleet: "train", Offer: h100()},
		})
		return err
	})
	return id
}

func h100() offer.Offer { return fake.SomeOffers()[1] }

func (w *world) release(id string) {
	w.Helper()
	w.write(func(tx *store.Tx) error { return w.ledger.Release(context.Background(), tx, id) })
}

func (w *world) write(fn func(tx *store.Tx) error) {
	w.Helper()
	if err := w.db.Write(context.Background(), fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) get(id string) ledger.Record {
	w.Helper()
	r, err := ledger.Get(context.Background(), w.db.Read(), id)
	if err != nil {
		w.Fatal(err)
	}
	return r
}

// want checks the state of an intent and the number of machines that cost money.
func (w *world) want(id string, state ledger.State, live int) ledger.Record {
	w.Helper()
	r := w.get(id)
	if r.State != state {
		w.Errorf("intent is %s (%s, %q), want %s", r.State, r.Doc.Outcome, r.Doc.Message, state)
	}
	w.live(live)
	return r
}

func (w *world) live(n int) {
	w.Helper()
	if got := w.cloud.Live(); len(got) != n {
		w.Errorf("%d machines are billed, want %d: %v", len(got), n, got)
	}
}

// billEqual compares the ledger's costs with the cloud's bill (I9).
func (w *world) billEqual() {
	w.Helper()
	costs, err := ledger.Costs(context.Background(), w.db.Read(), ledger.Which{To: time.Now()})
	if err != nil {
		w.Fatal(err)
	}
	sum := 0.0
	for _, c := range costs {
		sum += c.USD()
	}
	// Where the provider does not say when a machine ended, we learn it some seconds later,
	// and with the next sweep when it ended without us.
	bill := w.cloud.Bill(w.db.ServerID())
	if slack := 0.03*float64(len(costs)) + 0.30*float64(w.kills); math.Abs(sum-bill) > slack {
		w.Errorf("the ledger says $%.4f, the bill $%.4f", sum, bill)
	}
}
