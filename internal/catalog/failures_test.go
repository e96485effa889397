package catalog

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

func TestPenalties(t *testing.T) {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	failed := func(project, instance string, outcome ledger.Outcome, ago time.Duration) ledger.Failure {
		return ledger.Failure{ProjectID: project, Backend: "aws", Region: "r", Instance: instance, Outcome: outcome, At: now.Add(-ago)}
	}
	key := func(instance string) offer.Key { return offer.Key{Backend: "aws", Region: "r", Instance: instance} }
	many := make([]ledger.Failure, 100)
	for i := range many {
		many[i] = failed("p", "a", ledger.NoCapacity, 0)
	}
	for name, tt := range map[string]struct {
		failures []ledger.Failure
		want     map[offer.Key]float64
	}{
		"nothing":                      {nil, map[offer.Key]float64{}},
		"just now":                     {[]ledger.Failure{failed("p", "a", ledger.NoCapacity, 0)}, map[offer.Key]float64{key("a"): 1}},
		"with decay":                   {[]ledger.Failure{failed("p", "a", ledger.NoQuota, halving), failed("p", "a", ledger.Lost, 2*halving), failed("p", "b", ledger.Invalid, 0)}, map[offer.Key]float64{key("a"): 0.75, key("b"): 1}},
		"forgotten":                    {[]ledger.Failure{failed("p", "a", ledger.NoCapacity, remembered+time.Second)}, map[offer.Key]float64{}},
		"by clocks that differ":        {[]ledger.Failure{failed("p", "a", ledger.NoCapacity, -time.Hour)}, map[offer.Key]float64{key("a"): 1}},
		"another project's capacity":   {[]ledger.Failure{failed("q", "a", ledger.NoCapacity, 0)}, map[offer.Key]float64{key("a"): 1}},
		"another project's quota":      {[]ledger.Failure{failed("q", "a", ledger.NoQuota, 0)}, map[offer.Key]float64{}},
		"no more than is good for all": {many, map[offer.Key]float64{key("a"): maxPenalty}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, penalties(now, tt.failures, "p")); diff != "" {
				t.Errorf("penalties (-want +got):\n%s", diff)
			}
		})
	}
}

// An offer was refused last when anybody met with a lack of capacity, or the project with anything.
func TestRefusals(t *testing.T) {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	refused := func(project string, outcome ledger.Outcome, asked, ago time.Duration) ledger.Failure {
		return ledger.Failure{ProjectID: project, Backend: "aws", Region: "r", Instance: "a", Outcome: outcome, At: now.Add(-asked), Until: now.Add(-ago)}
	}
	k := offer.Key{Backend: "aws", Region: "r", Instance: "a"}
	for name, tt := range map[string]struct {
		failures []ledger.Failure
		ago      time.Duration // 0: never
	}{
		"nothing":                    {nil, 0},
		"the latest":                 {[]ledger.Failure{refused("p", ledger.NoCapacity, time.Minute, 50*time.Second), refused("p", ledger.Lost, 10*time.Minute, time.Second)}, time.Second},
		"another project's capacity": {[]ledger.Failure{refused("q", ledger.NoCapacity, time.Minute, time.Second)}, time.Second},
		"another project's quota":    {[]ledger.Failure{refused("q", ledger.NoQuota, time.Minute, time.Second)}, 0},
		"forgotten":                  {[]ledger.Failure{refused("p", ledger.NoCapacity, remembered+time.Second, remembered)}, 0},
	} {
		want := map[offer.Key]time.Time{}
		if tt.ago > 0 {
			want[k] = now.Add(-tt.ago)
		}
		if diff := cmp.Diff(want, refusals(now, tt.failures, "p")); diff != "" {
			t.Errorf("%s: refusals (-want +got):\n%s", name, diff)
		}
	}
}

