package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/config"
)

// question is asked of both sides.
type question struct {
	name      string
	resources string         // ours, as in YAML
	maxPrice  float64        // 0: any
	spot      *bool          // nil: both
	arguments map[string]any // the original's
}

var questions = []question{
	{"everything", `{"cpu": "1..", "memory": "0.."}`, 0, nil, map[string]any{"min_cpu": 1, "min_gpu_count": 0}},
	{"H100:8", `{"cpu": "1..", "memory": "0..", "gpu": "H100:8"}`, 0, nil, map[string]any{"min_cpu": 1, "gpu_name": []string{"H100"}, "min_gpu_count": 8, "max_gpu_count": 8}},
	{"24GB..80GB:1..4 on demand", `{"cpu": "8..", "memory": "32GB..", "gpu": "24GB..80GB:1..4"}`, 0, new(bool), map[string]any{
		"min_cpu": 8, "min_memory": 32, "min_gpu_count": 1, "max_gpu_count": 4, "min_gpu_memory": 24, "max_gpu_memory": 80, "spot": false,
	}},
	{"2 CPUs below $0.1", `{"cpu": "2..", "memory": "4GB.."}`, 0.1, nil, map[string]any{"min_cpu": 2, "min_memory": 4, "max_price": 0.1, "min_gpu_count": 0}},
}

func measureOurs(files map[string][]byte, repeat int) (*result, error) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	var b pricelist.Builder
	for provider, text := range files {
		if err := b.ReadCSV(bytes.NewReader(text), provider+".csv", "2026-08-03"); err != nil {
			return nil, err
		}
	}
	list := b.List()
	r := &result{Load: time.Since(start).Seconds(), rows: list.Len()}
	b = pricelist.Builder{}
	runtime.GC()
	runtime.ReadMemStats(&after)
	r.Memory = float64(after.HeapAlloc-before.HeapAlloc) / (1 << 20)
	var err error
	if r.compact, err = decodeTime(list); err != nil {
		return nil, err
	}
	for _, q := range questions {
		req := api.Requirements{Spot: q.spot}
		if err := json.Unmarshal([]byte(q.resources), &req.Resources); err != nil {
			return nil, fmt.Errorf("%s: %w", q.name, err)
		}
		if q.maxPrice > 0 {
			req.MaxPrice = &q.maxPrice
		}
		var asked queried
		for range repeat {
			start := time.Now()
			_, asked.Found = list.Search(req, config.ProfileParams{}, 50)
			asked.Seconds = append(asked.Seconds, time.Since(start).Seconds())
		}
		r.Queries = append(r.Queries, asked)
	}
	return r, nil
}

// decodeTime is the median time in seconds to load the list from our own format. Prices are
// rounded for it, as those of the embedded list are.
func decodeTime(list *pricelist.List) (float64, error) {
	var b pricelist.Builder
	for i := range list.Len() {
		row := list.Row(i)
		row.Price = math.Round(row.Price*1e9) / 1e9
		if err := b.Add(row); err != nil {
			return 0, err
		}
	}
	var packed bytes.Buffer
	if err := b.List().Encode(&packed); err != nil {
		return 0, err
	}
	var took []float64
	for range 10 {
		start := time.Now()
		if _, err := pricelist.Decode(bytes.NewReader(packed.Bytes())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start).Seconds())
	}
	return quantile(took, 0.5), nil
}

// quantile is the value below which a share of the values lies.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(share*float64(len(sorted)-1))]
}
