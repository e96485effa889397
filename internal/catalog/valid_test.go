package catalog

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// After a pause, a price that was raised meanwhile is known before it is shown or paid.
func TestOldPricesAreNotPaid(t *testing.T) {
	const slowly = 2 * time.Second
	for name, tt := range map[string]struct {
		pause       time.Duration
		shown, paid float64
	}{
		"fresh": {fresh / 2, 0.75, 0.75},
		"aged":  {fresh + 4*time.Second, 0.75, 9.99},
		"old":   {valid + 4*time.Second, 9.99, 9.99},
		"long":  {time.Hour, 9.99, 9.99},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				price := 0.75
				c, _, _ := open(t, func(context.Context, string) ([]offer.Offer, error) {
					time.Sleep(slowly)
					o := one("a")
					o[0].Price = price
					return o, nil
				})
				names(t, c)
				price = 9.99
				time.Sleep(tt.pause)
				shown, err := c.Offers(t.Context(), "p", nil)
				if err != nil || shown.Offers[0].Price != tt.shown {
					t.Errorf("shown %v, %v, want %v", shown, err, tt.shown)
				}
				paid, pending, err := c.Purchasable(t.Context(), "p", nil)
				if err != nil || paid.Offers[0].Price != tt.paid || len(pending) != 0 {
					t.Errorf("paid %v, pending %v, %v, want %v", paid, pending, err, tt.paid)
				}
			})
		})
	}
}

// What a backend said long ago is shown with its age while it does not answer, but nothing is
// bought on it, and one who buys is told how long an answer may take.
func TestOldOffersAreOnlyShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := false
		c, _, changes := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
			if name == "b" && hang {
				time.Sleep(30 * time.Second)
			}
			return one(name), nil
		})
		names(t, c)
		hang = true
		time.Sleep(10 * time.Minute)
		if got, took := names(t, c); got != "a b " || took != coldWait {
			t.Errorf("shown %q after %v, want both after %v", got, took, coldWait)
		}
		list, err := c.Problems(t.Context(), "p")
		if want := "has not answered for 3s; its offers are those of 10m3s ago"; err != nil || len(list) != 1 || list[0].Text != want {
			t.Errorf("problems %+v, %v, want %q", list, err, want)
		}
		before := changes.Load()
		offers, pending, err := c.Purchasable(t.Context(), "p", nil)
		if err != nil || len(offers.Offers) != 1 || offers.Offers[0].Backend != "a" || len(pending) != 1 || time.Until(pending["b"]) != deadline-firstWait {
			t.Errorf("purchasable %v, pending %v, %v, want a's, and b's until its deadline", offers, pending, err)
		}
		time.Sleep(30 * time.Second)
		if changes.Load() == before {
			t.Error("that b has answered is not told to those who wait")
		}
		offers, pending, err = c.Purchasable(t.Context(), "p", nil)
		if err != nil || len(offers.Offers) != 2 || len(pending) != 0 {
			t.Errorf("purchasable %v, pending %v, %v, want both", offers, pending, err)
		}
	})
}

// One that hangs for good is waited for once.
func TestHangingBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
			if name == "b" {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			}
			return one(name), nil
		})
		names(t, c)
		time.Sleep(deadline + 2*fresh)
		began := time.Now()
		offers, pending, err := c.Purchasable(t.Context(), "p", nil)
		if err != nil || len(offers.Offers) != 1 || len(pending) != 0 || time.Since(began) > 0 {
			t.Errorf("purchasable %v, pending %v, %v, after %v, want a's at once", offers, pending, err, time.Since(began))
		}
	})
}

