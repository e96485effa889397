package fleet

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
)

// Costs are what fleets and instances have cost so far, in US dollars by id.
type Costs struct{ fleets, instances map[string]float64 }

// costsOf asks what the fleets of a project have cost; nil when that is nothing, or the server does
// not tell. Fleets that had very many instances are known as a whole only.
func costsOf(ctx context.Context, c *program.Conn, fleets []api.Fleet) (*Costs, error) {
	if !slices.ContainsFunc(fleets, func(f api.Fleet) bool { return f.Spec.Configuration.SSHConfig == nil }) {
		return nil, nil
	}
	req := api.CostsRequest{ProjectNames: []string{c.Project}, By: []api.CostBy{api.CostByFleet, api.CostByInstance}}
	all, err := c.Costs(ctx, req)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Status == http.StatusBadRequest { // too many rows
		req.By = req.By[:1]
		all, err = c.Costs(ctx, req)
	}
	if program.NotServed(err) || err == nil && all.CostUSD == 0 {
		return nil, nil
	}
	costs := &Costs{map[string]float64{}, map[string]float64{}}
	for _, r := range all.Rows {
		if r.FleetID != nil {
			costs.fleets[*r.FleetID] += r.CostUSD
		}
		if r.InstanceID != nil {
			costs.instances[*r.InstanceID] += r.CostUSD
		}
	}
	return costs, err
}

func (c *Costs) fleet(id string) string {
	if c == nil {
		return ""
	}
	return format.Cost(c.fleets[id])
}

func (c *Costs) instance(id string) string {
	if c == nil {
		return ""
	}
	return format.Cost(c.instances[id])
}
