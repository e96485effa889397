// Package router tells an SMG router (formerly SGLang's) which workers there are: it asks the router
// for those that it has, the workers for what they are, and registers and removes the difference.
// Whoever uses it says how routers and workers are reached.
//
// Test it with go test ./internal/router; its routers and workers are HTTP and gRPC servers written
// after their published descriptions.
package router

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	timeout     = 10 * time.Second // of a request
	grpcTimeout = 30 * time.Second
	maxWorkers  = 8192
	maxList     = 2 << 20   // bytes of a list of workers
	maxInfo     = 256 << 10 // bytes of what a worker says of itself
	maxAnswer   = 64 << 10  // bytes of an answer to a change
)

// Dial connects to a router or a worker.
type Dial func(ctx context.Context) (net.Conn, error)

// Worker is a worker as a router knows it. Its JSON is what routers are told.
type Worker struct {
	URL            string  `json:"url"`
	Type           string  `json:"worker_type"` // regular, prefill or decode
	BootstrapPort  *int    `json:"bootstrap_port,omitempty"`
	ConnectionMode string  `json:"connection_mode"` // http or grpc
	RuntimeType    string  `json:"runtime_type"`    // sglang or vllm
	KVConnector    *string `json:"kv_connector,omitempty"`
	KVRole         *string `json:"kv_role,omitempty"`
}

// Listed is a worker that a router has.
type Listed struct {
	ID             string `json:"id"`
	URL            string `json:"url"`
	ConnectionMode string `json:"connection_mode"`
	RuntimeType    string `json:"runtime_type"`
}

// Plan says which workers a router shall be told of and which it shall give up. Those that are
// wanted and listed stay as they are.
func Plan(listed []Listed, wanted []Worker) (add []Worker, remove []Listed) {
	is, want := map[string]bool{}, map[string]bool{}
	for _, w := range wanted {
		want[normal(w.URL)] = true
	}
	for _, l := range listed {
		if is[normal(l.URL)] = true; !want[normal(l.URL)] {
			remove = append(remove, l)
		}
	}
	for _, w := range wanted {
		if !is[normal(w.URL)] {
			add = append(add, w)
		}
	}
	return add, remove
}

func normal(address string) string { return strings.TrimRight(address, "/") }

// Kind is how the workers of a router are spoken to; its zero value is unknown.
type Kind struct{ ConnectionMode, RuntimeType string }

// KindOf is what all workers of a list are, unknown if they differ.
func KindOf(listed []Listed) Kind {
	var k Kind
	for i, l := range listed {
		one := Kind{l.ConnectionMode, l.RuntimeType}
		if i > 0 && one != k {
			return Kind{}
		}
		k = one
	}
	switch k {
	case Kind{"http", "sglang"}, Kind{"grpc", "sglang"}, Kind{"grpc", "vllm"}:
		return k
	}
	return Kind{}
}

// Workers lists the workers of a router.
func Workers(ctx context.Context, to Dial) ([]Listed, error) {
	var list struct {
		Workers []Listed `json:"workers"`
	}
	status, err := call(ctx, to, http.MethodGet, "/workers", nil, maxList, &list)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		return nil, fmt.Errorf("list the workers of a router: %w", err)
	}
	return list.Workers[:min(len(list.Workers), maxWorkers)], nil
}

// Add registers a worker with a router.
func Add(ctx context.Context, to Dial, w Worker) error {
	if err := change(ctx, to, http.MethodPost, "/workers", w); err != nil {
		return fmt.Errorf("register worker %s: %w", w.URL, err)
	}
	return nil
}

// Remove takes a worker from a router.
func Remove(ctx context.Context, to Dial, l Listed) error {
	if err := change(ctx, to, http.MethodDelete, "/workers/"+url.PathEscape(l.ID), nil); err != nil {
		return fmt.Errorf("remove worker %s: %w", l.URL, err)
	}
	return nil
}

func change(ctx context.Context, to Dial, method, path string, in any) error {
	var answer struct{ Status string }
	status, err := call(ctx, to, method, path, in, maxAnswer, &answer)
	if err == nil && (status != http.StatusAccepted || answer.Status != "accepted") {
		err = fmt.Errorf("status %d, %q", status, answer.Status)
	}
	return err
}

// Find asks a worker at address, a host and a port, what it is, in the ways of k or, when that is
// unknown, in all ways. A worker that is not ready is an error.
func Find(ctx context.Context, to Dial, k Kind, address string) (Worker, error) {
	ways := map[Kind]func(context.Context, Dial, string) (Worker, error){
		{"http", "sglang"}: findHTTP, {"grpc", "sglang"}: findSGLang, {"grpc", "vllm"}: findVLLM,
	}
	if find := ways[k]; find != nil {
		return find(ctx, to, address)
	}
	var first error
	for _, k := range []Kind{{"http", "sglang"}, {"grpc", "sglang"}, {"grpc", "vllm"}} {
		w, err := ways[k](ctx, to, address)
		if err == nil {
			return w, nil
		}
		if first == nil {
			first = err
		}
	}
	return Worker{}, first
}

func findHTTP(ctx context.Context, to Dial, address string) (Worker, error) {
	var info struct {
		Status string `json:"status"`
		Mode   string `json:"disaggregation_mode"`
		Port   *int   `json:"disaggregation_bootstrap_port"`
	}
	status, err := call(ctx, to, http.MethodGet, "/server_info", nil, maxInfo, &info)
	switch {
	case err != nil:
		return Worker{}, fmt.Errorf("ask worker %s: %w", address, err)
	case status != http.StatusOK || info.Status != "ready":
		return Worker{}, fmt.Errorf("ask worker %s: status %d, %q", address, status, info.Status)
	}
	return sglangWorker("http", address, info.Mode, info.Port), nil
}

// sglangWorker is a worker that takes part in disaggregated serving, or a regular one.
func sglangWorker(mode, address, role string, port *int) Worker {
	w := Worker{URL: mode + "://" + address, Type: "regular", ConnectionMode: mode, RuntimeType: "sglang"}
	switch role {
	case "prefill":
		w.Type, w.BootstrapPort = role, port
	case "decode":
		w.Type = role
	}
	return w
}

// call sends a request with in as JSON and decodes the answer, of at most limit bytes, into out.
func call(ctx context.Context, to Dial, method, path string, in any, limit int64, out any) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return 0, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return to(ctx) }}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return 0, err
	case int64(len(data)) > limit:
		return 0, fmt.Errorf("the answer is larger than %d bytes", limit)
	case res.StatusCode > 299:
		return res.StatusCode, nil // whatever else it says
	}
	return res.StatusCode, json.Unmarshal(data, out)
}
