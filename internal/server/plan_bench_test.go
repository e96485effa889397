package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/store"
)

// BenchmarkPlan asks for plans among 10,000 hosts in 20 fleets, and in one, at rest and while jobs take hosts
// and give them back.
func BenchmarkPlan(b *testing.B) {
	for _, fleets := range []int{20, 1} {
		for _, writers := range []int{0, 16} {
			b.Run(fmt.Sprintf("%d fleets, %d writers", fleets, writers), func(b *testing.B) {
				s := newServer(b)
				hosts := manyHosts(b, s, fleets)
				stop, all := make(chan struct{}), sync.WaitGroup{}
				for w := range writers {
					all.Go(func() {
						if err := takeAndGive(b, s, hosts, w, writers, stop); err != nil {
							b.Error(err)
						}
					})
				}
				var took []time.Duration
				b.ReportAllocs()
				for b.Loop() {
					took = append(took, plan(b, s))
				}
				close(stop)
				all.Wait()
				slices.Sort(took)
				for _, of := range []int{50, 90, 99} {
					b.ReportMetric(float64(took[len(took)*of/100].Microseconds())/1000, fmt.Sprintf("p%d-ms", of))
				}
			})
		}
	}
}

func plan(b *testing.B, s *Server) time.Duration {
	b.Helper()
	r := httptest.NewRequest(http.MethodPost, "/api/project/main/runs/get_plan", strings.NewReader(
		`{"max_offers": 3, "run_spec": {"configuration": {"type": "task", "commands": ["true"], "image": "job:1"}, "profile": {"name": "default"}}}`))
	r.Header.Set("Authorization", "Bearer "+adminToken)
	r.Header.Set("Content-Type", "application/json")
	w, begin := httptest.NewRecorder(), time.Now()
	if s.Handler().ServeHTTP(w, r); w.Code != http.StatusOK {
		b.Fatalf("%d %s", w.Code, short(w.Body.Bytes()))
	}
	return time.Since(begin)
}

// takeAndGive has a job take a host and give it back, 10 ms after each other, one host after the other:
// of those of one writer among several.
func takeAndGive(b *testing.B, s *Server, hosts []string, writer, of int, stop <-chan struct{}) error {
	ctx, job := b.Context(), fmt.Sprint("j", writer)
	for n := writer; ; n = (n + of) % len(hosts) {
		for _, change := range []func(tx *store.Tx) error{
			func(tx *store.Tx) error {
				_, err := s.inst.Claim(ctx, tx, instance.Claim{InstanceID: hosts[n], JobID: job, RunID: "r", Blocks: 1, Of: 1})
				return err
			},
			func(tx *store.Tx) error {
				_, err := s.inst.Release(ctx, tx, hosts[n], job)
				return err
			},
		} {
			if err := s.db.Write(ctx, change); err != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// manyHosts stores 10,000 hosts in so many fleets. The first of each come first.
func manyHosts(b *testing.B, s *Server, fleets int) (ids []string) {
	b.Helper()
	var p api.Project
	s.must(b, "/api/projects/main/get", nil, &p)
	at := store.Micros(time.Now())
	err := s.db.Write(b.Context(), func(tx *store.Tx) error {
		for f := range fleets {
			_, err := tx.ExecContext(b.Context(), `INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ($1, $2, $3, 'active', $4, 0, '{"configuration": {"type": "fleet", "nodes": {"min": 0, "max": 100}}, "profile": {"name": "default"}}')`,
				fmt.Sprintf("00000000-0000-4000-8000-%012d", f), p.ProjectID, fmt.Sprint("fleet-", f), at)
			if err != nil {
				return err
			}
		}
		for n := range 10_000 {
			f, name := n%fleets, fmt.Sprintf("127.64.%d.%d", n/250, n%250)
			data := instance.Data{Remote: &instance.RemoteHost{Host: instance.Endpoint{Hostname: name}}, Provisioning: &api.JobProvisioningData{Backend: "remote", Hostname: &name, Region: "remote", InstanceType: api.InstanceType{Name: "ssh", Resources: api.Resources{
				CPUs: 8, MemoryMiB: 64 << 10, Gpus: slices.Repeat([]api.Gpu{{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}}, 8)}}}}
			ids = append(ids, fmt.Sprintf("00000000-0000-4000-8001-%012d", n))
			_, err := tx.ExecContext(b.Context(), `INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, created_at, blocks, shard, data, ssh_host) VALUES ($1, $2, $3, $4, $5, 'idle', 'remote', $6, 1, 0, $7, $5)`,
				ids[n], p.ProjectID, fmt.Sprintf("00000000-0000-4000-8000-%012d", f), n, name, at, store.JSON(&data))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	plan(b, s) // the first of all reads them
	return ids
}
