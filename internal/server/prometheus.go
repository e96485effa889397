package server

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"dstack/internal/api"
	"dstack/internal/exposition"
	"dstack/internal/instance"
	"dstack/internal/run"
	"dstack/internal/store"
)

// scrapeTimeout bounds the reads of one scrape.
const scrapeTimeout = 20 * time.Second

// prometheusHandler serves the metrics of http-api 11, where the server is told to.
func prometheusHandler(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	if !s.Prometheus {
		return &api.Error{Kind: api.KindNotFound, Msg: "Not found"}
	}
	if s.PrometheusToken != "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		switch {
		case !strings.EqualFold(scheme, "bearer") || token == "":
			return api.Forbidden()
		case token != s.PrometheusToken:
			return &api.Error{Kind: api.KindForbidden, Msg: "Invalid token"}
		}
	}
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(&collector{s, r.Context()}); err != nil {
		return fmt.Errorf("collect metrics: %w", err)
	}
	if err := s.lives.register(reg); err != nil {
		return err
	}
	all := prometheus.Gatherers{reg, prometheus.GathererFunc(func() ([]*exposition.Family, error) { return s.gpuMetrics(r.Context()) })}
	promhttp.HandlerFor(all, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	return nil
}

// collector reads the database at each scrape: what is counted survives restarts.
type collector struct {
	s   *Server
	ctx context.Context
}

// Describe sends nothing: which families there are depends on what exists.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, scrapeTimeout)
	defer cancel()
	for _, part := range []func(context.Context, chan<- prometheus.Metric) error{c.instances, c.runs, c.jobs} {
		if err := part(ctx, out); err != nil {
			out <- prometheus.NewInvalidMetric(prometheus.NewDesc("dstack_error", "", nil, nil), err)
			return
		}
	}
}

// family makes samples of one metric.
func family(out chan<- prometheus.Metric, name, help string, kind prometheus.ValueType, labels []string) func(value float64, values ...string) {
	desc := prometheus.NewDesc(name, help, labels, nil)
	return func(value float64, values ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, value, values...)
	}
}

func (c *collector) instances(ctx context.Context, out chan<- prometheus.Metric) error {
	labels := []string{"dstack_project_name", "dstack_fleet_name", "dstack_fleet_id", "dstack_instance_name", "dstack_instance_id", "dstack_instance_type", "dstack_backend", "dstack_gpu"}
	duration := family(out, "dstack_instance_duration_seconds_total", "Total seconds the instance is running", prometheus.CounterValue, labels)
	price := family(out, "dstack_instance_price_dollars_per_hour", "Instance price, USD/hour", prometheus.GaugeValue, labels)
	gpus := family(out, "dstack_instance_gpu_count", "Instance GPU count", prometheus.GaugeValue, labels)
	list, names, err := c.s.fleets.Running(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		v := instance.View(list[i], names.Projects[list[i].ProjectID], names.Fleets[list[i].FleetID])
		if v.InstanceType == nil {
			continue
		}
		gpu := gpuName(v.InstanceType.Resources)
		values := []string{v.ProjectName, *v.FleetName, *v.FleetID, v.Name, v.ID, v.InstanceType.Name, list[i].Backend, gpu}
		duration(time.Since(list[i].CreatedAt).Seconds(), values...)
		if v.Price != nil {
			price(*v.Price, values...)
		}
		gpus(float64(len(v.InstanceType.Resources.Gpus)), values...)
	}
	return nil
}

func gpuName(r api.Resources) string {
	if len(r.Gpus) == 0 {
		return ""
	}
	return r.Gpus[0].Name
}

