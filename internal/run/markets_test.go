package run

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/catalog"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

type cloud = backend.Backend

// seller is the one backend of project p.
type seller struct{ cloud }

func (seller) Offers(context.Context, offer.Query) ([]offer.Offer, error) {
	return []offer.Offer{{Backend: "aws", Region: "r", Instance: "dear", Price: 2}, {Backend: "aws", Region: "r", Instance: "cheap", Price: 1.5}}, nil
}

func (s seller) Backend(context.Context, string, string) (backend.Backend, error) { return s, nil }

func (seller) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: "p", Backend: "aws"}}, nil
}

// What a project is offered is made anew only when it is something else, and of what backends list
// once, whatever is learnt of it.
func TestMarketsAreMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []ledger.Failure
		c, err := catalog.New(catalog.Config{Clouds: seller{}, Log: slog.New(slog.DiscardHandler), Failures: func(context.Context, time.Time) ([]ledger.Failure, error) { return failures, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := &Service{Config: Config{Catalog: c}}
		market := func(first string) market {
			t.Helper()
			m, err := s.market(t.Context(), "p", nil, nil)
			if err != nil || len(m.list) != 2 || m.list[0].Instance.Name != first {
				t.Fatalf("%+v, %v, want first %s", m.list, err, first)
			}
			return m
		}
		same := func(a, b []api.InstanceOffer) bool { return &a[0] == &b[0] }
		listed := market("cheap")
		if !same(listed.list, market("cheap").list) {
			t.Error("the list is another, though nothing is")
		}
		failures = []ledger.Failure{{ProjectID: "p", Backend: "aws", Region: "r", Instance: "cheap", Outcome: ledger.NoCapacity, At: time.Now()}}
		time.Sleep(3 * time.Second)
		refused := market("dear")
		if refused.list[1].Penalty < 0.9 || !same(refused.list, market("dear").list) {
			t.Errorf("what could not be had is %+v, and made anew: %v", refused.list[1], !same(refused.list, market("dear").list))
		}
		time.Sleep(time.Minute)
		if later := market("dear"); same(later.list, refused.list) || later.list[1].Penalty >= refused.list[1].Penalty || !same(later.plain.list, listed.list) {
			t.Errorf("a minute later it is %+v; before %+v", later.list[1], refused.list[1])
		}
		failures = nil
		time.Sleep(3 * time.Second)
		if !same(market("cheap").list, listed.list) {
			t.Error("when nothing counts any more, the list is not the one from before")
		}
	})
}

// What is shown and what may be bought are remembered beside each other, and a market that is made anew
// takes no other's place.
func TestMarketsStay(t *testing.T) {
	listing := func() catalog.Listing {
		offers, err := seller{}.Offers(t.Context(), offer.Query{})
		if err != nil {
			t.Fatal(err)
		}
		return catalog.Listing{Offers: offers}
	}
	var m markets
	show, buy := listing(), listing()
	first := func(purpose, name string, of catalog.Listing) *api.InstanceOffer {
		return &m.of(purpose, name, of).list[0]
	}
	shown, bought := first(toShow, "p", show), first(toBuy, "p", buy)
	if first(toShow, "p", show) != shown || first(toBuy, "p", buy) != bought {
		t.Error("one of what is shown and what may be bought takes the other's place")
	}
	if first(toBuy, "p", show) != shown {
		t.Error("what is shown is made again to be bought")
	}
	for n := range catalog.MaxLists - 2 {
		first(toShow, string(rune('a'+n)), show)
	}
	a := first(toShow, "a", show)
	first(toBuy, "p", listing())
	if first(toShow, "a", show) != a {
		t.Error("a market that is made anew takes the places of others")
	}
}

// sellers are the one backend of each of some projects.
type sellers struct{ seller }

func (s sellers) Backend(context.Context, string, string) (backend.Backend, error) { return s, nil }

func (sellers) Accounts(context.Context) (list []ledger.Account, err error) {
	for n := range 40 {
		list = append(list, ledger.Account{ProjectID: fmt.Sprint("p", n), Backend: "aws"})
	}
	return list, nil
}

// Projects that are looked at in turn do not push each other out: what many are offered is remembered, up to as
// many offers as there is room for.
func TestMarketsOfManyProjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := catalog.New(catalog.Config{Clouds: sellers{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s := &Service{Config: Config{Catalog: c}}
		first := map[int]*api.InstanceOffer{}
		for round := range 2 {
			for n := range 40 {
				m, err := s.market(t.Context(), fmt.Sprint("p", n), nil, nil)
				if err != nil || len(m.list) != 2 {
					t.Fatalf("%+v, %v", m.list, err)
				}
				if round > 0 && first[n] != &m.list[0] {
					t.Errorf("the offers of project %d are made anew", n)
				}
				first[n] = &m.list[0]
			}
		}
	})
}
