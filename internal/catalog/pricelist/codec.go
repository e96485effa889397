package pricelist

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"dstack/internal/offer"
)

// The compact form of a list is gzip of: the magic; tables of strings, dates, shapes and
// places; then the columns of the rows one after the other, prices as differences in units of
// a billionth of a dollar. Every number is an unsigned varint, every table begins with its
// length, a string in another table is its index in that of strings.
const (
	magic      = "dstack prices 1\n"
	priceUnits = 1e9
	// maxEncoded bounds what Decode reads, in bytes after decompression: MaxRows rows
	// with names of a usual length are less.
	maxEncoded = 32 << 20
)

// Encode writes the list in its compact form. Prices finer than a billionth of a dollar are an
// error, and a list that is larger than what Decode reads.
func (l *List) Encode(w io.Writer) error {
	var e encoder
	e.WriteString(magic)
	var words distinct[string]
	for _, s := range l.shapes {
		for _, text := range []string{s.backend, s.instance, s.arch, s.gpu.Name, s.gpu.Vendor} {
			words.add(text)
		}
	}
	for _, p := range l.places {
		words.add(p.region)
		for _, z := range p.zones {
			words.add(z)
		}
	}
	e.texts(words.values)
	e.texts(l.dates)
	e.number(len(l.shapes))
	for _, s := range l.shapes {
		for _, text := range []string{s.backend, s.instance, s.arch} {
			e.number(int(words.number[text]))
		}
		for _, n := range []int{s.cpus, s.memoryMiB, s.diskMiB, s.gpus} {
			e.number(n)
		}
		if s.gpus > 0 {
			e.number(int(words.number[s.gpu.Name]))
			e.number(int(words.number[s.gpu.Vendor]))
			e.number(s.gpu.MemoryMiB)
		}
	}
	e.number(len(l.places))
	for _, p := range l.places {
		e.number(int(words.number[p.region]))
		e.number(len(p.zones))
		for _, z := range p.zones {
			e.number(int(words.number[z]))
		}
	}
	if err := e.columns(&l.columns); err != nil {
		return err
	}
	if e.Len() > maxEncoded {
		return fmt.Errorf("the list of prices is larger than %d bytes", maxEncoded)
	}
	zw, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := zw.Write(e.Bytes()); err != nil {
		return fmt.Errorf("write prices: %w", err)
	}
	return zw.Close()
}

type encoder struct{ bytes.Buffer }

func (e *encoder) number(n int) { e.Write(binary.AppendUvarint(nil, uint64(n))) }

func (e *encoder) texts(list []string) {
	e.number(len(list))
	for _, s := range list {
		e.number(len(s))
		e.WriteString(s)
	}
}

func (e *encoder) columns(c *columns) error {
	e.number(len(c.price))
	last := 0
	for _, p := range c.price {
		units := int(math.Round(p * priceUnits))
		if dollars(units) != p {
			return fmt.Errorf("the price %v is finer than a billionth of a dollar", p)
		}
		e.number(units - last)
		last = units
	}
	for _, n := range c.shape {
		e.number(int(n))
	}
	for _, n := range c.place {
		e.number(int(n))
	}
	for _, n := range c.date {
		e.number(int(n))
	}
	for _, s := range c.spot {
		e.number(index(s))
	}
	return nil
}

func dollars(units int) float64 { return float64(units) / priceUnits }

// errDamaged means that a compact form is not one.
var errDamaged = errors.New("the list of prices is damaged")

// Decode reads the compact form.
func Decode(r io.Reader) (*List, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	data, err := io.ReadAll(io.LimitReader(zr, maxEncoded+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	case len(data) > maxEncoded:
		return nil, fmt.Errorf("%w: it is larger than %d bytes", errDamaged, maxEncoded)
	case !bytes.HasPrefix(data, []byte(magic)):
		return nil, fmt.Errorf("%w: it has another format", errDamaged)
	}
	d := decoder{rest: data[len(magic):]}
	l := d.list()
	if d.failed || len(d.rest) > 0 {
		return nil, errDamaged
	}
	return l, nil
}

// decoder takes values off rest. After a failure it returns zeros and empty tables.
type decoder struct {
	rest   []byte
	words  []string
	failed bool
}

func (d *decoder) list() *List {
	d.words = d.texts()
	l := &List{dates: d.texts()}
	for range d.length() {
		s := shape{backend: d.word(), instance: d.word(), arch: d.word(), cpus: d.number(maxCPUs), memoryMiB: d.number(maxMiB), diskMiB: d.number(maxMiB), gpus: d.number(maxGPUs)}
		if s.gpus > 0 {
			s.gpu = offer.GPU{Name: d.word(), Vendor: d.word(), MemoryMiB: d.number(maxMiB)}
		}
		l.shapes = append(l.shapes, s)
	}
	for range d.length() {
		p := place{region: d.word()}
		for range d.length() {
			p.zones = append(p.zones, d.word())
		}
		l.places = append(l.places, p)
	}
	l.columns = d.columns(l)
	if d.failed {
		return nil
	}
	l.parts = partsOf(l.shapes)
	return l
}

func (d *decoder) columns(l *List) columns {
	n := d.length()
	if n > MaxRows {
		d.failed = true
	}
	if d.failed {
		return columns{}
	}
	c := columns{price: make([]float64, n), shape: make([]uint32, n), place: make([]uint32, n), date: make([]uint16, n), spot: make([]bool, n)}
	units := 0
	for i := range n {
		units += d.number(maxPrice * priceUnits)
		if units > maxPrice*priceUnits {
			d.failed = true
			return columns{}
		}
		c.price[i] = dollars(units)
	}
	for i := range n {
		c.shape[i] = uint32(d.index(len(l.shapes)))
	}
	for i := range n {
		c.place[i] = uint32(d.index(len(l.places)))
	}
	for i := range n {
		c.date[i] = uint16(d.index(min(len(l.dates), math.MaxUint16)))
	}
	for i := range n {
		c.spot[i] = d.index(2) == 1
	}
	return c
}

// number takes a number of at most limit.
func (d *decoder) number(limit int) int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(limit) {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

// length takes the length of a table, whose entries have at least a byte each.
func (d *decoder) length() int {
	n := d.number(maxEncoded)
	if n > len(d.rest) {
		d.failed, d.rest = true, nil
		return 0
	}
	return n
}

// index takes the number of one of n entries.
func (d *decoder) index(n int) int {
	if n == 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	return d.number(n - 1)
}

func (d *decoder) word() string {
	if i := d.index(len(d.words)); !d.failed {
		return d.words[i]
	}
	return ""
}

func (d *decoder) texts() []string {
	var list []string
	for range d.length() {
		n := d.length()
		list = append(list, string(d.rest[:n]))
		d.rest = d.rest[n:]
	}
	return list
}