// One that fails is hoped for for a while, where that may help, and told of by texts that stay.
func TestFailingBackend(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		hoped  time.Duration
		silent string
	}{
		"a failure":         {errors.New("no route"), deadline, "cannot say what it offers"},
		"a limit":           {&backend.RateLimitedError{}, deadline, "limits how often it can be asked"},
		"wrong credentials": {backend.ErrAuth, 0, "does not take the credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var fail error
				c, _, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
					if name == "b" && fail != nil {
						return nil, fail
					}
					return one(name), nil
				})
				names(t, c)
				time.Sleep(time.Hour)
				for range 2 { // a pause ends the failures before it
					fail = tt.err
					began, until := time.Now(), time.Time{}
					for {
						offers, pending, err := c.Purchasable(t.Context(), "p", nil)
						list, err2 := c.Silent(t.Context(), "p")
						if err := errors.Join(err, err2); err != nil || len(offers.Offers) != 1 || len(list) != 1 || list[0].Backend != "b" || list[0].Text != tt.silent {
							t.Fatalf("after %v: offers %v, silent %+v, %v; want a's, and of b %q", time.Since(began), offers, list, err, tt.silent)
						}
						if len(pending) == 0 {
							break
						}
						until = pending["b"]
						time.Sleep(again + time.Second)
					}
					if tt.hoped == 0 && !until.IsZero() || tt.hoped > 0 && until.Sub(began) != tt.hoped {
						t.Errorf("hoped for until %v, from %v; want %v", until, began, tt.hoped)
					}
					time.Sleep(time.Hour)
				}
				fail = nil
				time.Sleep(time.Minute)
				offers, pending, err := c.Purchasable(t.Context(), "p", nil)
				if list, err2 := c.Silent(t.Context(), "p"); errors.Join(err, err2) != nil || len(offers.Offers) != 2 || len(pending) != 0 || list != nil {
					t.Errorf("once it is well: offers %v, pending %v, silent %v, %v", offers, pending, list, errors.Join(err, err2))
				}
			})
		})
	}
}

// A backend that was repaired is in the next answer.
func TestRepairedBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		c, cl, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			if name == "b" && broken {
				return nil, errors.New("no route")
			}
			return one(name), nil
		})
		for range 3 {
			names(t, c)
		}
		if n := cl.asked["b"]; n != 1 {
			t.Errorf("asked %d times in a moment, want once", n)
		}
		broken = false
		time.Sleep(again + time.Second)
		if got, _ := names(t, c); got != "a b " {
			t.Errorf("once it is repaired: %q", got)
		}
		if n := cl.asked["a"]; n != 1 {
			t.Errorf("the other was asked %d times, want once", n)
		}
	})
}

func TestAbsurdOffersAreLeftOut(t *testing.T) {
	good := offer.Offer{Backend: "a", Region: "north", Instance: "good", Price: 1, Availability: offer.Available,
		Resources: offer.Resources{CPUs: 2, MemoryMiB: 1024, Arch: "x86", GPUs: []offer.GPU{{Name: "A10", MemoryMiB: 24 << 10, Vendor: "nvidia"}}}}
	for name, change := range map[string]func(*offer.Offer){
		"price":        func(o *offer.Offer) { o.Price = 9e16 },
		"negative":     func(o *offer.Offer) { o.Price = -1 },
		"no number":    func(o *offer.Offer) { o.Price = math.NaN() },
		"name":         func(o *offer.Offer) { o.Instance = "\x1b[31mred" },
		"region":       func(o *offer.Offer) { o.Region = "a\nb" },
		"zone":         func(o *offer.Offer) { o.Zones = []string{"\x07"} },
		"memory":       func(o *offer.Offer) { o.Resources.MemoryMiB = -1 },
		"GPU's name":   func(o *offer.Offer) { o.Resources.GPUs[0].Name = "A10\x1b" },
		"GPU's memory": func(o *offer.Offer) { o.Resources.GPUs[0].MemoryMiB = 9999 << 10 },
		"GPU's vendor": func(o *offer.Offer) { o.Resources.GPUs[0].Vendor = "amd" },
		"GPUs":         func(o *offer.Offer) { o.Resources.GPUs = make([]offer.GPU, 129) },
		"availability": func(o *offer.Offer) { o.Availability = "\x1b" },
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
				if name != "a" {
					return nil, nil
				}
				bad := good
				bad.Resources.GPUs = []offer.GPU{good.Resources.GPUs[0]}
				change(&bad)
				return []offer.Offer{bad, good}, nil
			})
			if got, _ := names(t, c); got != "good " {
				t.Errorf("offers %q, want only the good one", got)
			}
			problems, err := c.Problems(t.Context(), "p")
			if err != nil || len(problems) != 1 || problems[0].Text != "made an offer that nobody can mean, which is left out" {
				t.Errorf("problems %+v, %v", problems, err)
			}
		})
	}
}

