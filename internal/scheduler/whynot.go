package scheduler

import (
	"cmp"
	"math/bits"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Misses is the set of requirements that exclude an offer; 0 is an offer that fits. What
// excludes an offer by parts of it (its region, its GPUs) is the union of what the parts miss.
type Misses uint32

// Missed is all that excludes an offer, by the rules of [Fits].
func Missed(req *api.Requirements, p *config.ProfileParams, o *api.InstanceOffer) Misses {
	var m Misses
	for r := range requirement(len(requirementWords)) {
		if r.excludes(req, p, o) {
			m |= 1 << r
		}
	}
	return m
}

// Words are the requirements as paths in YAML, nil for none. An offer without any GPU where one
// is needed misses just that ("gpu").
func (m Misses) Words() []string {
	var list []string
	for r, word := range requirementWords {
		if m&(1<<r) != 0 {
			list = append(list, word)
		}
	}
	return list
}

// A Tally counts what excludes offers, to say why few or none fit.
type Tally struct {
	offers, fit int
	missed      [len(requirementWords)]api.Exclusion
}

// Add counts an offer and what it misses.
func (t *Tally) Add(m Misses, price float64) {
	t.offers++
	if m == 0 {
		t.fit++
	}
	alone := bits.OnesCount32(uint32(m)) == 1 && m != 1<<needGPU
	for ; m != 0; m &= m - 1 { // without its lowest bit
		e := &t.missed[bits.TrailingZeros32(uint32(m))]
		e.Excludes++
		if alone {
			if e.Alone == 0 || price < e.From {
				e.From = price
			}
			e.Alone++
		}
	}
}

// Offers are how many there are, and how many of them fit.
func (t *Tally) Offers() (all, fit int) { return t.offers, t.fit }

// Exclusions are the requirements that exclude anything, first the one without which most
// would fit, then by how much each excludes.
func (t *Tally) Exclusions() []api.Exclusion {
	var list []api.Exclusion
	for r, e := range t.missed {
		if e.Excludes > 0 {
			e.Requirement = requirementWords[r]
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b api.Exclusion) int {
		return cmp.Or(cmp.Compare(b.Alone, a.Alone), cmp.Compare(b.Excludes, a.Excludes))
	})
	return list
}
