package config

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Cron is a parsed expression: five fields, UTC, weekday 0 is Monday, day and weekday
// must both match (configurations 2.10).
type Cron struct {
	minute, hour, day, month, weekday uint64 // bit sets
	lastDay                           bool
}

type cronField struct {
	name     string
	min, max int
	words    []string // names, the first stands for min
}

func cronFields() [5]cronField {
	return [5]cronField{
		{"minute", 0, 59, nil},
		{"hour", 0, 23, nil},
		{"day", 1, 31, nil},
		{"month", 1, 12, strings.Fields("jan feb mar apr may jun jul aug sep oct nov dec")},
		{"day_of_week", 0, 6, strings.Fields("mon tue wed thu fri sat sun")},
	}
}

// ParseCron reads an expression and refuses one that can never fire.
func ParseCron(expr string) (Cron, error) {
	parts := strings.Fields(expr)
	if len(parts) != 5 {
		return Cron{}, fmt.Errorf("Wrong number of fields; got %d, expected 5", len(parts))
	}
	var c Cron
	sets := [5]*uint64{&c.minute, &c.hour, &c.day, &c.month, &c.weekday}
	for i, f := range cronFields() {
		for _, item := range strings.Split(parts[i], ",") {
			if f.name == "day" && strings.EqualFold(item, "last") {
				c.lastDay = true
				continue
			}
			set, err := f.parse(item)
			if err != nil {
				return Cron{}, err
			}
			*sets[i] |= set
		}
	}
	if !c.possible() {
		return Cron{}, fmt.Errorf("Cron expression %q can never fire: no such day in the given months", expr)
	}
	return c, nil
}

// possible says that some month has one of the days.
func (c Cron) possible() bool {
	if c.lastDay {
		return true
	}
	for m, length := range []int{31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31} {
		if c.month>>(m+1)&1 == 1 && bits.TrailingZeros64(c.day) <= length {
			return true
		}
	}
	return false
}

func (f cronField) parse(item string) (uint64, error) {
	base, stepText, stepped := strings.Cut(item, "/")
	step := 1
	if stepped {
		n, err := strconv.Atoi(stepText)
		if err != nil || !allDigits(stepText) {
			return 0, fmt.Errorf("Unrecognized expression %q for field %q", item, f.name)
		}
		if n == 0 {
			return 0, fmt.Errorf("Error validating expression %q: Increment must be higher than 0", item)
		}
		step = n
	}
	lo, hi := f.min, f.max
	if base != "*" {
		first, last, ranged := strings.Cut(base, "-")
		var err error
		if lo, err = f.number(first, item); err != nil {
			return 0, err
		}
		switch {
		case ranged:
			if hi, err = f.number(last, item); err != nil {
				return 0, err
			}
			if hi < lo {
				return 0, fmt.Errorf("The minimum value in a range must not be higher than the maximum")
			}
		case !stepped:
			hi = lo
		}
	}
	if stepped && step > hi-lo {
		return 0, fmt.Errorf("Error validating expression '%s': the step value (%d) is higher than the total range of the expression (%d)", item, step, hi-lo)
	}
	var set uint64
	for v := lo; v <= hi; v += step {
		set |= 1 << v
	}
	return set, nil
}

func (f cronField) number(s, item string) (int, error) {
	for i, w := range f.words {
		if strings.EqualFold(w, s) {
			return f.min + i, nil
		}
	}
	n, err := strconv.Atoi(s)
	if err != nil || !allDigits(s) {
		if f.words != nil {
			return 0, fmt.Errorf("Invalid %s name %q", strings.ReplaceAll(f.name, "day_of_week", "weekday"), s)
		}
		return 0, fmt.Errorf("Unrecognized expression %q for field %q", item, f.name)
	}
	switch {
	case n < f.min:
		return 0, fmt.Errorf("Error validating expression '%s': the first value (%d) is lower than the minimum value (%d)", item, n, f.min)
	case n > f.max:
		return 0, fmt.Errorf("Error validating expression '%s': the last value (%d) is higher than the maximum value (%d)", item, n, f.max)
	}
	return n, nil
}

// Next is the first minute after t at which the expression fires.
func (c Cron) Next(t time.Time) time.Time {
	t = t.UTC().Truncate(time.Minute).Add(time.Minute)
	for end := t.AddDate(41, 0, 0); t.Before(end); { // one weekday's 29 February comes back after 40 years at most
		if c.month>>int(t.Month())&1 == 0 {
			t = time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
			continue
		}
		if !c.dayMatches(t) {
			t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, time.UTC)
			continue
		}
		for h := t.Hour(); h < 24; h++ {
			if c.hour>>h&1 == 0 {
				continue
			}
			from := 0
			if h == t.Hour() {
				from = t.Minute()
			}
			if m := bits.TrailingZeros64(c.minute >> from << from); m < 60 {
				return time.Date(t.Year(), t.Month(), t.Day(), h, m, 0, 0, time.UTC)
			}
		}
		t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}
}

func (c Cron) dayMatches(t time.Time) bool {
	weekday := (int(t.Weekday()) + 6) % 7
	if c.weekday>>weekday&1 == 0 {
		return false
	}
	if c.day>>t.Day()&1 == 1 {
		return true
	}
	return c.lastDay && t.AddDate(0, 0, 1).Month() != t.Month()
}

// Next is the earliest trigger of a schedule after t.
func (s Schedule) Next(t time.Time) time.Time {
	var next time.Time
	for _, expr := range s.Cron {
		c, err := ParseCron(expr)
		if err != nil {
			continue // refused when the schedule was read
		}
		if n := c.Next(t); !n.IsZero() && (next.IsZero() || n.Before(next)) {
			next = n
		}
	}
	return next
}
