package metrics_test

import (
	"log/slog"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/metrics"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestUnused has jobs with two GPUs send samples for hours, one for longer than a day, as a server that keeps
// them for so long has them.
func TestUnused(t *testing.T) {
	const least = 10
	type use [2]int // percent of each GPU, -1 for a GPU that is not told of
	idle, half, busy := use{0, 9}, use{9, 10}, use{50, 10}
	for name, tt := range map[string]struct {
		hours  float64
		use    func(hour float64) use
		window time.Duration
		want   bool
	}{
		"nothing to do for the last hour":         {2, func(h float64) use { return pick(h < 0.9, busy, idle) }, time.Hour, true},
		"one GPU has nothing to do":               {2, func(float64) use { return half }, time.Hour, true},
		"both have":                               {2, func(float64) use { return busy }, time.Hour, false},
		"one after the other":                     {2, func(h float64) use { return pick(h < 1.5, use{0, 50}, use{50, 0}) }, time.Hour, false},
		"but for a moment at its begin":           {2, func(h float64) use { return pick(h > 1.05 && h < 1.1, busy, idle) }, time.Hour, false},
		"nothing to do for longer than a day":     {25, func(h float64) use { return pick(h < 0.2, busy, idle) }, 24*time.Hour + 30*time.Minute, true},
		"for as long as it runs, which is less":   {2, func(float64) use { return idle }, 3 * time.Hour, false},
		"one GPU is not told of":                  {2, func(h float64) use { return pick(h < 1.5, use{0, -1}, use{50, 0}) }, time.Hour, false},
		"one GPU is not told of, the other idles": {2, func(float64) use { return use{0, -1} }, time.Hour, true},
		"no GPU at all":                           {2, func(float64) use { return use{-1, -1} }, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, db *store.DB) {
				s, err := metrics.New(metrics.Config{DB: db, Log: slog.New(slog.DiscardHandler), KeepRunning: 30 * time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
				end := begin.Add(time.Duration(tt.hours * float64(time.Hour)))
				var points []metrics.Point
				for at := begin; !at.After(end); at = at.Add(10 * time.Second) {
					p := metrics.Point{JobID: "job", At: at}
					for _, percent := range tt.use(at.Sub(begin).Hours()) {
						if percent >= 0 {
							p.GPUs = append(p.GPUs, agentapi.GPUMetrics{UtilPercent: percent})
						}
					}
					points = append(points, p)
				}
				if err := s.Add(t.Context(), points...); err != nil {
					t.Fatal(err)
				}
				if got, err := s.Unused(t.Context(), db.Read(), "job", end.Add(-tt.window), least); got != tt.want || err != nil {
					t.Errorf("unused for %v: %v, %v; want %v", tt.window, got, err, tt.want)
				}
			})
		})
	}
}

func pick[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}
