package config

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Duration is whole seconds.
type Duration int64

// OffDuration is seconds or "off" (configurations 2.1).
type OffDuration struct {
	Seconds int64
	Off     bool
}

// IdleDuration is seconds; negative means never.
type IdleDuration int64

// InactivityDuration is seconds; off and absence are the same.
type InactivityDuration int64

// MarshalJSON writes "off" or the seconds.
func (o OffDuration) MarshalJSON() ([]byte, error) {
	if o.Off {
		return []byte(`"off"`), nil
	}
	return json.Marshal(o.Seconds)
}

// UnmarshalJSON reads every form.
func (o *OffDuration) UnmarshalJSON(data []byte) error { return decodeStored(data, o) }

// ParseDuration reads seconds or a number with one of the units s, m, h, d, w.
func ParseDuration(s string) (int64, error) {
	if v, ok := looseInt(s); ok && !strings.Contains(s, ".") {
		return v, nil
	}
	body := strings.TrimSuffix(s, "\n") // that a block scalar ends in
	if body != "" {
		unit := map[byte]int64{'s': 1, 'm': 60, 'h': 3600, 'd': 86400, 'w': 604800}[body[len(body)-1]]
		number := strings.TrimRight(body[:len(body)-1], " ")
		if unit > 0 && number != "" && allDigits(number) {
			v, err := strconv.ParseInt(number, 10, 64)
			if err == nil && v <= (1<<62)/unit {
				return v * unit, nil
			}
		}
	}
	return 0, fmt.Errorf("Cannot parse the duration %s. Use seconds or one number with a unit: 30s, 10m, 2h, 1d, 1w", s)
}

func (d *decoder) seconds(n *node, loc []any) (int64, bool) {
	switch n.kind {
	case intKind:
		if n.int.IsInt64() {
			return n.int.Int64(), true
		}
	case floatKind:
		if math.Abs(n.float) < 1<<63 {
			return int64(n.float), true
		}
	case boolKind:
		if n.bool {
			return 1, true
		}
		return 0, true
	case stringKind:
		v, err := ParseDuration(n.text)
		if err != nil {
			d.reject(n, loc, "%v", err)
			return 0, false
		}
		return v, true
	}
	d.reject(n, loc, "Cannot parse the duration %s", n.scalarText())
	return 0, false
}

func (v *Duration) decodeNode(d *decoder, n *node, loc []any) {
	if s, ok := d.seconds(n, loc); ok {
		*v = Duration(s)
	}
}

func (n *node) isOff() bool {
	return n.kind == boolKind && !n.bool || n.kind == stringKind && n.text == "off"
}

func (n *node) isTrue() bool { return n.kind == boolKind && n.bool }

func (o *OffDuration) decodeNode(d *decoder, n *node, loc []any) {
	if n.isOff() {
		o.Off = true
		return
	}
	s, ok := d.seconds(n, loc)
	if ok && s < 0 {
		d.reject(n, loc, "Duration cannot be negative")
	}
	o.Seconds = s
}

func (v *IdleDuration) decodeNode(d *decoder, n *node, loc []any) {
	if n.isOff() {
		*v = -1
		return
	}
	if s, ok := d.seconds(n, loc); ok {
		*v = IdleDuration(s)
	}
}

func (v *InactivityDuration) decodeNode(d *decoder, n *node, loc []any) {
	if n.isOff() {
		return // the owner of the field drops it
	}
	s, ok := d.seconds(n, loc)
	if ok && s < 0 {
		d.reject(n, loc, "Duration cannot be negative")
	}
	*v = InactivityDuration(s)
}
