package format

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
)

// recorded calls test for every line of a file of what the original prints.
func recorded[T any](t *testing.T, file string, test func(row T)) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var row T
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		test(row)
	}
}

func TestRecordedDurations(t *testing.T) {
	type row struct {
		Fn    string
		In    *float64
		Out   string
		Error *string
	}
	recorded(t, "durations.jsonl", func(r row) {
		if r.Error != nil || r.In == nil {
			return // negative or absent ones do not come up
		}
		got := Seconds(int64(*r.In))
		if r.Fn == "format_duration_multiunit" {
			got = LongSeconds(int64(*r.In))
		}
		if got != r.Out {
			t.Errorf("%s of %v is %q, want %q", r.Fn, *r.In, got, r.Out)
		}
	})
}

func TestRecordedAges(t *testing.T) {
	now := time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)
	recorded(t, "pretty-date.jsonl", func(r struct {
		Age float64 `json:"age_seconds"`
		Out string
	}) {
		if got := Age(now, now.Add(-time.Duration(r.Age*float64(time.Second)))); got != r.Out {
			t.Errorf("the age of %v s is %q, want %q", r.Age, got, r.Out)
		}
	})
}

func TestRecordedSince(t *testing.T) {
	recorded(t, "since.jsonl", func(r struct {
		In, Out string
		Now     time.Time
		Error   *string
	}) {
		got, err := Since(r.Now, r.In)
		if r.Error != nil || r.In == "\u0665m" { // digits are 0 to 9
			if err == nil {
				t.Errorf("%q is accepted as %v, the original says %v", r.In, got, r.Error)
			}
			return
		}
		want, perr := time.Parse(time.RFC3339Nano, r.Out)
		if perr != nil {
			t.Fatal(perr)
		}
		if err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v, want %v", r.In, got, err, want)
		}
	})
}

func TestRecordedSizes(t *testing.T) {
	recorded(t, "units.jsonl", func(r struct {
		Fn      string
		In, Out any
	}) {
		if r.Fn != "format_mib_as_gb" { // the others are not for people, or not ours
			return
		}
		if got := MiB(int(r.In.(float64))); got != r.Out {
			t.Errorf("%v MiB are %q, want %q", r.In, got, r.Out)
		}
	})
}

func TestRecordedResources(t *testing.T) {
	recorded(t, "instance-resources.jsonl", func(r struct {
		In  json.RawMessage
		Out struct {
			Full     string
			GPUOnly  string `json:"gpu_only"`
			WithSpot string `json:"with_spot"`
		}
	}) {
		var in api.Resources
		if err := json.Unmarshal(r.In, &in); err != nil {
			t.Fatal(err)
		}
		for want, got := range map[string]string{r.Out.Full: Resources(in), r.Out.GPUOnly: GPUs(in), r.Out.WithSpot: Resources(in) + Spot(in.Spot)} {
			if got != want {
				t.Errorf("%s: got %q, want %q", r.In, got, want)
			}
		}
	})
}

func TestRecordedRequirements(t *testing.T) {
	recorded(t, "requirements.jsonl", func(r struct {
		In     json.RawMessage
		Pretty string
	}) {
		var in config.Resources
		if config.DecodeJSON(r.In, &in) != nil { // refused on purpose, which config tests
			return
		}
		want := strings.ReplaceAll(r.Pretty, "(9, 0)", "9.0") // the original prints some versions as pairs
		if got := Requirements(in); got != want {
			t.Errorf("%s: got %q, want %q", r.In, got, want)
		}
	})
}
