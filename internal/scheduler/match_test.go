package scheduler

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

// resources reads what a configuration has below "resources".
func resources(t testing.TB, text string) config.Resources {
	t.Helper()
	var r config.Resources
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("resources %s: %v", text, err)
	}
	return r
}

// h100s is a new instance with n GPUs of a cloud.
func h100s(n int) api.InstanceOffer {
	x86 := api.CPUArchitecture("x86")
	o := api.InstanceOffer{
		Backend: "aws", Region: "us-east-1", Price: 10, Availability: api.Available, AvailabilityZones: []string{"us-east-1a", "us-east-1b"}, Reserves: true,
		Instance: api.InstanceType{Name: "p5.48xlarge", Resources: api.Resources{CPUs: 16, MemoryMiB: 64 << 10, Disk: api.Disk{SizeMiB: 200 << 10}, CPUArch: &x86}},
	}
	for range n {
		o.Instance.Resources.Gpus = append(o.Instance.Resources.Gpus, api.Gpu{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"})
	}
	return o
}

func TestMissed(t *testing.T) {
	type change struct {
		resources string
		req       func(*api.Requirements)
		profile   config.ProfileParams
		offer     func(*api.InstanceOffer)
		gpus      int // of the offer
	}
	arm := api.CPUArchitecture("arm")
	for name, tt := range map[string]struct {
		change
		want []string
	}{
		"nothing asked":                     {change{}, nil},
		"backend in other case":             {change{profile: config.ProfileParams{Backends: []string{"AWS"}}}, nil},
		"other backend":                     {change{profile: config.ProfileParams{Backends: []string{"gcp"}}}, []string{"backends"}},
		"no backend":                        {change{profile: config.ProfileParams{Backends: []string{}}}, []string{"backends"}},
		"region in other case":              {change{profile: config.ProfileParams{Regions: []string{"eu", "US-East-1"}}}, nil},
		"other region":                      {change{profile: config.ProfileParams{Regions: []string{"us-east"}}}, []string{"regions"}},
		"instance type in other case":       {change{profile: config.ProfileParams{InstanceTypes: []string{"P5.48xlarge"}}}, nil},
		"other instance type":               {change{profile: config.ProfileParams{InstanceTypes: []string{"p5"}}}, []string{"instance_types"}},
		"one of the zones":                  {change{profile: config.ProfileParams{AvailabilityZones: []string{"us-east-1b"}}}, nil},
		"other zone":                        {change{profile: config.ProfileParams{AvailabilityZones: []string{"us-east-1c"}}}, []string{"availability_zones"}},
		"new instance without zones":        {change{profile: config.ProfileParams{AvailabilityZones: []string{"z"}}, offer: func(o *api.InstanceOffer) { o.AvailabilityZones = nil }}, []string{"availability_zones"}},
		"existing instance without zones":   {change{profile: config.ProfileParams{AvailabilityZones: []string{"z"}}, offer: func(o *api.InstanceOffer) { o.AvailabilityZones, o.Availability = nil, api.Busy }}, nil},
		"price at the limit":                {change{req: func(r *api.Requirements) { r.MaxPrice = new(10.0) }}, nil},
		"price above the limit":             {change{req: func(r *api.Requirements) { r.MaxPrice = new(9.99) }}, []string{"max_price"}},
		"no number for a price":             {change{req: func(r *api.Requirements) { r.MaxPrice = new(9.99) }, offer: func(o *api.InstanceOffer) { o.Price = math.NaN() }}, []string{"max_price"}},
		"spot wanted":                       {change{req: func(r *api.Requirements) { r.Spot = new(true) }}, []string{"spot_policy"}},
		"on-demand wanted":                  {change{req: func(r *api.Requirements) { r.Spot = new(false) }}, nil},
		"as many CPUs":                      {change{resources: `{"cpu": 16}`}, nil},
		"more CPUs":                         {change{resources: `{"cpu": "17.."}`}, []string{"cpu"}},
		"fewer CPUs":                        {change{resources: `{"cpu": "..15"}`}, []string{"cpu"}},
		"x86":                               {change{resources: `{"cpu": "x86:2.."}`}, nil},
		"x86 on an unknown architecture":    {change{resources: `{"cpu": "x86:2.."}`, offer: func(o *api.InstanceOffer) { o.Instance.Resources.CPUArch = nil }}, nil},
		"arm on an unknown architecture":    {change{resources: `{"cpu": "arm:2.."}`, offer: func(o *api.InstanceOffer) { o.Instance.Resources.CPUArch = nil }}, []string{"cpu.arch"}},
		"x86 on arm":                        {change{resources: `{"cpu": "x86:2.."}`, offer: func(o *api.InstanceOffer) { o.Instance.Resources.CPUArch = &arm }}, []string{"cpu.arch"}},
		"any architecture":                  {change{offer: func(o *api.InstanceOffer) { o.Instance.Resources.CPUArch = &arm }}, nil},
		"as much memory":                    {change{resources: `{"memory": "64GB"}`}, nil},
		"more memory":                       {change{resources: `{"memory": "64.001GB.."}`}, []string{"memory"}},
		"less than half a MiB more memory":  {change{resources: `{"memory": "64.0004GB.."}`}, nil},
		"more memory than an int holds":     {change{resources: `{"memory": 1e300}`}, []string{"memory"}},
		"bigger disk":                       {change{resources: `{"disk": "201GB.."}`}, []string{"disk"}},
		"disk of unknown size":              {change{resources: `{"disk": "201GB.."}`, offer: func(o *api.InstanceOffer) { o.Instance.Resources.Disk.SizeMiB = 0 }}, nil},
		"no disk asked":                     {change{resources: `{"disk": null}`, offer: func(o *api.InstanceOffer) { o.Instance.Resources.Disk.SizeMiB = 1 }}, nil},
		"GPU wanted, there is none":         {change{resources: `{"gpu": "amd:MI300X:100GB..:2"}`}, []string{"gpu"}},
		"no GPU wanted, there is one":       {change{resources: `{"gpu": 0}`, gpus: 1}, []string{"gpu.count"}},
		"no GPU wanted, there is none":      {change{resources: `{"gpu": 0}`}, nil},
		"nothing said about GPUs":           {change{resources: `{"gpu": null}`, gpus: 1}, nil},
		"name, but none will do":            {change{resources: `{"gpu": "A100:0.."}`}, nil},
		"name, but none will do, is other":  {change{resources: `{"gpu": "A100:0.."}`, gpus: 1}, []string{"gpu.name"}},
		"name, lower end open":              {change{resources: `{"gpu": "A100:..4"}`}, []string{"gpu.name"}},
		"lower end open":                    {change{resources: `{"gpu": "..4"}`}, nil},
		"memory of a missing GPU, end open": {change{resources: `{"gpu": "24GB..:..4"}`}, []string{"gpu.memory"}},
		"little of a missing GPU, end open": {change{resources: `{"gpu": "..24GB:..4"}`}, nil},
		"vendor of a missing GPU, end open": {change{resources: `{"gpu": "nvidia:..4"}`}, []string{"gpu.vendor"}},
		"one of the names in other case":    {change{resources: `{"gpu": "a100,h100:8"}`, gpus: 8}, nil},
		"empty list of names":               {change{resources: `{"gpu": {"name": []}}`, gpus: 8}, []string{"gpu.name"}},
		"too few GPUs":                      {change{resources: `{"gpu": "H100:8"}`, gpus: 4}, []string{"gpu.count"}},
		"other vendor":                      {change{resources: `{"gpu": "amd"}`, gpus: 1}, []string{"gpu.vendor"}},
		"too little GPU memory":             {change{resources: `{"gpu": "81GB.."}`, gpus: 2}, []string{"gpu.memory"}},
		"too much GPU memory":               {change{resources: `{"gpu": "..40GB"}`, gpus: 2}, []string{"gpu.memory"}},
		"total memory":                      {change{resources: `{"gpu": {"total_memory": "160GB"}}`, gpus: 2}, nil},
		"too little total memory":           {change{resources: `{"gpu": {"total_memory": "161GB.."}}`, gpus: 2}, []string{"gpu.total_memory"}},
		"as capable":                        {change{resources: `{"gpu": {"compute_capability": "9.0"}}`, gpus: 1}, nil},
		"not as capable":                    {change{resources: `{"gpu": {"compute_capability": "9.1"}}`, gpus: 1}, []string{"gpu.compute_capability"}},
		"capability of another vendor's": {change{resources: `{"gpu": {"compute_capability": "1.0"}}`, gpus: 1, offer: func(o *api.InstanceOffer) {
			o.Instance.Resources.Gpus[0].Vendor = "amd"
		}}, []string{"gpu.compute_capability"}},
		"capability of an unknown GPU": {change{resources: `{"gpu": {"compute_capability": "1.0"}}`, gpus: 1, offer: func(o *api.InstanceOffer) {
			o.Instance.Resources.Gpus[0].Name = "XYZ900"
		}}, []string{"gpu.compute_capability"}},
		"reservation where there are some": {change{req: func(r *api.Requirements) { r.Reservation = new("r1") }}, nil},
		"reservation where there are none": {change{req: func(r *api.Requirements) { r.Reservation = new("r1") }, offer: func(o *api.InstanceOffer) { o.Reserves = false }}, []string{"reservation"}},
		"reservation and an idle instance": {change{req: func(r *api.Requirements) { r.Reservation = new("r1") }, offer: func(o *api.InstanceOffer) { o.Backend, o.Availability = "remote", api.Idle }}, nil},
		"all at once": {
			change{
				resources: `{"cpu": "arm:32", "memory": "1GB", "disk": "1GB", "gpu": {"vendor": "amd", "name": "MI300X", "count": 2, "memory": "1GB", "total_memory": "1GB", "compute_capability": "12.0"}}`,
				req: func(r *api.Requirements) {
					r.MaxPrice, r.Spot, r.Reservation = new(1.0), new(true), new("r1")
				},
				profile: config.ProfileParams{Backends: []string{"gcp"}, Regions: []string{"eu"}, InstanceTypes: []string{"x"}, AvailabilityZones: []string{"z"}},
				offer:   func(o *api.InstanceOffer) { o.Reserves = false },
				gpus:    1,
			},
			[]string{
				"backends", "regions", "instance_types", "availability_zones", "max_price", "spot_policy", "cpu", "cpu.arch", "memory", "disk",
				"gpu.count", "gpu.vendor", "gpu.name", "gpu.memory", "gpu.total_memory", "gpu.compute_capability", "reservation",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			req := api.Requirements{Resources: config.DefaultResources()}
			if tt.resources != "" {
				req.Resources = resources(t, tt.resources)
			}
			if tt.req != nil {
				tt.req(&req)
			}
			o := h100s(tt.gpus)
			if tt.offer != nil {
				tt.offer(&o)
			}
			if diff := cmp.Diff(tt.want, Missed(&req, &tt.profile, &o).Words()); diff != "" {
				t.Errorf("missed (-want +got):\n%s", diff)
			}
			first := ""
			if tt.want != nil {
				first = tt.want[0]
			}
			if got := Fits(req, tt.profile, o); got != first {
				t.Errorf("Fits = %q, want %q", got, first)
			}
		})
	}
}

func TestDisk(t *testing.T) {
	size := func(text string) config.MemoryRange {
		var r config.MemoryRange
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, tt := range map[string]struct {
		resources string
		sizes     config.MemoryRange
		want      int // MiB, 0 for none
	}{
		"nothing said":         {`{"disk": null}`, config.MemoryRange{}, 100 << 10},
		"the default":          {`{}`, config.MemoryRange{}, 100 << 10},
		"exactly":              {`{"disk": "120.5GB"}`, config.MemoryRange{}, 123392},
		"between two MiB":      {`{"disk": "100.3GB"}`, config.MemoryRange{}, 102707},
		"no lower end":         {`{"disk": "..50GB"}`, config.MemoryRange{}, 1 << 10},
		"less than backends":   {`{"disk": "..0.5GB"}`, config.MemoryRange{}, 0},
		"backend's lower end":  {`{"disk": "10GB.."}`, size(`"30GB.."`), 30 << 10},
		"backend has only max": {`{"disk": "..50GB"}`, size(`"..40GB"`), 1 << 10},
		"backend's upper end":  {`{"disk": "50GB.."}`, size(`"30GB..40GB"`), 0},
		"absurd":               {`{"disk": 1e300}`, config.MemoryRange{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			res := resources(t, tt.resources)
			got, ok := Disk(res, tt.sizes)
			if got != tt.want || ok != (tt.want > 0) {
				t.Fatalf("Disk(%s, %v) = %d, %t, want %d", tt.resources, tt.sizes, got, ok, tt.want)
			}
			if ok && res.Disk != nil && !within(res.Disk.Size, got) {
				t.Errorf("the chosen disk of %d MiB does not fit %v", got, res.Disk.Size)
			}
		})
	}
}

// Whatever is made stricter, no offer fits that did not before.
func TestTighteningAddsNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	fit := 0
	for range 50_000 {
		a, o := randomAsk(r), randomOffer(r)
		b := tightened(r, a)
		if Fits(b.Requirements, b.Profile, o) != "" {
			continue
		}
		fit++
		if why := Fits(a.Requirements, a.Profile, o); why != "" {
			t.Fatalf("an offer that does not fit (%s) fits when more is asked\noffer: %s\nask: %s\ntighter: %s", why, text(o), text(a), text(b))
		}
	}
	if fit < 1000 {
		t.Errorf("only %d offers fit: the test shows little", fit)
	}
}

func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestSort(t *testing.T) {
	offer := func(a api.InstanceAvailability, price float64, backend, region, name string, spot bool) api.InstanceOffer {
		return api.InstanceOffer{
			Availability: a, Price: price, Backend: api.BackendType(backend), Region: region,
			Instance: api.InstanceType{Name: name, Resources: api.Resources{Spot: spot}},
		}
	}
	want := []api.InstanceOffer{
		offer(api.Idle, 1, "remote", "remote", "instance", false),
		offer(api.Available, 1, "aws", "eu", "b", true),
		offer(api.Unknown, 1, "aws", "eu", "b", false),
		offer(api.Available, 1, "aws", "us", "a", false),
		offer(api.Available, 1, "gcp", "eu", "a", false),
		offer(api.Idle, 2, "aws", "eu", "a", false),
		offer(api.Busy, 0, "remote", "remote", "instance", false),
		offer(api.NoQuota, 0, "aws", "eu", "a", false),
		offer(api.NotAvailable, 1, "aws", "eu", "a", false),
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		got := slices.Clone(want)
		r.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("Sort (-want +got):\n%s", diff)
		}
	}
}

// The order is total, whatever prices a backend sends, and equal offers stay as they were.
func TestSortIsTotalAndStable(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		offers := make([]api.InstanceOffer, 30)
		for i := range offers {
			offers[i] = randomOffer(r)
			offers[i].Blocks = i
			if r.IntN(10) == 0 {
				offers[i].Price = math.NaN()
			}
		}
		Sort(offers)
		for i := range offers {
			for j := range offers {
				if got, back := floors(nil).compare(&offers[i], &offers[j]), floors(nil).compare(&offers[j], &offers[i]); got != -back {
					t.Fatalf("compare is %d one way, %d the other", got, back)
				}
			}
			for j := i + 1; j < len(offers); j++ {
				switch c := floors(nil).compare(&offers[i], &offers[j]); {
				case c > 0:
					t.Fatalf("offer %d is after offer %d in the sorted list and before it by comparison", j, i)
				case c == 0 && offers[i].Blocks > offers[j].Blocks:
					t.Fatal("equal offers changed places")
				}
			}
		}
	}
}

