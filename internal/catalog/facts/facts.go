// Package facts makes the list of prices that the program embeds from the text files of data/:
// what instance types have and what they cost, each with the date of the list it is from. What
// is not known there is a question mark, never a guess, and leaves the type out.
//
// After a change of the files run `make catalog`; a test fails until then.
package facts

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
	"dstack/internal/offer"
)

//go:generate go run ./generate data ../pricelist/snapshot.gz

// A Report counts, by backend, what became of the facts.
type Report struct {
	Rows      map[string]int // in the list
	NoShape   map[string]int // prices of types of which CPUs, memory or GPUs are not known
	NoPrice   map[string]int // prices that are not known
	NotSold   map[string]int // prices at which nobody can buy
	Unpriced  map[string]int // types with a shape and without any price
	NoRegions map[string]int // rows of which the list does not say where
	// Unshaped are the types that NoShape is about.
	Unshaped map[string]map[string]bool
}

// Build makes the list from the files in dir.
func Build(dir fs.FS) (*pricelist.List, Report, error) {
	b := builder{report: Report{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}, map[string]map[string]bool{}}}
	err := errors.Join(
		b.read(dir, "shapes.csv", []string{"backend", "instance", "cpus", "memory_gib", "gpus", "gpu", "gpu_memory_gib", "arch", "disk_gib", "sold"}, b.shape),
		b.read(dir, "regions.csv", []string{"backend", "region"}, b.region),
	)
	if err != nil {
		return nil, b.report, err
	}
	for _, name := range []string{"prices-aws.csv", "prices-azure.csv", "prices-gcp.csv", "prices-others.csv"} {
		if err := b.read(dir, name, []string{"backend", "region", "instance", "usd_per_hour", "spot", "as_of"}, b.price); err != nil {
			return nil, b.report, err
		}
	}
	if err := b.read(dir, "prices-tpu.csv", []string{"version", "region", "usd_per_chip_hour", "spot", "as_of"}, b.tpuPrice); err != nil {
		return nil, b.report, err
	}
	for t, s := range b.shapes {
		if !s.priced && s.known {
			b.report.Unpriced[t.backend]++
		}
	}
	return b.list.List(), b.report, nil
}

// instanceType names a shape.
type instanceType struct{ backend, instance string }

type shape struct {
	row    pricelist.Row // what the type has
	known  bool          // all of it
	spot   bool          // sold as spot only
	priced bool          // a row of the list has it
}

type builder struct {
	shapes  map[instanceType]*shape
	tpus    []instanceType // in the order of their file
	regions map[string][]string
	list    pricelist.Builder
	report  Report
}

// read calls add with each record of a file, which begins with comments and a header.
func (b *builder) read(dir fs.FS, name string, header []string, add func(record []string) error) error {
	f, err := dir.Open(name)
	if err != nil {
		return fmt.Errorf("read facts: %w", err)
	}
	defer f.Close()
	rows := csv.NewReader(f)
	rows.Comment = '#'
	rows.FieldsPerRecord = len(header)
	first, err := rows.Read()
	if err != nil || !slices.Equal(first, header) {
		return fmt.Errorf("read facts: %s has the columns %q, not %q (%w)", name, first, header, err)
	}
	for {
		record, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = add(record)
		}
		if err != nil {
			line, _ := rows.FieldPos(0)
			return fmt.Errorf("read facts: %s:%d: %w", name, line, err)
		}
	}
}

const unknown = "?"

func (b *builder) shape(rec []string) error {
	t := instanceType{rec[0], rec[1]}
	if _, known := b.shapes[t]; known {
		return fmt.Errorf("%s of %s is there twice", t.instance, t.backend)
	}
	s := &shape{known: !slices.Contains(rec, unknown), spot: rec[9] == "spot"}
	if s.known {
		p := numbers{gib: gibOf(t.backend)}
		s.row = pricelist.Row{
			Backend: t.backend, Instance: t.instance, Arch: rec[7],
			CPUs: p.whole(rec[2]), MemoryMiB: p.machineMiB(rec[3]), GPUs: p.whole(rec[4]),
		}
		if rec[8] != "" {
			s.row.DiskMiB = p.machineMiB(rec[8])
		}
		if s.row.GPUs > 0 {
			s.row.GPU = offer.GPU{Name: rec[5], Vendor: config.GPUVendorOf(rec[5]), MemoryMiB: p.mib(rec[6])}
		}
		if p.err != nil {
			return p.err
		}
		if err := checkGPU(s.row.GPU); err != nil {
			return err
		}
	}
	if b.shapes == nil {
		b.shapes = map[instanceType]*shape{}
	}
	b.shapes[t] = s
	if _, ok := config.ParseTPU(t.instance); ok && t.backend == "gcp" {
		b.tpus = append(b.tpus, t)
	}
	return nil
}

// checkGPU compares the memory of a GPU with the table of accelerators: it is one of the sizes
// there, less where a GPU is shared, and that of all chips of a slice of TPUs.
func checkGPU(g offer.GPU) error {
	gib := g.MemoryMiB >> 10
	if tpu, ok := config.ParseTPU(g.Name); ok && gib != tpu.MemoryGiB {
		return fmt.Errorf("%s has %d GiB, not %d", g.Name, tpu.MemoryGiB, gib)
	}
	if a, ok := config.FindAccelerator(g.Name); ok && gib > slices.Max(a.Memory) {
		return fmt.Errorf("%s has %v GiB, not %d", g.Name, a.Memory, gib)
	}
	return nil
}

