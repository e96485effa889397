package ledger

import (
	"cmp"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"dstack/internal/offer"
	"dstack/internal/store"
)

// A priceUntil is what a resource cost until its price changed.
type priceUntil struct {
	Price float64   `json:"price"` // US dollars per hour
	Until time.Time `json:"until"`
}

// Prices are the earlier prices of a resource, oldest first. They are stored as JSON, none as "".
type Prices []priceUntil

// maxPrices bounds the prices that are kept of one resource: they are in the index that sums are read
// from, and PostgreSQL takes no entry of more than 2,704 bytes, of which a price needs up to 80.
const maxPrices = 30

// Value implements driver.Valuer.
func (p Prices) Value() (driver.Value, error) {
	if len(p) == 0 {
		return "", nil
	}
	b, err := json.Marshal([]priceUntil(p))
	return string(b), err
}

// Scan implements sql.Scanner. The error is a [*store.Damage].
func (p *Prices) Scan(src any) error {
	*p = nil
	if s, ok := src.(string); ok && s == "" {
		return nil
	}
	err := store.JSON((*[]priceUntil)(p)).Scan(src)
	if damage, ok := errors.AsType[*store.Damage](err); ok { // the rest of the row stands without it
		*p, err = nil, &store.Damage{Err: damage.Err}
	}
	for i := range *p {
		err = credible(&(*p)[i].Price, err)
	}
	return err
}

// credible takes the error of reading a price. One that nobody can mean is taken for nothing: it would
// spoil the sum.
func credible(price *float64, err error) error {
	if err != nil && store.DespiteDamage(err) != nil || *price >= 0 && *price <= offer.MaxPrice {
		return err
	}
	absurd := &store.Damage{Err: fmt.Errorf("%v is no price", *price)}
	*price = 0
	return cmp.Or(err, error(absurd))
}

// Interval is a time in which something cost the same.
type Interval struct {
	Price    float64 // US dollars per hour
	From, To time.Time
}

// USD is the cost in US dollars.
func (i Interval) USD() float64 { return i.Price * i.To.Sub(i.From).Hours() }

// Billed is the time that a resource is paid for, at its prices: up to the last of Earlier those,
// then Price.
type Billed struct {
	From, To time.Time // To is zero while nobody has confirmed that it ended
	Price    float64   // US dollars per hour
	Earlier  Prices
}

// In is the part of it in a period, an interval for each price, in the order of time. What has not
// ended is paid for until the end of the period, which must not lie ahead. A zero from is no bound.
func (b Billed) In(from, to time.Time) []Interval {
	if b.From.IsZero() {
		return nil
	}
	if from.Before(b.From) {
		from = b.From
	}
	if !b.To.IsZero() && b.To.Before(to) {
		to = b.To
	}
	var all []Interval
	add := func(price float64, until time.Time) {
		if until.After(to) {
			until = to
		}
		if until.After(from) {
			all = append(all, Interval{price, from, until})
			from = until
		}
	}
	for _, e := range b.Earlier {
		add(e.Price, e.Until)
	}
	add(b.Price, to)
	return all
}

// Billed is the time that the resource is paid for.
func (r Record) Billed() Billed { return Billed{r.BilledFrom, r.BilledTo, r.Price, r.Earlier} }

// repriced says that what the provider says of the price is news, and can be meant.
func (r Record) repriced(price float64) bool {
	return price > 0 && price <= offer.MaxPrice && (price != r.Price || !r.Doc.Priced)
}

// absurd logs a price that no provider can mean, which counts for nothing.
func (l *Ledger) absurd(r Record, price float64) {
	if price < 0 || price > offer.MaxPrice || math.IsNaN(price) {
		l.Log.Warn("the provider tells a price that nobody can mean, it is not taken over", "price", price, "kept", r.Price,
			"intent", r.ID, "kind", r.Kind, "backend", r.Backend, "project", r.ProjectID)
	}
}

// costs stores what the provider says of the price. The first word counts from the beginning: what
// was offered is a forecast. A later one counts from when it is heard.
func (r *Record) costs(now time.Time, price float64) {
	if !r.repriced(price) {
		return
	}
	if r.Doc.Priced && price != r.Price && now.After(r.BilledFrom) {
		r.Earlier = r.Earlier.with(r.BilledFrom, priceUntil{r.Price, now})
	}
	r.Price, r.Doc.Priced = price, true
}

// with adds a price to those of what is paid for since a time. While there are too many, which there
// may be of a server before this one, the oldest two become one that costs as much.
func (p Prices) with(since time.Time, last priceUntil) Prices {
	p = append(p[:len(p):len(p)], last) // others may have the record as it was
	for len(p) > maxPrices {
		a, b := p[0], &p[1]
		first, second := max(0, a.Until.Sub(since)).Hours(), max(0, b.Until.Sub(a.Until)).Hours()
		if first+second > 0 {
			b.Price = (a.Price*first + b.Price*second) / (first + second)
		}
		p = p[1:]
	}
	return p
}
