package format

import (
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		-time.Second:         "",
		9 * time.Second:      "now",
		44 * time.Second:     "44 sec ago",
		119 * time.Second:    "1 min ago",
		200 * time.Second:    "3 mins ago",
		90 * time.Minute:     "1 hour ago",
		5 * time.Hour:        "5 hours ago",
		30 * time.Hour:       "yesterday",
		72 * time.Hour:       "3 days ago",
		8 * 24 * time.Hour:   "1 week ago",
		21 * 24 * time.Hour:  "3 weeks ago",
		65 * 24 * time.Hour:  "2 months ago",
		800 * 24 * time.Hour: "2 years ago",
	} {
		if got := Age(now, now.Add(-d)); got != want {
			t.Errorf("Age(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	price, yes, no, name := 40.0, true, false, "a"
	for _, tt := range []struct{ got, want string }{
		{Price(2.49), "$2.49"},
		{Price(0.12345), "$0.1235"},
		{Price(0), "$0"},
		{Cost(0.5), "$0.5"},
		{Cost(0), ""},
		{Text(&name), "a"},
		{Text(nil), ""},
		{SpotPolicy(nil), "auto"},
		{SpotPolicy(&yes), "spot"},
		{SpotPolicy(&no), "on-demand"},
		{MaxPrice(&price), "$40"},
		{MaxPrice(nil), "off"},
		{MiB(24064), "23.5GB"},
		{MiB(81920), "80GB"},
		{Seconds(90), "90s"},
		{Seconds(7200), "2h"},
		{Seconds(300), "5m"},
		{Seconds(0), "0s"},
		{Seconds(86400), "1d"},
		{LongSeconds(4545), "1h 15m 45s"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Time{
		"10s":                       now.Add(-10 * time.Second),
		"90":                        now.Add(-90 * time.Second),
		"1w":                        now.Add(-7 * 24 * time.Hour),
		"2026-11-24T10:00:00Z":      now.Add(-2 * time.Hour),
		"2026-11-24 12:00:00+02:00": now.Add(-2 * time.Hour),
	} {
		if got, err := Since(now, in); err != nil || !got.Equal(want) {
			t.Errorf("Since(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "s", "tomorrow", "2026-11-24T10:00:00"} {
		if _, err := Since(now, in); err == nil {
			t.Errorf("Since(%q) gave no error", in)
		}
	}
}
