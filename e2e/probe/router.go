package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A router stands for SMG or Dynamo: it is told of workers over HTTP, as SMG is, and passes requests
// on to each in its turn. It asks no second worker when one does not answer.
type router struct {
	mu      sync.Mutex
	workers []listed
	last    int // the number of the last worker that was registered
	turn    int
}

// listed is a worker as SMG lists it.
type listed struct {
	ID             string `json:"id"`
	URL            string `json:"url"`
	ConnectionMode string `json:"connection_mode"`
	RuntimeType    string `json:"runtime_type"`
}

func route(addr string) {
	r := &router{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /workers", r.list)
	mux.HandleFunc("POST /workers", r.add)
	mux.HandleFunc("DELETE /workers/{id}", r.remove)
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/v1/", r.pass)
	fmt.Println("serving", addr)
	fmt.Println(http.ListenAndServe(addr, mux))
	os.Exit(1)
}

func (r *router) list(w http.ResponseWriter, _ *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"workers": append([]listed{}, r.workers...)})
}

func (r *router) add(w http.ResponseWriter, req *http.Request) {
	var in struct {
		listed
		WorkerType string `json:"worker_type"`
	}
	if json.NewDecoder(req.Body).Decode(&in) != nil || in.URL == "" || in.WorkerType != "regular" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	in.ID = fmt.Sprint("worker-", r.last)
	r.workers = append(r.workers, in.listed)
	accept(w)
}

func (r *router) remove(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workers = slices.DeleteFunc(r.workers, func(l listed) bool { return l.ID == req.PathValue("id") })
	accept(w)
}

func accept(w http.ResponseWriter) {
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprint(w, `{"status":"accepted"}`)
}

func (r *router) pass(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	if len(r.workers) == 0 {
		r.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.turn++
	to, err := url.Parse(r.workers[r.turn%len(r.workers)].URL)
	r.mu.Unlock()
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	httputil.NewSingleHostReverseProxy(to).ServeHTTP(w, req)
}

// work is a worker behind a router. It answers with its greeting, its job and the router that it was
// told of, and takes some time to be ready, as models do.
func work(addr string) {
	boot, _ := time.ParseDuration(os.Getenv("BOOT"))
	ready := time.Now().Add(boot)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		if time.Now().Before(ready) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /server_info", func(w http.ResponseWriter, _ *http.Request) {
		status := "ready"
		if time.Now().Before(ready) {
			status = "initializing"
		}
		fmt.Fprintf(w, `{"status":%q,"disaggregation_mode":"null"}`, status)
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s %s %s", os.Getenv("GREETING"), os.Getenv("DSTACK_JOB_ID"), cmp.Or(os.Getenv("ROUTER"), "-"))
	})
	fmt.Println("serving", addr)
	fmt.Println(http.ListenAndServe(addr, mux))
	os.Exit(1)
}

// join registers a worker that listens on port with the router that Dynamo's workers are told of.
func join(port string) {
	at := net.JoinHostPort(os.Getenv("DSTACK_ROUTER_INTERNAL_IP"), port)
	for ; ; <-time.After(100 * time.Millisecond) { // the router may still be starting
		c, err := net.Dial("tcp", at)
		if err != nil {
			continue
		}
		own, _, err := net.SplitHostPort(c.LocalAddr().String())
		c.Close()
		if err != nil {
			continue
		}
		body := fmt.Sprintf(`{"url":"http://%s","worker_type":"regular","connection_mode":"http","runtime_type":"sglang"}`, net.JoinHostPort(own, port))
		res, err := http.Post("http://"+at+"/workers", "application/json", strings.NewReader(body))
		if err != nil {
			continue
		}
		res.Body.Close()
		fmt.Println("joined", at, res.StatusCode)
		return
	}
}
