package pricelist

import (
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// A Group is what offers with one kind of GPU have in common.
type Group struct {
	api.GpuGroup
	Oldest string `json:"oldest"` // dates of their prices, as in [Row]
	Newest string `json:"newest"`
}

// Groups are the offers that fit by kind of GPU, as [scheduler.GroupGPUs] makes groups of them, and
// how many offers are in groups.
func (l *List) Groups(req api.Requirements, p config.ProfileParams, by scheduler.GPUGrouping) (groups []Group, total int) {
	ends, total := l.ends(l.misses(&req, &p), by)
	all := scheduler.GPUGroups{By: by}
	dates := map[*api.GpuGroup]*Group{}
	for _, i := range ends {
		o := l.offer(i)
		g := all.Add(&o.InstanceOffer)
		if dates[g] == nil {
			dates[g] = &Group{Oldest: o.AsOf, Newest: o.AsOf}
		}
		dates[g].Oldest, dates[g].Newest = min(dates[g].Oldest, o.AsOf), max(dates[g].Newest, o.AsOf)
	}
	groups = []Group{}
	for _, g := range all.List() {
		groups = append(groups, Group{*g, dates[g].Oldest, dates[g].Newest})
	}
	return groups, total
}

// alike is what rows have in common that differ in nothing but their price for a group.
type alike struct {
	gpus, backend, place uint32
	date                 uint16
	spot                 bool
}

// ends are of rows that are alike the cheapest ones and then the dearest ones: a group needs no others.
// Rows without GPUs are not counted.
func (l *List) ends(m misses, by scheduler.GPUGrouping) (rows []int, total int) {
	c := &l.columns
	number := map[alike]int{}
	var last []int
	for i, s := range c.shape[:m.affordable] {
		if m.shape[s]|m.place[c.place[i]]|m.spot[index(c.spot[i])] != 0 || l.shapes[s].gpus == 0 {
			continue
		}
		total++
		of := l.parts.of[s]
		k := alike{gpus: of.gpus, backend: of.backend, date: c.date[i], spot: c.spot[i]}
		if by.Backend { // otherwise no region is shown
			k.place = c.place[i]
		}
		n, known := number[k]
		if !known {
			n = len(rows)
			number[k] = n
			rows, last = append(rows, i), append(last, i)
		}
		last[n] = i
	}
	return append(rows, last...), total
}