func (b *builder) region(rec []string) error {
	if b.regions == nil {
		b.regions = map[string][]string{}
	}
	b.regions[rec[0]] = append(b.regions[rec[0]], rec[1])
	return nil
}

func (b *builder) price(rec []string) error {
	return b.add(instanceType{rec[0], rec[2]}, rec[1], rec[3], 1, rec[4], rec[5])
}

// tpuPrice adds the types of a version of TPU, which cost so much a chip.
func (b *builder) tpuPrice(rec []string) error {
	for _, t := range b.tpus {
		tpu, _ := config.ParseTPU(t.instance)
		if tpu.Version != rec[0] {
			continue
		}
		if err := b.add(t, rec[1], rec[2], tpu.Chips, rec[3], rec[4]); err != nil {
			return err
		}
	}
	return nil
}

// add adds the rows of one price of one of some units that the type has.
func (b *builder) add(t instanceType, region, usd string, units int, spot, asOf string) error {
	s := b.shapes[t]
	switch {
	case usd == unknown:
		b.report.NoPrice[t.backend]++
		return nil
	case s == nil || !s.known:
		b.report.NoShape[t.backend]++
		if b.report.Unshaped[t.backend] == nil {
			b.report.Unshaped[t.backend] = map[string]bool{}
		}
		b.report.Unshaped[t.backend][t.instance] = true
		return nil
	case s.spot && spot == "false":
		b.report.NotSold[t.backend]++
		return nil
	}
	price, err := strconv.ParseFloat(usd, 64)
	if err != nil {
		return fmt.Errorf("%q is not a price", usd)
	}
	row := s.row
	row.Price, row.AsOf = billionths(price*float64(units)), asOf
	if row.Spot, err = strconv.ParseBool(spot); err != nil {
		return fmt.Errorf("%q is not true or false", spot)
	}
	places := []string{region}
	if region == "*" {
		if places = b.regions[t.backend]; places == nil {
			return fmt.Errorf("%s has no regions", t.backend)
		}
	}
	for _, row.Region = range places {
		if err := b.list.Add(row); err != nil {
			return fmt.Errorf("%s of %s: %w", t.instance, t.backend, err)
		}
		b.report.Rows[t.backend]++
		if row.Region == "" {
			b.report.NoRegions[t.backend]++
		}
	}
	s.priced = true
	return nil
}

// billionths takes the error of a multiplication off a price.
func billionths(price float64) float64 { return math.Round(price*1e9) / 1e9 }

// gibOf is how many MiB a backend makes of a GiB of memory or disk that its provider states: of Lambda's,
// published catalogs and its backend's offers count 1.074 GB of 1024 MiB.
func gibOf(backend string) float64 {
	if backend == "lambda" {
		return 1.074 * 1024
	}
	return 1024
}

// numbers reads numbers and keeps the first error.
type numbers struct {
	gib float64 // of the machine, in MiB
	err error
}

func (p *numbers) whole(s string) int { return int(p.scaled(s, 1)) }

// machineMiB reads GiB of a machine's memory or disk.
func (p *numbers) machineMiB(s string) int { return int(p.scaled(s, p.gib)) }

// mib reads GiB.
func (p *numbers) mib(s string) int { return int(p.scaled(s, 1024)) }

func (p *numbers) scaled(s string, unit float64) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if f = math.Round(f * unit); p.err == nil && (err != nil || f < 0 || f > 1<<40) {
		p.err = fmt.Errorf("%q is not a number of that kind", s)
	}
	return f
}

// maxNames is how many of the types that are left out String names for each backend.
const maxNames = 12

// String is a table of the counts, and names of what is left out.
func (r Report) String() string {
	backends := map[string]int{}
	columns := []struct {
		title string
		count map[string]int
	}{
		{"rows", r.Rows}, {"of these without region", r.NoRegions}, {"left out: shape not known", r.NoShape}, {"price not known", r.NoPrice},
		{"not sold so", r.NotSold}, {"types without price", r.Unpriced},
	}
	text := fmt.Sprintf("%-14s", "")
	for _, c := range columns {
		maps.Copy(backends, c.count)
		text += "  " + c.title
	}
	text += "\n"
	for _, name := range append(slices.Sorted(maps.Keys(backends)), "all") {
		text += fmt.Sprintf("%-14s", name)
		for _, c := range columns {
			n := c.count[name]
			if name == "all" {
				for _, v := range c.count {
					n += v
				}
			}
			text += fmt.Sprintf("  %*d", len(c.title), n)
		}
		text += "\n"
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unshaped)) {
		types := slices.Sorted(maps.Keys(r.Unshaped[name]))
		text += fmt.Sprintf("%s: %d types whose shape is not known: %s", name, len(types), strings.Join(types[:min(len(types), maxNames)], ", "))
		if rest := len(types) - maxNames; rest > 0 {
			text += fmt.Sprintf(" and %d more", rest)
		}
		text += "\n"
	}
	return text
}
