package collect

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// awsOthers are what AWS charges for types that the program does not know. EC2 tells accounts what those
// have (ec2:DescribeInstanceTypes).
type awsOthers struct {
	prices map[string]awsPrices // by type
	rows   int                  // of all of them
}

// awsPrices are what one type costs by region, all with its CPUs and memory.
type awsPrices map[string]pricelist.Row

// awsContested is a price of a type that has two in one place.
const awsContested = -1

// maxAWSOthers bounds the types. AWS has some thousand.
const maxAWSOthers = 5000

// keep keeps a row, and is false for one that is of no use: of former generations, of parts of a GPU, or
// one that makes no sense.
func (o *awsOthers) keep(cell func(string) string) bool {
	name := cell("Instance Type")
	if o == nil || !awsTypeName.MatchString(name) || awsFormer.MatchString(name) {
		return false
	}
	if gpus := cell("GPU"); gpus != "" {
		if n, err := strconv.ParseFloat(gpus, 64); err != nil || n > 0 && n < 1 {
			return false
		}
	}
	r := pricelist.Row{Instance: strings.Clone(name)}
	if awsPrice(cell, &r) != nil || r.Price != 0 && r.Region == "" {
		return false
	}
	prices := o.prices[name]
	switch {
	case r.Price == 0: // billed otherwise
		return prices != nil
	case prices == nil && len(o.prices) == maxAWSOthers || o.rows == pricelist.MaxRows:
		return false
	case prices == nil:
		prices = awsPrices{}
		o.prices[r.Instance] = prices
	}
	if old, again := prices[r.Region]; !again {
		o.rows++
	} else if old.Price != r.Price {
		r.Price = awsContested
	}
	prices[r.Region] = r
	return true
}

var (
	awsTypeName = regexp.MustCompile(`^[a-z0-9-]{1,40}\.[a-z0-9-]{1,40}$`)
	// awsFormer are generations that nothing should be started on any more (catalog 8.1).
	awsFormer = regexp.MustCompile(`^(a1|c1|c3|c4|g2|g3|g3s|p3|i2|m1|m2|m3|p2|r3|r4|t1|cr1|hs1)\.`)
	// awsRegion is the region that the code of a place begins with: us-west-2-lax-1 is a local zone.
	awsRegion = regexp.MustCompile(`^[a-z]{2}(-[a-z]{1,20})+-[0-9]{1,2}(-|$)`)
)

// regionOf is the region of a place, "" if it has none.
func regionOf(place string) string { return strings.TrimSuffix(awsRegion.FindString(place), "-") }

// awsOthers adds what is known of other types by now.
func (t *tray) awsOthers(others *awsOthers, found map[string]awsType) {
	for _, name := range slices.Sorted(maps.Keys(others.prices)) {
		prices := others.prices[name]
		about, ok := found[name]
		shape := pricelist.Row{Instance: name}
		if ok = ok && !prices.contested(); ok {
			ok = t.awsShape(about, &shape)
		}
		if !ok {
			t.leaveOut(name)
			continue
		}
		for _, region := range slices.Sorted(maps.Keys(prices)) {
			r := prices[region]
			r.Arch, r.GPU, r.GPUs = shape.Arch, shape.GPU, shape.GPUs
			t.addMore(r)
		}
	}
}

func (p awsPrices) contested() bool {
	for _, r := range p {
		if r.Price == awsContested {
			return true
		}
	}
	return false
}

// awsType is what EC2 says of a type.
type awsType struct {
	Name string   `xml:"instanceType"`
	Arch []string `xml:"processorInfo>supportedArchitectures>item"`
	GPUs []struct {
		Name  string `xml:"name"`
		Count int    `xml:"count"`
		MiB   int    `xml:"memoryInfo>sizeInMiB"`
		Part  string `xml:"gpuPartitionSize"`
	} `xml:"gpuInfo>gpus>item"`
	// Others are accelerators of kinds that lists have nothing of.
	Inference *struct{} `xml:"inferenceAcceleratorInfo"`
	Neuron    *struct{} `xml:"neuronInfo"`
	FPGA      *struct{} `xml:"fpgaInfo"`
	Media     *struct{} `xml:"mediaAcceleratorInfo"`
}

// awsDescribed is a page of what EC2 says of types.
type awsDescribed struct {
	Types []awsType `xml:"instanceTypeSet>item"`
	Next  string    `xml:"nextToken"`
}

