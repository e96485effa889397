package server

import (
	"context"

	"dstack/internal/exposition"
	"dstack/internal/run"
)

// maxGPUSamples bounds what hosts add to a page of metrics: what two thousand machines of eight
// GPUs say.
const maxGPUSamples = 1_000_000

// gpuMetrics is what DCGM on hosts says of the GPUs of live jobs, with the labels of the jobs.
func (s *Server) gpuMetrics(ctx context.Context) ([]*exposition.Family, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	texts, err := s.metrics.Texts(ctx, s.db.Read())
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	page := exposition.Page{Max: maxGPUSamples}
	names := jobLabels()
	err = s.runs.EachPlaced(ctx, func(j run.Placed) error {
		text, there := texts[j.Job.ID]
		if !there {
			return nil
		}
		families, err := text.Families()
		if err != nil { // it was read when it came
			s.Log.Warn("the metrics of the GPUs of a job cannot be read", "job", j.Job.ID, "err", err)
			return nil
		}
		labels := make([]exposition.Label, len(names))
		for i, value := range jobValues(j) {
			labels[i] = exposition.Label{Name: names[i], Value: value}
		}
		page.Add(families, labels...)
		return nil
	})
	if page.Left > 0 {
		s.Log.Warn("there are more metrics of GPUs than a page may have", "samples", page.Left, "max", maxGPUSamples)
	}
	return page.Families(), err
}
