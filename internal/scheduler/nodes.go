package scheduler

import "dstack/internal/api"

// Nodes are the offers of which a fleet could make nodes that are divided into so many blocks,
// or with auto into as many as [Divide] says, and why there are no more.
func Nodes(ask Ask, blocks int, auto bool, s Supply) (Found, api.WhyNot) {
	x := s.indexed().Index
	v := x.under(&ask)
	parts := make([]int, len(x.kinds)) // of each kind, 0 where it cannot be divided
	for n, i := range x.kinds {
		res := &x.offers[i].Instance.Resources
		parts[n], _ = Divide(blocks, auto, res.CPUs, len(res.Gpus))
	}
	f := Found{index: x, as: func(i int) api.InstanceOffer {
		o := ask.narrowed(x.offers[i])
		o.TotalBlocks = parts[x.rows[i].kind]
		return o
	}}
	for i := range v.allThatFit {
		if parts[x.rows[i].kind] > 0 {
			f.order = append(f.order, i)
		}
	}
	if x.ranked {
		resortBy(f.order, f.at)
	}
	var t Tally
	for _, c := range x.cells([]*view{v}, parts) {
		o := &x.offers[c.first]
		missed := ask.missed(o)
		if parts[x.rows[c.first].kind] == 0 {
			missed |= 1 << notDivisible
		}
		t.add(c.n, c.price, way{settings: missed, state: ask.state(o)})
	}
	why := t.whyNot([]Fleet{{}}) // its own settings need no name
	if s.Backends == 0 {
		why.Reasons = []string{noBackends}
	}
	return f, why
}
