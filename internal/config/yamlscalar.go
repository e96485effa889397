package config

import (
	"errors"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// resolve gives a plain scalar its YAML 1.1 type, first match wins.
func resolve(n *node, s string) {
	switch s {
	case "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		n.kind, n.bool = boolKind, true
		return
	case "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		n.kind = boolKind
		return
	case "", "~", "null", "Null", "NULL":
		n.kind = nullKind
		return
	}
	if i, ok := yamlInt(s); ok {
		n.kind, n.int = intKind, i
		return
	}
	if f, ok := yamlFloat(s); ok {
		n.kind, n.float = floatKind, f
		return
	}
	if isTimestamp(s) {
		n.kind = timeKind
	}
}

// yamlInt reads binary, octal (leading zero), decimal, hexadecimal and base-60 integers.
func yamlInt(s string) (*big.Int, bool) {
	neg := false
	switch {
	case strings.HasPrefix(s, "-"):
		neg, s = true, s[1:]
	case strings.HasPrefix(s, "+"):
		s = s[1:]
	}
	if s == "" || s[0] < '0' || s[0] > '9' {
		return nil, false
	}
	var v *big.Int
	ok := false
	switch {
	case strings.HasPrefix(s, "0b"):
		v, ok = digits(s[2:], "01_", 2)
	case strings.HasPrefix(s, "0x"):
		v, ok = digits(s[2:], "0123456789abcdefABCDEF_", 16)
	case s == "0":
		v, ok = new(big.Int), true
	case s[0] == '0':
		v, ok = digits(s[1:], "01234567_", 8)
	case strings.Contains(s, ":"):
		v, ok = sexagesimal(s)
	default:
		v, ok = digits(s, "0123456789_", 10)
	}
	if ok && neg {
		v.Neg(v)
	}
	return v, ok
}

func digits(s, allowed string, base int) (*big.Int, bool) {
	if s == "" || strings.Trim(s, allowed) != "" {
		return nil, false
	}
	s = strings.ReplaceAll(s, "_", "")
	if s == "" {
		return nil, false
	}
	return new(big.Int).SetString(s, base)
}

func sexagesimal(s string) (*big.Int, bool) {
	parts := strings.Split(s, ":")
	if parts[0] == "" || parts[0][0] == '0' {
		return nil, false
	}
	v, ok := digits(parts[0], "0123456789_", 10)
	if !ok {
		return nil, false
	}
	for _, p := range parts[1:] {
		n, err := strconv.Atoi(p)
		if err != nil || len(p) == 0 || len(p) > 2 || n > 59 || p[0] == '+' || p[0] == '-' {
			return nil, false
		}
		v.Mul(v, big.NewInt(60)).Add(v, big.NewInt(int64(n)))
	}
	return v, true
}

// yamlFloat needs a point; an exponent needs its sign.
func yamlFloat(s string) (float64, bool) {
	switch s {
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return math.Inf(1), true
	case "-.inf", "-.Inf", "-.INF":
		return math.Inf(-1), true
	case ".nan", ".NaN", ".NAN":
		return math.NaN(), true
	}
	body := strings.TrimLeft(s, "+-")
	if len(s)-len(body) > 1 {
		return 0, false
	}
	intPart, frac, ok := strings.Cut(body, ".")
	if !ok {
		return 0, false
	}
	if strings.Contains(intPart, ":") {
		return sexagesimalFloat(s, intPart, frac)
	}
	mantissa, exp, hasExp := frac, "", false
	if i := strings.IndexAny(frac, "eE"); i >= 0 {
		mantissa, exp, hasExp = frac[:i], frac[i+1:], true
	}
	if strings.Trim(intPart, "0123456789_") != "" || strings.Trim(mantissa, "0123456789_") != "" {
		return 0, false
	}
	if intPart == "" && (mantissa == "" || mantissa[0] == '_') || intPart != "" && intPart[0] == '_' {
		return 0, false
	}
	if hasExp && (len(exp) < 2 || exp[0] != '+' && exp[0] != '-' || strings.Trim(exp[1:], "0123456789") != "") {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	return f, true
}

func sexagesimalFloat(s, intPart, frac string) (float64, bool) {
	if strings.Trim(frac, "0123456789_") != "" {
		return 0, false
	}
	v, ok := sexagesimal(intPart)
	if !ok {
		return 0, false
	}
	f, _ := new(big.Float).SetInt(v).Float64()
	if frac = strings.ReplaceAll(frac, "_", ""); frac != "" {
		part, err := strconv.ParseFloat("0."+frac, 64)
		if err != nil {
			return 0, false
		}
		f += part
	}
	if s[0] == '-' {
		f = -f
	}
	return f, true
}

// isTimestamp recognises YYYY-MM-DD and what may follow it.
func isTimestamp(s string) bool {
	if len(s) == 10 {
		return s[4] == '-' && s[7] == '-' && allDigits(s[:4]+s[5:7]+s[8:])
	}
	if len(s) < 14 || !allDigits(s[:4]) || s[4] != '-' {
		return false
	}
	rest := s[5:]
	date, clock, ok := strings.Cut(strings.Replace(strings.Replace(rest, "T", " ", 1), "t", " ", 1), " ")
	if !ok {
		return false
	}
	month, day, ok := strings.Cut(date, "-")
	if !ok || !allDigits(month) || !allDigits(day) || len(month) > 2 || len(day) > 2 || month == "" || day == "" {
		return false
	}
	clock = strings.TrimLeft(clock, " \t")
	parts := strings.SplitN(clock, ":", 3)
	return len(parts) == 3 && allDigits(parts[0]) && len(parts[1]) == 2 && allDigits(parts[1]) && len(parts[2]) >= 2 && allDigits(parts[2][:2])
}

func allDigits(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