// What the ledger says reaches the offers within moments, and is not asked for at every question.
func TestOffersAreLowered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var failures []ledger.Failure
		var broken error
		c, _, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) { return one(name), nil })
		c.Failures = func(_ context.Context, since time.Time) ([]ledger.Failure, error) {
			asked++
			if age := time.Since(since); age != remembered {
				t.Errorf("asked for failures of the last %v", age)
			}
			return failures, broken
		}
		penalty := func() float64 {
			l, err := c.Offers(t.Context(), "p", nil)
			if err != nil || len(l.Offers) != 2 {
				t.Fatalf("%d offers, %v", len(l.Offers), err)
			}
			if _, other := l.Lately.Of(l.Offers[1].Key(), 1); other != 0 {
				t.Errorf("another offer has the penalty %v", other)
			}
			price, got := l.Lately.Of(l.Offers[0].Key(), 1)
			if price != 1 {
				t.Errorf("it costs %v, want what is listed", price)
			}
			return got
		}
		if got := penalty(); got != 0 {
			t.Errorf("the penalty is %v before anything failed", got)
		}
		failures = []ledger.Failure{{ProjectID: "p", Backend: "a", Instance: "a", Outcome: ledger.NoCapacity, At: time.Now()}}
		time.Sleep(reread)
		if got := penalty(); got < 0.99 || got > 1 {
			t.Errorf("the penalty is %v moments after a failure, want almost 1", got)
		}
		for range 100 {
			penalty()
		}
		if asked != 2 {
			t.Errorf("the ledger was asked %d times, want 2", asked)
		}
		time.Sleep(halving)
		failures, broken = nil, errors.New("the database is away")
		if got := penalty(); got < 0.49 || got > 0.5 {
			t.Errorf("the penalty is %v a quarter of an hour later, want almost a half", got)
		}
	})
}

// Offers say what their backend can do with them.
func TestCapabilitiesOfOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cl, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) { return one(name), nil })
		cl.reserves = "b"
		l, err := c.Offers(t.Context(), "p", nil)
		offers := l.Offers
		if err != nil || len(offers) != 2 || offers[0].Order != 0 || offers[0].Multinode || offers[1].Order != 1 || !offers[1].Multinode {
			t.Errorf("offers %+v, %v, want that only those of b are ranked and reach each other", offers, err)
		}
	})
}

func TestProblems(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fail error
		hang := make(chan struct{})
		c, _, _ := open(t, func(ctx context.Context, name string) ([]offer.Offer, error) {
			if name == "a" {
				return one(name), nil
			}
			select {
			case <-hang:
				return one(name), fail
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		expect := func(when, want string) {
			t.Helper()
			names(t, c)
			synctest.Wait()
			list, err := c.Problems(t.Context(), "p")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, p := range list {
				got += p.Backend + " " + p.Text
				if p.At.IsZero() != (when == "cold" || when == "silent") {
					t.Errorf("%s: its offers are of %v", when, p.At)
				}
			}
			if got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		expect("cold", "b was asked for the first time 3s ago and has not answered yet; its offers are missing, look again soon")
		time.Sleep(deadline)
		expect("silent", "b did not answer within 2m0s; its offers are missing")
		close(hang)
		time.Sleep(fresh + time.Second)
		expect("well", "")
		for _, tt := range []struct {
			err  error
			want string
		}{
			{backend.ErrAuth, "does not take the credentials"}, {&backend.RateLimitedError{}, "limits how often it can be asked"},
			{errors.New("the secret is s3cr3t"), "cannot say what it offers"},
		} {
			fail = tt.err
			time.Sleep(fresh + time.Second)
			names(t, c)
			synctest.Wait()
			list, err := c.Problems(t.Context(), "p")
			if err != nil || len(list) != 1 || list[0].Text[:len(tt.want)] != tt.want {
				t.Errorf("%v: %+v, %v, want %q", tt.err, list, err, tt.want)
			}
		}
		fail = nil
		time.Sleep(fresh + time.Second)
		expect("well again", "")
		hang = make(chan struct{})
		time.Sleep(fresh + time.Second)
		names(t, c)
		time.Sleep(10 * time.Second)
		expect("slow", "b has not answered for 10s; its offers are those of 1m11s ago")
	})
}
