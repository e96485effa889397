package run

import (
	"context"
	"errors"
	"fmt"
	"math"

	"dstack/internal/api"
	"dstack/internal/metrics"
	"dstack/internal/project"
	"dstack/internal/store"
)

// MetricsQuery asks for the samples of a job's latest attempt.
type MetricsQuery struct {
	RunName       string
	RunID         string // "": the run that has the name now
	Replica, Job  int
	Limit         int // samples, newest first
	After, Before *api.Time
}

// JobMetrics returns series of samples, newest first. Processor use is the difference of two
// samples, so a job with a single one has none.
func (s *Service) JobMetrics(ctx context.Context, sc project.Scope, q MetricsQuery) (api.JobMetrics, error) {
	out := api.JobMetrics{Metrics: []api.Metric{}}
	j, err := s.latestJob(ctx, sc.Project.ID, q)
	if err != nil {
		return out, err
	}
	var r metrics.Range
	if q.After != nil {
		r.From = q.After.Time
	}
	if q.Before != nil {
		r.To = q.Before.Time
	}
	points, err := s.Metrics.Points(ctx, s.DB.Read(), j.ID, r, q.Limit+1)
	if err != nil || len(points) < 2 {
		return out, err
	}
	out.Metrics = series(points, j)
	return out, nil
}

func (s *Service) latestJob(ctx context.Context, projectID string, q MetricsQuery) (Job, error) {
	missing := api.NotExists("Found no job with given parameters")
	where, arg := "NOT deleted AND project_id = $1 AND name = $2", q.RunName
	if q.RunID != "" {
		where, arg = "project_id = $1 AND id = $2", q.RunID
	}
	r, err := getRun(ctx, s.DB.Read(), where, projectID, arg)
	if errors.Is(err, store.ErrNotFound) {
		return Job{}, missing
	}
	if err != nil {
		return Job{}, err
	}
	jobs, err := jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return Job{}, err
	}
	found := Job{Attempt: -1}
	for _, j := range jobs[r.ID] {
		if j.Replica == q.Replica && j.Num == q.Job && j.Attempt > found.Attempt {
			found = j
		}
	}
	if found.Attempt < 0 {
		return Job{}, missing
	}
	return found, nil
}

// series turns samples, newest first, into one list of values per metric. The oldest sample
// only serves as what the one before it is compared with.
func series(points []metrics.Point, j Job) []api.Metric {
	shown := points[:len(points)-1]
	times := make([]api.Time, len(shown))
	for i, p := range shown {
		times[i] = api.At(p.At)
	}
	var list []api.Metric
	add := func(name string, value func(i int, p metrics.Point) any) {
		m := api.Metric{Name: name, Timestamps: times, Values: make([]any, len(shown))}
		for i, p := range shown {
			m.Values[i] = value(i, p)
		}
		list = append(list, m)
	}
	add("cpu_usage_percent", func(i int, p metrics.Point) any {
		passed := p.At.Sub(points[i+1].At).Microseconds()
		if passed <= 0 {
			return 0
		}
		return int(math.Round(100 * float64(p.CPUMicros-points[i+1].CPUMicros) / float64(passed)))
	})
	add("memory_usage_bytes", func(_ int, p metrics.Point) any { return p.MemoryBytes })
	add("memory_working_set_bytes", func(_ int, p metrics.Point) any { return p.WorkingSetBytes })
	if o := jobOffer(j); o != nil {
		add("cpus_detected_num", func(int, metrics.Point) any { return o.CPUs })
		add("memory_total_bytes", func(int, metrics.Point) any { return int64(o.MemoryMiB) << 20 })
	}
	gpus := len(shown[0].GPUs)
	for _, p := range shown {
		if len(p.GPUs) != gpus { // the numbers would not mean the same device
			return list
		}
	}
	add("gpus_detected_num", func(int, metrics.Point) any { return gpus })
	if o := jobOffer(j); o != nil && len(o.Gpus) > 0 {
		add("gpu_memory_total_bytes", func(int, metrics.Point) any { return int64(o.Gpus[0].MemoryMiB) << 20 })
	}
	for n := range gpus {
		add(fmt.Sprintf("gpu_memory_usage_bytes_gpu%d", n), func(_ int, p metrics.Point) any { return p.GPUs[n].MemoryBytes })
		add(fmt.Sprintf("gpu_util_percent_gpu%d", n), func(_ int, p metrics.Point) any { return p.GPUs[n].UtilPercent })
	}
	return list
}

// jobOffer is what the job has of its instance, nil before it is placed.
func jobOffer(j Job) *api.Resources {
	switch {
	case j.Data.Runtime != nil && j.Data.Runtime.Offer != nil:
		return &j.Data.Runtime.Offer.Instance.Resources
	case j.Data.Provisioning != nil:
		return &j.Data.Provisioning.InstanceType.Resources
	}
	return nil
}
