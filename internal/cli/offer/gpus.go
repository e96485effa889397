package offer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/client"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// grouped lists kinds of GPUs instead of offers.
func (o Options) grouped(ctx context.Context, c *program.Conn, spec api.RunSpec, group []string) error {
	by := slices.DeleteFunc(slices.Clone(group), func(s string) bool { return s == "gpu" })
	var res api.ListGpusResponse
	err := o.While("Getting offers...", func() (err error) {
		res, err = c.ListGpus(ctx, c.Project, client.GpusRequest{
			ListGpusRequest: api.ListGpusRequest{RunSpec: spec, GroupBy: append([]string{}, by...)},
			FullOffers:      o.FullOffers, UnallocatedResources: o.Unallocated,
		})
		return err
	})
	if err != nil {
		return err
	}
	want := wanted(spec)
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Project      string         `json:"project"`
			Requirements requirements   `json:"requirements"`
			GroupBy      []string       `json:"group_by"`
			Gpus         []api.GpuGroup `json:"gpus"`

			WhyNot *api.WhyNot `json:"why_not,omitempty"`
			api.PlanNotes
		}{c.Project, want, group, append([]api.GpuGroup{}, res.Gpus...), res.WhyNot, res.PlanNotes})
	}
	price, reservation := "-", "-"
	if want.MaxPrice != nil {
		price = format.MaxPrice(want.MaxPrice)
	}
	if want.Reservation != nil {
		reservation = *want.Reservation
	}
	o.Facts([][2]string{
		{"Project", c.Project},
		{"Resources", format.Requirements(want.Resources)},
		{"Spot policy", format.SpotPolicy(want.Spot)},
		{"Max price", price},
		{"Reservation", reservation},
		{"Group by", strings.Join(group, ", ")},
	})
	o.Println()
	o.Print(gpuTable(res.Gpus, by))
	o.Println()
	printNotes(o.IO, res.PlanNotes, res.WhyNot, option)
	return nil
}

func gpuTable(gpus []api.GpuGroup, by []string) *term.Table {
	perBackend, perRegion := slices.Contains(by, "backend"), slices.Contains(by, "region")
	titles := []string{"#", "GPU", "SPOT", "$/GPU"}
	switch {
	case perRegion:
		titles = append(titles, "BACKEND", "REGION")
	case perBackend:
		titles = append(titles, "BACKEND", "REGIONS")
	default:
		titles = append(titles, "BACKENDS")
	}
	tb := &term.Table{Columns: term.Columns(append(titles, "")...)}
	for i, g := range gpus {
		cells := []string{strconv.Itoa(i + 1), gpuName(g), strings.Join(g.Spot, ", "), priceRange(g.Price)}
		switch {
		case perRegion:
			cells = append(cells, backendOf(g), format.Text(g.Region))
		case perBackend:
			cells = append(cells, backendOf(g), regions(g.Regions))
		default:
			cells = append(cells, backends(g))
		}
		tb.Add(append(cells, unavailable(g.Availability))...)
	}
	return tb
}

func gpuName(g api.GpuGroup) string {
	count := strconv.Itoa(g.Count.Min)
	if g.Count.Max != g.Count.Min {
		count += ".." + strconv.Itoa(g.Count.Max)
	}
	return fmt.Sprintf("%s:%dGB:%s", g.Name, (g.MemoryMiB+512)/1024, count)
}

func priceRange(p api.PriceRange) string {
	s := strings.TrimPrefix(format.Price(p.Min), "$")
	if p.Max != p.Min {
		s += ".." + strings.TrimPrefix(format.Price(p.Max), "$")
	}
	return s
}

func backendOf(g api.GpuGroup) string {
	if g.Backend == nil {
		return "-"
	}
	return format.Backend(string(*g.Backend), "")
}

func backends(g api.GpuGroup) string {
	names := make([]string, len(g.Backends))
	for i, b := range g.Backends {
		names[i] = format.Backend(string(b), "")
	}
	s := strings.Join(names, ", ")
	if len(g.Regions) > 0 {
		s += " (" + regions(g.Regions) + ")"
	}
	return s
}

func regions(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%d regions", len(names))
	}
	return strings.Join(names, ", ")
}

// unavailable is empty if any of the offers can be had.
func unavailable(states []api.InstanceAvailability) string {
	words := make([]string, 0, len(states))
	for _, s := range states {
		word := format.Availability(string(s))
		if cmp.Or(word, "idle") == "idle" {
			return ""
		}
		words = append(words, word)
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}
