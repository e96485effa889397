package metrics_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agentapi"
	"dstack/internal/metrics"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func newStore(t *testing.T, db *store.DB) *metrics.Store {
	t.Helper()
	s, err := metrics.New(metrics.Config{DB: db, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sample(at time.Time, n int) metrics.Point {
	return metrics.Point{JobID: "job", At: at, Metrics: agentapi.Metrics{
		CPUMicros: int64(n), MemoryBytes: 1 << 40, WorkingSetBytes: 5, GPUs: []agentapi.GPUMetrics{{MemoryBytes: 80 << 30, UtilPercent: n}},
	}}
}

func TestPoints(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, t0 := newStore(t, db), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		var points []metrics.Point
		for i := range 5 {
			points = append(points, sample(t0.Add(time.Duration(i)*10*time.Second), i))
		}
		if err := s.Add(t.Context(), points...); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(t.Context(), points[4]); err != nil { // delivered twice
			t.Fatal(err)
		}
		got, err := s.Points(t.Context(), db.Read(), "job", metrics.Range{}, 2)
		if diff := cmp.Diff([]metrics.Point{points[4], points[3]}, got); diff != "" || err != nil {
			t.Errorf("Points (-want +got), %v:\n%s", err, diff)
		}
		got, err = s.Points(t.Context(), db.Read(), "job", metrics.Range{From: points[1].At, To: points[2].At}, 10)
		if diff := cmp.Diff([]metrics.Point{points[2], points[1]}, got); diff != "" || err != nil {
			t.Errorf("Points in a range (-want +got), %v:\n%s", err, diff)
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return s.Forget(t.Context(), tx, "job") }); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Points(t.Context(), db.Read(), "job", metrics.Range{}, 10); len(got) != 0 || err != nil {
			t.Errorf("Points of a forgotten job = %v, %v", got, err)
		}
	})
}

// TestExpiry has a job run for three hours and end.
func TestExpiry(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		s := newStore(t, db)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		count := func() int {
			t.Helper()
			got, err := s.Points(ctx, db.Read(), "job", metrics.Range{}, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			return len(got)
		}
		for range 180 {
			if err := s.Add(ctx, sample(time.Now(), 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if n := count(); n != 61 {
			t.Errorf("%d points of a running job, want those of the last hour", n)
		}
		time.Sleep(6 * 24 * time.Hour)
		if n := count(); n != 61 {
			t.Errorf("%d points six days after the end", n)
		}
		time.Sleep(2 * 24 * time.Hour)
		if n := count(); n != 0 {
			t.Errorf("%d points eight days after the end", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestHealth(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, t0 := newStore(t, db), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		want := []metrics.Health{
			{InstanceID: "i", At: t0.Add(time.Minute), Health: agentapi.Health{Status: "failure", Message: "XID 79", Response: []byte(`{"dcgm": 1}`)}},
			{InstanceID: "i", At: t0, Health: agentapi.Health{Status: "healthy"}},
		}
		for _, h := range want {
			if err := s.AddHealth(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.HealthChecks(t.Context(), db.Read(), "i", metrics.Range{}, 10)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("HealthChecks (-want +got), %v:\n%s", err, diff)
		}
	})
}

// TestConfiguredExpiry has jobs and health kept for as long as an operator wants.
func TestConfiguredExpiry(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		s, err := metrics.New(metrics.Config{DB: db, Log: slog.New(slog.DiscardHandler), KeepRunning: 10 * time.Minute, KeepFinished: 2 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		type counts struct{ Points, Health int }
		count := func(when string, want counts) {
			t.Helper()
			points, err := s.Points(ctx, db.Read(), "job", metrics.Range{}, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			health, err := s.HealthChecks(ctx, db.Read(), "i", metrics.Range{}, 10_000)
			if got := (counts{len(points), len(health)}); err != nil || got != want {
				t.Errorf("%s: %+v, %v, want %+v", when, got, err, want)
			}
		}
		if err := s.AddHealth(ctx, metrics.Health{InstanceID: "i", At: time.Now(), Health: agentapi.Health{Status: "healthy"}}); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			if err := s.Add(ctx, sample(time.Now(), 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		count("while it sends", counts{11, 1})
		time.Sleep(90 * time.Minute)
		count("an hour and a half later", counts{11, 1})
		time.Sleep(time.Hour)
		count("an hour later", counts{0, 0})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