func TestFitsAllocatesNothing(t *testing.T) {
	req := api.Requirements{Resources: resources(t, `{"cpu": "x86:2..", "gpu": {"vendor": "nvidia", "name": "a100,h100", "count": 8, "memory": "80GB", "total_memory": "640GB..", "compute_capability": "8.0"}}`), MaxPrice: new(99.0)}
	p := config.ProfileParams{Backends: []string{"aws"}, Regions: []string{"US-EAST-1"}, AvailabilityZones: []string{"us-east-1b"}}
	o := h100s(8)
	if why := Fits(req, p, o); why != "" {
		t.Fatalf("Fits = %q, want it to look at everything", why)
	}
	if n := testing.AllocsPerRun(100, func() { Fits(req, p, o) }); n != 0 {
		t.Errorf("Fits allocates %v times", n)
	}
}

func BenchmarkFits(b *testing.B) {
	const n = 100_000
	r := rand.New(rand.NewPCG(7, 8))
	offers := make([]api.InstanceOffer, n)
	for i := range offers {
		offers[i] = randomOffer(r)
	}
	req := api.Requirements{Resources: resources(b, `{"gpu": "a100,h100:40GB..:2.."}`)}
	b.ReportAllocs()
	for b.Loop() {
		for i := range offers {
			Fits(req, config.ProfileParams{}, offers[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/offer")
}
