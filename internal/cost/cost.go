// Package cost tells what machines and disks really cost, and for what: sums over the intervals of
// the ledger, cut by the times in which jobs held machines. Nothing is stored that could drift from
// them.
//
// What a machine costs is its price for as long as its provider has it: from its creation, so while
// it boots, until the end that the provider has confirmed. Hosts of the user cost nothing. What a
// run costs is its share of that while its jobs hold machines: from the assignment to the release,
// the blocks that are held of those that there are. The time in the queue is not in it, nor is an
// idle machine, which is in no run's; so runs and what is in none add up to the whole. It is not the
// published "cost" of a run, which is a price times the time since submission (package run).
//
// The arithmetic is pure ([Split], [Days], [Sums]); [Service] asks the database and names things.
package cost

import (
	"iter"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
)

// A Hold is a job's hold on a machine.
type Hold struct {
	RunID, InstanceID string
	Share             float64   // of the machine, 0 to 1
	From, To          time.Time // To is zero while it is held
}

// A Part is a share of what one resource cost in an interval.
type Part struct {
	ledger.Cost
	Share float64 // 0 to 1
	RunID string  // that had it, "" for none
}

// USD is the cost in US dollars.
func (p Part) USD() float64 { return p.Share * p.Interval.USD() }

// Hours are those of a machine, and nothing of what is none.
func (p Part) Hours() float64 {
	if p.Kind != backend.InstanceResource {
		return 0
	}
	return p.Share * p.To.Sub(p.From).Hours()
}

// Whole makes parts of costs that no run has a share in.
func Whole(costs []ledger.Cost) []Part {
	parts := make([]Part, len(costs))
	for i, c := range costs {
		parts[i] = Part{Cost: c, Share: 1}
	}
	return parts
}

// Split cuts costs by who held the machines. What nobody held is a part without a run, so the parts
// of each cost add up to it, whatever the holds say: should they be more than the whole, each is
// that much less.
func Split(costs []ledger.Cost, holds []Hold) []Part {
	byInstance := map[string][]Hold{}
	for _, h := range holds {
		byInstance[h.InstanceID] = append(byInstance[h.InstanceID], h)
	}
	var parts []Part
	for _, c := range costs {
		if held := byInstance[c.OwnerID]; len(held) > 0 && c.Kind == backend.InstanceResource {
			parts = append(parts, split(c, held)...)
		} else {
			parts = append(parts, Part{Cost: c, Share: 1})
		}
	}
	return parts
}

// change is a moment in which more or less of a machine is held by a run.
type change struct {
	at    time.Time
	run   string
	share float64
	holds int // 1 or -1
}

// split cuts one cost wherever a hold begins or ends.
func split(c ledger.Cost, holds []Hold) []Part {
	var changes []change
	for _, h := range holds {
		from, to := h.From, h.To
		if from.Before(c.From) {
			from = c.From
		}
		if to.IsZero() || to.After(c.To) {
			to = c.To
		}
		if h.Share > 0 && from.Before(to) {
			changes = append(changes, change{from, h.RunID, h.Share, 1}, change{to, h.RunID, -h.Share, -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return a.at.Compare(b.at) })
	var parts []Part
	held, from := map[string]change{}, c.From
	add := func(until time.Time) {
		if !until.After(from) {
			return
		}
		parts = append(parts, shares(c, ledger.Interval{Price: c.Price, From: from, To: until}, held)...)
		from = until
	}
	for _, x := range changes {
		add(x.at)
		h := held[x.run]
		h.share, h.holds = h.share+x.share, h.holds+x.holds
		if held[x.run] = h; h.holds == 0 {
			delete(held, x.run)
		}
	}
	add(c.To)
	return parts
}

// shares are the parts of a cost in an interval in which the same runs hold the machine.
func shares(c ledger.Cost, in ledger.Interval, held map[string]change) []Part {
	c.Open = c.Open && in.To.Equal(c.To)
	c.Interval = in
	sum := 0.0
	for _, h := range held {
		sum += h.share
	}
	var parts []Part
	for run, h := range held {
		parts = append(parts, Part{c, h.share / max(1, sum), run})
	}
	const rounding = 1e-9
	if rest := 1 - sum; rest > rounding {
		parts = append(parts, Part{c, rest, ""})
	}
	return parts
}

// Days cuts a part at every midnight of UTC.
func Days(p Part) iter.Seq[Part] {
	return func(yield func(Part) bool) {
		for from := p.From; from.Before(p.To); {
			to := from.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
			if to.After(p.To) {
				to = p.To
			}
			day := p
			day.From, day.To, day.Open = from, to, p.Open && to.Equal(p.To)
			if !yield(day) {
				return
			}
			from = to
		}
	}
}

// Sum is what parts add up to.
type Sum struct {
	Hours       float64 // of machines
	USD         float64
	Hourly      float64 // US dollars per hour of what goes on
	Unconfirmed float64 // US dollars of what nobody has confirmed to be gone
}

func (s *Sum) add(p Part) {
	usd := p.USD()
	s.Hours += p.Hours()
	s.USD += usd
	if p.Open {
		s.Hourly += p.Share * p.Price
	}
	if p.Doubt {
		s.Unconfirmed += usd
	}
}

// Sums add up parts by a key. The zero value has no bound.
type Sums[K comparable] struct {
	All    Sum
	Groups map[K]*Sum
	Max    int // groups, 0: as many as there are
}

// Add adds a part and reports whether there is room for its group.
func (s *Sums[K]) Add(key K, p Part) bool {
	g := s.Groups[key]
	if g == nil {
		if s.Max > 0 && len(s.Groups) >= s.Max {
			return false
		}
		if s.Groups == nil {
			s.Groups = map[K]*Sum{}
		}
		g = &Sum{}
		s.Groups[key] = g
	}
	g.add(p)
	s.All.add(p)
	return true
}
