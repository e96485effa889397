package config

import (
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

func (d *decoder) str(n *node, loc []any, v reflect.Value, tag string) {
	words, isEnum := text(tag, "enum")
	if isEnum {
		if n.kind == stringKind {
			for _, w := range strings.Split(words, "|") {
				if w == n.text {
					v.SetString(w)
					return
				}
			}
		}
		d.add(n, loc, "enum", "Input should be %s", orList(strings.Split(words, "|")))
		return
	}
	s, ok := d.text(n, loc)
	if !ok {
		return
	}
	if has(tag, "uuid") {
		if s, ok = d.uuid(n, loc, s); !ok {
			return
		}
	}
	if m, set := option(tag, "minlen"); set && len([]rune(s)) < int(m) {
		d.add(n, loc, "string_too_short", "String should have at least %d character%s", int(m), plural(int(m)))
		return
	}
	if m, set := option(tag, "maxlen"); set && len([]rune(s)) > int(m) {
		d.add(n, loc, "string_too_long", "String should have at most %d character%s", int(m), plural(int(m)))
		return
	}
	v.SetString(s)
}

// text takes strings and, as their text, numbers.
func (d *decoder) text(n *node, loc []any) (string, bool) {
	switch n.kind {
	case stringKind:
		if strings.ContainsRune(n.text, 0) {
			d.reject(n, loc, "NUL characters are not allowed")
			return "", false
		}
		return n.text, true
	case intKind, floatKind:
		return n.scalarText(), true
	}
	d.add(n, loc, "string_type", "Input should be a valid string")
	return "", false
}

// uuid reads an id in any of its forms and returns the one that is stored.
func (d *decoder) uuid(n *node, loc []any, s string) (string, bool) {
	id, err := uuid.Parse(s)
	if err == nil {
		return id.String(), true
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF-", c) }); i >= 0 {
		c, _ := utf8.DecodeRuneInString(s[i:])
		d.add(n, loc, "uuid_parsing", "Input should be a valid UUID, invalid character: found `%c` at %d", c, i)
		return "", false
	}
	d.add(n, loc, "uuid_parsing", "Input should be a valid UUID, invalid length: found %d", len(s))
	return "", false
}

// exactText takes strings only: where a value may also be an object, a number is a mistake.
func (d *decoder) exactText(n *node, loc []any) (string, bool) {
	if n.kind != stringKind {
		d.add(n, loc, "string_type", "Input should be a valid string or object")
		return "", false
	}
	return d.text(n, loc)
}

func (d *decoder) boolean(n *node, loc []any) (bool, bool) {
	switch n.kind {
	case boolKind:
		return n.bool, true
	case intKind, floatKind, stringKind:
		if b, ok := looseBool(n); ok {
			return b, true
		}
		d.add(n, loc, "bool_parsing", "Input should be a valid boolean, unable to interpret input")
		return false, false
	}
	d.add(n, loc, "bool_type", "Input should be a valid boolean")
	return false, false
}

func looseBool(n *node) (value, ok bool) {
	switch n.kind {
	case boolKind:
		return n.bool, true
	case intKind:
		if n.int.IsInt64() && (n.int.Int64() == 0 || n.int.Int64() == 1) {
			return n.int.Int64() == 1, true
		}
	case floatKind:
		if n.float == 0 || n.float == 1 {
			return n.float == 1, true
		}
	case stringKind:
		switch strings.ToLower(n.text) {
		case "0", "off", "f", "false", "n", "no":
			return false, true
		case "1", "on", "t", "true", "y", "yes":
			return true, true
		}
	}
	return false, false
}

func (d *decoder) integer(n *node, loc []any) (int64, bool) {
	switch n.kind {
	case intKind:
		if n.int.IsInt64() {
			return n.int.Int64(), true
		}
		d.add(n, loc, "int_parsing_size", "Input should be a valid integer, the number is too large")
		return 0, false
	case floatKind:
		if n.float == math.Trunc(n.float) && math.Abs(n.float) < 1<<63 {
			return int64(n.float), true
		}
		d.add(n, loc, "int_from_float", "Input should be a valid integer, got a number with a fractional part")
		return 0, false
	case stringKind:
		if i, ok := looseInt(n.text); ok {
			return i, true
		}
		d.add(n, loc, "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
		return 0, false
	}
	d.add(n, loc, "int_type", "Input should be a valid integer")
	return 0, false
}

// looseInt reads what the original takes for an integer in a string: signs, leading zeros,
// underscores between digits, a zero fraction, white space around.
func looseInt(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	neg := strings.HasPrefix(s, "-")
	body := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if len(s)-len(body) > 1 || len(body) > 4300 {
		return 0, false
	}
	if whole, frac, dot := strings.Cut(body, "."); dot {
		if frac == "" || strings.Trim(frac, "0") != "" {
			return 0, false
		}
		body = whole
	}
	if body == "" || body[0] == '_' || body[len(body)-1] == '_' || strings.Contains(body, "__") {
		return 0, false
	}
	body = strings.ReplaceAll(body, "_", "")
	if !allDigits(body) {
		return 0, false
	}
	i, ok := new(big.Int).SetString(body, 10)
	if !ok || !i.IsInt64() {
		return 0, false
	}
	if neg {
		return -i.Int64(), true
	}
	return i.Int64(), true
}

func (d *decoder) number(n *node, loc []any) (float64, bool) {
	f, ok := 0.0, false
	switch n.kind {
	case intKind:
		f, _ = new(big.Float).SetInt(n.int).Float64()
		ok = true
	case floatKind:
		f, ok = n.float, true
	case stringKind:
		s := strings.TrimSpace(n.text)
		if !strings.ContainsAny(s, "xXpP") {
			var err error
			f, err = strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
			ok = err == nil
		}
		if !ok {
			d.add(n, loc, "float_parsing", "Input should be a valid number, unable to parse string as a number")
			return 0, false
		}
	}
	if !ok {
		d.add(n, loc, "float_type", "Input should be a valid number")
		return 0, false
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		d.add(n, loc, "finite_number", "Input should be a finite number")
		return 0, false
	}
	return f, true
}

func (d *decoder) bounds(n *node, loc []any, f float64, tag string) bool {
	if m, ok := option(tag, "gt"); ok && f <= m {
		d.add(n, loc, "greater_than", "Input should be greater than %v", trimFloat(m))
		return false
	}
	if m, ok := option(tag, "min"); ok && f < m {
		d.add(n, loc, "greater_than_equal", "Input should be greater than or equal to %v", trimFloat(m))
		return false
	}
	if m, ok := option(tag, "max"); ok && f > m {
		d.add(n, loc, "less_than_equal", "Input should be less than or equal to %v", trimFloat(m))
		return false
	}
	return true
}

func trimFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// orList writes 'a', 'b' or 'c'.
func orList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + w + "'"
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}
