package instance

import (
	"fmt"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// BenchmarkInFleets looks at 10,000 instances in 20 fleets, to which nothing happens.
func BenchmarkInFleets(b *testing.B) {
	s, fleets := manyInstances(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.InFleets(b.Context(), s.DB.Read(), fleets...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInFleetsChanged looks at them after one instance of each fleet has changed.
func BenchmarkInFleetsChanged(b *testing.B) {
	s, fleets := manyInstances(b)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		err := s.DB.Write(b.Context(), func(tx *store.Tx) error {
			for f := range fleets {
				i, err := s.Get(b.Context(), tx, fmt.Sprintf("%018d%018d", f, 7))
				if err != nil {
					return err
				}
				if err := s.update(b.Context(), tx, &i); err != nil {
					return err
				}
			}
			return nil
		})
		b.StartTimer()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.InFleets(b.Context(), s.DB.Read(), fleets...); err != nil {
			b.Fatal(err)
		}
	}
}

// manyInstances are 10,000 in 20 fleets, all known.
func manyInstances(b *testing.B) (*Service, []string) {
	b.Helper()
	s := &Service{Config: Config{DB: storetest.SQLite(b)}, known: newKnown()}
	var fleets []string
	err := s.DB.Write(b.Context(), func(tx *store.Tx) error {
		for f := range 20 {
			fleets = append(fleets, fmt.Sprintf("%036d", f))
			for n := range 500 {
				i := Instance{ID: fmt.Sprintf("%018d%018d", f, n), ProjectID: "p", FleetID: fleets[f], Num: n, Name: "i", Status: api.InstanceIdle, CreatedAt: time.UnixMicro(1)}
				if err := insert(b.Context(), tx, &i); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.InFleets(b.Context(), s.DB.Read(), fleets...); err != nil {
		b.Fatal(err)
	}
	return s, fleets
}
