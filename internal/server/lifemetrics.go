package server

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"dstack/internal/api"
	"dstack/internal/run"
)

// lifeMetrics count what this process has seen of the lives of runs (lifecycle 18.3). Unlike
// what [collector] reads, they start from nothing with each process.
type lifeMetrics struct {
	provision *prometheus.HistogramVec
	pending   *prometheus.CounterVec
}

func newLifeMetrics() *lifeMetrics {
	labels := []string{"project_name", "run_type"}
	return &lifeMetrics{
		provision: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "dstack_submit_to_provision_duration_seconds",
			Help:    "Time from when a run has been submitted and first job provisioning",
			Buckets: []float64{15, 30, 45, 60, 90, 120, 180, 240, 300, 360, 420, 480, 540, 600, 900, 1200, 1800},
		}, labels),
		pending: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dstack_pending_runs_total",
			Help: "Number of runs that went back to waiting",
		}, labels),
	}
}

// register adds them, and what the process takes, to the metrics of one scrape.
func (m *lifeMetrics) register(reg *prometheus.Registry) error {
	for _, c := range []prometheus.Collector{m.provision, m.pending, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector()} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("collect metrics: %w", err)
		}
	}
	return nil
}

// runMoved counts a run's change of status.
func (s *Server) runMoved(ctx context.Context, r run.Run, from api.RunStatus) {
	labels := func() (project, kind string) {
		return s.projectName(ctx, r.ProjectID), r.Data.Spec.Configuration.Type()
	}
	switch {
	case from == api.RunSubmitted && (r.Status == api.RunProvisioning || r.Status == api.RunRunning):
		s.lives.provision.WithLabelValues(labels()).Observe(time.Since(r.SubmittedAt).Seconds())
	case r.Status == api.RunPending && from != r.Status:
		s.lives.pending.WithLabelValues(labels()).Inc()
	}
}
