package server

import (
	"cmp"
	"context"
	"slices"

	"dstack/internal/exposition"
	"dstack/internal/metrics"
	"dstack/internal/run"
)

// maxGPUText bounds the text of hosts on a page of metrics, in bytes: what 1,300 machines of eight
// GPUs say. In memory it takes some times as much.
const maxGPUText = 128 << 20

// gpuJob is a live job, and what DCGM says of its GPUs.
type gpuJob struct {
	run.Placed
	text metrics.Text
}

// gpuMetrics is what DCGM on hosts says of the GPUs of live jobs, with the labels of the jobs.
func (s *Server) gpuMetrics(ctx context.Context) ([]*exposition.Family, error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	texts, err := s.metrics.Texts(ctx, s.db.Read())
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	var jobs []gpuJob
	err = s.runs.EachPlaced(ctx, func(j run.Placed) error {
		if text, there := texts[j.Job.ID]; there {
			jobs = append(jobs, gpuJob{j, text})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	shown := fitting(jobs, maxGPUText)
	if left := len(jobs) - len(shown); left > 0 {
		s.Log.Warn("there are more metrics of GPUs than a page may have; those of the longest are left out", "jobs", left, "max", maxGPUText)
	}
	return s.gpuPage(shown), nil
}

// fitting are the jobs with the shortest texts that together are not longer than most: a host that
// says too much takes the room of nobody else.
func fitting(jobs []gpuJob, most int64) []gpuJob {
	slices.SortStableFunc(jobs, func(a, b gpuJob) int { return cmp.Compare(a.text.Size, b.text.Size) })
	for i, j := range jobs {
		if most -= j.text.Size; most < 0 {
			return jobs[:i]
		}
	}
	return jobs
}

func (s *Server) gpuPage(jobs []gpuJob) []*exposition.Family {
	var page exposition.Page
	names := jobLabels()
	for _, j := range jobs {
		families, err := j.text.Families()
		if err != nil { // it was read when it came
			s.Log.Warn("the metrics of the GPUs of a job cannot be read", "job", j.Job.ID, "err", err)
			continue
		}
		labels := make([]exposition.Label, len(names))
		for i, value := range jobValues(j.Placed) {
			labels[i] = exposition.Label{Name: names[i], Value: value}
		}
		page.Add(families, labels...)
	}
	return page.Families()
}