// awsShape completes a row with the GPUs and the architecture of a type. It is false for what no list can
// say: a type must not pass for one without accelerators.
func (t *tray) awsShape(a awsType, r *pricelist.Row) bool {
	switch {
	case slices.Contains(a.Arch, "x86_64"):
		r.Arch = "x86"
	case slices.Contains(a.Arch, "arm64"):
		r.Arch = "arm"
	default:
		return false
	}
	if a.Inference != nil || a.Neuron != nil || a.FPGA != nil || a.Media != nil || len(a.GPUs) > 1 {
		return false
	}
	for _, g := range a.GPUs {
		if part, err := strconv.ParseFloat(g.Part, 64); g.Part != "" && (err != nil || part != 1) {
			return false
		}
		gib := float64(g.MiB) / 1024
		name := strings.TrimSuffix(g.Name, " HL-205") // the board of Gaudi
		if name == "L4" {
			gib = 24 // EC2 says 22.35, and multiples of it
		}
		var ok bool
		if r.GPU, ok = t.gpu(name, gib); !ok || g.Count < 1 {
			r.GPU = offer.GPU{}
			return false
		}
		r.GPUs = g.Count
	}
	return true
}

// awsTypes asks the regions for what the types have, first the one in which most are sold that none has
// told of yet. A region that does not answer, or has not been opted in to, is passed over; it is an error
// when none answers.
func (s *session) awsTypes(ctx context.Context, others *awsOthers) (map[string]awsType, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, accountLimit, fmt.Errorf("it took longer than %v", accountLimit))
	defer cancel()
	found, open, answered := map[string]awsType{}, others.byRegion(), false
	var silent error
	for range maxAWSRegions {
		region, names := mostOpen(open, found)
		if region == "" || ctx.Err() != nil {
			break
		}
		delete(open, region)
		got, err := s.awsDescribe(ctx, region, names)
		if err != nil {
			if silent == nil {
				silent = err
			}
			continue
		}
		answered = true
		maps.Copy(found, got)
	}
	if !answered {
		return nil, silent // of all, the same most likely
	}
	return found, nil
}

// maxAWSRegions is how many regions are asked at most. AWS has some 35.
const maxAWSRegions = 100

// byRegion are the types that each region sells, its local zones included.
func (o *awsOthers) byRegion() map[string][]string {
	sold := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(o.prices)) {
		for place := range o.prices[name] {
			region := regionOf(place)
			if last := sold[region]; region != "" && (len(last) == 0 || last[len(last)-1] != name) {
				sold[region] = append(last, name)
			}
		}
	}
	return sold
}

// mostOpen is the region in which most types are sold that were not found, and these types; "" when there is none.
func mostOpen(sold map[string][]string, found map[string]awsType) (region string, names []string) {
	for _, some := range slices.Sorted(maps.Keys(sold)) {
		open := slices.DeleteFunc(slices.Clone(sold[some]), func(name string) bool {
			_, known := found[name]
			return known
		})
		if len(open) > len(names) {
			region, names = some, open
		}
	}
	return region, names
}

// short says that a type is described in as few words as EC2 has: it is kept until all are known.
func (a awsType) short() bool {
	const most, letters = 10, 100
	long := len(a.Arch) > most || len(a.GPUs) > most || slices.ContainsFunc(a.Arch, func(name string) bool { return len(name) > letters })
	for _, g := range a.GPUs {
		long = long || len(g.Name) > letters || len(g.Part) > letters
	}
	return !long
}

// awsDescribe asks a region what types have. It does not know all of them.
func (s *session) awsDescribe(ctx context.Context, region string, names []string) (map[string]awsType, error) {
	all := map[string]awsType{}
	for some := range slices.Chunk(names, awsTypes) {
		// A filter passes over names that the region does not have, which would be an error otherwise.
		q := url.Values{"Action": {"DescribeInstanceTypes"}, "Filter.1.Name": {"instance-type"}, "MaxResults": {strconv.Itoa(awsTypes)}}
		for i, name := range some {
			q.Set("Filter.1.Value."+strconv.Itoa(i+1), name)
		}
		for page := 0; ; page++ {
			var answer awsDescribed
			if err := s.ec2(ctx, region, q, &answer); err != nil {
				return nil, err
			}
			for _, a := range answer.Types {
				if slices.Contains(some, a.Name) && a.short() {
					all[a.Name] = a
				}
			}
			if answer.Next == "" {
				break
			}
			if page == len(some) { // a page has at least one
				return nil, fmt.Errorf("%w: there are more than %d pages about %d types in %s", errStrange, page, len(some), region)
			}
			q.Set("NextToken", answer.Next)
		}
	}
	return all, nil
}
