package scheduler

// await has a gang that was refused wait for machines that boot and are kept for those who wait, where they would do
// for all of it and it could have no cheaper ones. They are its own then: of those behind it none counts on them.
func (p *placer) await(g *Gang) (v Verdict, waits bool) {
	if p.coming == nil || g.Open || !g.Patient || p.useless[g.Key] {
		return Verdict{}, false
	}
	there := p.coming.best(g)
	if there == nil { // nor will they do for its like: they only become fewer
		if g.Key != "" {
			p.useless[g.Key] = true
		}
		return Verdict{}, false
	}
	v = Verdict{Gang: g.ID, Later: true, Awaits: there.nodes}
	var names []string
	for _, i := range there.hosts {
		h := p.coming.Hosts[i]
		names = append(names, h.Name)
		if h.UpBy.After(v.UpBy) {
			v.UpBy = h.UpBy
		}
	}
	may := !g.AwaitsUntil.Before(v.UpBy)
	if now := p.best(g); now != nil && (!may || now.fresh < len(g.Jobs) || now.price < there.price) {
		return Verdict{}, false
	}
	p.coming.take(g, there)
	if !may { // it waits as well, and asks as soon as it can
		return Verdict{}, false
	}
	v.Reasons = []string{booting(names)}
	v.Why = v.Reasons[0]
	return v, true
}

// leaveComing keeps from those behind a gang that is not placed the machines that boot of which it may get some.
func (p *placer) leaveComing(g *Gang, v Verdict) {
	if p.coming != nil && (v.Open || g.Patient && len(g.Jobs) > 1) {
		p.coming.keepAll(g)
	}
}

// booting tells which machines are waited for.
func booting(names []string) string {
	if len(names) == 1 {
		return "Waits until instance '" + names[0] + "' has booted"
	}
	return "Waits until instances " + quoted(names, "and") + " have booted"
}
