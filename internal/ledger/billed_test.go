package ledger

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func hour(n float64) time.Time { return epoch.Add(time.Duration(n * float64(time.Hour))) }

// TestPriceHeard tells what the provider's words about a price mean, hour by hour.
func TestPriceHeard(t *testing.T) {
	for name, tt := range map[string]struct {
		heard []float64
		price float64
		want  Prices
	}{
		"nothing":              {nil, 2, nil},
		"as offered":           {[]float64{2, 2, 2}, 2, nil},
		"not as offered":       {[]float64{3}, 3, nil}, // from the beginning
		"silence means as is":  {[]float64{0, 3, 0}, 3, nil},
		"a change":             {[]float64{3, 3, 4}, 4, Prices{{3, hour(3)}}},
		"changes":              {[]float64{2, 3, 3, 1}, 1, Prices{{2, hour(2)}, {3, hour(4)}}},
		"there and back":       {[]float64{2, 3, 2}, 2, Prices{{2, hour(2)}, {3, hour(3)}}},
		"what is no price":     {[]float64{2, -1, math.NaN(), math.Inf(1), 9e16, 100_000.01}, 2, nil},
		"the highest":          {[]float64{2, 100_000}, 100_000, Prices{{2, hour(2)}}},
		"a change from silent": {[]float64{0, 0, 5, 6}, 6, Prices{{5, hour(4)}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := Record{Price: 2, State: Created, BilledFrom: epoch}
			for i, price := range tt.heard {
				r.costs(hour(float64(i+1)), price)
			}
			if r.Price != tt.price {
				t.Errorf("the price is %v, want %v", r.Price, tt.price)
			}
			if diff := cmp.Diff(tt.want, r.Earlier); diff != "" {
				t.Errorf("earlier prices (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBilledIn(t *testing.T) {
	b := Billed{From: hour(1), To: hour(9), Price: 4, Earlier: Prices{{2, hour(3)}, {3, hour(5)}}}
	open, late := b, b
	open.To = time.Time{}
	late.Earlier = Prices{{2, hour(3)}, {3, hour(12)}} // heard when it had ended
	for name, tt := range map[string]struct {
		Billed
		from, to time.Time
		want     []Interval
	}{
		"all":                  {b, time.Time{}, hour(20), []Interval{{2, hour(1), hour(3)}, {3, hour(3), hour(5)}, {4, hour(5), hour(9)}}},
		"a part":               {b, hour(4), hour(6), []Interval{{3, hour(4), hour(5)}, {4, hour(5), hour(6)}}},
		"before it":            {b, hour(0), hour(1), nil},
		"behind it":            {b, hour(9), hour(12), nil},
		"still there":          {open, hour(8), hour(20), []Interval{{4, hour(8), hour(20)}}},
		"never there":          {Billed{Price: 1}, hour(0), hour(9), nil},
		"a price heard late":   {late, time.Time{}, hour(20), []Interval{{2, hour(1), hour(3)}, {3, hour(3), hour(9)}}},
		"a period without end": {b, hour(5), hour(5), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tt.In(tt.from, tt.to)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Wherever a period is cut, its parts cost what the whole does; and however often a price changes,
// what is kept of it costs what was paid.
func TestBilledAddsUp(t *testing.T) {
	usd := func(b Billed, from, to time.Time) (sum float64) {
		for _, i := range b.In(from, to) {
			sum += i.USD()
		}
		return sum
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		rec := Record{State: Created, BilledFrom: hour(r.Float64()), Price: 1}
		rec.Doc.Priced = true
		at, paid, price := rec.BilledFrom, 0.0, rec.Price
		for range r.IntN(3 * maxPrices) {
			next := at.Add(time.Duration(r.Int64N(int64(time.Hour))))
			paid += price * next.Sub(at).Hours()
			at, price = next, float64(1+r.IntN(5))
			rec.costs(at, price)
		}
		if len(rec.Earlier) > maxPrices {
			t.Fatalf("seed %d: %d prices are kept", seed, len(rec.Earlier))
		}
		if r.IntN(2) == 0 {
			rec.BilledTo = at
		}
		if got := usd(rec.Billed(), time.Time{}, at); math.Abs(got-paid) > 1e-6*(1+paid) {
			t.Errorf("seed %d: $%f, paid were $%f", seed, got, paid)
		}
		whole, parts, from := usd(rec.Billed(), epoch, at), 0.0, epoch
		for from.Before(at) {
			to := from.Add(time.Duration(r.Int64N(int64(30 * time.Hour))))
			if to.After(at) {
				to = at
			}
			parts += usd(rec.Billed(), from, to)
			from = to
		}
		if math.Abs(parts-whole) > 1e-6*(1+whole) {
			t.Errorf("seed %d: parts cost $%f, the whole $%f", seed, parts, whole)
		}
	}
}

func TestPricesStored(t *testing.T) {
	for _, p := range []Prices{nil, {{2.5, hour(1)}, {3, hour(2)}}} {
		v, err := p.Value()
		if err != nil {
			t.Fatal(err)
		}
		var got Prices
		if err := got.Scan(v); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got); diff != "" {
			t.Errorf("stored as %q (-want +got):\n%s", v, diff)
		}
	}
}

// A resource whose price changes whenever it is looked at is stored all the same, in an index whose
// entries are bounded, also one of which a server before this one has kept more prices.
func TestManyPrices(t *testing.T) {
	const maxEntry = 2704 - 8 - 3*8 - 8 // bytes, without its head, three times and a price
	zone := time.FixedZone("", 5*3600+45*60)
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		rnd := rand.New(rand.NewPCG(1, 2))
		price := func() float64 { return rnd.Float64() * 1e5 }
		at := epoch.In(zone)
		next := func() time.Time {
			at = at.Add(time.Duration(1 + rnd.Int64N(int64(time.Minute))))
			return at
		}
		r := Record{
			ID: uuid.NewString(), Version: 1, Kind: backend.InstanceResource, Backend: "kubernetes", ProjectID: uuid.NewString(),
			OwnerKind: "instance", OwnerID: uuid.NewString(), State: Created, BilledFrom: epoch, Price: price(),
		}
		r.Doc.Priced = true
		before := Prices{}
		for range 2 * maxPrices {
			before = append(before, priceUntil{price(), next()})
		}
		if db.Engine() == store.SQLite { // the other could not have stored them
			r.Earlier = before
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return insert(t.Context(), tx, r) }); err != nil {
			t.Fatal(err)
		}
		r.Earlier = before
		for range 2 * maxPrices {
			r.costs(next(), price())
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return update(t.Context(), tx, r) }); err != nil {
				t.Fatalf("with %d earlier prices: %v", len(r.Earlier), err)
			}
			r.Version++
			v, err := r.Earlier.Value()
			if err != nil {
				t.Fatal(err)
			}
			entry := len(v.(string)) + len(r.ID) + len(r.ProjectID) + len(r.OwnerID) + len(r.OwnerKind) + len(r.Kind) + len(r.Backend)
			if words := 7 * 8; entry+words > maxEntry { // each text begins at a word
				t.Fatalf("%d earlier prices make an entry of %d bytes", len(r.Earlier), entry+words)
			}
		}
	})
}
