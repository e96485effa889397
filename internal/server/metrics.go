package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strconv"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/metrics"
	"dstack/internal/run"
)

// maxSamples bounds the samples of one answer.
const maxSamples = 1000

// metricsParameters are the parameters that [jobMetrics] reads.
func metricsParameters() []parameter {
	text, number, moment := reflect.TypeFor[string](), reflect.TypeFor[uint](), reflect.TypeFor[api.Time]()
	return []parameter{{"run_id", text}, {"replica_num", number}, {"job_num", number}, {"limit", number}, {"after", moment}, {"before", moment}}
}

// jobMetrics reads its question from the address.
func jobMetrics(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	p := params{values: r.URL.Query()}
	q := run.MetricsQuery{
		RunName: r.PathValue("run"), RunID: p.values.Get("run_id"), Replica: p.number("replica_num", 0), Job: p.number("job_num", 0),
		Limit: min(p.number("limit", 1), maxSamples), After: p.time("after"), Before: p.time("before"),
	}
	if len(p.problems) > 0 {
		return &config.Errors{Problems: p.problems}
	}
	out, err := s.runs.JobMetrics(r.Context(), c.Scope, q)
	if err == nil {
		encode(w, http.StatusOK, out)
	}
	return err
}

// params reads parameters of an address and collects what is wrong with them.
type params struct {
	values   url.Values
	problems []config.Problem
}

func (p *params) refuse(name, kind, msg string) {
	p.problems = append(p.problems, config.Problem{Loc: []any{"query", name}, Type: kind, Msg: msg, Input: p.values.Get(name)})
}

func (p *params) number(name string, def int) int {
	if !p.values.Has(name) {
		return def
	}
	n, err := strconv.Atoi(p.values.Get(name))
	switch {
	case err != nil:
		p.refuse(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
	case n < 0:
		p.refuse(name, "greater_than_equal", "Input should be greater than or equal to 0")
	}
	return n
}

func (p *params) time(name string) *api.Time {
	if !p.values.Has(name) {
		return nil
	}
	var at api.Time
	quoted, err := json.Marshal(p.values.Get(name))
	if err == nil {
		err = at.UnmarshalJSON(quoted)
	}
	if err != nil {
		p.refuse(name, "datetime_from_date_parsing", "Input should be a valid datetime")
		return nil
	}
	return &at
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
