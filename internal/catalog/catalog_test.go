package catalog

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// clouds are two backends of project p whose answers a test decides.
type clouds struct {
	mu     sync.Mutex
	asked  map[string]int
	say    func(ctx context.Context, name string) ([]offer.Offer, error)
	parts  map[string][]offer.Reserved // of reservations
	silent error                       // instead of what is reserved
	// reserves is the backend that honours reservations and makes clusters, "" for none.
	reserves string
}

func (c *clouds) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: "p", Backend: "a"}, {ProjectID: "p", Backend: "b"}, {ProjectID: "other", Backend: "a"}}, nil
}

func (c *clouds) Backend(_ context.Context, _, name string) (backend.Backend, error) {
	a := account{c: c, name: name}
	if name == c.reserves {
		return reserving{a}, nil
	}
	return a, nil
}

// reserving is an account at a provider with reservations and networks.
type reserving struct{ account }

func (reserving) Multinode() {}
func (reserving) Ranked()    {}

func (r reserving) Reservation(_ context.Context, name string) ([]offer.Reserved, error) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.asked[r.name+"/"+name]++
	return r.c.parts[name], r.c.silent
}

type account struct {
	backend.Backend
	c    *clouds
	name string
}

func (a account) Offers(ctx context.Context, _ offer.Query) ([]offer.Offer, error) {
	a.c.mu.Lock()
	a.c.asked[a.name]++
	a.c.mu.Unlock()
	return a.c.say(ctx, a.name)
}

func open(t *testing.T, say func(ctx context.Context, name string) ([]offer.Offer, error)) (*Catalog, *clouds, *atomic.Int32) {
	t.Helper()
	cl := &clouds{asked: map[string]int{}, say: say}
	changes := new(atomic.Int32)
	c, err := New(Config{Clouds: cl, Log: slog.New(slog.DiscardHandler), Changed: func(string) { changes.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, cl, changes
}

// names lists the offers and how long that took.
func names(t *testing.T, c *Catalog) (list string, took time.Duration) {
	t.Helper()
	began := time.Now()
	offers, err := c.Offers(t.Context(), "p", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers.Offers {
		list += o.Instance + " "
	}
	return list, time.Since(began)
}

func one(name string) []offer.Offer { return []offer.Offer{{Backend: name, Instance: name}} }

func TestAnswersAreKeptAndRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		price := 1.0
		c, cl, changes := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
			o := one(name)
			o[0].Price = price
			return o, nil
		})
		for range 10 {
			if got, _ := names(t, c); got != "a b " {
				t.Fatalf("offers %q", got)
			}
		}
		time.Sleep(fresh + time.Second)
		price = 2
		names(t, c)
		synctest.Wait()
		if cl.asked["a"] != 2 || cl.asked["b"] != 2 {
			t.Errorf("asked %v, want each at first and when its answer was old", cl.asked)
		}
		if n := changes.Load(); n != 4 {
			t.Errorf("%d changes told, want 4", n)
		}
	})
}

// A backend that hangs or fails delays nobody: its last answer stands.
func TestSlowBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hang, fail atomic.Bool
		hang.Store(true)
		c, _, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
			switch {
			case name == "b" && hang.Load():
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(30 * time.Second):
				}
			case name == "b" && fail.Load():
				return nil, errors.New("no route")
			}
			return one(name), nil
		})
		if got, took := names(t, c); got != "a " || took > coldWait {
			t.Errorf("cold: %q after %v", got, took)
		}
		if until, err := c.Settled(t.Context(), "p"); err != nil || len(until) != 1 || time.Until(until["b"]) != firstWait-coldWait {
			t.Errorf("settled in %v, %v, want only b's in %v", until, err, firstWait-coldWait)
		}
		time.Sleep(firstWait - coldWait)
		if until, err := c.Settled(t.Context(), "p"); err != nil || len(until) != 0 {
			t.Errorf("settled in %v, %v, although nobody waits any longer", until, err)
		}
		time.Sleep(31 * time.Second)
		if got, took := names(t, c); got != "a b " || took > 0 {
			t.Errorf("once it has answered: %q after %v", got, took)
		}
		time.Sleep(2 * fresh)
		if got, took := names(t, c); got != "a b " || took > coldWait {
			t.Errorf("while it hangs again: %q after %v", got, took)
		}
		if got, took := names(t, c); got != "a b " || took > 0 {
			t.Errorf("while it hangs still: %q after %v", got, took)
		}
		time.Sleep(2 * fresh)
		hang.Store(false)
		fail.Store(true)
		names(t, c)
		synctest.Wait()
		if got, took := names(t, c); got != "a b " || took > 0 {
			t.Errorf("while it fails: %q after %v", got, took)
		}
	})
}

// While one backend does not answer, what is shown and what may be bought differ, and both lists stay.
func TestListsToShowAndToBuyStay(t *testing.T) {
	for name, tt := range map[string]struct {
		heard         bool // it has answered before
		shown, bought int
	}{"any more": {true, 2, 1}, "at all": {false, 1, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fail := !tt.heard
				c, _, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
					if name == "b" && fail {
						return nil, errors.New("no route")
					}
					return one(name), nil
				})
				names(t, c)
				fail = true
				time.Sleep(10 * time.Minute)
				names(t, c)
				var shown, bought *offer.Offer
				for n := range 3 {
					show, err := c.Offers(t.Context(), "p", nil)
					if err != nil || len(show.Offers) != tt.shown {
						t.Fatalf("shown %v, %v", show.Offers, err)
					}
					buy, _, err := c.Purchasable(t.Context(), "p", nil)
					if err != nil || len(buy.Offers) != tt.bought {
						t.Fatalf("to be bought %v, %v", buy.Offers, err)
					}
					if n > 0 && (&show.Offers[0] != shown || &buy.Offers[0] != bought) {
						t.Error("a list is another, though what is offered is not")
					}
					shown, bought = &show.Offers[0], &buy.Offers[0]
				}
			})
		})
	}
}

// While a backend says the same, the list of offers is the same, so that nothing is made of it anew.
func TestListStaysWhileOffersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone := "z1"
		c, cl, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			return []offer.Offer{{Backend: name, Instance: name, Zones: []string{zone}, Data: map[string]any{"k": 1}}}, nil
		})
		first := func() *offer.Offer {
			offers, err := c.Offers(t.Context(), "p", nil)
			if err != nil || len(offers.Offers) != 2 {
				t.Fatal(offers, err)
			}
			time.Sleep(fresh + time.Second)
			synctest.Wait()
			return &offers.Offers[0]
		}
		one := first()
		_, two := first(), first() // asks again, and sees the answer
		if one != two || cl.asked["a"] < 2 {
			t.Errorf("after %d answers that are the same the list is another", cl.asked["a"])
		}
		zone = "z2"
		_, three := first(), first()
		if three == two || three.Zones[0] != "z2" {
			t.Errorf("the zones are %v after the backend said z2", three.Zones)
		}
	})
}
