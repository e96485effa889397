package pricelist

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/config"
	"dstack/internal/offer"
)

// maxCSV bounds a catalog file after decompression, in bytes.
const maxCSV = 128 << 20

// limits bound a file: bytes, and rows, also of those that are passed over.
type limits struct {
	bytes int64
	rows  int
}

// A RowError says which row of a catalog file is wrong. Rows count from 1, without the header.
type RowError struct {
	File string
	Row  int
	Err  error
}

func (e *RowError) Error() string { return fmt.Sprintf("%s: row %d: %v", e.File, e.Row, e.Err) }

func (e *RowError) Unwrap() error { return e.Err }

// ReadCSV adds the rows of a catalog in version 3 of the original's format (catalog 4):
// <provider>.csv. The prices are of the date asOf. Any bad row is an error, a *[RowError]: a
// catalog that is wrong in one place is not to be trusted in another. Rows that need what a
// plain request for an instance does not have (see [hidden]) are checked and passed over, and those
// with an accelerator that is newer than this program, see [Builder.Unknown]. What is known to be wrong
// in published catalogs is corrected: the memory of GPUs and TPUs, and their vendors.
func (b *Builder) ReadCSV(r io.Reader, name, asOf string) error {
	return b.readCSV(r, name, asOf, limits{maxCSV, MaxRows})
}

// byteOrderMark is what some editors begin a file in UTF-8 with.
const byteOrderMark = "\ufeff"

// maxLine bounds a line of a catalog file, in bytes. The longest that are known have a kilobyte.
const maxLine = 64 << 10

// shortLines reads a text and fails at a line that is too long, before a parser holds all of it.
type shortLines struct {
	r  io.Reader
	at int // bytes since the last end of a line
}

// Read implements io.Reader.
func (s *shortLines) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), maxLine)])
	if end := bytes.LastIndexByte(p[:n], '\n'); end >= 0 {
		s.at = n - end - 1
	} else {
		s.at += n
	}
	if s.at > maxLine {
		return 0, fmt.Errorf("a line is longer than %d bytes", maxLine)
	}
	return n, err
}

// providerOf is the provider whose catalog a file is, by its name.
func providerOf(file string) (provider string, ok bool) {
	name, ok := strings.CutSuffix(file, ".csv")
	if !ok {
		return "", false
	}
	return FindProvider(name)
}

func (b *Builder) readCSV(r io.Reader, name, asOf string, most limits) error {
	backend, ok := providerOf(name)
	if !ok {
		return fmt.Errorf("%.200q: the file of a catalog is named <provider>.csv, with one of %s", name, strings.Join(Providers(), ", "))
	}
	limited := &io.LimitedReader{R: r, N: most.bytes + 1}
	text := bufio.NewReader(&shortLines{r: limited})
	if mark, err := text.Peek(len(byteOrderMark)); err == nil && string(mark) == byteOrderMark {
		_, _ = text.Discard(len(mark)) // it is there
	}
	rows := csv.NewReader(text)
	rows.ReuseRecord = true
	rows.FieldsPerRecord = -1 // columns may be missing at the end
	header, err := rows.Read()
	if err != nil {
		return fmt.Errorf("%s: read the header: %w", name, err)
	}
	cols, err := columnsOf(header)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	added := 0
	var passed sold // of the rows that are passed over
	for n := 1; ; n++ {
		cells, err := rows.Read()
		switch {
		case limited.N == 0:
			return fmt.Errorf("%s: larger than %d bytes", name, most.bytes)
		case errors.Is(err, io.EOF) && added == 0 && len(b.unknown.values) > 0:
			return fmt.Errorf("%s: has no rows to show: these accelerators are not known: %s", name, someOf(b.unknown.values))
		case errors.Is(err, io.EOF) && added == 0:
			return fmt.Errorf("%s: has no rows to show", name)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &RowError{name, n, err}
		case n > most.rows:
			return &RowError{name, n, fmt.Errorf("there are more than %d rows", most.rows)}
		}
		row, shown, err := cols.row(cells, backend)
		row.AsOf = asOf
		unknown := row.GPUs > 0 && row.GPU.Vendor == "" && isName(row.GPU.Name)
		switch {
		case err != nil:
		case unknown:
			err = checkUnknown(row)
			if shown && err == nil {
				err = b.addUnknown(row.GPU.Name)
			}
		case !shown:
			err = check(row)
		default:
			err = b.Add(row)
			added++
		}
		if err == nil && (unknown || !shown) {
			err = passed.add(row, cols.flags(cells))
		}
		if err != nil {
			return &RowError{name, n, err}
		}
	}
}

