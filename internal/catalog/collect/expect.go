package collect

import (
	"errors"
	"fmt"
	"slices"

	"dstack/internal/catalog/pricelist"
)

// An expectation is what the list of a provider cannot be without (catalog 9). What lacks it
// was cut off, or means something else by now.
type expectation struct {
	rows    int      // at least so many
	gpus    []string // these kinds
	cpuOnly bool     // types without GPUs too
	spot    bool     // prices of spot instances too
	noSpot  bool     // none of those
	noOther bool     // none but those
	regions []string // these places
	// spread are types that are in at least so many places.
	spread map[string]int
}

func (e expectation) check(l *pricelist.List) error {
	if l.Len() < max(1, e.rows) {
		return fmt.Errorf("there are %d rows, fewer than %d", l.Len(), max(1, e.rows))
	}
	gpus, regions, spread := map[string]bool{}, map[string]bool{}, map[string]map[string]bool{}
	for name := range e.spread {
		spread[name] = map[string]bool{}
	}
	cpuOnly, spot, onDemand := false, false, false
	for i := range l.Len() {
		r := l.Row(i)
		gpus[r.GPU.Name], regions[r.Region] = true, true
		if in := spread[r.Instance]; in != nil {
			in[r.Region] = true
		}
		cpuOnly = cpuOnly || r.GPUs == 0
		spot, onDemand = spot || r.Spot, onDemand || !r.Spot
	}
	if i := slices.IndexFunc(e.gpus, func(name string) bool { return !gpus[name] }); i >= 0 {
		return fmt.Errorf("there is no %s", e.gpus[i])
	}
	if i := slices.IndexFunc(e.regions, func(name string) bool { return !regions[name] }); i >= 0 {
		return fmt.Errorf("there is nothing in %s", e.regions[i])
	}
	for name, in := range spread {
		if len(in) < e.spread[name] {
			return fmt.Errorf("%s is in %d places, fewer than %d", name, len(in), e.spread[name])
		}
	}
	switch {
	case e.cpuOnly && !cpuOnly:
		return errors.New("there are no types without GPUs")
	case e.spot && !spot:
		return errors.New("there are no prices of spot instances")
	case e.noSpot && spot:
		return errors.New("there are prices of spot instances, which the provider does not sell")
	case e.noOther && onDemand:
		return errors.New("there are prices that are not of spot instances")
	case !e.noOther && !onDemand:
		return errors.New("there are no prices on demand")
	}
	return nil
}
