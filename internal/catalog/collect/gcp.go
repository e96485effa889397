package collect

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
)

// gcp publishes prices of parts (a core, a GB of memory, a GPU, a chip) to anybody with an API key
// or a service account. Which types there are, and where, is told to accounts that belong to a
// project: without one the list has those that the program knows, with the sum of their parts.
func gcp() Source {
	return Source{
		Provider: "gcp", Needs: []string{gcpKey}, Instead: []string{gcpKeyFile}, May: []string{gcpKeyFile, gcpProject}, base: "https://cloudbilling.googleapis.com",
		collect: collectGCP,
		most:    answerSize{64 << 20, 1_000_000}, // a page has five thousand parts, each in many regions
		// T4, V100 and P100 (catalog 9) are only in lists that accounts are told.
		expect: expectation{
			rows: 1000, gpus: []string{"B200", "H100", "A100:40", "A100:80", "L4", "RTXPRO6000", "v2", "v3", "v5litepod", "v5p"}, cpuOnly: true, spot: true,
			regions: []string{"us-central1"}, spread: map[string]int{"e2-highcpu-2": 38},
		},
	}
}

func collectGCP(ctx context.Context, s *session, t *tray) error {
	header := http.Header{"X-Goog-Api-Key": {s.env(gcpKey)}}
	if s.env(gcpKey) == "" {
		token, err := s.gcpToken(ctx)
		if err != nil {
			return err
		}
		header = bearer(token)
	}
	parts := gcpParts{}
	// Compute Engine, and Cloud TPU for its older versions.
	for _, service := range []string{"6F81-5844-456A", "E000-3F24-B8AA"} {
		if err := s.gcp(ctx, service, header, parts); err != nil {
			return err
		}
	}
	found := newGCPFound()
	if s.hasAccount {
		more, err := s.gcpTypes(ctx, t)
		if err := t.doWithout(ctx, err); err != nil {
			return err
		}
		if err == nil {
			found = more
		}
	}
	return t.gcp(s.known, parts, found)
}

type gcpSKU struct {
	Description string
	Category    struct {
		Family string `json:"resourceFamily"`
		Group  string `json:"resourceGroup"`
		Usage  string `json:"usageType"`
	}
	Regions []string `json:"serviceRegions"`
	Pricing []struct {
		Expression struct {
			Rates []struct {
				Price struct {
					Units number
					Nanos number
				} `json:"unitPrice"`
			} `json:"tieredRates"`
		} `json:"pricingExpression"`
	} `json:"pricingInfo"`
}

func (s *session) gcp(ctx context.Context, service string, header http.Header, parts gcpParts) error {
	type page struct {
		gcpNext
		SKUs []gcpSKU
	}
	return gcpPages(ctx, s, "/v1/services/"+service+"/skus?pageSize=5000", header, func(p page) error {
		for _, sku := range p.SKUs {
			if err := parts.add(sku); err != nil {
				return err
			}
		}
		return nil
	})
}

// gcpNext is what a page of a list says of the next one.
type gcpNext struct {
	Token string `json:"nextPageToken"`
}

func (n gcpNext) next() string { return n.Token }

// gcpPages reads all pages of a list. The path has parameters.
func gcpPages[P interface{ next() string }](ctx context.Context, s *session, path string, header http.Header, take func(P) error) error {
	token := ""
	for range maxPages {
		var page P
		if err := s.get(ctx, path+"&pageToken="+url.QueryEscape(token), header, &page); err != nil {
			return err
		}
		if err := take(page); err != nil {
			return err
		}
		if token = page.next(); token == "" {
			return nil
		}
	}
	return fmt.Errorf("%w: there are more than %d pages", errStrange, maxPages)
}

// gcpPart is something that has a price of its own in a region: "n2 core", "n2 ram" (a GB),
// "nvidia-l4 gpu", "b200 slice" (a GPU with its part of the machine), "ssd" (a GB), "v6e chip".
type gcpPart struct {
	what, region string
	spot         bool
}

type gcpParts map[gcpPart]float64 // US dollars per hour

const (
	// maxGCPParts bounds what is kept of all pages. Google has some ten thousand.
	maxGCPParts = 100_000
	// maxGCPText bounds the description of a price, in bytes. Those of Google have some hundred.
	maxGCPText = 500
)

var (
	gcpPlain  = regexp.MustCompile(`(?i)^(?:spot preemptible )?(.+?) (gpu|ram|core)\b`)
	gcpFamily = regexp.MustCompile(`(?i)^([a-z]\d[a-z]?) `)
	gcpSlice  = regexp.MustCompile(`^Spot Preemptible A4X? Nvidia (B200|GB200) `)
	gcpTPU    = regexp.MustCompile(`(?i)\btpu[ -]?(v\d+[a-z]*)`)
	gcpRegion = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	gcpOther  = regexp.MustCompile(`Sole Tenancy|Reserved|Premium|Custom|suspended|DWS|Capacity Optimized`)
)

