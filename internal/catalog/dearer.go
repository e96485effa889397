package catalog

import (
	"time"

	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// A provider may charge more than it lists, and tell so of the machine only. What it told a project
// counts there instead of what it lists, for as long as failures do, while it lists what it did then:
// so nothing is bought again and again that has to be given back. When it lists something else, that
// may be news, and is believed when a while has passed; then the machine counts as a failure.

// dear is one machine that turned out dearer, from what it was offered for.
type dear struct {
	offered, really float64
	sure            bool // whatever is listed now
	penalty         float64
}

// dears are those of one offer, the latest last.
type dears []dear

// dearOnes sorts what turned out dearer by what it was.
func dearOnes(now time.Time, list []ledger.Dearer) map[offer.Key]dears {
	by := map[offer.Key]dears{}
	for _, d := range list {
		if age := now.Sub(d.At); age <= remembered {
			by[d.Key] = append(by[d.Key], dear{d.Offered, d.Price, age <= halving, decayed(age)})
		}
	}
	return by
}

// price is what an offer costs that is listed for so much. What was bought knowing better counts
// from there. The penalty is for what was learnt at other prices, and does not count here.
func (list dears) price(listed float64) (really, penalty float64) {
	really = listed
	known := false
	for _, d := range list {
		if d.sure || d.offered == really {
			really, known = max(really, d.really), true
			continue
		}
		penalty += d.penalty
	}
	if known {
		penalty = 0
	}
	return really, penalty
}
