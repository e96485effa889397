package metrics_test

import (
	"context"
	"errors"
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

// An agent that sends samples without end fills no database.
func TestPointsFarApart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, t0 := newStore(t, db), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		var points []metrics.Point
		for i := range 100 {
			points = append(points, sample(t0.Add(time.Duration(i)*100*time.Millisecond), i))
		}
		other := sample(t0, 7)
		other.JobID = "other"
		if err := s.Add(t.Context(), append(points[:50:50], other)...); err != nil {
			t.Fatal(err)
		}
		if err := s.Add(t.Context(), points[50:]...); err != nil {
			t.Fatal(err)
		}
		got, err := s.Points(t.Context(), db.Read(), "job", metrics.Range{}, 1000)
		if diff := cmp.Diff([]metrics.Point{points[50], points[0]}, got); diff != "" || err != nil {
			t.Errorf("Points (-want +got), %v:\n%s", err, diff)
		}
		if got, err := s.Points(t.Context(), db.Read(), "other", metrics.Range{}, 1000); len(got) != 1 || err != nil {
			t.Errorf("Points of another job = %v, %v", got, err)
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

// A check is stored with all that was found, at most once in so much time.
func TestHealth(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s, t0 := newStore(t, db), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
		check := func(after time.Duration, h agentapi.DCGMHealth) metrics.Health {
			return metrics.Health{InstanceID: "i", At: t0.Add(after), DCGMHealth: h}
		}
		well := agentapi.DCGMHealth{Incidents: []agentapi.Incident{}}
		failed := agentapi.DCGMHealth{OverallHealth: agentapi.HealthFail, Incidents: []agentapi.Incident{
			{System: 16, Health: 20, ErrorMessage: "XID 79", ErrorCode: 1, EntityGroupID: 1, EntityID: 3}, {System: 1, Health: 10, ErrorMessage: "replays"}}}
		for _, c := range []struct {
			h      metrics.Health
			stored bool
		}{
			{check(0, well), true},
			{check(30*time.Second, failed), false}, // too early
			{check(59*time.Second, failed), true},
			{check(59*time.Second, failed), false}, // told twice
		} {
			if stored := addHealth(t, db, s, c.h); stored != c.stored {
				t.Errorf("the check after %v: stored %v", c.h.At.Sub(t0), stored)
			}
		}
		got, err := s.HealthChecks(t.Context(), db.Read(), "i", metrics.Range{}, 10)
		want := []metrics.Health{check(59*time.Second, failed), check(0, well)}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("HealthChecks (-want +got), %v:\n%s", err, diff)
		}
	})
}

func addHealth(t *testing.T, db *store.DB, s *metrics.Store, h metrics.Health) (stored bool) {
	t.Helper()
	err := db.Write(context.Background(), func(tx *store.Tx) (err error) {
		stored, err = s.AddHealth(context.Background(), tx, h)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// What DCGM says of a job's GPUs replaces what it said before, counts for ten minutes, and is
// refused when it makes no sense.
func TestTexts(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		s, ctx := newStore(t, db), context.Background()
		add := func(job, text string) error { return s.AddText(ctx, job, agentapi.Pack([]byte(text))) }
		want := func(when string, want map[string]float64) {
			t.Helper()
			texts, err := s.Texts(ctx, db.Read())
			got := map[string]float64{}
			for job, text := range texts {
				families, err := text.Families()
				if err != nil || len(families) != 1 || text.Size != int64(len("DCGM_A 1\n")) {
					t.Fatalf("%s: %d bytes, %v, %v", when, text.Size, families, err)
				}
				got[job] = families[0].Metric[0].GetUntyped().GetValue()
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s: %v (-want +got):\n%s", when, err, diff)
			}
		}
		for _, job := range []string{"a", "b"} {
			if err := add(job, "DCGM_A 1\n"); err != nil {
				t.Fatal(err)
			}
		}
		if err := add("a", "DCGM_A 2\n"); err != nil {
			t.Error(err)
		}
		want("at once", map[string]float64{"a": 1, "b": 1})
		time.Sleep(10 * time.Second)
		if err := add("a", "DCGM_A 3\n"); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		for _, bad := range [][]byte{agentapi.Pack([]byte("dstack_run_count_total 1\n")), agentapi.Pack(make([]byte, agentapi.MaxText+1)), []byte("DCGM_A 1\n")} {
			if _, ok := errors.AsType[*metrics.TextError](s.AddText(ctx, "a", bad)); !ok {
				t.Errorf("%.40q is taken", bad)
			}
		}
		want("later", map[string]float64{"a": 3, "b": 1})
		time.Sleep(9*time.Minute + 45*time.Second)
		want("ten minutes after the first", map[string]float64{"a": 3})
		time.Sleep(time.Minute)
		want("at last", map[string]float64{})
	})
}

// TestConfiguredExpiry has jobs and health kept for as long as an operator wants.
func TestConfiguredExpiry(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		s, err := metrics.New(metrics.Config{DB: db, Log: slog.New(slog.DiscardHandler), KeepRunning: 10 * time.Minute, KeepFinished: 2 * time.Hour, KeepHealth: 90 * time.Minute})
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
		addHealth(t, db, s, metrics.Health{InstanceID: "i", At: time.Now()})
		for range 30 {
			if err := s.Add(ctx, sample(time.Now(), 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		count("while it sends", counts{11, 1})
		time.Sleep(90 * time.Minute)
		count("an hour and a half later", counts{11, 0})
		time.Sleep(time.Hour)
		count("an hour later", counts{0, 0})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