// add takes a price, if it is one of those that instances are made of.
func (p gcpParts) add(sku gcpSKU) error {
	usage := sku.Category.Usage
	if usage != "OnDemand" && usage != "Preemptible" || len(sku.Description) > maxGCPText || gcpOther.MatchString(sku.Description) {
		return nil
	}
	if len(sku.Pricing) == 0 || len(sku.Pricing[0].Expression.Rates) == 0 {
		return nil
	}
	what, units := sku.part()
	if what == "" {
		return nil
	}
	price := sku.Pricing[0].Expression.Rates[0].Price
	for _, region := range sku.Regions {
		if !gcpRegion.MatchString(region) {
			continue
		}
		p[gcpPart{what, region, usage == "Preemptible"}] = (float64(price.Units) + float64(price.Nanos)/1e9) / units
		if len(p) > maxGCPParts {
			return fmt.Errorf("%w: it lists more than %d prices of parts", errStrange, maxGCPParts)
		}
	}
	return nil
}

// part is what a price is of, "" for what no instance has, and how many hours it is for.
func (sku gcpSKU) part() (what string, hours float64) {
	text, lower := sku.Description, strings.ToLower(sku.Description)
	if m := gcpTPU.FindStringSubmatch(text); m != nil && sku.Category.Group == "TPU" {
		version := strings.ToLower(m[1])
		if version == "v5e" {
			version = "v5litepod"
		}
		if strings.Contains(text, "Pod") {
			version += " pod"
		}
		return version + " chip", 1
	}
	if strings.HasPrefix(lower, "ssd backed local storage") && sku.Category.Family == "Storage" {
		return "ssd", 730
	}
	if sku.Category.Family != "Compute" {
		return "", 1
	}
	switch {
	case strings.Contains(lower, "(1 gpu slice)"):
		if m := gcpSlice.FindStringSubmatch(text); m != nil {
			return strings.ToLower(m[1]) + " slice", 1
		}
		return "", 1
	case strings.Contains(text, "RTX 6000 96GB"):
		return "nvidia-rtx-pro-6000 gpu", 1
	}
	m := gcpPlain.FindStringSubmatch(text)
	if m == nil {
		return "", 1
	}
	kind := strings.ToLower(m[2])
	if kind == "gpu" {
		return strings.ReplaceAll(strings.ToLower(m[1]), " ", "-") + " gpu", 1
	}
	if f := gcpFamily.FindStringSubmatch(m[1] + " "); f != nil {
		return strings.ToLower(f[1]) + " " + kind, 1
	}
	switch m[1] {
	case "Memory-optimized Instance":
		return "m1 " + kind, 1
	case "Compute optimized Instance", "Compute optimized":
		return "c2 " + kind, 1
	case "A3Plus Instance":
		return "a3-megagpu " + kind, 1
	case "A3Ultra Instance":
		return "a3-ultragpu " + kind, 1
	}
	return "", 1
}

// gcpSold is something that has a price in a region.
type gcpSold struct {
	gcpKind
	region string
	spot   bool
}

// gcp prices the instances that the known list has, where it has them, in the zones that a project has
// found them in; then what else that has found.
func (t *tray) gcp(known *pricelist.List, parts gcpParts, found *gcpFound) error {
	listed, somewhere := map[gcpSold]bool{}, map[string]bool{}
	var unpriced []string
	for i := range known.Len() {
		r := known.Row(i)
		if r.Backend != t.provider || r.Zone != "" {
			continue
		}
		price, ok := parts.price(r)
		if !ok {
			t.free++
			unpriced = append(unpriced, r.Instance)
			continue
		}
		r.Price = price
		listed[gcpSold{gcpKindOf(r), r.Region, r.Spot}], somewhere[r.Instance] = true, true
		zones := found.in(gcpKindOf(r))[r.Region]
		if len(zones) == 0 {
			zones = []string{""} // nobody has said which
		}
		for _, r.Zone = range zones {
			if err := t.add(r); err != nil {
				return err
			}
		}
	}
	for _, name := range unpriced {
		if !somewhere[name] {
			t.leaveOut(name)
		}
	}
	t.gcpMore(found, parts, listed)
	return nil
}

// price is the sum of an instance's parts, to a millionth, false if one of them has no price there.
func (p gcpParts) price(r pricelist.Row) (usd float64, ok bool) {
	usd, ok = p.sum(r)
	return math.Round(usd*1e6) / 1e6, ok
}

