package collect

import (
	"context"
	"math"
	"regexp"
	"slices"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
)

// oci publishes what its cost estimator reads. Prices are the same in all regions, which are told to accounts
// only, so that without one the list has those that the program knows.
func oci() Source {
	return Source{
		Provider: "oci", May: []string{ociUser, ociKey, ociFingerprint, ociTenancy, ociRegion}, base: "https://www.oracle.com", collect: collectOCI,
		expect: expectation{
			gpus: []string{"P100", "V100", "A10", "A100"}, cpuOnly: true, spot: true, begins: []string{"VM.Standard", "BM.Standard", "VM.GPU", "BM.GPU"},
		},
		most: answerSize{64 << 20, 1_000_000}, // all products of Oracle in one document
	}
}

// ociShape is an instance type; memory is in GB.
type ociShape struct {
	Name       string
	Hidden     bool
	Status     string
	Kind       ociWord `json:"shapeType"` // vm, bm
	Sub        ociWord `json:"subType"`
	Processor  ociWord `json:"processorType"`
	Spot       bool    `json:"allowPreemptible"`
	Bundled    number  `json:"bundleMemoryQty"`
	GPUs       number  `json:"gpuQty"`
	GPUMemory  number  `json:"gpuMemoryQty"` // of all GPUs together
	Components []struct {
		Type ociWord
		Part string `json:"partNumber"`
		Qty  number
	} `json:"products"`
}

type ociWord struct{ Value string }

type ociProduct struct {
	Part    string `json:"partNumber"`
	Billing string `json:"billingModel"`
	Per     string `json:"pricetype"`
	Local   []struct {
		Currency string `json:"currencyCode"`
		Prices   []struct {
			Model string
			Value number
		}
	} `json:"currencyCodeLocalizations"`
}

func collectOCI(ctx context.Context, s *session, t *tray) error {
	const dir = "/a/ocom/docs/cloudestimator2/data/"
	var shapes struct{ Items []ociShape }
	if err := s.get(ctx, dir+"shapes.json", nil, &shapes); err != nil {
		return err
	}
	var products struct{ Items []ociProduct }
	if err := s.get(ctx, dir+"products.json", nil, &products); err != nil {
		return err
	}
	regions := s.known.Regions(t.provider)
	if s.hasAccount {
		more, err := s.ociRegions(ctx)
		if err := t.doWithout(ctx, err); err != nil {
			return err
		}
		regions = both(regions, more)
	}
	return t.oci(shapes.Items, products.Items, regions)
}

func (t *tray) oci(shapes []ociShape, products []ociProduct, regions []string) error {
	prices := map[string]float64{}
	for _, p := range products {
		if usd, ok := p.usd(); ok {
			prices[p.Part] = usd
		}
	}
	for _, shape := range shapes {
		if !shape.sold() {
			continue
		}
		r, ok := t.ociRow(shape, prices)
		if !ok {
			t.leaveOut(shape.Name)
			continue
		}
		if err := t.addIn(r, regions); err != nil {
			return err
		}
		if !shape.Spot {
			continue
		}
		r.Spot, r.Price = true, r.Price/2
		if err := t.addIn(r, regions); err != nil {
			return err
		}
	}
	return nil
}

// usd is the price of one hour without a contract.
func (p ociProduct) usd() (usd float64, ok bool) {
	if p.Billing != "UCM" || p.Per != "HOUR" {
		return 0, false
	}
	found := 0
	for _, l := range p.Local {
		for _, price := range l.Prices {
			if l.Currency == "USD" && price.Model == "PAY_AS_YOU_GO" {
				usd = float64(price.Value)
				found++
			}
		}
	}
	return usd, found == 1
}

func (s ociShape) sold() bool {
	return !s.Hidden && s.Status == "ACTIVE" && slices.Contains([]string{"vm", "bm"}, s.Kind.Value) &&
		slices.Contains([]string{"standard", "gpu", "optimized"}, s.Sub.Value) && !strings.Contains(s.Name, ".A1.")
}

// ociMachines are shapes of which the estimator leaves out cores or memory, or has them wrong
// (docs.oracle.com/en-us/iaas/Content/Compute/References/computeshapes.htm).
var ociMachines = map[string]struct{ cores, gib int }{
	"BM.GPU.B300.8": {128, 4096}, "BM.GPU.GB200.4": {144, 960}, "BM.GPU.GB300.4": {144, 960}, "BM.GPU.RTXPRO.8": {144, 3072},
}

// superchip is a GPU with a processor of its own kind: GB200.
var superchip = regexp.MustCompile(`^G[BH]\d`)

// ociRow puts a shape together from its components. It is false where something is missing, or costs extra.
func (t *tray) ociRow(s ociShape, prices map[string]float64) (pricelist.Row, bool) {
	name, _, _ := strings.Cut(s.Name, " (") // "BM.GPU.GB200.4 (NVL72)" cannot be had under that name
	gpu := ociGPU(name)
	r := pricelist.Row{Instance: name, MemoryMiB: mib(math.Trunc(float64(s.Bundled))), GPUs: s.GPUs.whole()}
	gpuShape := strings.Contains(name, "GPU4") || strings.Contains(name, "GPU.A10")
	if s.Processor.Value == "arm" && !(s.Sub.Value == "gpu" && gpuShape) || superchip.MatchString(gpu) { // those are marked wrongly
		r.Arch = "arm"
	}
	machine, stated := ociMachines[name]
	if stated {
		r.MemoryMiB = machine.gib << 10
	}
	for _, c := range s.Components {
		price, priced := prices[c.Part]
		switch {
		case c.Type.Value == "ocpu" && priced:
			if stated {
				c.Qty = number(machine.cores)
			}
			r.CPUs = c.Qty.whole() * 2
			if r.Arch == "arm" {
				r.CPUs = c.Qty.whole()
			}
			if r.GPUs > 0 {
				r.Price += price * float64(r.GPUs)
			} else {
				r.Price += price * float64(c.Qty)
			}
		case c.Type.Value == "memory" && priced:
			r.MemoryMiB = mib(math.Trunc(float64(c.Qty)))
			r.Price += price * float64(c.Qty)
		default:
			return r, false
		}
	}
	if r.GPUs > 0 {
		if gpu == "" || s.GPUMemory <= 0 {
			return r, false
		}
		var ok bool
		if r.GPU, ok = t.gpu(gpu, float64(s.GPUMemory)/float64(r.GPUs)); !ok {
			return r, false
		}
	}
	return r, r.CPUs != 0 && r.MemoryMiB != 0 && r.Price > 0
}

// ociGPU is the kind in a shape's name: BM.GPU4.8, VM.GPU.A10.1, BM.GPU.A100-v2.8.
func ociGPU(name string) string {
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '-' })
	for i, w := range words {
		switch w {
		case "GPU2":
			return "P100"
		case "GPU3":
			return "V100"
		case "GPU4":
			return "A100"
		case "RTXPRO":
			return "RTXPRO6000"
		case "GPU":
			if i+1 < len(words) {
				if a, ok := config.FindAccelerator(words[i+1]); ok {
					return a.Name
				}
			}
		}
	}
	return ""
}
