//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRouters runs services whose requests go to a router, which knows the workers that there are: of
// SMG because the server tells it, of Dynamo because its workers do.
func TestRouters(t *testing.T) {
	w := newWorld(t)
	image := probeImage(t)
	var hosts []*machine
	for range 3 {
		m := w.startHost(hostOptions{NoImages: true})
		m.load(image, "probe:1")
		hosts = append(hosts, m)
	}
	w.fleet("rack", hosts...)
	t.Run("SMG", func(t *testing.T) { routerOfSMG(t, w) })
	t.Run("Dynamo", func(t *testing.T) { routerOfDynamo(t, w) })
}

// routed writes the configuration of a service with a router and workers.
func (w *world) routed(name, router string, workers int, command string) string {
	return w.write(name+".dstack.yml", fmt.Sprintf(`type: service
name: %s
image: probe:1
port: 8000
probes:
  - type: http
    url: /health
    interval: 1s
groups:
  - name: front
    replicas: 1
    router: {type: %s}
    commands: ["/probe router=:8000"]
    resources: &small {cpu: 1.., memory: 0.., disk: 1GB..}
  - name: workers
    replicas: %d
    commands:
      - %s
    resources: *small
`, name, router, workers, command))
}

// replica is one that runs.
type replica struct{ group, host, job string }

// replicas are the running ones of a service.
func (w *world) replicas(name string) []replica {
	w.t.Helper()
	var r struct {
		Jobs []struct {
			Spec struct {
				Group string `json:"replica_group"`
			} `json:"job_spec"`
			Submissions []struct {
				ID           string
				Status       string
				Provisioning *struct{ Hostname string } `json:"job_provisioning_data"`
			} `json:"job_submissions"`
		}
	}
	if status := w.api("/api/project/main/runs/get", map[string]any{"run_name": name}, &r); status != http.StatusOK {
		w.t.Fatalf("the run %s: %d", name, status)
	}
	var list []replica
	for _, j := range r.Jobs {
		if last := j.Submissions[len(j.Submissions)-1]; last.Status == "running" {
			list = append(list, replica{j.Spec.Group, last.Provisioning.Hostname, last.ID})
		}
	}
	return list
}

// known are the workers that the router at a host knows.
func known(t *testing.T, host string) []string {
	t.Helper()
	res, err := http.Get("http://" + host + ":8000/workers")
	if err != nil {
		return nil // it is starting
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Workers []struct{ URL string } }
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	urls := []string{}
	for _, one := range list.Workers {
		urls = append(urls, one.URL)
	}
	slices.Sort(urls)
	return urls
}

// settled waits until a service has so many workers, its router knows these and no others, and each
// answers through it with the greeting and the router's address. It returns the router.
func (w *world) settled(name string, n int, greeting string) replica {
	w.t.Helper()
	var front replica
	eventually(w.t, 60*time.Second, fmt.Sprintf("%s has %d workers that say %s", name, n, greeting), func() bool {
		urls, jobs, through := []string{}, map[string]bool{}, map[string]bool{}
		for _, r := range w.replicas(name) {
			if r.group == "front" {
				front = r
				continue
			}
			urls = append(urls, "http://"+r.host+":8000")
			jobs[r.job] = true
		}
		slices.Sort(urls)
		if len(urls) != n || front.job == "" || !slices.Equal(urls, known(w.t, front.host)) {
			return false
		}
		for range 2 * n {
			status, body, err := w.get("/proxy/services/main/" + name + "/v1/hello")
			fields := strings.Fields(body)
			if err != nil || status != http.StatusOK || len(fields) != 3 || fields[0] != greeting || fields[2] != front.host {
				return false
			}
			through[fields[1]] = true
		}
		return maps.Equal(jobs, through)
	})
	return front
}

// routerOfSMG scales and changes a service, whose router then knows the workers that there are, and
// fails no request meanwhile.
func routerOfSMG(t *testing.T, w *world) {
	outer := w.t
	w.t = t
	defer func() { w.t = outer }()
	config := func(workers int, greeting string) string {
		return w.routed("smg", "sglang", workers, "BOOT=2s GREETING="+greeting+" ROUTER=${{ groups[0].replicas[0].IP_ADDRESS }} /probe worker=:8000")
	}
	w.must("apply", "-y", "-d", "-f", config(1, "one"))
	front := w.settled("smg", 1, "one")
	if status, body, err := w.get("/proxy/services/main/smg/workers"); err != nil || status != http.StatusForbidden || body != `{"detail":"Path is not allowed for this service"}` {
		t.Errorf("the router's own API: %d %s %v", status, body, err)
	}
	c := w.keepAsking("/proxy/services/main/smg/v1/hello")
	for _, step := range []struct {
		workers  int
		greeting string
	}{{2, "one"}, {1, "one"}, {1, "two"}} {
		if r := w.must("apply", "-y", "-d", "-f", config(step.workers, step.greeting)); !strings.Contains(r.both(), "updated in-place") {
			t.Errorf("apply does not say that the service is changed in place:\n%s", r.both())
		}
		if at := w.settled("smg", step.workers, step.greeting); at != front {
			t.Errorf("the router was replaced: %v, then %v", front, at)
		}
	}
	if asked, failures := c.end(); len(failures) > 0 {
		t.Errorf("of %d requests failed %d:\n%s", asked, len(failures), strings.Join(failures[:min(5, len(failures))], "\n"))
	}
	w.must("stop", "-x", "-y", "smg")
	w.waitStatus("smg", "terminated")
}

// routerOfDynamo starts workers that find their router themselves.
func routerOfDynamo(t *testing.T, w *world) {
	outer := w.t
	w.t = t
	defer func() { w.t = outer }()
	w.must("apply", "-y", "-d", "-f", w.routed("dyn", "dynamo", 2, "GREETING=hi ROUTER=$DSTACK_ROUTER_INTERNAL_IP /probe join=8000 worker=:8000"))
	w.settled("dyn", 2, "hi")
	w.must("stop", "-x", "-y", "dyn")
	w.waitStatus("dyn", "terminated")
}