func (p gcpParts) sum(r pricelist.Row) (sum float64, ok bool) {
	ok = true
	add := func(n float64, what string) {
		price, known := p[gcpPart{what, r.Region, r.Spot}]
		if !known && n != 0 {
			ok = false
		}
		sum += n * price
	}
	if tpu, isTPU := config.ParseTPU(r.Instance); isTPU {
		add(float64(tpu.Chips), gcpChip(r.Instance, tpu))
		return sum, ok
	}
	if gcpSliced[r.GPU.Name] {
		add(float64(r.GPUs), strings.ToLower(r.GPU.Name)+" slice")
		return sum, ok
	}
	if r.Instance == "m4-ultramem-224" { // costs more than its parts
		return 0, false
	}
	family, _, _ := strings.Cut(r.Instance, "-")
	for _, own := range []string{"a3-megagpu", "a3-ultragpu"} { // which cost other than a3
		if strings.HasPrefix(r.Instance, own) {
			family = own
		}
	}
	cores, shared := gcpSharedCores[r.Instance]
	if !shared {
		cores = float64(r.CPUs)
	}
	add(cores, family+" core")
	add(float64(r.MemoryMiB)/1024, family+" ram")
	if r.GPUs > 0 {
		names := gcpGPUs[fmt.Sprintf("%s:%d", r.GPU.Name, r.GPU.MemoryMiB>>10)]
		if family == "a3-megagpu" {
			names = []string{"nvidia-h100-80gb-mega", "nvidia-h100-80gb-plus", "nvidia-h100-mega-80gb"}
		}
		i := slices.IndexFunc(names, func(name string) bool {
			_, known := p[gcpPart{name + " gpu", r.Region, r.Spot}]
			return known
		})
		if i < 0 {
			return 0, false
		}
		add(float64(r.GPUs), names[i]+" gpu")
	}
	add(gcpBundledSSD(r.Instance), "ssd")
	return sum, ok
}

// gcpSharedCores is what is billed of types that have parts of cores: less than they show.
var gcpSharedCores = map[string]float64{"e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1}

// gcpGPUs are the names that prices have for kinds of GPUs.
var gcpGPUs = map[string][]string{
	"A100:40": {"nvidia-tesla-a100"}, "A100:80": {"nvidia-tesla-a100-80gb", "nvidia-a100-80gb"}, "H100:80": {"nvidia-h100-80gb"},
	"L4:24": {"nvidia-l4"}, "T4:16": {"nvidia-tesla-t4"}, "V100:16": {"nvidia-tesla-v100"}, "P100:16": {"nvidia-tesla-p100"},
	"RTXPRO6000:96": {"nvidia-rtx-pro-6000"}, "H200:141": {"h200-141gb", "nvidia-h200-141gb"},
}

// gcpSliced are the GPUs that are billed with their part of the machine, its local SSDs too. Of GB200 no
// price has been published yet.
var gcpSliced = map[string]bool{"B200": true, "GB200": true}

// gcpChip is the part that a TPU consists of. The older versions cost more in one machine
// than in a pod.
func gcpChip(instance string, tpu config.TPU) string {
	one := strings.HasSuffix(instance, "-8")
	if tpu.Version == "v4" || (tpu.Version == "v2" || tpu.Version == "v3") && !one {
		return tpu.Version + " pod chip"
	}
	return tpu.Version + " chip"
}

// gcpBundledSSD is the local SSD in GB that a type comes with and that is billed with it.
func gcpBundledSSD(instance string) float64 {
	sizes := map[string]map[string]float64{
		"c3":  {"4": 1, "8": 2, "22": 4, "44": 8, "88": 16, "176": 32},
		"c3d": {"8": 1, "16": 1, "30": 2, "60": 4, "90": 8, "180": 16, "360": 32},
		"h4d": {"192": 10},
	}
	words := strings.Split(instance, "-") // c3-standard-4-lssd, a2-ultragpu-2g
	switch {
	case strings.HasPrefix(instance, "a3-megagpu-8g"), strings.HasPrefix(instance, "a3-highgpu-8g"):
		return 6000
	case strings.HasPrefix(instance, "a3-ultragpu-8g"):
		return 12000
	case strings.HasPrefix(instance, "a2-ultragpu-") && len(words) == 3:
		n, _ := strconv.Atoi(strings.TrimSuffix(words[2], "g")) // 0 for what is no size
		return 375 * float64(n)
	case strings.HasPrefix(instance, "z3-standard-") && strings.HasSuffix(instance, "-lssd"):
		return 36000
	case strings.HasSuffix(instance, "-lssd") && len(words) == 4:
		return 375 * sizes[words[0]][words[2]]
	}
	return 0
}
