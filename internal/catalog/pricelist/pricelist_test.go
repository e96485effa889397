package pricelist

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
)

// h100 is a row that is in order.
func h100() Row {
	return Row{
		Backend: "aws", Instance: "p5.48xlarge", Region: "us-east-1", CPUs: 192, MemoryMiB: 2 << 20, Arch: "x86",
		GPUs: 8, GPU: offer.GPU{Name: "H100", Vendor: "nvidia", MemoryMiB: 80 << 10}, Price: 55.04, AsOf: "2026-07-20",
	}
}

// resources reads what a configuration has below "resources".
func resources(t testing.TB, text string) config.Resources {
	t.Helper()
	var r config.Resources
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("resources %s: %v", text, err)
	}
	return r
}

// random makes n rows like those of real catalogs: instance types, each in many places, on
// demand and spot.
func random(t testing.TB, n int) *List {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	backends := []string{"aws", "azure", "gcp", "oci", "lambda", "nebius"}
	kinds := config.Accelerators()
	var b Builder
	for typ := 0; len(b.price) < n; typ++ {
		cpus := 1 << rng.IntN(9)
		r := Row{
			Backend: backends[rng.IntN(len(backends))], Instance: fmt.Sprintf("type-%d", typ), CPUs: cpus,
			MemoryMiB: cpus * 1024 * (1 + rng.IntN(8)), Arch: "x86", AsOf: "2026-08-03",
		}
		if rng.IntN(2) == 0 {
			a := kinds[rng.IntN(len(kinds))]
			r.GPUs, r.GPU = 1<<rng.IntN(4), offer.GPU{Name: a.Name, Vendor: a.Vendor, MemoryMiB: a.Memory[0] << 10}
		}
		if rng.IntN(10) == 0 {
			r.Arch = "arm"
		}
		if rng.IntN(10) == 0 {
			r.DiskMiB = 1024 * (1 + rng.IntN(1000))
		}
		for place := range 40 {
			r.Region, r.Zone = fmt.Sprintf("region-%d", place), ""
			if place%4 == 0 {
				r.Zone = r.Region + "-a"
			}
			for _, r.Spot = range []bool{false, true} {
				r.Price = float64(1+rng.IntN(100_000)) / 1000
				if len(b.price) == n {
					break
				}
				if err := b.Add(r); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return b.List()
}

// question makes up what a user might ask for.
func question(rng *rand.Rand, l *List) (api.Requirements, config.ProfileParams) {
	var req api.Requirements
	var p config.ProfileParams
	some := func() bool { return rng.IntN(3) == 0 }
	word := func(w string) *string { return &w }
	r := l.Row(rng.IntN(l.Len()))
	if some() {
		req.MaxPrice = &r.Price
	}
	if some() {
		req.Spot = &r.Spot
	}
	if some() {
		p.Backends = []string{r.Backend, "oci"}
	}
	if some() {
		p.Regions = []string{"REGION-1", r.Region}
	}
	if rng.IntN(10) == 0 {
		p.InstanceTypes = []string{r.Instance, "type-3"}
	}
	if rng.IntN(10) == 0 {
		p.AvailabilityZones = []string{"region-4-a", "region-8-a"}
	}
	if rng.IntN(10) == 0 {
		req.Reservation = word("r-1")
	}
	if some() {
		req.Resources.CPU.Count = config.IntRange{Min: &r.CPUs}
	}
	if rng.IntN(10) == 0 {
		req.Resources.CPU.Arch = &r.Arch
	}
	if some() {
		req.Resources.Memory = config.AtLeast(float64(rng.IntN(600)))
	}
	if some() {
		req.Resources.Disk = &config.Disk{Size: config.AtLeast(float64(rng.IntN(500)))}
	}
	if some() {
		g := &config.GPU{}
		if some() {
			zero := 0
			g.Count.Min = &zero
		} else if some() {
			g.Count = config.IntRange{Min: &r.GPUs, Max: &r.GPUs}
		}
		if some() && r.GPUs > 0 {
			g.Name = []string{r.GPU.Name, "a100"}
		}
		if some() {
			g.Vendor = word("nvidia")
		}
		if some() {
			m := config.AtLeast(float64(rng.IntN(100)))
			g.Memory = &m
		}
		if some() {
			m := config.AtLeast(float64(rng.IntN(400)))
			g.TotalMemory = &m
		}
		if some() {
			g.ComputeCapability = []int{8, rng.IntN(10)}
		}
		req.Resources.GPU = g
	}
	return req, p
}

// The search by parts must find what the rules find in whole offers, in their order.
func TestSearchEqualsFits(t *testing.T) {
	l := random(t, 4000)
	all, _ := l.Search(api.Requirements{}, config.ProfileParams{}, -1)
	if len(all) != l.Len() {
		t.Fatalf("a search for nothing special finds %d of %d", len(all), l.Len())
	}
	if !slices.IsSortedFunc(all, func(a, b Offer) int {
		switch {
		case a.Price < b.Price:
			return -1
		case a.Price > b.Price:
			return 1
		}
		return 0
	}) {
		t.Error("a search is not in the order of price")
	}
	rng := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range 500 {
		req, p := question(rng, l)
		var want []Offer
		var tally scheduler.Tally
		for _, o := range all {
			if scheduler.Fits(req, p, o.InstanceOffer) == "" {
				want = append(want, o)
			}
			tally.Add(scheduler.Missed(&req, &p, &o.InstanceOffer), o.Price)
		}
		got, total := l.Search(req, p, 10)
		if diff := cmp.Diff(want[:min(10, len(want))], got); diff != "" || total != len(want) {
			t.Fatalf("Search(%+v, %+v) of %d, want %d (-want +got):\n%s", req, p, total, len(want), diff)
		}
		if diff := cmp.Diff(tally.Exclusions(), l.WhyNot(req, p).Exclusions()); diff != "" {
			t.Fatalf("WhyNot(%+v, %+v) (-want +got):\n%s", req, p, diff)
		}
		if total > 0 {
			found++
		}
	}
	if found < 100 {
		t.Errorf("only %d of 500 questions found anything", found)
	}
}

// Groups of rows are those of whole offers.
func TestGroupsEqualGroupGPUs(t *testing.T) {
	l := random(t, 4000)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		req, p := question(rng, l)
		req.Resources = scheduler.WithGPUs(req.Resources)
		by := scheduler.GPUGrouping{Backend: rng.IntN(3) > 0, Count: rng.IntN(2) > 0}
		by.Region = by.Backend && rng.IntN(2) > 0
		found, _ := l.Search(req, p, -1)
		offers := make([]*api.InstanceOffer, len(found))
		total := 0
		for i, o := range found {
			offers[i] = &o.InstanceOffer
			total += min(1, len(o.Instance.Resources.Gpus))
		}
		groups, n := l.Groups(req, p, by)
		got := []api.GpuGroup{}
		for _, g := range groups {
			got = append(got, g.GpuGroup)
		}
		if diff := cmp.Diff(scheduler.GroupGPUs(by, scheduler.These(offers)), got); diff != "" || n != total {
			t.Fatalf("Groups(%+v, %+v, %+v) of %d, want %d (-want +got):\n%s", req, p, by, n, total, diff)
		}
	}
}

// A group has the dates of all its prices, and counts no machines without GPUs.
func TestGroupsHaveDates(t *testing.T) {
	var b Builder
	for n, asOf := range []string{"2026-08-03", "2025", "2026-01"} {
		r := h100()
		r.Region, r.Price, r.AsOf = fmt.Sprint("r", n), float64(10-n), asOf
		cpu := r
		cpu.Instance, cpu.GPUs, cpu.GPU = "cpu", 0, offer.GPU{}
		if err := errors.Join(b.Add(r), b.Add(cpu)); err != nil {
			t.Fatal(err)
		}
	}
	groups, total := b.List().Groups(api.Requirements{}, config.ProfileParams{}, scheduler.GPUGrouping{})
	if len(groups) != 1 || groups[0].Oldest != "2025" || groups[0].Newest != "2026-08-03" || total != 3 {
		t.Errorf("groups of %d prices: %+v", total, groups)
	}
}

func TestZonesOfOnePriceAreOneOffer(t *testing.T) {
	var b Builder
	for _, z := range []struct {
		zone  string
		price float64
	}{{"r-b", 2}, {"r-a", 2}, {"r-c", 3}} {
		r := h100()
		r.Backend, r.Region, r.Zone, r.Price = "gcp", "r", z.zone, z.price
		if err := b.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	var got [][]string
	offers, _ := b.List().Search(api.Requirements{}, config.ProfileParams{}, -1)
	for _, o := range offers {
		got = append(got, o.AvailabilityZones)
	}
	if diff := cmp.Diff([][]string{{"r-a", "r-b"}, {"r-c"}}, got); diff != "" {
		t.Errorf("zones (-want +got):\n%s", diff)
	}
}

func TestAddRefuses(t *testing.T) {
	for want, change := range map[string]func(*Row){
		`provider: "acme" is not one of amddevcloud, aws, azure, cloudrift, crusoe, digitalocean, gcp, hotaisle, jarvislabs, lambda, nebius, oci, runpod, seeweb, vastai, verda, vultr`: func(r *Row) { r.Backend = "acme" },
		`instance_name: "" is not a name of 1 to 200 bytes`:           func(r *Row) { r.Instance = "" },
		`instance_name: "a\x1b[31m" is not a name of 1 to 200 bytes`:  func(r *Row) { r.Instance = "a\x1b[31m" },
		`price: NaN is not 0.0001 to 100000 US dollars per hour`:      func(r *Row) { r.Price = math.NaN() },
		`price: -1 is not 0.0001 to 100000 US dollars per hour`:       func(r *Row) { r.Price = -1 },
		`price: 0 is not 0.0001 to 100000 US dollars per hour`:        func(r *Row) { r.Price = 0 },
		`price: +Inf is not 0.0001 to 100000 US dollars per hour`:     func(r *Row) { r.Price = math.Inf(1) },
		`cpu: 0 is not 1 to 100000`:                                   func(r *Row) { r.CPUs = 0 },
		`memory: -5 MiB is not 1 to 1099511627776`:                    func(r *Row) { r.MemoryMiB = -5 },
		`disk_size: -5 MiB is not 0 to 1099511627776`:                 func(r *Row) { r.DiskMiB = -5 },
		`cpu_arch: "riscv" is not x86 or arm`:                         func(r *Row) { r.Arch = "riscv" },
		`gpu_count: 129 is not 0 to 128`:                              func(r *Row) { r.GPUs = 129 },
		`gpu_count: is 0, but there is a GPU "H100"`:                  func(r *Row) { r.GPUs = 0 },
		`gpu_name: "H1000" is not a known accelerator`:                func(r *Row) { r.GPU.Name = "H1000" },
		`gpu_vendor: "amd" does not make H100`:                        func(r *Row) { r.GPU.Vendor = "amd" },
		`gpu_memory: 0 MiB is not 1 to 1099511627776`:                 func(r *Row) { r.GPU.MemoryMiB = 0 },
		`as_of: "today" is not a day, month or year as in 2026-08-03`: func(r *Row) { r.AsOf = "today" },
		`instance_name: p5.48xlarge in "us-east-1" is there twice`:    func(r *Row) { r.Price, r.MemoryMiB, r.DiskMiB = 3, 2*r.MemoryMiB, 7 },
	} {
		var b Builder
		if err := b.Add(h100()); err != nil {
			t.Fatal(err)
		}
		r := h100()
		change(&r)
		if err := b.Add(r); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		if n := b.List().Len(); n != 1 {
			t.Errorf("%s: %d rows", want, n)
		}
	}
}

// The embedded list has what the providers are expected to have (catalog 9), as far as their
// prices are known.
func TestEmbedded(t *testing.T) {
	l, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	gpus, spot, demand := map[string]map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range l.Len() {
		r := l.Row(i)
		if err := check(r); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
		if gpus[r.Backend] == nil {
			gpus[r.Backend] = map[string]bool{}
		}
		gpus[r.Backend][r.GPU.Name] = true
		spot[r.Backend] = spot[r.Backend] || r.Spot
		demand[r.Backend] = demand[r.Backend] || !r.Spot
	}
	for backend, names := range map[string][]string{
		"aws":          {"", "H100", "H200", "A100", "A10G", "T4", "L4", "L40S", "RTXPRO4500", "RTXPRO6000", "B200", "B300"},
		"azure":        {"", "A100", "A10", "H100NVL", "H200", "T4", "V100"},
		"gcp":          {"", "B200", "H100", "A100", "L4", "RTXPRO6000", "v2-8", "v3-8", "v5litepod-8", "v5p-8", "v6e-1"},
		"oci":          {"", "P100", "V100", "A10", "A100", "H100", "MI300X"},
		"lambda":       {"", "A10", "A100", "H100", "B200", "GH200"},
		"nebius":       {"L40S", "H100", "H200", "B200"},
		"verda":        {"", "B300", "B200", "H200", "H100", "A100", "V100", "RTXPRO6000", "RTX6000Ada"},
		"runpod":       {"", "A100", "H100", "B200"},
		"vultr":        {"A100", "H100", "MI300X"},
		"digitalocean": {"", "H100"},
		"jarvislabs":   {""},
		"seeweb":       {"RTX6000", "A6000", "A100", "L4", "L40S", "H100", "H200", "RTXPRO6000"},
	} {
		for _, name := range names {
			if !gpus[backend][name] {
				t.Errorf("%s lacks %q", backend, name)
			}
		}
		if !demand[backend] || spot[backend] != slices.Contains([]string{"gcp", "nebius", "verda"}, backend) {
			t.Errorf("%s has on demand: %v, spot: %v", backend, demand[backend], spot[backend])
		}
		delete(gpus, backend)
	}
	if len(gpus) > 0 {
		t.Errorf("nothing is expected of %v", gpus)
	}
	if oldest, newest := l.Dates(); oldest != "2026" || newest != "2026-08-03" {
		t.Errorf("dates %s to %s", oldest, newest)
	}
}

func BenchmarkSearch(b *testing.B) {
	l := random(b, 100_000)
	for name, text := range map[string]string{
		"all":   `{}`,
		"gpu":   `{"gpu": "H100:8"}`,
		"range": `{"cpu": "8..", "memory": "64GB..512GB", "gpu": "24GB..:1..4"}`,
	} {
		req := api.Requirements{Resources: resources(b, text)}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				l.Search(req, config.ProfileParams{}, 50)
			}
		})
	}
}

func BenchmarkWhyNot(b *testing.B) {
	l := random(b, 100_000)
	limit := 1.0
	req := api.Requirements{Resources: resources(b, `{"gpu": "H100:8"}`), MaxPrice: &limit}
	for b.Loop() {
		l.WhyNot(req, config.ProfileParams{})
	}
}

// A list of 100,000 rows takes little memory.
func TestSize(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	l := random(t, 100_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 30<<20 {
		t.Errorf("%d rows take %d bytes", l.Len(), used)
	}
	runtime.KeepAlive(l)
}
