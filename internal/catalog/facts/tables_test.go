package facts

import (
	"compress/gzip"
	"encoding/csv"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
)

// A figure is one of the tables that the facts were written from (catalog 10): what a type has,
// and what it costs in a region, "*" being every region of its provider and "" one that is not said.
type figure struct {
	provider, name, region, market, usd string
	cpus, memory, gpus, gpu, gpuMemory  string
}

func figures(t *testing.T) []figure {
	t.Helper()
	f, err := os.Open("testdata/tables.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(zr).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var list []figure
	for _, r := range records[1:] {
		list = append(list, figure{r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]})
	}
	return list
}

// leftOut says why a figure is not in the list, "" for those that must be.
func (f figure) leftOut() string {
	switch {
	case f.usd == "?":
		return "its price is not known"
	case strings.Contains(f.usd, "("), strings.Contains(f.usd, ".."):
		return "its price is an example, an estimate, out of date, or of a part of a machine"
	case f.provider == "runpod" && f.region == "CA":
		return "the type has other CPUs there, and the facts know a type once"
	case strings.HasPrefix(f.name, "a3-highgpu-") && f.gpus != "8" && f.market != "spot":
		return "nobody can buy it on demand"
	case f.provider == "vultr" && f.memory == "?":
		return "" // the name says it
	case f.cpus == "?" || f.memory == "?":
		return "what the machine has is not known"
	}
	return ""
}

// rowOf is the row of a figure in a list, if it is there.
func rowOf(rows []pricelist.Row, f figure) (r pricelist.Row, ok bool) {
	i := slices.IndexFunc(rows, func(r pricelist.Row) bool {
		here := f.region == "*" || f.region == "" || r.Region == f.region
		return r.Backend == f.provider && r.Instance == f.name && r.Spot == (f.market == "spot") && here
	})
	if i < 0 {
		return r, false
	}
	return rows[i], true
}

// written tells whether a number is what is written, which may have fewer digits.
func written(text string, n float64) bool {
	f, err := strconv.ParseFloat(text, 64)
	_, digits, _ := strings.Cut(text, ".")
	return err == nil && math.Abs(f-n) <= 0.5001*math.Pow(10, -float64(len(digits)))
}

// Every figure of the tables is embedded as it stands there, or left out for a reason.
func TestEmbeddedListHasTheTables(t *testing.T) {
	l, err := pricelist.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	all := rows(l)
	by := map[string][]pricelist.Row{}
	for _, r := range all {
		by[r.Backend+r.Instance] = append(by[r.Backend+r.Instance], r)
	}
	regions := map[string]int{"oci": 7, "verda": 4, "lambda": 17}
	why := map[string]int{}
	for _, f := range figures(t) {
		r, there := rowOf(by[f.provider+f.name], f)
		if reason := f.leftOut(); reason != "" {
			why[reason]++
			if there && f.usd == "?" {
				t.Errorf("%+v is there at %v, which nobody knows", f, r.Price)
			}
			continue
		}
		if !there {
			t.Errorf("%+v is missing", f)
			continue
		}
		memory := float64(r.MemoryMiB) / gibOf(f.provider) // as the provider states it
		if !written(f.usd, r.Price) || strconv.Itoa(r.CPUs) != f.cpus || f.memory != "?" && !written(f.memory, memory) || strconv.Itoa(r.GPUs) != f.gpus {
			t.Errorf("%+v is there as %+v", f, r)
		}
		if r.GPU.Name != f.gpu || f.gpuMemory != "" && strconv.Itoa(r.GPU.MemoryMiB>>10) != f.gpuMemory {
			t.Errorf("%+v has the GPU %+v", f, r.GPU)
		}
		if f.region == "*" {
			n := 0
			for _, r := range by[f.provider+f.name] {
				if r.Spot == (f.market == "spot") && written(f.usd, r.Price) {
					n++
				}
			}
			if n != regions[f.provider] {
				t.Errorf("%+v is in %d regions, not %d", f, n, regions[f.provider])
			}
		}
	}
	total := 0
	for _, n := range why {
		total += n
	}
	if total != 85 || len(why) != 5 { // so that no figure goes missing behind a reason
		t.Errorf("left out are %d: %v", total, why)
	}
}

// The memory of embedded GPUs is one of the sizes that they are sold with, not what a driver
// reports, but for parts of them (catalog 11 #1, #7, #13).
func TestEmbeddedGPUs(t *testing.T) {
	l, err := pricelist.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows(l) {
		gib := r.GPU.MemoryMiB >> 10
		part := r.GPU.Name == "A10" && strings.HasSuffix(r.Instance, "ads_A10_v5") || strings.HasPrefix(r.Instance, "vcg-a100-")
		a, known := config.FindAccelerator(r.GPU.Name)
		if known && !part && (!slices.Contains(a.Memory, gib) || r.GPU.MemoryMiB%1024 != 0 || a.Vendor != r.GPU.Vendor) {
			t.Errorf("%s of %s has %s with %d MiB", r.Instance, r.Backend, r.GPU.Name, r.GPU.MemoryMiB)
		}
		if tpu, ok := config.ParseTPU(r.GPU.Name); ok && tpu.MemoryGiB != gib {
			t.Errorf("%s has %d GiB, not %d", r.Instance, gib, tpu.MemoryGiB)
		}
	}
}
