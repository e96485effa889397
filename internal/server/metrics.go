package server

import (
	"net/http"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/metrics"
	"dstack/internal/run"
)

// maxSamples bounds the samples of one answer.
const maxSamples = 1000

// metricsQuery is what the address asks of a job's metrics.
type metricsQuery struct {
	RunID   string    `json:"run_id" cfg:"uuid"`
	Replica int       `json:"replica_num"`
	Job     int       `json:"job_num"`
	Limit   int       `json:"limit" cfg:"min=0"`
	After   *api.Time `json:"after"`
	Before  *api.Time `json:"before"`
}

// jobMetrics reads its question from the address.
func jobMetrics(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	q := metricsQuery{Limit: 1}
	if err := config.DecodeQuery(r.URL.Query(), &q); err != nil {
		return err
	}
	out, err := s.runs.JobMetrics(r.Context(), c.Scope, run.MetricsQuery{
		RunName: r.PathValue("run"), RunID: q.RunID, Replica: q.Replica, Job: q.Job,
		Limit: min(q.Limit, maxSamples), After: q.After, Before: q.Before,
	})
	if err == nil {
		encode(w, http.StatusOK, out)
	}
	return err
}

// span is the time between two moments, nil meaning open.
func span(after, before *api.Time) metrics.Range {
	var r metrics.Range
	if after != nil {
		r.From = after.Time
	}
	if before != nil {
		r.To = before.Time
	}
	return r
}
