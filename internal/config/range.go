package config

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// IntRange is min..max with open ends.
type IntRange struct {
	Min *int `json:"min"`
	Max *int `json:"max"`
}

// MemoryRange is a range of gigabytes.
type MemoryRange struct {
	Min *Memory `json:"min"`
	Max *Memory `json:"max"`
}

// Memory is a size in gigabytes (1024³ bytes).
type Memory float64

// MarshalJSON keeps a point in whole numbers, as every recording has it.
func (m Memory) MarshalJSON() ([]byte, error) { return []byte(floatText(float64(m))), nil }

func (m Memory) String() string { return strconv.FormatFloat(float64(m), 'g', 6, 64) + "GB" }

// MiB is the size in mebibytes, rounded down.
func (m Memory) MiB() int { return int(float64(m) * 1024) }

// Bytes is the size in bytes.
func (m Memory) Bytes() int64 { return int64(float64(m) * (1 << 30)) }

// Between makes a range; a negative end is open.
func Between(lo, hi int) IntRange {
	var r IntRange
	if lo >= 0 {
		r.Min = &lo
	}
	if hi >= 0 {
		r.Max = &hi
	}
	return r
}

// AtLeast is a memory range without upper end.
func AtLeast(gb float64) MemoryRange {
	m := Memory(gb)
	return MemoryRange{Min: &m}
}

// Contains says that n lies in the range.
func (r IntRange) Contains(n int) bool {
	return (r.Min == nil || n >= *r.Min) && (r.Max == nil || n <= *r.Max)
}

// Contains says that m lies in the range.
func (r MemoryRange) Contains(m float64) bool {
	return (r.Min == nil || m >= float64(*r.Min)) && (r.Max == nil || m <= float64(*r.Max))
}

func (r IntRange) String() string {
	if r.Min != nil && r.Max != nil && *r.Min == *r.Max {
		return strconv.Itoa(*r.Min)
	}
	s := ""
	if r.Min != nil {
		s = strconv.Itoa(*r.Min)
	}
	s += ".."
	if r.Max != nil {
		s += strconv.Itoa(*r.Max)
	}
	return s
}

func (r MemoryRange) String() string {
	if r.Min != nil && r.Max != nil && *r.Min == *r.Max {
		return r.Min.String()
	}
	s := ""
	if r.Min != nil {
		s = r.Min.String()
	}
	s += ".."
	if r.Max != nil {
		s += r.Max.String()
	}
	return s
}

// UnmarshalJSON reads every form of a range.
func (r *IntRange) UnmarshalJSON(data []byte) error { return decodeStored(data, r) }

// UnmarshalJSON reads every form of a range.
func (r *MemoryRange) UnmarshalJSON(data []byte) error { return decodeStored(data, r) }

// UnmarshalJSON reads numbers and strings with a unit.
func (m *Memory) UnmarshalJSON(data []byte) error { return decodeStored(data, m) }

func (r *IntRange) decodeNode(d *decoder, n *node, loc []any) {
	lo, hi, ok := rangeEnds(d, n, loc)
	if !ok {
		return
	}
	end := func(e *node) *int {
		if e == nil {
			return nil
		}
		i, good := d.integer(e, loc)
		if !good {
			ok = false
			return nil
		}
		if i < 0 {
			d.reject(n, loc, "Invalid range: negative counts are not allowed")
			ok = false
		}
		v := int(i)
		return &v
	}
	r.Min, r.Max = bothEnds(lo, hi, end)
	if ok && r.Min != nil && r.Max != nil && *r.Min > *r.Max {
		d.reject(n, loc, "Invalid range order: %d..%d", *r.Min, *r.Max)
	}
}

func (r *MemoryRange) decodeNode(d *decoder, n *node, loc []any) {
	lo, hi, ok := rangeEnds(d, n, loc)
	if !ok {
		return
	}
	end := func(e *node) *Memory {
		if e == nil {
			return nil
		}
		m, err := parseMemory(e)
		if err != nil {
			d.reject(n, loc, "%v", err)
			ok = false
			return nil
		}
		return &m
	}
	r.Min, r.Max = bothEnds(lo, hi, end)
	if ok && r.Min != nil && r.Max != nil && *r.Min > *r.Max {
		d.reject(n, loc, "Invalid range order: %v..%v", *r.Min, *r.Max)
	}
}

// bothEnds reads the ends of a range, a scalar, which is both of them, once: what is wrong
// with it is one problem.
func bothEnds[T any](lo, hi *node, end func(*node) *T) (*T, *T) {
	first := end(lo)
	switch {
	case lo != hi:
		return first, end(hi)
	case first == nil:
		return nil, nil
	}
	same := *first
	return first, &same
}

func (m *Memory) decodeNode(d *decoder, n *node, loc []any) {
	v, err := parseMemory(n)
	if err != nil {
		d.reject(n, loc, "%v", err)
		return
	}
	*m = v
}

// rangeEnds takes a range apart: a scalar is both ends, a missing end is nil.
func rangeEnds(d *decoder, n *node, loc []any) (lo, hi *node, ok bool) {
	switch n.kind {
	case intKind, floatKind:
		return n, n, true
	case stringKind:
		if !strings.Contains(n.text, "..") {
			return n, n, true
		}
		parts := strings.Split(strings.ReplaceAll(n.text, " ", ""), "..")
		if len(parts) != 2 {
			d.reject(n, loc, "Invalid range: %s", n.text)
			return nil, nil, false
		}
		end := func(s string) *node {
			if s == "" {
				return nil
			}
			return n.with(s)
		}
		lo, hi = end(parts[0]), end(parts[1])
	case mapKind:
		before := len(d.problems)
		for _, k := range n.keys {
			switch v := n.values[k]; {
			case k != "min" && k != "max":
				if !d.lenient {
					d.unknown(n, loc, k)
				}
			case v.kind == nullKind:
			case k == "min":
				lo = v
			default:
				hi = v
			}
		}
		if len(d.problems) > before {
			return nil, nil, false
		}
	default:
		d.reject(n, loc, "Invalid range: %s", n.scalarText())
		return nil, nil, false
	}
	if lo == nil && hi == nil {
		d.reject(n, loc, "Invalid empty range: ..")
		return nil, nil, false
	}
	return lo, hi, true
}

func parseMemory(n *node) (Memory, error) {
	var gb float64
	switch n.kind {
	case intKind, floatKind:
		gb, _ = strconv.ParseFloat(n.scalarText(), 64)
	case stringKind:
		s := strings.ToLower(strings.ReplaceAll(n.text, " ", ""))
		factor := 1.0
		for _, u := range []struct {
			suffix string
			factor float64
		}{{"tb", 1024}, {"gb", 1}, {"mb", 1.0 / 1024}} {
			if rest, ok := strings.CutSuffix(s, u.suffix); ok {
				s, factor = rest, u.factor
				break
			}
		}
		s = strings.TrimSpace(s)
		f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
		if err != nil || strings.ContainsAny(s, "xp") {
			return 0, fmt.Errorf("Invalid memory size: %s. Use a number of gigabytes or a unit: 512MB, 8GB, 1TB", n.text)
		}
		gb = f * factor
	default:
		return 0, fmt.Errorf("Invalid memory size: %s", n.scalarText())
	}
	if math.IsInf(gb, 0) || math.IsNaN(gb) || gb < 0 {
		return 0, fmt.Errorf("Invalid memory size: %s", n.scalarText())
	}
	return Memory(gb), nil
}

var _ json.Unmarshaler = (*Memory)(nil)
