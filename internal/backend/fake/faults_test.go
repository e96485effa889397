package fake_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

func request(n int, spot bool) backend.CreateRequest {
	o := fake.SomeOffers()[1]
	if spot {
		o = fake.SomeOffers()[2]
	}
	token := fmt.Sprint("token-", n)
	return backend.CreateRequest{Token: token, Name: "machine-" + token, Offer: o, Tags: map[string]string{backend.TagServer: "s", backend.TagIntent: token}}
}

// only is a mix of one kind that happens always.
func only(k fake.Kind) fake.Mix {
	return fake.Mix{Shares: map[fake.Kind]float64{k: 1}, Life: time.Hour}
}

// bubble runs a test on a cloud in virtual time.
func bubble(t *testing.T, run func(t *testing.T, c *fake.Cloud)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		run(t, fake.New(fake.Config{Offers: fake.SomeOffers(), Boot: time.Minute, Deletion: 10 * time.Second, Settle: 2 * time.Minute}))
	})
}

func TestEachKind(t *testing.T) {
	brief := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		return ctx
	}
	for kind, check := range map[fake.Kind]func(t *testing.T, c *fake.Cloud){
		fake.ErrorBefore: func(t *testing.T, c *fake.Cloud) {
			if _, err := c.Create(t.Context(), request(1, false)); err == nil || backend.Refused(err) || len(c.Live()) != 0 {
				t.Errorf("Create = %v with %v alive", err, c.Live())
			}
		},
		fake.ErrorAfter: func(t *testing.T, c *fake.Cloud) {
			if _, err := c.Create(t.Context(), request(1, false)); err == nil || backend.Refused(err) || len(c.Live()) != 1 {
				t.Errorf("Create = %v with %v alive", err, c.Live())
			}
		},
		fake.HangBefore: func(t *testing.T, c *fake.Cloud) {
			began := time.Now()
			if _, err := c.Create(brief(t), request(1, false)); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute || len(c.Live()) != 0 {
				t.Errorf("Create = %v after %v with %v alive", err, time.Since(began), c.Live())
			}
		},
		fake.HangAfter: func(t *testing.T, c *fake.Cloud) {
			if _, err := c.Create(brief(t), request(1, false)); !errors.Is(err, context.DeadlineExceeded) || len(c.Live()) != 1 {
				t.Errorf("Create = %v with %v alive", err, c.Live())
			}
		},
		fake.Throttle: func(t *testing.T, c *fake.Cloud) {
			_, err := c.List(t.Context(), "s")
			if _, ok := errors.AsType[*backend.RateLimitedError](err); !ok {
				t.Errorf("List = %v", err)
			}
		},
		fake.NoCapacity: func(t *testing.T, c *fake.Cloud) {
			if _, err := c.Create(t.Context(), request(1, false)); !errors.Is(err, backend.ErrNoCapacity) {
				t.Errorf("Create = %v", err)
			}
		},
		fake.Twin: func(t *testing.T, c *fake.Cloud) {
			if _, err := c.Create(t.Context(), request(1, false)); err != nil || len(c.Live()) != 2 || len(c.Doubles()) != 0 {
				t.Errorf("Create = %v with %v alive, doubles %v", err, c.Live(), c.Doubles())
			}
		},
		fake.Redelivery: func(t *testing.T, c *fake.Cloud) {
			c.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrReset}) // a chosen fault goes first
			if _, err := c.Create(t.Context(), request(1, false)); err == nil || len(c.Live()) != 0 {
				t.Fatalf("Create = %v with %v alive", err, c.Live())
			}
			if _, err := c.Create(t.Context(), request(2, false)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if live := c.Live(); len(live) != 1 {
				t.Errorf("a request that arrived twice made %v", live)
			}
		},
		fake.StaleList: func(t *testing.T, c *fake.Cloud) {
			make1(t, c)
			if owned, err := c.List(t.Context(), "s"); err != nil || len(owned) != 0 {
				t.Errorf("List = %v, %v just after a Create", owned, err)
			}
			time.Sleep(time.Minute)
			if owned, err := c.List(t.Context(), "s"); err != nil || len(owned) != 1 {
				t.Errorf("List = %v, %v after half the settle time", owned, err)
			}
		},
		fake.PartialList: func(t *testing.T, c *fake.Cloud) {
			for n := range 20 {
				if _, err := c.Create(t.Context(), request(n, false)); err != nil {
					t.Fatal(err)
				}
			}
			if owned, err := c.List(t.Context(), "s"); err != nil || len(owned) == 0 || len(owned) == 20 {
				t.Errorf("List = %d of 20, %v", len(owned), err)
			}
			time.Sleep(time.Minute)
			if owned, err := c.List(t.Context(), "s"); err != nil || len(owned) != 20 {
				t.Errorf("List = %d of 20, %v after half the settle time", len(owned), err)
			}
		},
		fake.SlowBoot: func(t *testing.T, c *fake.Cloud) {
			inst := make1(t, c)
			time.Sleep(time.Minute)
			if got, err := c.Describe(t.Context(), inst.Ref); err != nil || got.State != backend.StatePending {
				t.Errorf("Describe = %s, %v after the usual time", got.State, err)
			}
			time.Sleep(9 * time.Minute)
			if got, err := c.Describe(t.Context(), inst.Ref); err != nil || !got.Ready() {
				t.Errorf("Describe = %s, %v after ten times the usual", got.State, err)
			}
		},
		fake.BrokenBoot: func(t *testing.T, c *fake.Cloud) {
			inst := make1(t, c)
			if got, err := c.Describe(t.Context(), inst.Ref); err != nil || got.State != backend.StateFailed || len(c.Live()) != 1 {
				t.Errorf("Describe = %s, %v; alive %v", got.State, err, c.Live())
			}
		},
		fake.SuddenDeath: func(t *testing.T, c *fake.Cloud) {
			inst := make1(t, c)
			time.Sleep(time.Hour)
			if _, err := c.Describe(t.Context(), inst.Ref); !errors.Is(err, backend.ErrNotFound) {
				t.Errorf("Describe = %v after its life", err)
			}
		},
		fake.Interruption: func(t *testing.T, c *fake.Cloud) {
			demand := make1(t, c)
			spot, err := c.Create(t.Context(), request(2, true))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour + 10*time.Second)
			if _, err := c.Describe(t.Context(), spot.Ref); !errors.Is(err, backend.ErrNotFound) {
				t.Errorf("Describe of the spot machine = %v after its life", err)
			}
			if _, err := c.Describe(t.Context(), demand.Ref); err != nil {
				t.Errorf("Describe of the machine on demand = %v", err)
			}
		},
		fake.AddressReuse: func(t *testing.T, c *fake.Cloud) {
			old := make1(t, c)
			time.Sleep(time.Minute)
			address := c.Live()[0].Address
			if err := c.Terminate(t.Context(), old.Ref); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if m, ok := c.At(address); ok {
				t.Errorf("%v answers after its end", m)
			}
			young, err := c.Create(t.Context(), request(2, false))
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if m, ok := c.At(address); !ok || m.ID != young.Ref.ID {
				t.Errorf("at %s is %v, %v, want %s", address, m, ok, young.Ref.ID)
			}
		},
	} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fake.Cloud) {
				c.Misbehave(1, only(kind))
				check(t, c)
				if n := c.Injected(); n[kind] == 0 || len(n) != 1 {
					t.Errorf("Injected = %v, want %s alone", n, kind)
				}
			})
		})
	}
}

