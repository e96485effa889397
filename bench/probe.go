package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// probes are requests as clients send them, most often sent ones first.
var probes = []struct {
	name, path string
	body       any
}{
	{"runs/list", "/api/runs/list", map[string]any{"project_name": "main", "only_active": true, "job_submissions_limit": 1, "limit": 100}},
	{"runs/list, all", "/api/runs/list", map[string]any{"project_name": "main", "job_submissions_limit": 1, "limit": 20}},
	{"runs/get_plan", "/api/project/main/runs/get_plan", map[string]any{"max_offers": 3, "run_spec": map[string]any{
		"configuration": map[string]any{"type": "task", "commands": []string{"true"}, "image": "job:1"}, "profile": map[string]any{"name": "default"}}}},
	{"fleets/list", "/api/fleets/list", map[string]any{"project_name": "main", "only_active": true, "limit": 1}},
	{"instances/list", "/api/instances/list", map[string]any{"project_names": []string{"main"}, "only_active": true, "limit": 100}},
	{"events/list", "/api/events/list", map[string]any{"limit": 100}},
	{"projects/list", "/api/projects/list", map[string]any{}},
	{"server/get_info", "/api/server/get_info", map[string]any{}},
}

// probeAll sends each request n times, two at a time, and adds how long they took.
func probeAll(ctx context.Context, w *world, r *report, when string, n int) error {
	for _, p := range probes {
		body, err := json.Marshal(p.body)
		if err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		took := make([]float64, n)
		err = inParallel(ctx, 2, n, func(i int) error {
			begin := time.Now()
			if err := w.post(ctx, p.path, body); err != nil {
				return err
			}
			took[i] = time.Since(begin).Seconds()
			return nil
		})
		if err != nil {
			return err
		}
		r.latency(p.name+when, took)
	}
	return nil
}

// post sends a request and reads the answer without looking at it.
func (w *world) post(ctx context.Context, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url()+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", path, resp.StatusCode, text[:min(len(text), 500)])
	}
	return nil
}

// inParallel calls f with 0 to n-1, some at a time, until one fails.
func inParallel(ctx context.Context, width, n int, f func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(width)
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return f(i)
		})
	}
	return g.Wait()
}

// profile has the server write profiles into a folder.
func (w *world) profile(dir string) error {
	w.profiles = dir
	return os.MkdirAll(dir, 0o755)
}

// cpuProfile records one while something is measured; the channel is closed when it is written.
func (w *world) cpuProfile(ctx context.Context, name string, d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	if w.profiles == "" {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		w.save(ctx, fmt.Sprintf("profile?seconds=%d", int(d.Seconds())), name+".cpu")
	}()
	return done
}

func (w *world) heapProfile(ctx context.Context, name string) {
	if w.profiles != "" {
		w.save(ctx, "heap?gc=1", name+".heap")
		w.save(ctx, "goroutine", name+".goroutine")
	}
}

func (w *world) save(ctx context.Context, path, name string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+profileAddr+"/debug/pprof/"+path, nil)
	if err != nil {
		say("profile: %v", err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		say("profile: %v", err)
		return
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = os.WriteFile(filepath.Join(w.profiles, name), data, 0o644)
	}
	if err != nil {
		say("profile: %v", err)
	}
}