func (c *collector) runs(ctx context.Context, out chan<- prometheus.Metric) error {
	labels := []string{"dstack_project_name", "dstack_user_name"}
	total := family(out, "dstack_run_count_total", "Total runs count", prometheus.CounterValue, labels)
	ended := map[string]func(float64, ...string){}
	for status, help := range map[string]string{"terminated": "Terminated runs count", "failed": "Failed runs count", "done": "Done runs count"} {
		ended[status] = family(out, "dstack_run_count_"+status+"_total", help, prometheus.CounterValue, labels)
	}
	type owner struct{ project, user string }
	all := map[owner]map[string]float64{}
	rows, err := c.s.db.Read().QueryContext(ctx, `
SELECT p.name, a.name, r.status, count(*) FROM run r JOIN project p ON p.id = r.project_id JOIN account a ON a.id = r.user_id
GROUP BY p.name, a.name, r.status`) // also of deleted projects: counters do not go back
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var o owner
		var status string
		var n float64
		if err := rows.Scan(&o.project, &o.user, &status, &n); err != nil {
			return err
		}
		if all[o] == nil {
			all[o] = map[string]float64{}
		}
		all[o][status] = n
		return nil
	})
	for o, counts := range all {
		sum := 0.0
		for _, n := range counts {
			sum += n
		}
		total(sum, o.project, o.user)
		for status, add := range ended {
			add(counts[status], o.project, o.user)
		}
	}
	return err
}

// jobLabels are the labels of all that is about a job.
func jobLabels() []string {
	return []string{"dstack_project_name", "dstack_user_name", "dstack_run_name", "dstack_run_id", "dstack_job_name", "dstack_job_id", "dstack_job_num", "dstack_replica_num", "dstack_run_type", "dstack_backend", "dstack_gpu"}
}

// jobValues are those of [jobLabels], in their order.
func jobValues(j run.Placed) []string {
	return []string{j.Project, j.User, j.Run, j.RunID, j.Job.Data.Spec.JobName, j.Job.ID, strconv.Itoa(j.Job.Num), strconv.Itoa(j.Job.Replica), j.Type,
		string(j.Job.Data.Provisioning.Backend), gpuName(j.Resources)}
}

func (c *collector) jobs(ctx context.Context, out chan<- prometheus.Metric) error {
	gauge := func(name, help string, more ...string) func(float64, ...string) {
		return family(out, name, help, prometheus.GaugeValue, append(jobLabels(), more...))
	}
	duration := family(out, "dstack_job_duration_seconds_total", "Total seconds the job is running", prometheus.CounterValue, jobLabels())
	processor := family(out, "dstack_job_cpu_time_seconds_total", "Total CPU time consumed by the job, seconds", prometheus.CounterValue, jobLabels())
	price := gauge("dstack_job_price_dollars_per_hour", "Job instance price, USD/hour")
	gpus := gauge("dstack_job_gpu_count", "Job GPU count")
	cpus := gauge("dstack_job_cpu_count", "Job CPU count")
	memory := gauge("dstack_job_memory_total_bytes", "Total memory allocated for the job, bytes")
	usage := gauge("dstack_job_memory_usage_bytes", "Memory used by the job (including cache), bytes")
	working := gauge("dstack_job_memory_working_set_bytes", "Memory used by the job (not including cache), bytes")
	gpuUse := gauge("dstack_job_gpu_usage_ratio", "Job GPU usage, percent (as 0.0-1.0)", "dstack_gpu_num")
	gpuTotal := gauge("dstack_job_gpu_memory_total_bytes", "Total GPU memory allocated for the job, bytes", "dstack_gpu_num")
	gpuMemory := gauge("dstack_job_gpu_memory_usage_bytes", "GPU memory used by the job, bytes", "dstack_gpu_num")
	return c.s.runs.EachPlaced(ctx, func(j run.Placed) error {
		values := jobValues(j)
		duration(time.Since(j.Job.SubmittedAt).Seconds(), values...)
		price(j.Job.Data.Provisioning.Price, values...)
		gpus(float64(len(j.Resources.Gpus)), values...)
		cpus(float64(j.Resources.CPUs), values...)
		memory(float64(j.Resources.MemoryMiB)*(1<<20), values...)
		for n, g := range j.Resources.Gpus {
			gpuTotal(float64(g.MemoryMiB)*(1<<20), append(slices.Clone(values), strconv.Itoa(n))...)
		}
		if p := j.Latest; p != nil {
			processor(float64(p.CPUMicros)/1e6, values...)
			usage(float64(p.MemoryBytes), values...)
			working(float64(p.WorkingSetBytes), values...)
			for n, g := range p.GPUs {
				one := append(slices.Clone(values), strconv.Itoa(n))
				gpuUse(float64(g.UtilPercent)/100, one...)
				gpuMemory(float64(g.MemoryBytes), one...)
			}
		}
		return nil
	})
}
