package run

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/jobspec/jobspectest"
)

const smgService = `
type: service
name: svc
port: 80
groups:
  - {name: workers, replicas: 3, commands: [work]}
  - {name: front, replicas: 1, commands: [route], router: {type: sglang}}
`

// running is a replica that takes requests on its host's network.
func running(id, group string, replica int, ip string) Job {
	j := member(group, replica, 0, api.JobRunning, ip)
	j.ID, j.Data.Ready = id, true
	j.Data.Spec.ServicePort = ptr(80)
	j.Data.Runtime = &api.JobRuntimeData{NetworkMode: api.NetworkHost, Ports: map[int]int{}}
	return j
}

func smgRun(t *testing.T) Run {
	t.Helper()
	spec, err := jobspectest.Parse(smgService)
	if err != nil {
		t.Fatal(err)
	}
	return Run{ID: "r", Name: "svc", Status: api.RunRunning, Data: Data{Spec: spec}}
}

func TestRouted(t *testing.T) {
	r := smgRun(t)
	starting := running("c", "workers", 3, "10.0.0.4")
	starting.Data.Ready = false
	outside := running("b", "workers", 2, "")
	outside.Data.Provisioning = &api.JobProvisioningData{Hostname: ptr("2001:db8::1")}
	jobs := []Job{running("r", "front", 0, "10.0.0.1"), running("a", "workers", 1, "10.0.0.2"), outside, starting}
	at, workers := routed(r, jobs)
	var got []string
	for _, w := range workers {
		got = append(got, w.JobID+" "+w.address)
	}
	if at == nil || at.JobID != "r" || !cmp.Equal(got, []string{"a 10.0.0.2:80", "b [2001:db8::1]:80"}) {
		t.Errorf("router %v, workers %q", at, got)
	}
	// Requests go to the router alone.
	if list := replicasFor(r.Data.Spec.Configuration.Service, jobs); len(list) != 1 || list[0].JobID != "r" {
		t.Errorf("requests go to %v", list)
	}
	if at, _ := routed(r, jobs[1:]); at != nil {
		t.Errorf("a worker is the router: %v", at)
	}
	ended := r
	ended.Status = api.RunTerminating
	if !tellsRouter(r) || tellsRouter(ended) || tellsRouter(Run{Status: api.RunRunning}) {
		t.Error("the router of a running service is told")
	}
}

// A router gets the workers that are ready, and gives up those that are not there any more.
func TestSyncRouter(t *testing.T) {
	r := smgRun(t)
	workers := map[string]string{} // their addresses, by id
	var calls []string
	added := 0
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet {
			list := []map[string]string{}
			for id, url := range workers {
				list = append(list, map[string]string{"id": id, "url": url, "connection_mode": "http", "runtime_type": "sglang"})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"workers": list})
			return
		}
		var in struct{ URL string }
		_ = json.NewDecoder(req.Body).Decode(&in)
		calls = append(calls, req.Method+" "+req.URL.Path+" "+in.URL)
		if id := strings.TrimPrefix(req.URL.Path, "/workers/"); req.Method == http.MethodDelete {
			delete(workers, id)
		} else {
			added++
			workers[fmt.Sprintf("id-%d", added)] = in.URL
		}
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"status":"accepted"}`)
	}))
	t.Cleanup(front.Close)
	state := map[string]string{"a": "ready", "b": "loading"}
	addrs := map[string]string{"r": front.Listener.Addr().String()}
	for id := range state {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"status":%q}`, state[id]) }))
		t.Cleanup(srv.Close)
		addrs[id] = srv.Listener.Addr().String()
	}
	s := &Service{Config: Config{Log: slog.New(slog.DiscardHandler), Connect: func(ctx context.Context, to Endpoint) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addrs[to.JobID])
	}}}
	jobs := []Job{running("r", "front", 0, "10.0.0.1"), running("a", "workers", 1, "10.0.0.2"), running("b", "workers", 2, "10.0.0.3")}
	sync := func(want ...string) {
		t.Helper()
		calls = nil
		at, workers := routed(r, jobs)
		s.syncRouter(t.Context(), r, *at, workers)
		if diff := cmp.Diff(want, calls); diff != "" {
			t.Errorf("the router was told (-want +got):\n%s", diff)
		}
	}
	sync("POST /workers http://10.0.0.2:80")
	sync() // nothing is new
	state["b"] = "ready"
	sync("POST /workers http://10.0.0.3:80")
	jobs = append(jobs[:1], jobs[2])
	sync("DELETE /workers/id-1 ")
	state["b"] = "loading"
	jobs = append(jobs, running("a", "workers", 3, "10.0.0.4"))
	sync("POST /workers http://10.0.0.4:80", "DELETE /workers/id-2 ")
}
