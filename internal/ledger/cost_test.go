package ledger_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// costs are the ledger's of project p until now.
func (w *world) costs() []ledger.Cost {
	w.Helper()
	costs, err := ledger.Costs(context.Background(), w.db.Read(), ledger.Which{Projects: []string{"p"}, To: time.Now()})
	if err != nil {
		w.Fatal(err)
	}
	return costs
}

func usd(costs []ledger.Cost) (sum float64) {
	for _, c := range costs {
		sum += c.USD()
	}
	return sum
}

// TestPriceChanges has a machine cost more from some time on. It is heard with the next sweep, so
// what was before is not charged again.
func TestPriceChanges(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(10 * time.Hour)
		w.cloud.Reprice(w.cloud.Live()[0].ID, 5)
		time.Sleep(10 * time.Hour)
		if r := w.want(id, ledger.Created, 1); r.Price != 5 || len(r.Earlier) != 1 || r.Earlier[0].Price != 2.5 {
			t.Errorf("price %v, before %+v", r.Price, r.Earlier)
		}
		w.release(id)
		time.Sleep(time.Minute)
		w.want(id, ledger.Gone, 0)
		bill := w.cloud.Bill(w.db.ServerID())
		const heard = 2.5 * 6 / 60 // a sweep is at most so late, at the difference of the prices
		if got := usd(w.costs()); bill < 74.9 || math.Abs(got-bill) > heard {
			t.Errorf("the ledger says $%.4f, the bill $%.4f", got, bill)
		}
	})
}

// TestCloudAway has a machine change its price and end while its cloud does not answer. Until it
// does, the machine counts, as one that nobody has confirmed to be gone.
func TestCloudAway(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Hour)
		w.cloud.Inject(fake.Fault{Before: errors.New("bad gateway")})
		w.cloud.Kill(w.cloud.Live()[0].ID)
		for range 5 { // that a question is repeated makes it no younger
			w.write(func(tx *store.Tx) error { return w.ledger.Check(context.Background(), tx, id) })
			time.Sleep(time.Minute)
		}
		if c := w.costs(); len(c) != 1 || !c[0].Open || c[0].Doubt {
			t.Errorf("after some minutes %+v", c)
		}
		time.Sleep(55 * time.Minute)
		c := w.costs() // certain until it was asked about and did not answer
		if len(c) != 2 || c[0].Open || c[0].Doubt || !c[1].Open || !c[1].Doubt || math.Abs(usd(c)-5) > 0.01 || math.Abs(usd(c[1:])-2.5) > 0.01 {
			t.Errorf("while the cloud is away %+v", c)
		}
		past, err := ledger.Costs(context.Background(), w.db.Read(), ledger.Which{To: time.Now().Add(-90 * time.Minute)})
		if err != nil || len(past) != 1 || past[0].Open || past[0].Doubt || math.Abs(usd(past)-1.25) > 0.01 {
			t.Errorf("of the time before %+v, %v", past, err)
		}
		past, err = ledger.Costs(context.Background(), w.db.Read(), ledger.Which{From: time.Now().Add(-30 * time.Minute), To: time.Now().Add(-15 * time.Minute)})
		if err != nil || len(past) != 1 || past[0].Open || !past[0].Doubt {
			t.Errorf("of a time in which it was away %+v, %v", past, err)
		}
		w.cloud.Heal()
		time.Sleep(20 * time.Minute)
		w.want(id, ledger.Gone, 0)
		// What is not found any more ended when that was first heard: nobody says when it was.
		if c := w.costs(); len(c) != 1 || c[0].Open || c[0].Doubt || usd(c) > 5.5 {
			t.Errorf("after it came back $%.2f, %+v", usd(c), c)
		}
	})
}

// TestUndeletable counts what is asked to be deleted, and is not.
func TestUndeletable(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Terminate", Before: errors.New("try again")})
		w.release(id)
		time.Sleep(2 * time.Hour)
		if c := w.costs(); len(c) != 2 || c[0].Doubt || !c[1].Open || !c[1].Doubt || c[1].ID != id || math.Abs(usd(c)-w.cloud.Bill(w.db.ServerID())) > 0.01 {
			t.Errorf("%+v, the bill is $%.2f", c, w.cloud.Bill(w.db.ServerID()))
		}
	})
}