func make1(t *testing.T, c *fake.Cloud) backend.Instance {
	t.Helper()
	inst, err := c.Create(t.Context(), request(1, false))
	if err != nil {
		t.Fatal(err)
	}
	return inst
}

// TestLateDelivery loses a request, which arrives when its caller has given up.
func TestLateDelivery(t *testing.T) {
	bubble(t, func(t *testing.T, c *fake.Cloud) {
		c.Misbehave(1, fake.Mix{Shares: map[fake.Kind]float64{fake.ErrorBefore: 1, fake.Redelivery: 1}})
		if _, err := c.Create(t.Context(), request(1, false)); err == nil || len(c.Live()) != 0 {
			t.Fatalf("Create = %v with %v alive", err, c.Live())
		}
		time.Sleep(c.Settle() / 2)
		if live := c.Live(); len(live) != 1 {
			t.Errorf("after half the settle time, alive is %v, want one machine", live)
		}
	})
}

// TestSeed runs many calls at once: what happens is the seed's alone.
func TestSeed(t *testing.T) {
	history := func(seed uint64) (injected map[fake.Kind]int, outcomes []string) {
		bubble(t, func(t *testing.T, c *fake.Cloud) {
			mix := fake.EveryKind(0.2)
			delete(mix.Shares, fake.AddressReuse) // depends on who was there before
			c.Misbehave(seed, mix)
			outcomes = make([]string, 100)
			var g errgroup.Group
			for n := range outcomes {
				g.Go(func() error {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					_, err := c.Create(ctx, request(n, n%2 == 0))
					outcomes[n] = fmt.Sprint(err)
					return nil
				})
			}
			_ = g.Wait()              // reports nothing
			time.Sleep(2 * time.Hour) // until all that die have died
			injected = c.Injected()
		})
		return injected, outcomes
	}
	counts, outcomes := history(7)
	again, repeated := history(7)
	if diff := cmp.Diff(outcomes, repeated); diff != "" {
		t.Errorf("one seed, two histories:\n%s", diff)
	}
	if diff := cmp.Diff(counts, again); diff != "" {
		t.Errorf("one seed, two counts:\n%s", diff)
	}
	if _, other := history(8); cmp.Equal(outcomes, other) {
		t.Error("two seeds, one history")
	}
}

