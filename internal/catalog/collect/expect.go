package collect

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// An expectation is what the list of a provider cannot be without (catalog 9). What lacks it
// was cut off, or means something else by now.
type expectation struct {
	rows    int      // at least so many
	gpus    []string // these kinds: A100, A100:80 (GiB), or a version of TPUs: v5p
	names   int      // at least so many names of GPUs
	counts  []int    // machines with so many GPUs
	cpuOnly bool     // types without GPUs too
	spot    bool     // prices of spot instances too
	noSpot  bool     // none of those
	noOther bool     // none but those
	regions []string // these places
	most    []string // more than half of these places
	begins  []string // types whose names begin so
	// spread are types that are in at least so many places.
	spread map[string]int
}

func (e expectation) check(l *pricelist.List) error {
	if l.Len() < max(1, e.rows) {
		return fmt.Errorf("there are %d rows, fewer than %d", l.Len(), max(1, e.rows))
	}
	has := surveyed(l)
	if i := slices.IndexFunc(e.gpus, func(name string) bool { return !has.gpus[name] }); i >= 0 {
		return fmt.Errorf("there is no %s", e.gpus[i])
	}
	if len(has.names) < e.names {
		return fmt.Errorf("there are GPUs of %d names, fewer than %d", len(has.names), e.names)
	}
	if i := slices.IndexFunc(e.counts, func(n int) bool { return !has.counts[n] }); i >= 0 {
		return fmt.Errorf("there is nothing with %d GPUs", e.counts[i])
	}
	lacks := func(region string) bool { return !has.regions[region] }
	if i := slices.IndexFunc(e.regions, lacks); i >= 0 {
		return fmt.Errorf("there is nothing in %s", e.regions[i])
	}
	if missing := slices.DeleteFunc(slices.Clone(e.most), func(region string) bool { return !lacks(region) }); 2*len(missing) >= max(1, len(e.most)) {
		return fmt.Errorf("there is nothing in %s", strings.Join(missing, ", "))
	}
	for _, beginning := range e.begins {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(has.types)), func(name string) bool { return strings.HasPrefix(name, beginning) }) {
			return fmt.Errorf("there are no types %s...", beginning)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.spread)) {
		if n := len(has.types[name]); n < e.spread[name] {
			return fmt.Errorf("%s is in %d places, fewer than %d", name, n, e.spread[name])
		}
	}
	switch {
	case e.cpuOnly && !has.counts[0]:
		return errors.New("there are no types without GPUs")
	case e.spot && !has.spot:
		return errors.New("there are no prices of spot instances")
	case e.noSpot && has.spot:
		return errors.New("there are prices of spot instances, which the provider does not sell")
	case e.noOther && has.onDemand:
		return errors.New("there are prices that are not of spot instances")
	case !e.noOther && !has.onDemand:
		return errors.New("there are no prices on demand")
	}
	return nil
}

// survey is what there is in a list.
type survey struct {
	gpus           map[string]bool            // by all names that expectations have for them
	names          map[string]bool            // of GPUs, without their memory
	counts         map[int]bool               // of GPUs in a machine
	regions        map[string]bool            // all
	types          map[string]map[string]bool // their places
	spot, onDemand bool
}

func surveyed(l *pricelist.List) survey {
	has := survey{
		gpus: map[string]bool{}, names: map[string]bool{}, counts: map[int]bool{}, regions: map[string]bool{}, types: map[string]map[string]bool{},
	}
	seen := map[offer.GPU]bool{}
	for i := range l.Len() {
		r := l.Row(i)
		if has.types[r.Instance] == nil {
			has.types[r.Instance] = map[string]bool{}
		}
		has.types[r.Instance][r.Region], has.regions[r.Region], has.counts[r.GPUs] = true, true, true
		has.spot, has.onDemand = has.spot || r.Spot, has.onDemand || !r.Spot
		if r.GPUs == 0 || seen[r.GPU] {
			continue
		}
		seen[r.GPU], has.names[r.GPU.Name] = true, true
		has.gpus[r.GPU.Name], has.gpus[fmt.Sprintf("%s:%d", r.GPU.Name, r.GPU.MemoryMiB>>10)] = true, true
		if tpu, is := config.ParseTPU(r.GPU.Name); is {
			has.gpus[tpu.Version] = true
		}
	}
	return has
}