// TestCostsOf chooses by project, owner and period.
func TestCostsOf(t *testing.T) {
	each(t, plain, func(w *world) {
		w.intend()
		time.Sleep(2 * time.Hour)
		now := time.Now()
		for name, tt := range map[string]struct {
			which ledger.Which
			want  float64
		}{
			"everything":      {ledger.Which{To: now}, 5},
			"what lies ahead": {ledger.Which{To: now.Add(time.Hour)}, 5},
			"an hour":         {ledger.Which{From: now.Add(-time.Hour), To: now}, 2.5},
			"the project":     {ledger.Which{Projects: []string{"x", "p"}, To: now}, 5},
			"another project": {ledger.Which{Projects: []string{"x"}, To: now}, 0},
			"of no project":   {ledger.Which{Projects: []string{}, To: now}, 0},
			"another owner":   {ledger.Which{Owners: []string{"x"}, To: now}, 0},
		} {
			costs, err := ledger.Costs(context.Background(), w.db.Read(), tt.which)
			if err != nil || math.Abs(usd(costs)-tt.want) > 0.01 {
				t.Errorf("%s: $%.4f, %v, want $%.2f", name, usd(costs), err, tt.want)
			}
		}
	})
}

// TestAbsurdPrices edits the price of a machine by hand, and of one that is gone: what nobody can mean
// costs nothing and is told, and the others cost what they do.
func TestAbsurdPrices(t *testing.T) {
	each(t, plain, func(w *world) {
		w.intend()
		id, gone := w.intend(), w.intend()
		time.Sleep(time.Hour)
		w.release(gone)
		time.Sleep(time.Hour)
		w.want(gone, ledger.Gone, 2)
		edits := map[string]float64{ // what both cost then
			`price = 1e6`:  0,
			`price = -3`:   0,
			`price = 2e-9`: 0,
			`earlier = '[{"price": 1e308, "until": "9000-01-01T00:00:00Z"}]'`: 0,
			`earlier = '[{"price": -1, "until": "9000-01-01T00:00:00Z"}]'`:    0,
			`earlier = '[{"price'`: 7.5,
		}
		if w.db.Engine() == store.SQLite {
			edits[`price = 9e999`], edits[`price = 'much'`], edits[`price = x'00'`] = 0, 0, 0
		} else {
			edits[`price = 'NaN'`], edits[`price = 'Infinity'`], edits[`price = '-Infinity'`] = 0, 0, 0
		}
		for edit, want := range edits {
			w.write(func(tx *store.Tx) error {
				_, err := tx.ExecContext(context.Background(), `UPDATE intent SET price = 2.5, earlier = '' WHERE id IN ($1, $2)`, id, gone)
				if err == nil {
					_, err = tx.ExecContext(context.Background(), `UPDATE intent SET `+edit+` WHERE id IN ($1, $2)`, id, gone)
				}
				return err
			})
			if got := usd(w.costs()); math.Abs(got-5-want) > 0.1 {
				t.Errorf("%s: $%.4f, want $%.2f", edit, got, 5+want)
			}
			found, err := w.ledger.Inspect(context.Background(), w.db.Read())
			if err != nil || len(found.Found) != 2 {
				t.Fatalf("%s: Inspect = %d, %v, want two", edit, len(found.Found), err)
			}
			for _, f := range found.Found {
				broken := f.ID == id && !strings.HasPrefix(edit, `price = 2e-9`)
				if (f.Verdict == ledger.Broken) != broken || !(f.Price >= 0 && f.Price <= 2.5) || broken != strings.Contains(f.Message(), "cannot be read") {
					t.Errorf("%s: %s, $%v, %q", edit, f.Verdict, f.Price, f.Message())
				}
			}
		}
	})
}