func TestHeal(t *testing.T) {
	bubble(t, func(t *testing.T, c *fake.Cloud) {
		c.Inject(fake.Fault{Before: fake.ErrReset})
		c.Misbehave(1, fake.EveryKind(1))
		c.Heal()
		make1(t, c)
		if n := c.Injected(); len(n) != 0 || len(c.Live()) != 1 {
			t.Errorf("Injected = %v after Heal, alive %v", n, c.Live())
		}
	})
}

func TestInvoice(t *testing.T) {
	bubble(t, func(t *testing.T, c *fake.Cloud) {
		c.Plant("north", 100, nil) // a stranger's, not ours to pay
		inst := make1(t, c)
		time.Sleep(2 * time.Hour)
		if err := c.Terminate(t.Context(), inst.Ref); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Create(t.Context(), request(2, false)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		bill := c.Invoice("s")
		if len(bill) != 2 || bill[0].Live || !bill[1].Live || bill[0].Intent != "token-1" {
			t.Fatalf("Invoice = %+v", bill)
		}
		if d := bill[0].To.Sub(bill[0].From); d != 2*time.Hour+10*time.Second {
			t.Errorf("billed for %v, want until the deletion was done", d)
		}
		want := 2.50 * (3 + 10.0/3600)
		if got := c.Bill("s"); math.Abs(got-want) > 1e-9 {
			t.Errorf("Bill = %v, want %v", got, want)
		}
	})
}

// TestEnded hears of every end, at its time.
func TestEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ends []string
		began := time.Now()
		c := fake.New(fake.Config{Offers: fake.SomeOffers(), Deletion: 10 * time.Second, Ended: func(m fake.Machine) {
			mu.Lock()
			defer mu.Unlock()
			ends = append(ends, fmt.Sprint(m.Name, " ", time.Since(began), " ", m.Gone.Sub(began)))
		}})
		asked := make1(t, c)
		killed, err := c.Create(t.Context(), request(2, false))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Terminate(t.Context(), asked.Ref); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		c.Kill(killed.Ref.ID)
		c.Misbehave(1, only(fake.SuddenDeath))
		if _, err := c.Create(t.Context(), request(3, false)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		want := []string{"machine-token-1 10s 10s", "machine-token-2 1m0s 1m0s"}
		if len(ends) != 3 || !cmp.Equal(want, ends[:2]) {
			t.Errorf("Ended was called for %q, want %q and the third", ends, want)
		}
	})
}

// TestGroupFaults has groups go wrong as machines do.
func TestGroupFaults(t *testing.T) {
	req := backend.PlacementRequest{Token: "token-1", Name: "group-1", Region: "north", Offer: fake.SomeOffers()[1], Tags: map[string]string{backend.TagServer: "s", backend.TagIntent: "token-1"}}
	for kind, tt := range map[fake.Kind]struct {
		refused bool
		groups  int // at once
		later   int // after half the settle time
	}{
		fake.ErrorBefore: {false, 0, 0},
		fake.ErrorAfter:  {false, 1, 1},
		fake.NoCapacity:  {true, 0, 0},
		fake.Twin:        {false, 2, 2},
		fake.Redelivery:  {false, 1, 1},
	} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, c *fake.Cloud) {
				c.Misbehave(1, only(kind))
				_, err := c.CreatePlacement(t.Context(), req)
				if backend.Refused(err) != tt.refused || len(c.Groups()) != tt.groups || len(c.Doubles()) != 0 {
					t.Errorf("CreatePlacement = %v, groups %v, doubles %v", err, c.Groups(), c.Doubles())
				}
				time.Sleep(time.Minute)
				if n := len(c.Groups()); n != tt.later {
					t.Errorf("%d groups later, want %d", n, tt.later)
				}
				if n := c.Injected(); n[kind] == 0 {
					t.Errorf("Injected = %v, want %s", n, kind)
				}
			})
		})
	}
}

// TestFabrics refuses what cannot join.
func TestFabrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		offers := fake.SomeOffers()
		c := fake.New(fake.Config{Offers: offers, Fabrics: map[string]string{"cpu.small": fake.NoFabric, "gpu.eight": "ib"}})
		create := func(token string, o offer.Offer) (backend.Placement, error) {
			return c.CreatePlacement(t.Context(), backend.PlacementRequest{Token: token, Name: token, Region: o.Region, Offer: o})
		}
		if _, err := create("a", offers[0]); !backend.Refused(err) {
			t.Errorf("a group for cpu.small: %v, want a refusal", err)
		}
		north, err := create("b", offers[1])
		if err != nil {
			t.Fatal(err)
		}
		for n, o := range []offer.Offer{offers[0], offers[3], offers[5]} { // no groups for it; another network; another region
			req := request(n, false)
			req.Offer, req.Placement = o, &north.Ref
			if _, err := c.Create(t.Context(), req); !backend.Refused(err) {
				t.Errorf("%s in %s joined a group in north: %v", o.Instance, o.Region, err)
			}
		}
	})
}
