package lambda

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// gibToMiB turns the GiB of Lambda's specifications into the MiB of offers. Published
// catalogs count a GiB as 1.074 GB and a GB as 1024 MiB, and plans are compared with them.
const gibToMiB = 1.074 * 1024

var (
	// gpuPattern reads "8x Tesla V100 (16 GB)", "1x H100 (80 GB SXM5)". Types that do not match
	// have no GPU, and are not offered, as ever.
	gpuPattern = regexp.MustCompile(`^(\d{1,2})x (?:Tesla )?(.+) \((\d{1,4}) GB`)
	// armPattern are the superchips, whose CPU is not x86: GH200, GB200.
	armPattern = regexp.MustCompile(`(?i)^g[bh]\d+`)
)

// Offers implements backend.Backend: every type in every region, available where Lambda
// says that there is capacity now.
func (l *lambda) Offers(ctx context.Context, q offer.Query) ([]offer.Offer, error) {
	if q.Spot != nil && *q.Spot {
		return nil, nil // Lambda has neither
	}
	types, err := l.api.types(ctx)
	if err != nil {
		return nil, err
	}
	regions, err := l.api.regions(ctx)
	if err != nil {
		return nil, err
	}
	return offers(types, regions, func(region string) bool {
		return q.Region(region) && (len(l.config.Regions) == 0 || slices.Contains(l.config.Regions, region))
	}), nil
}

// offers combines types and regions, in a stable order.
func offers(types map[string]typeItem, regions []named, wanted func(region string) bool) []offer.Offer {
	var names []string
	add := func(regions []named) {
		for _, r := range regions {
			if plain(r.Name) && wanted(r.Name) {
				names = append(names, r.Name)
			}
		}
	}
	add(regions)
	for _, t := range types {
		add(t.Within)
	}
	slices.Sort(names)
	names = slices.Compact(names)

	var all []offer.Offer
	for name, t := range types {
		if len(t.Type.unread) > 0 {
			all = append(all, unreadable(name))
			continue
		}
		o, ok := offerOf(t.Type)
		if !ok {
			continue
		}
		for _, region := range names {
			o.Region, o.Availability = region, offer.NotAvailable
			if slices.Contains(t.Within, named{region}) {
				o.Availability = offer.Available
			}
			all = append(all, o)
		}
	}
	slices.SortFunc(all, offer.Compare)
	return all
}

// unreadable stands for the offers of a type whose description cannot be read: whoever asked leaves it out,
// and says so.
func unreadable(name string) offer.Offer {
	return offer.Offer{Backend: Name, Instance: name, Price: math.NaN(), Availability: offer.NotAvailable}
}

// offerOf describes a type, without a region. It is false for what is not offered: types
// without GPU, and those of which something is not told. Numbers that nobody can mean are passed on: whoever
// asked leaves them out, and says so.
func offerOf(t instanceType) (offer.Offer, bool) {
	m := gpuPattern.FindStringSubmatch(t.Description)
	if m == nil || !plain(t.Name) || t.Cents == 0 || t.VCPUs == 0 || t.MemoryGiB == 0 {
		return offer.Offer{}, false
	}
	count, _ := strconv.Atoi(m[1])  // digits
	memory, _ := strconv.Atoi(m[3]) // digits
	gpu := offer.GPU{Name: strings.ReplaceAll(m[2], " ", ""), MemoryMiB: memory << 10, Vendor: "nvidia"}
	if count == 0 || memory == 0 {
		return offer.Offer{}, false
	}
	arch := "x86"
	if armPattern.MatchString(gpu.Name) {
		arch = "arm"
	}
	return offer.Offer{
		Backend: Name, Instance: t.Name, Price: t.Cents / 100,
		Resources: offer.Resources{
			CPUs: t.VCPUs, MemoryMiB: mib(t.MemoryGiB), DiskMiB: mib(t.Storage),
			GPUs: slices.Repeat([]offer.GPU{gpu}, count), Arch: arch,
		},
	}, true
}

func mib(gib int) int { return int(math.Round(float64(gib) * gibToMiB)) }

// Check implements backend.CheckBackend: whether the key works.
func (l *lambda) Check(ctx context.Context) error {
	_, err := l.api.types(ctx)
	if errors.Is(err, backend.ErrAuth) {
		return fmt.Errorf("%w: %w", err, &backend.InvalidError{Path: "creds.api_key", Msg: "lambda does not take it"})
	}
	return err
}

var _ backend.CheckBackend = (*lambda)(nil)