// checkUnknown checks all of a row but its accelerator, which is not known.
func checkUnknown(r Row) error {
	r.GPUs, r.GPU = 0, offer.GPU{}
	return check(r)
}

// maxNamed is how many accelerators an error names.
const maxNamed = 5

func someOf(names []string) string {
	text := strings.Join(names[:min(len(names), maxNamed)], ", ")
	if rest := len(names) - maxNamed; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

// columnNames are the columns in their usual order. Files may have others too.
var columnNames = [...]string{
	"instance_name", "location", "price", "cpu", "memory", "gpu_count", "gpu_name", "gpu_memory", "spot", "disk_size",
	"gpu_vendor", "flags", "cpu_arch", "provider_data",
}

const (
	colInstance = iota
	colLocation
	colPrice
	colCPU
	colMemory
	colGPUs
	colGPUName
	colGPUMemory
	colSpot
	colDisk
	colVendor
	colFlags
	colArch
	colData
)

// csvColumns says where in a record each column is, -1 for nowhere.
type csvColumns [len(columnNames)]int

func columnsOf(header []string) (csvColumns, error) {
	var cols csvColumns
	for i, name := range columnNames {
		cols[i] = slices.Index(header, name)
		if cols[i] >= 0 && slices.Contains(header[cols[i]+1:], name) {
			return cols, &FieldError{name, "the file has two such columns"}
		}
		if cols[i] < 0 && slices.Contains([]int{colInstance, colLocation, colPrice, colCPU, colMemory, colGPUs, colSpot}, i) {
			return cols, &FieldError{name, "the file lacks this column"}
		}
	}
	return cols, nil
}

// row reads a record; shown is false for rows to pass over.
func (cols *csvColumns) row(cells []string, backend string) (r Row, shown bool, err error) {
	p := cellParser{cols: cols, cells: cells}
	r = Row{
		Backend: backend, Instance: p.kept(colInstance), Region: p.kept(colLocation), Price: billionths(p.number(colPrice)),
		CPUs: p.whole(colCPU), MemoryMiB: p.mib(colMemory), GPUs: p.whole(colGPUs), Spot: p.bool(colSpot), Arch: "x86",
	}
	if p.text(colArch) != "" {
		r.Arch = strings.ToLower(p.kept(colArch))
	}
	if p.text(colDisk) != "" {
		if r.DiskMiB = p.mib(colDisk); r.DiskMiB == 0 {
			p.fail(colDisk, "is not above 0")
		}
	}
	if r.Region == "" {
		p.fail(colLocation, "is empty")
	}
	if backend == "gcp" {
		r.Region, r.Zone = zoneOf(r.Region)
	}
	switch {
	case r.GPUs < 0 || r.GPUs > maxGPUs:
		p.fail(colGPUs, fmt.Sprintf("%d is not 0 to %d", r.GPUs, maxGPUs))
	case r.GPUs > 0:
		r.GPU = p.gpu(r.GPUs)
	case p.text(colGPUName)+p.text(colGPUMemory)+p.text(colVendor) != "":
		p.fail(colGPUs, "is 0, but a GPU is described")
	}
	if data := p.text(colData); data != "" && !json.Valid([]byte(data)) {
		p.fail(colData, "is not JSON")
	}
	return r, !hidden(strings.Fields(p.text(colFlags))) && !bare(r), p.err
}

// billionths takes the error of the publisher's multiplications off a price that is one.
func billionths(price float64) float64 {
	if price < minPrice {
		return price
	}
	return math.Round(price*priceUnits) / priceUnits
}

// flags are those of a record, as it writes them.
func (cols *csvColumns) flags(cells []string) string {
	p := cellParser{cols: cols, cells: cells}
	return p.kept(colFlags)
}

// gpuFamilies are the types of AWS that have GPUs, by their names.
var gpuFamilies = regexp.MustCompile(`^(p|g|gr)\d`)

// bare tells whether a row lacks the GPUs that its type has: published catalogs show types of AWS
// so whose GPUs they could not find out (catalog 11 #2).
func bare(r Row) bool {
	return r.Backend == "aws" && r.GPUs == 0 && gpuFamilies.MatchString(r.Instance)
}

// hidden tells of a row's flags whether a plain request for an instance cannot have it: flags
// that nobody here knows, a start time that has to be agreed on (gcp-dws-calendar-mode) and
// clusters that are only sold as a whole (runpod-cluster).
func hidden(flags []string) bool {
	for _, f := range flags {
		switch f {
		case "oci-spot", "lambda-arm", "gcp-a4", "gcp-g4", "runpod-cpu":
		default:
			return true
		}
	}
	return false
}

// zoneOf splits us-central1-a into region and zone.
func zoneOf(location string) (region, zone string) {
	i := strings.LastIndexByte(location, '-')
	if i <= 0 || i != len(location)-2 {
		return location, ""
	}
	return location[:i], location
}

// cellParser reads the cells of a record and keeps the first problem.
type cellParser struct {
	cols  *csvColumns
	cells []string
	err   error
}

func (p *cellParser) fail(col int, problem string) {
	if p.err == nil {
		p.err = &FieldError{columnNames[col], problem}
	}
}

func (p *cellParser) text(col int) string {
	if i := p.cols[col]; i >= 0 && i < len(p.cells) {
		return p.cells[i]
	}
	return ""
}

// kept is a text that does not hold its whole line in memory.
func (p *cellParser) kept(col int) string { return strings.Clone(p.text(col)) }

func (p *cellParser) whole(col int) int {
	n, err := strconv.ParseInt(p.text(col), 10, 32)
	if err != nil || !isDecimal(p.text(col)) {
		p.fail(col, fmt.Sprintf("%.40q is not a whole number", p.text(col)))
	}
	return int(n)
}

func (p *cellParser) number(col int) float64 {
	f, err := strconv.ParseFloat(p.text(col), 64)
	if err != nil || !isDecimal(p.text(col)) {
		p.fail(col, fmt.Sprintf("%.40q is not a number", p.text(col)))
		return 0
	}
	return f
}

// isDecimal tells a number as catalogs write it from the others that strconv knows: hexadecimal,
// with underscores or a plus sign, infinite, or none.
func isDecimal(s string) bool {
	return strings.Trim(s, "0123456789.eE+-") == "" && !strings.HasPrefix(s, "+")
}

// mib reads a size in GiB.
func (p *cellParser) mib(col int) int {
	f := math.Round(p.number(col) * 1024)
	if f < 0 || f > maxMiB {
		p.fail(col, fmt.Sprintf("%.40q is not a size in GB", p.text(col)))
		return 0
	}
	return int(f)
}

func (p *cellParser) bool(col int) bool {
	switch strings.ToLower(p.text(col)) {
	case "true":
		return true
	case "false":
	default:
		p.fail(col, fmt.Sprintf("%.40q is not True or False", p.text(col)))
	}
	return false
}

// gpu reads the GPU of a row that has some. What is published is corrected by the table of
// accelerators: a vendor, which older files leave out and Azure's has wrong, a memory that is
// the driver's figure or of all count GPUs together, and that of one chip for a slice of TPUs.
func (p *cellParser) gpu(count int) offer.GPU {
	if v := p.text(colVendor); v != "" && !slices.Contains([]string{"nvidia", "amd", "google", "intel", "tenstorrent"}, strings.ToLower(v)) {
		p.fail(colVendor, fmt.Sprintf("%.40q is not nvidia, amd, google, intel or tenstorrent", v))
	}
	name, _ := strings.CutPrefix(p.kept(colGPUName), "tpu-")
	g := offer.GPU{Name: name, Vendor: config.GPUVendorOf(name), MemoryMiB: p.mib(colGPUMemory)}
	if a, ok := config.FindAccelerator(name); ok {
		g.Name = a.Name
		if most := slices.Max(a.Memory) << 10; g.MemoryMiB > most+most/10 && slices.Contains(a.Memory, g.MemoryMiB/count>>10) {
			g.MemoryMiB /= count
		}
		if mib := config.GPUMemoryMiB(a.Name, g.MemoryMiB); mib > 0 {
			g.MemoryMiB = mib
		}
	}
	if tpu, ok := config.ParseTPU(name); ok {
		g.MemoryMiB = tpu.MemoryGiB << 10
	}
	return g
}