// Who is about to ask for an offer hears what it costs now, and waits for its backend alone.
func TestQuote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		price, slow := 0.75, time.Duration(0)
		c, _, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			if name == "b" {
				time.Sleep(time.Minute)
			}
			time.Sleep(slow)
			o := one(name)
			o[0].Price = price
			return append(o, o[0]), nil
		})
		what := one("a")[0].Key()
		check := func(after time.Duration, want ledger.Quote, wait time.Duration) {
			t.Helper()
			time.Sleep(after)
			begin := time.Now()
			got, err := c.Quote(t.Context(), "p", what)
			if !want.Awaited.IsZero() {
				want.Awaited = begin.Add(deadline)
			}
			if took := time.Since(begin); err != nil || got != want || took != wait {
				t.Errorf("%+v, %v, after %v, want %+v after %v", got, err, took, want, wait)
			}
		}
		check(0, ledger.Quote{Price: 0.75, Known: true}, 0)
		price = 9.99
		check(quoted, ledger.Quote{Price: 0.75, Known: true}, 0)
		check(time.Second, ledger.Quote{Price: 9.99, Known: true}, 0)
		price, slow = 1.5, 4*time.Second
		check(fresh/2, ledger.Quote{Price: 9.99, Known: true}, coldWait)
		check(2*time.Second, ledger.Quote{Price: 1.5, Known: true}, 0)
		slow = 30 * time.Second
		check(time.Hour, ledger.Quote{Awaited: time.Now()}, firstWait)
		check(time.Minute, ledger.Quote{Price: 1.5, Known: true}, coldWait)
		what.Instance = "another"
		check(0, ledger.Quote{Known: false}, 0)
		what.Backend, slow = "none", 0
		check(0, ledger.Quote{}, 0)
	})
}

// Who has no use for a backend does not wait for it, and is not told of it.
func TestBackendsOfNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cl, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			if name == "b" {
				time.Sleep(30 * time.Second)
			}
			return one(name), nil
		})
		onlyA := func(name string) bool { return name == "a" }
		began := time.Now()
		offers, err := c.Offers(t.Context(), "p", onlyA)
		if err != nil || len(offers.Offers) != 1 || time.Since(began) != 0 {
			t.Errorf("%v, %v, after %v, want a's at once", offers, err, time.Since(began))
		}
		offers, pending, err := c.Purchasable(t.Context(), "p", onlyA)
		if err != nil || len(offers.Offers) != 1 || time.Since(began) != 0 {
			t.Errorf("%v, %v, after %v, want a's at once", offers, err, time.Since(began))
		}
		if at := pending.Until(onlyA); !at.IsZero() || len(pending) != 1 || pending.Until(func(string) bool { return true }).Sub(began) != deadline {
			t.Errorf("pending %v, want only b", pending)
		}
		if cl.asked["b"] != 1 {
			t.Errorf("b was asked %d times, want once, for others", cl.asked["b"])
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if offers, _, err := c.Purchasable(t.Context(), "p", onlyA); err != nil || len(offers.Offers) != 2 {
			t.Errorf("%v, %v, want those of both: lists are shared", offers, err)
		}
	})
}
