package scheduler

import (
	"bufio"
	stdcmp "cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

// recorded reads one of the files in which the behaviour of the original is recorded (see
// docs/architecture.md).
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// recordedLines calls test for each line of a file, of which there are at least n.
func recordedLines[Row any](t *testing.T, name string, n int, test func(t *testing.T, row Row)) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(string(recorded(t, name))))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		n--
		var row Row
		decode(t, lines.Bytes(), &row)
		test(t, row)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		t.Errorf("%s lacks %d lines", name, n)
	}
}

func decode(t *testing.T, data []byte, to any) {
	t.Helper()
	if err := json.Unmarshal(data, to); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

// plain is a value as JSON has it.
func plain(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	decode(t, data, &out)
	return out
}

func TestCombineAsRecorded(t *testing.T) {
	type row struct {
		Kind       string          `json:"kind"`
		Fleet      json.RawMessage `json:"fleet"`
		Run        json.RawMessage `json:"run"`
		FleetSpot  *bool           `json:"fleet_spot"`
		RunSpot    *bool           `json:"run_spot"`
		Multinode  *bool           `json:"multinode"`
		Out        any             `json:"out"`
		fleet, run Ask
	}
	recordedLines(t, "combine.jsonl", 900, func(t *testing.T, r row) {
		if r.Kind == "profile" {
			decode(t, r.Fleet, &r.fleet.Profile)
			decode(t, r.Run, &r.run.Profile)
		} else {
			decode(t, r.Fleet, &r.fleet.Requirements.Resources)
			decode(t, r.Run, &r.run.Requirements.Resources)
			r.fleet.Requirements.Spot, r.run.Requirements.Spot = r.FleetSpot, r.RunSpot
			r.fleet.Requirements.Multinode = r.Multinode
		}
		a, ok := Combine(r.fleet, r.run)
		var got any
		switch {
		case !ok:
		case r.Kind == "profile":
			got = plain(t, config.Profile{ProfileParams: a.Profile})
		default:
			got = plain(t, a.Requirements)
		}
		if diff := cmp.Diff(r.Out, got); diff != "" {
			t.Errorf("Combine(%s, %s) (-want +got):\n%s", r.Fleet, r.Run, diff)
		}
	})
}

func TestDivideAsRecorded(t *testing.T) {
	recordedLines(t, "blocks.jsonl", 50, func(t *testing.T, r struct {
		Blocks blocks `json:"blocks"`
		CPUs   int    `json:"cpus"`
		GPUs   int    `json:"gpus"`
		Out    [2]any `json:"out"`
	}) {
		n, ok := Divide(r.Blocks.n, r.Blocks.auto, r.CPUs, r.GPUs)
		if diff := cmp.Diff(r.Out, [2]any{ok, float64(n)}); diff != "" {
			t.Errorf("Divide(%+v, %d CPUs, %d GPUs) (-want +got):\n%s", r.Blocks, r.CPUs, r.GPUs, diff)
		}
	})
}

// blocks is a number or "auto".
type blocks struct {
	n    int
	auto bool
}

func (b *blocks) UnmarshalJSON(data []byte) error {
	if b.auto = string(data) == `"auto"`; b.auto {
		return nil
	}
	return json.Unmarshal(data, &b.n)
}

// item is a row of the recorded catalogue. Sizes are in gigabytes.
type item struct {
	ID        int      `json:"id"`
	Provider  string   `json:"provider"`
	Instance  string   `json:"instance_name"`
	Location  string   `json:"location"`
	Price     float64  `json:"price"`
	CPU       int      `json:"cpu"`
	Arch      string   `json:"cpu_arch"`
	Memory    float64  `json:"memory"`
	GPUs      int      `json:"gpu_count"`
	GPUName   string   `json:"gpu_name"`
	GPUVendor string   `json:"gpu_vendor"`
	GPUMemory float64  `json:"gpu_memory"`
	Disk      float64  `json:"disk_size"`
	Spot      bool     `json:"spot"`
	Flags     []string `json:"flags"`
}

// catalogue is the recorded one less the row that its flag hides, which is not for this
// package to decide.
func catalogue(t *testing.T) []item {
	t.Helper()
	var all, shown []item
	decode(t, recorded(t, "offers-catalog.json"), &all)
	for _, it := range all {
		if cmp.Equal(it.Flags, []string{"unknown-flag"}) {
			continue
		}
		shown = append(shown, it)
	}
	return shown
}

func (it item) offer(backend string) api.InstanceOffer {
	mib := func(gb float64) int { return int(math.Round(gb * 1024)) }
	arch := api.CPUArchitecture(it.Arch)
	o := api.InstanceOffer{Backend: api.BackendType(backend), Region: it.Location, Price: it.Price, Availability: api.Unknown}
	o.Instance = api.InstanceType{Name: it.Instance, Resources: api.Resources{
		CPUs: it.CPU, MemoryMiB: mib(it.Memory), Disk: api.Disk{SizeMiB: mib(it.Disk)}, Spot: it.Spot, CPUArch: &arch,
	}}
	for range it.GPUs {
		o.Instance.Resources.Gpus = append(o.Instance.Resources.Gpus, api.Gpu{Name: it.GPUName, MemoryMiB: mib(it.GPUMemory), Vendor: api.AcceleratorVendor(it.GPUVendor)})
	}
	return o
}

// shown is what the original's server lists of an offer.
type shown struct {
	Backend     string  `json:"backend"`
	ID          int     `json:"id"`
	DiskMiB     int     `json:"disk_mib"`
	Price       float64 `json:"price"`
	TotalBlocks int     `json:"total_blocks"` // 0: not divided
}

type offersRow struct {
	In           json.RawMessage  `json:"in"`
	Requirements api.Requirements `json:"requirements"`
	Matches      []int            `json:"matches"`
	Backends     []string         `json:"backends"`
	Filters      struct {
		Backends      []string `json:"backend_types"`
		Regions       []string `json:"regions"`
		InstanceTypes []string `json:"instance_types"`
		Blocks        *blocks  `json:"blocks"`
	} `json:"filters"`
	Offers []shown `json:"offers"`
}

func TestFitsAsRecorded(t *testing.T) {
	items := catalogue(t)
	recordedLines(t, "offers.jsonl", 180, func(t *testing.T, r offersRow) {
		got := []int{}
		for _, it := range items {
			if Fits(r.Requirements, config.ProfileParams{}, it.offer(it.Provider)) == "" {
				got = append(got, it.ID)
			}
		}
		if diff := cmp.Diff(r.Matches, got); diff != "" {
			t.Errorf("rows that match %s (-want +got):\n%s", r.In, diff)
		}
	})
}

// The original merges what the backends list without sorting it, so that a backend whose
// list is not sorted gets dear offers before cheap ones. Up to that the order is the same.
func TestOffersAsRecorded(t *testing.T) {
	items := catalogue(t)
	provider := map[string]string{"lambda": "lambdalabs", "datacrunch": "verda", "amddevcloud": "digitalocean"}
	recordedLines(t, "offers.jsonl", 180, func(t *testing.T, r offersRow) {
		p := config.ProfileParams{Backends: r.Filters.Backends, Regions: r.Filters.Regions, InstanceTypes: r.Filters.InstanceTypes}
		ids := map[string]int{}
		var offers []api.InstanceOffer
		for _, b := range r.Backends {
			for _, it := range items {
				name, renamed := provider[b]
				if it.Provider != b && (!renamed || it.Provider != name) {
					continue
				}
				o := it.offer(b)
				if o.Instance.Resources.Disk.SizeMiB == 0 {
					mib, ok := Disk(r.Requirements.Resources, config.MemoryRange{})
					if !ok {
						continue
					}
					o.Instance.Resources.Disk.SizeMiB = mib
				}
				if Fits(r.Requirements, p, o) != "" {
					continue
				}
				if want := r.Filters.Blocks; want != nil && *want != (blocks{n: 1}) {
					n, ok := Divide(want.n, want.auto, o.Instance.Resources.CPUs, len(o.Instance.Resources.Gpus))
					if !ok {
						continue
					}
					o.TotalBlocks = n
				}
				ids[keyOf(o)] = it.ID
				offers = append(offers, o)
			}
		}
		Sort(offers)
		got := []shown{}
		for _, o := range offers {
			got = append(got, shown{string(o.Backend), ids[keyOf(o)], o.Instance.Resources.Disk.SizeMiB, o.Price, o.TotalBlocks})
		}
		if diff := cmp.Diff(byPrice(r.Offers), got); diff != "" {
			t.Errorf("offers for %s, %+v (-want +got):\n%s", r.In, r.Filters, diff)
		}
	})
}

// keyOf names an offer of the recorded catalogue.
func keyOf(o api.InstanceOffer) string {
	return fmt.Sprint(o.Backend, o.Region, o.Instance.Name, o.Instance.Resources.Spot)
}

func byPrice(list []shown) []shown {
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b shown) int { return stdcmp.Compare(a.Price, b.Price) })
	return sorted
}
