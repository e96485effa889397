package instance

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// BenchmarkInFleets looks at 10,000 instances in 20 fleets, to which nothing happens.
func BenchmarkInFleets(b *testing.B) {
	eachEngine(b, func(b *testing.B, s *Service, fleets []string) {
		for b.Loop() {
			if _, err := s.InFleets(b.Context(), s.DB.Read(), fleets...); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkInFleetsChanged looks at them after one instance of each fleet has changed.
func BenchmarkInFleetsChanged(b *testing.B) {
	eachEngine(b, func(b *testing.B, s *Service, fleets []string) {
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
	})
}

// eachEngine runs fn with many instances on each engine.
func eachEngine(b *testing.B, fn func(b *testing.B, s *Service, fleets []string)) {
	b.Helper()
	run := func(url func(testing.TB) string) func(*testing.B) {
		return func(b *testing.B) {
			s, fleets := manyInstances(b, storetest.Open(b, url(b)))
			b.ReportAllocs()
			fn(b, s, fleets)
		}
	}
	b.Run("sqlite", run(storetest.Path))
	b.Run("postgres", run(storetest.PostgresURL))
}

// manyInstances are 10,000 in 20 fleets, all known.
func manyInstances(b *testing.B, db *store.DB) (*Service, []string) {
	b.Helper()
	s := &Service{Config: Config{DB: db}, known: newKnown()}
	var fleets []string
	data := Data{Remote: &RemoteHost{}, Provisioning: &api.JobProvisioningData{Backend: "remote", Region: "remote", InstanceType: api.InstanceType{Name: "ssh", Resources: api.Resources{
		CPUs: 8, MemoryMiB: 64 << 10, Gpus: slices.Repeat([]api.Gpu{{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}}, 8)}}}}
	err := s.DB.Write(b.Context(), func(tx *store.Tx) error {
		for f := range 20 {
			fleets = append(fleets, fmt.Sprintf("%036d", f))
			for n := range 500 {
				i := Instance{ID: fmt.Sprintf("%018d%018d", f, n), ProjectID: "p", FleetID: fleets[f], Num: n, Name: "i", Status: api.InstanceIdle, CreatedAt: time.UnixMicro(1), Data: data}
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
	if db.Engine() == store.Postgres { // as it would do by itself within a minute
		rows, err := db.Read().QueryContext(b.Context(), `VACUUM ANALYZE instance`)
		if err := store.EachRow(rows, err, func(*sql.Rows) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.InFleets(b.Context(), s.DB.Read(), fleets...); err != nil {
		b.Fatal(err)
	}
	return s, fleets
}
