package agentapi

import (
	"math"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	for n, want := range map[int64]time.Duration{
		math.MinInt64: 0, -1: 0, 0: 0, 1: time.Second, 3600: time.Hour,
		10_000_000_000: longest, math.MaxInt64 / int64(time.Second): longest, math.MaxInt64: longest,
	} {
		if got := Seconds(n); got != want {
			t.Errorf("Seconds(%d) = %v, want %v", n, got, want)
		}
		if d := Seconds(n) + 10*time.Second; d < 10*time.Second {
			t.Errorf("%d seconds and ten more are %v", n, d)
		}
	}
}
