package instance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
)

const (
	// maxOffers is the published server's bound of offers that are tried for one instance
	// (lifecycle 9.2.5).
	maxOffers = 25
	// maxSkipped bounds those that could not be tried, which do not count there.
	maxSkipped = 100
	// askOffers spaces looks at offers while backends have not answered that may have more.
	askOffers = 2 * time.Second
)

// refused remembers what became of the latest offer.
func (d *Decision) refused(m Machine) {
	o, data := d.Instance.Data.Offer, &d.Instance.Data
	text := Short(m.Message)
	if m.Apart {
		data.Skipped++
		data.Skips = with(data.Skips, text)
		return
	}
	data.Errors = with(data.Errors, fmt.Sprintf("%s in %s/%s: %s", o.Instance.Name, o.Backend, o.Region, text))
}

// with is a list that has a text once. The list itself stays as it is.
func with(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(slices.Clip(list), text)
}

// Short is a text as one line of at most 203 characters. What is longer loses its middle: what failed stands at the
// begin of most errors, and why at the end.
func Short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 200 {
		return string(r[:100]) + "..." + string(r[len(r)-100:])
	}
	return s
}

// next chooses the best offer that was not tried yet, at most limit of them, 0 for the usual; it
// ends an instance for which there is none.
func (d *Decision) next(now time.Time, ask scheduler.Ask, offers []api.InstanceOffer, limit int) (api.InstanceOffer, bool) {
	data, whole := d.Instance.Data, 0
	if d.Instance.Blocks != 1 {
		offers = slices.DeleteFunc(slices.Clone(offers), func(o api.InstanceOffer) bool {
			_, err := splitBlocks(d.Instance.Blocks, data.AutoBlocks, o.Instance.Resources)
			if err != nil && o.Availability.Usable() && scheduler.Fits(ask.Requirements, ask.Profile, o) == "" {
				whole++
			}
			return err != nil
		})
	}
	limited := len(data.Tried)-data.Skipped >= cmp.Or(limit, maxOffers) || data.Skipped >= maxSkipped
	if !limited {
		if o, ok := scheduler.Next(ask, offers, data.Tried); ok {
			return o, true
		}
	}
	fits := 0
	for _, o := range offers {
		if o.Availability.Usable() && scheduler.Fits(ask.Requirements, ask.Profile, o) == "" {
			fits++
		}
	}
	why := noOffers(d.Instance, max(fits, len(data.Tried)), limited)
	if len(data.Tried) == 0 && whole > 0 {
		why = fmt.Sprintf("The CPUs and GPUs of none of the %d offers that fit in fleet '%s' can be divided into %d `blocks`.", whole, fleetOf(d.Instance.Name), d.Instance.Blocks)
	}
	d.end(now, api.InstanceNoOffers, why)
	return api.InstanceOffer{}, false
}

// noOffers says why no backend gave an instance, of which there were so many offers (the texts
// of lifecycle 9.2.5).
func noOffers(inst Instance, offers int, limited bool) string {
	const help = "\nSee https://dstack.ai/docs/guides/troubleshooting/#provisioning-fails"
	fleet, data := fleetOf(inst.Name), inst.Data
	tried, limit := len(data.Tried)-data.Skipped, ""
	if limited {
		limit = " (attempt limit reached)"
	}
	switch {
	case len(data.Tried) == 0:
		return fmt.Sprintf("No offers matching the run requirements in fleet '%s'.", fleet) + help
	case tried == 0:
		return fmt.Sprintf("None of the %d offers in fleet '%s' could be tried: %s.", offers, fleet, some(data.Skips)) + help
	}
	return fmt.Sprintf("Failed to provision in fleet '%s': tried %d of %d offers%s, all failed.\nErrors: %s.", fleet, tried, offers, limit, some(data.Errors)) + help
}

// some are the first three of a list, as one text.
func some(list []string) string {
	if len(list) <= 3 {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(list[:3], "; "), len(list)-3)
}

// fleetOf is the fleet's part of an instance's name.
func fleetOf(name string) string {
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		return name[:i]
	}
	return name
}

// fromAPI turns a stored offer back into what backends take.
func fromAPI(o api.InstanceOffer) offer.Offer {
	res := o.Instance.Resources
	out := offer.Offer{
		Backend: string(o.Backend), Region: o.Region, Instance: o.Instance.Name, Price: o.Price, Zones: o.AvailabilityZones, Data: o.BackendData,
		Availability: offer.Availability(o.Availability), Runtime: string(o.InstanceRuntime),
		Resources: offer.Resources{CPUs: res.CPUs, MemoryMiB: res.MemoryMiB, DiskMiB: res.Disk.SizeMiB, Spot: res.Spot},
	}
	if res.CPUArch != nil {
		out.Resources.Arch = string(*res.CPUArch)
	}
	for _, g := range res.Gpus {
		out.Resources.GPUs = append(out.Resources.GPUs, offer.GPU{Name: g.Name, MemoryMiB: g.MemoryMiB, Vendor: string(g.Vendor)})
	}
	return out
}
