// Package api holds the REST API's types, as published clients know them, and a typed
// client. The server and the command line share it, so that both speak the same words.
//
// Every response field is always present; what may be absent is null. Times are ISO 8601
// in UTC.
package api

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"dstack/internal/config"
)

// Version is the API version that the server speaks and reports: clients of this minor
// release and older ones are served.
const Version = "0.22.5"

// ExtensionsHeader is sent by clients that know the words that we have beyond the published
// ones, such as the backend "local". Published clients refuse a whole answer for one word.
const ExtensionsHeader = "X-Dstack-Extensions"

// Time is a moment on the wire: microseconds, UTC, "Z".
type Time struct{ time.Time }

const (
	// maxSeconds is where numbers stop to be seconds, in the year 2603, and become milliseconds.
	maxSeconds = 20_000_000_000
	// maxNumber bounds moments that are written as numbers.
	maxNumber = maxSeconds * 1_000_000
)

const timeFormat = "2006-01-02T15:04:05.000000Z"

// At makes a Time.
func At(t time.Time) Time { return Time{t.UTC()} }

// OptTime makes a Time, nil for the zero time.
func OptTime(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	at := At(t)
	return &at
}

// The first and the last moment that clients read; others are of rows that were edited.
var (
	firstTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTime  = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
)

// MarshalJSON writes microseconds; whole seconds have no fraction, as recorded.
func (t Time) MarshalJSON() ([]byte, error) {
	u := t.UTC().Truncate(time.Microsecond)
	if u.Before(firstTime) {
		u = firstTime
	} else if u.After(lastTime) {
		u = lastTime
	}
	if u.Nanosecond() == 0 {
		return []byte(u.Format(`"2006-01-02T15:04:05Z"`)), nil
	}
	return []byte(`"` + u.Format(timeFormat) + `"`), nil
}

// UnmarshalJSON reads ISO 8601 with or without zone, UTC without one, and a number, also as a
// text: seconds since 1970 or, where those would be in another age, milli- or microseconds.
func (t *Time) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err == nil && string(data) != "null" {
		return t.since(seconds)
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return badTime("")
	}
	if seconds, err := strconv.ParseFloat(s, 64); err == nil {
		return t.since(seconds)
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999",
		"2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02 15:04Z07:00", "2006-01-02 15:04", "2006-01-02"} {
		if v, err := time.Parse(layout, s); err == nil {
			t.Time = v.UTC()
			return nil
		}
	}
	return badTime(fmt.Sprintf(": %q", s))
}

func badTime(why string) error {
	return &config.Problem{Type: "datetime_from_date_parsing", Msg: "Input should be a valid datetime" + why}
}

// since takes a number for milliseconds, and so on, where it is too large for the unit before,
// as the published server does.
func (t *Time) since(n float64) error {
	if !(math.Abs(n) <= maxNumber) { // also no number at all
		return badTime(fmt.Sprintf(": %v is in another age", n))
	}
	for math.Abs(n) > maxSeconds {
		n /= 1000
	}
	t.Time = time.UnixMicro(int64(math.Round(n * 1e6))).UTC()
	return nil
}
