package run

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"dstack/internal/api"
	"dstack/internal/catalog"
	"dstack/internal/fleet"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
)

// Market is what a project's backends offer, and what they say of themselves, for somebody to look at
// whom an ask excludes some of them for.
func (s *Service) Market(ctx context.Context, projectID string, ask scheduler.Ask) (fleet.Market, error) {
	m, err := s.market(ctx, projectID, ask.MayBuy, reservation(ask))
	if err != nil {
		return fleet.Market{}, err
	}
	out := fleet.Market{Offers: m.list, Index: m.index}
	if out.Backends, err = s.Catalog.Backends(ctx, projectID); err != nil {
		return out, err
	}
	out.Problems, err = s.problems(ctx, projectID, ask.MayBuy)
	return out, err
}

// Purchasable lists the offers that something may be bought on for an ask, and until when there may be
// more, see [catalog.Catalog.Purchasable]. Those that could not be had lately are not in it when they are
// to be spared. The list is shared: nobody changes it.
func (s *Service) Purchasable(ctx context.Context, projectID string, ask scheduler.Ask, spare bool) (list []api.InstanceOffer, pending time.Time, err error) {
	m, missing, err := s.purchasable(ctx, projectID, ask.MayBuy, reservation(ask))
	list = m.list
	if spare {
		list = slices.DeleteFunc(slices.Clone(list), func(o api.InstanceOffer) bool { return m.refused(scheduler.KeyOf(&o)) })
	}
	return list, missing.Until(ask.MayBuy), err
}

func (s *Service) purchasable(ctx context.Context, projectID string, from func(backend string) bool, reservations []string) (market, catalog.Pending, error) {
	listing, pending, err := s.Catalog.Purchasable(ctx, projectID, from, reservations...)
	return s.markets.of(toBuy, fmt.Sprint(projectID, reservations), listing), pending, err
}

// market is what a project's backends offer, for somebody to look at, whom some of them are of no
// use to.
func (s *Service) market(ctx context.Context, projectID string, from func(backend string) bool, reservations []string) (market, error) {
	listing, err := s.Catalog.Offers(ctx, projectID, from, reservations...)
	return s.markets.of(toShow, fmt.Sprint(projectID, reservations), listing), err
}

// reservation is the one that an ask names, if it does.
func reservation(ask scheduler.Ask) []string {
	if r := ask.Requirements.Reservation; r != nil {
		return []string{*r}
	}
	return nil
}

// reservations are those that gangs and fleets ask for.
func reservations(gangs []scheduler.Gang, fleets []scheduler.Fleet) []string {
	var names []string
	for _, g := range gangs {
		for _, j := range g.Jobs {
			if r := j.Requirements.Reservation; r != nil {
				names = append(names, *r)
			}
		}
	}
	for _, f := range fleets {
		if r := f.Ask.Requirements.Reservation; r != nil {
			names = append(names, *r)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// maxMarketOffers bounds the offers that are remembered in the wire's form, see [catalog.Shrink].
const maxMarketOffers = 800_000

// markets remember what projects are offered in the wire's form: to make that of a hundred
// thousand offers takes a fifth of a second.
type markets struct {
	mu sync.Mutex
	by map[string]market // by what for, project and reservations
}

// What a market is for: both are one while all backends answer.
const (
	toShow = "to show "
	toBuy  = "to buy "
)

// market is a list of offers in the wire's form, cheapest first, with its index. It is the same for as
// long as what is offered is; nobody changes it.
type market struct {
	list  []api.InstanceOffer
	index *scheduler.Index
	from  catalog.Listing // of which it was made
	plain *market         // of the same offers as they are listed, nil for itself
}

// of returns the market of the listing of that name.
func (m *markets) of(purpose, name string, listing catalog.Listing) market {
	if len(listing.Offers) == 0 {
		return market{list: []api.InstanceOffer{}, index: scheduler.NewIndex(nil)}
	}
	m.mu.Lock()
	var known market
	for _, purpose := range []string{toShow, toBuy} {
		if one := m.by[purpose+name]; one.lists(listing.Offers) && (known.list == nil || one.from.Lately == listing.Lately) {
			known = one
		}
	}
	m.mu.Unlock()
	listed := known.lists(listing.Offers)
	if listed && known.from.Lately == listing.Lately {
		return known
	}
	made := market{}
	switch {
	case listed && known.plain != nil:
		made = *known.plain
	case listed && known.from.Lately == nil:
		made = known
	default:
		made = marketOf(listing.Offers)
	}
	made = made.amended(listing.Lately)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by == nil {
		m.by = map[string]market{}
	}
	m.by[purpose+name] = made
	catalog.Shrink(m.by, purpose+name, maxMarketOffers, func(one market) int { return len(one.list) })
	return made
}

// lists says that a market was made of the catalog's very list.
func (m market) lists(offers []offer.Offer) bool {
	return len(m.from.Offers) == len(offers) && &m.from.Offers[0] == &offers[0]
}

// marketOf is that of offers as they are listed.
func marketOf(offers []offer.Offer) market {
	made := market{from: catalog.Listing{Offers: offers}, list: make([]api.InstanceOffer, len(offers))}
	for i, o := range offers {
		made.list[i] = fleet.ToAPI(o)
	}
	scheduler.Sort(made.list)
	made.index = scheduler.NewIndex(made.list)
	return made
}

// refused says that an offer could not be had lately.
func (m market) refused(k offer.Key) bool {
	_, refused := m.from.Lately.Refused(k)
	return refused
}

// amended is a market of offers as they are listed, beside what was learnt of them.
func (m market) amended(lately *catalog.Lately) market {
	if lately == nil {
		return m
	}
	made := market{from: catalog.Listing{Offers: m.from.Offers, Lately: lately}, plain: &m}
	made.list, made.index = m.index.Amended(lately.Keys(), lately.Of)
	return made
}
