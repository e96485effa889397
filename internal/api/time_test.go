package api

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func TestTime(t *testing.T) {
	for text, want := range map[string]string{
		`"2026-08-01T10:00:00Z"`:           `"2026-08-01T10:00:00Z"`,
		`"2026-08-01T10:00:00.123456Z"`:    `"2026-08-01T10:00:00.123456Z"`,
		`"2026-08-01T10:00:00.123456789Z"`: `"2026-08-01T10:00:00.123456Z"`,
		`"2026-08-01T12:00:00+02:00"`:      `"2026-08-01T10:00:00Z"`,
		`"2026-08-01T10:00:00"`:            `"2026-08-01T10:00:00Z"`,
		`"2026-08-01 10:00:00.5"`:          `"2026-08-01T10:00:00.500000Z"`,
		`"2026-08-01"`:                     `"2026-08-01T00:00:00Z"`,
		`1785578400`:                       `"2026-08-01T10:00:00Z"`,
		`1785578400000`:                    `"2026-08-01T10:00:00Z"`,
		`1785578400000000`:                 `"2026-08-01T10:00:00Z"`,
		`"1785578400"`:                     `"2026-08-01T10:00:00Z"`,
		`"2026-08-01T10:00"`:               `"2026-08-01T10:00:00Z"`,
		`"2026-08-01T12:00+02:00"`:         `"2026-08-01T10:00:00Z"`,
		`"NaN"`:                            "",
		`"Inf"`:                            "",
		`1785578400.25`:                    `"2026-08-01T10:00:00.250000Z"`,
		`"0001-01-01T00:00:00Z"`:           `"0001-01-01T00:00:00Z"`,
		`"9999-12-31T23:59:59.999999Z"`:    `"9999-12-31T23:59:59.999999Z"`,
		`"nope"`:                           "",
		`""`:                               "",
		`"2026-13-01T00:00:00Z"`:           "",
		`1e300`:                            "",
		`true`:                             "",
		`[]`:                               "",
	} {
		var got Time
		err := json.Unmarshal([]byte(text), &got)
		if want == "" {
			if err == nil {
				t.Errorf("%s was read as %s", text, got.Format(time.RFC3339Nano))
			}
			continue
		}
		data, merr := json.Marshal(got)
		if err != nil || merr != nil || string(data) != want {
			t.Errorf("%s: %s, %v, %v, want %s", text, data, err, merr, want)
		}
	}
}

// TestFarTimes has what edited rows of a database may hold: clients read it all the same.
func TestFarTimes(t *testing.T) {
	for _, micros := range []int64{math.MinInt64, -62135596800_000_001, 253402300800_000_000, math.MaxInt64} {
		want := `"0001-01-01T00:00:00Z"`
		if micros > 0 {
			want = `"9999-12-31T23:59:59.999999Z"`
		}
		data, err := json.Marshal(At(time.UnixMicro(micros)))
		if err != nil || string(data) != want {
			t.Errorf("%d: %s, %v, want %s", micros, data, err, want)
		}
		var back Time
		if err := json.Unmarshal(data, &back); err != nil {
			t.Error(err)
		}
	}
}
