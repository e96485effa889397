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
	db := storetest.SQLite(b)
	s := &Service{Config: Config{DB: db}, known: newKnown()}
	var fleets []string
	err := db.Write(b.Context(), func(tx *store.Tx) error {
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
	if _, err := s.InFleets(b.Context(), db.Read(), fleets...); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.InFleets(b.Context(), db.Read(), fleets...); err != nil {
			b.Fatal(err)
		}
	}
}
