package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/offer"
)

// Offers say what room a reservation has for them, which is asked of the backends that have any.
func TestReservations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cl, changes := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			spot := offer.Offer{Backend: name, Region: "eu", Instance: "big", Resources: offer.Resources{Spot: true}}
			return []offer.Offer{{Backend: name, Region: "eu", Instance: "big"}, {Backend: name, Region: "us", Instance: "big"}, spot}, nil
		})
		cl.reserves = "b"
		cl.parts = map[string][]offer.Reserved{"r": {{Region: "eu", Zone: "z1", Instance: "big", Left: 2}, {Region: "eu", Zone: "z2", Instance: "big", Left: -1}}}
		rooms := func(names ...string) string {
			t.Helper()
			offers, err := c.Offers(t.Context(), "p", nil, names...)
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, o := range offers.Offers {
				if o.Rooms != nil {
					list = append(list, fmt.Sprintf("%s/%s %v", o.Backend, o.Region, o.Rooms))
				}
			}
			return strings.Join(list, ", ")
		}
		if got := rooms(); got != "" {
			t.Errorf("nobody asked for a reservation, and offers have %s", got)
		}
		const want = "b/eu [{r z1 2} {r z2 0}]"
		if got := rooms("r"); got != want {
			t.Errorf("rooms %s, want %s", got, want)
		}
		if got := rooms("q"); got != "" || cl.asked["b/q"] != 1 || cl.asked["a/q"] != 0 {
			t.Errorf("a reservation that nobody has gives %s, asked %v", got, cl.asked)
		}
		if got := rooms("r"); got != want || cl.asked["b/r"] != 1 {
			t.Errorf("rooms %s, want %s, after %d questions, want 1", got, want, cl.asked["b/r"])
		}

		cl.mu.Lock()
		cl.parts = map[string][]offer.Reserved{"r": {{Region: "eu", Zone: "z1", Instance: "big", Left: 1}}}
		cl.mu.Unlock()
		before := changes.Load()
		time.Sleep(freshRoom + time.Second)
		rooms("r")
		synctest.Wait()
		if got := rooms("r"); got != "b/eu [{r z1 1}]" || changes.Load() == before {
			t.Errorf("after it became fuller, rooms %s; told %d times", got, changes.Load()-before)
		}

		cl.mu.Lock()
		cl.silent = errors.New("away")
		cl.mu.Unlock()
		time.Sleep(valid + time.Second)
		rooms("r")
		synctest.Wait()
		if bought, _, err := c.Purchasable(t.Context(), "p", nil, "r"); err != nil || len(bought.Offers) != 6 || bought.Offers[3].Rooms != nil {
			t.Errorf("an old answer counts: %+v, %v", bought, err)
		}
		problems, err := c.Problems(t.Context(), "p")
		if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Text, `facts about reservation "r"`) {
			t.Errorf("problems %+v, %v", problems, err)
		}
	})
}

// What users name is bounded, and forgotten.
func TestReservationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cl, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) { return one(name), nil })
		cl.reserves = "b"
		for n := range 2 * maxReservations {
			if _, err := c.Offers(t.Context(), "p", nil, fmt.Sprint("r", n)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(c.known); n > maxReservations+2 {
			t.Errorf("%d answers are kept", n)
		}
		time.Sleep(forgotten + time.Second)
		if _, err := c.Offers(t.Context(), "p", nil, "r"); err != nil {
			t.Fatal(err)
		}
		if n := len(c.known); n != 3 {
			t.Errorf("%d answers are kept, want those about 2 backends and a reservation", n)
		}
	})
}

// A backend that ranks its offers has them in this order among those of others.
func TestRanking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cl, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			return []offer.Offer{{Backend: name, Instance: "x", Price: 2}, {Backend: name, Instance: "y", Price: 1}, {Backend: name, Instance: "z", Price: 3}}, nil
		})
		cl.reserves = "b"
		offers, err := c.Offers(t.Context(), "p", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, o := range offers.Offers {
			got += fmt.Sprintf("%s%s %d, ", o.Backend, o.Instance, o.Order)
		}
		if want := "ax 0, ay 0, az 0, bx 1, by 2, bz 3, "; got != want {
			t.Errorf("order: %s\nwant %s", got, want)
		}
	})
}
