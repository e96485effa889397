// Package format writes prices, times and resources as tables show them.
package format

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Price of an hour in dollars, with at most four decimals: $2.49.
func Price(usd float64) string { return "$" + trim(usd, 4) }

// Cost in dollars, empty for what costs nothing.
func Cost(usd float64) string {
	if usd == 0 {
		return ""
	}
	return Price(usd)
}

// MaxPrice is a limit in dollars with at most six decimals, "off" if there is none.
func MaxPrice(usd *float64) string {
	if usd == nil {
		return "off"
	}
	return "$" + trim(*usd, 6)
}

func trim(v float64, decimals int) string {
	s := strconv.FormatFloat(v, 'f', decimals, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// Text is empty for what is not said.
func Text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// MiB is an amount of memory given in MiB, in GB with at most one decimal: 23.5GB.
func MiB(n int) string {
	return strconv.FormatFloat(math.RoundToEven(float64(n)/1024*10)/10, 'g', 6, 64) + "GB"
}

// Seconds writes a duration in the largest unit that divides it: 90s, 2h, 1w.
func Seconds(n int64) string {
	for _, u := range []struct {
		name string
		secs int64
	}{{"w", 7 * 24 * 3600}, {"d", 24 * 3600}, {"h", 3600}, {"m", 60}} {
		if n != 0 && n%u.secs == 0 {
			return strconv.FormatInt(n/u.secs, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "s"
}

// LongSeconds writes a duration in all its units: 1h 15m 45s.
func LongSeconds(n int64) string {
	var parts []string
	for _, u := range []struct {
		name string
		secs int64
	}{{"w", 7 * 24 * 3600}, {"d", 24 * 3600}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if v := n / u.secs; v > 0 {
			parts = append(parts, strconv.FormatInt(v, 10)+u.name)
			n -= v * u.secs
		}
	}
	if len(parts) == 0 {
		return "0s"
	}
	return strings.Join(parts, " ")
}

// Age says how long ago t was, seen from now. A time to come is empty, and one that is not known (zero).
func Age(now, t time.Time) string {
	d := now.Sub(t)
	hours := d.Hours()
	days := int(hours / 24)
	switch {
	case d < 0, t.IsZero():
		return ""
	case d < 10*time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d sec ago", int(d.Seconds()))
	case d < 2*time.Minute:
		return "1 min ago"
	case d < time.Hour:
		return fmt.Sprintf("%d mins ago", int(math.RoundToEven(d.Minutes())))
	case d < 2*time.Hour:
		return "1 hour ago"
	case days < 1:
		return fmt.Sprintf("%d hours ago", int(math.RoundToEven(hours)))
	case days == 1:
		return "yesterday"
	case days < 7:
		return fmt.Sprintf("%d days ago", days)
	case days < 31:
		return ago(days, 7, "week")
	case days < 365:
		return ago(days, 30, "month")
	default:
		return ago(days, 365, "year")
	}
}

func ago(days, length int, unit string) string {
	n := int(math.RoundToEven(float64(days) / float64(length)))
	if n > 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s ago", n, unit)
}

// errSince means that a point in time could not be read.
var errSince = errors.New("Invalid datetime format: write a duration like 10s, 5m or 1d, or a time like 2026-01-31T12:00:00Z")

// Since reads a point in time: a duration before now, or an RFC 3339 time with offset.
func Since(now time.Time, s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return now.Add(-time.Duration(n) * time.Second), nil
	}
	if s != "" {
		unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[len(s)-1]]
		if n, err := strconv.ParseUint(strings.TrimRight(s[:len(s)-1], " "), 10, 16); err == nil && unit != 0 {
			return now.Add(-time.Duration(n) * unit), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00", "20060102T150405Z0700"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02"} {
		if _, err := time.Parse(layout, s); err == nil {
			return time.Time{}, errors.New("Timestamp is not offset-aware. Specify timezone.")
		}
	}
	return time.Time{}, errSince
}
