//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestServices publishes services through the server: replicas in containers that share their
// host's network, and in some that have one of their own.
func TestServices(t *testing.T) {
	w := prepareWorld(t)
	w.extra = append(w.extra, "DSTACK_ENDPOINT_HUGGINGFACE="+modelHub(t))
	w.startServer()
	w.login()
	whole, shared := w.serviceHosts()
	for _, c := range []struct {
		name string
		test func(*testing.T, *world, ...*machine)
	}{
		{"Requests", serviceRequests},
		{"LossAndRollout", serviceLossAndRollout},
		{"Scaling", serviceScaling},
		{"TextGeneration", serviceTextGeneration},
	} {
		t.Run(c.name, func(t *testing.T) {
			outer := w.t
			w.t, whole.t, shared.t = t, t, t
			defer func() { w.t, whole.t, shared.t = outer, outer, outer }()
			c.test(t, w, whole, shared)
			eventually(t, 60*time.Second, "no job container is left", func() bool { return len(whole.containers())+len(shared.containers()) == 0 })
		})
	}
}

// TestServicesThroughReplicas asks services through each of two servers, of which one alone follows
// a host.
func TestServicesThroughReplicas(t *testing.T) {
	a, b, _ := newReplicas(t)
	a.serviceHosts()
	a.must("apply", "-y", "-d", "-f", a.service("svc", "replicas: 3\n"))
	through := a.answering("svc", 3)
	for id := range b.answering("svc", 3) {
		if !through[id] {
			t.Errorf("the second server asks %s, which the first does not know", id)
		}
	}
	b.must("stop", "-y", "svc")
	for _, w := range []*world{a, b} {
		eventually(t, 10*time.Second, "the service is gone", func() bool {
			status, _, err := w.get("/proxy/services/main/svc/")
			return err == nil && status == http.StatusNotFound
		})
	}
	a.waitStatus("svc", "terminated")

	// Whichever server looks after the run, requests through both wake it up.
	for _, w := range []*world{a, b} {
		w.must("apply", "-y", "-d", "-f", w.service("sleepy", "replicas: 0..1\nscaling:\n  metric: rps\n  target: 100\n"))
		w.waitStatus("sleepy", "pending")
		if status, body, err := w.get("/proxy/services/main/sleepy/"); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("asked while it sleeps: %d %s %v", status, body, err)
		}
		w.answering("sleepy", 1)
		w.must("stop", "-x", "-y", "sleepy")
		w.waitStatus("sleepy", "terminated")
	}
}

// serviceHosts starts a fleet of a host that has one job at a time, in its own network, and one
// that has up to two, each with a network of its own.
func (w *world) serviceHosts() (whole, shared *machine) {
	w.t.Helper()
	whole, shared = w.startHost(hostOptions{}), w.startHost(hostOptions{})
	w.must("apply", "-y", "-f", w.write("boxes.fleet.dstack.yml", fmt.Sprintf(
		"type: fleet\nname: boxes\nssh_config:\n  user: root\n  identity_file: %s\n  hosts:\n    - hostname: %s\n    - hostname: %s\n      blocks: 2\n", w.key, whole.Addr, shared.Addr)))
	eventually(w.t, 60*time.Second, "the hosts are idle", func() bool {
		out := w.run("fleet").Out
		return strings.Contains(out, "idle") && strings.Contains(out, "0/2 busy")
	})
	return whole, shared
}

// service writes the configuration of a service of the probe.
func (w *world) service(name, more string) string {
	return w.write(name+".dstack.yml", "type: service\nname: "+name+"\nimage: static:1\nentrypoint: /probe web=:8000\nport: 8000\n"+more+anyResources)
}

// get asks a service as the administrator and returns the status and the body.
func (w *world) get(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url()+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, string(data), err
}

// chat asks a model of the project as the administrator and returns the status and the body.
func (w *world) chat(body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url()+"/proxy/models/main/chat/completions", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// answering waits until so many replicas of a service answer, and returns their jobs.
func (w *world) answering(name string, n int) map[string]bool {
	w.t.Helper()
	var jobs map[string]bool
	eventually(w.t, 60*time.Second, fmt.Sprintf("%d replicas of %s answer", n, name), func() bool {
		jobs = map[string]bool{}
		for range 2 * n {
			status, body, err := w.get("/proxy/services/main/" + name + "/")
			fields := strings.Fields(body)
			if err != nil || status != http.StatusOK || len(fields) < 2 {
				return false
			}
			jobs[fields[len(fields)-2]] = true
		}
		return len(jobs) == n
	})
	return jobs
}

func serviceRequests(t *testing.T, w *world, hosts ...*machine) {
	path := w.service("svc", "replicas: 3\nmodel: parrot\nprobes:\n  - type: http\n    url: /health\n    interval: 1s\nenv:\n  - GREETING=hello\n")
	p := w.start("apply", "-y", "-f", path)
	p.waitFor("Service is published at:")
	p.waitFor(w.url() + "/proxy/services/main/svc/")
	p.waitFor("Model parrot is published at:")
	w.answering("svc", 3)
	if ps := w.must("ps", "-v").Out; strings.Count(ps, "✓") != 3 || !strings.Contains(ps, "group=0 replica=0") {
		t.Errorf("ps does not show three replicas that are well:\n%s", ps)
	}

	for _, token := range []string{"", "wrong"} {
		for _, path := range []string{"/proxy/services/main/svc/", "/proxy/models/main/models"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusForbidden || string(data) != `{"detail":"Unauthenticated or unauthorized to access project main"}` {
				t.Errorf("%s with the token %q: %d %s %v", path, token, res.StatusCode, data, err)
			}
		}
	}

	if status, body, err := w.get("/proxy/services/main/svc/events"); err != nil || status != http.StatusOK || body != "data: 0\n\ndata: 1\n\ndata: 2\n\n" {
		t.Errorf("a stream: %d %q %v", status, body, err)
	}
	url := "ws" + strings.TrimPrefix(w.url(), "http") + "/proxy/services/main/svc/echo"
	for range 3 { // each replica in its turn
		c, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + w.token}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageText, []byte("to and fro")); err != nil {
			t.Fatal(err)
		}
		if _, data, err := c.Read(t.Context()); err != nil || string(data) != "to and fro" {
			t.Errorf("a websocket: %q %v", data, err)
		}
		c.CloseNow()
	}
	if status, body, err := w.get("/proxy/models/main/models"); err != nil || status != http.StatusOK || !strings.Contains(body, `"id":"parrot"`) {
		t.Errorf("the models: %d %s %v", status, body, err)
	}
	if status, answer := w.chat(`{"model":"parrot","messages":[{"role":"user","content":"hello"}]}`); status != http.StatusOK || !strings.Contains(answer, `"content":"hello"`) {
		t.Errorf("the model: %d %s", status, answer)
	}

	w.must("stop", "-y", "svc")
	p.wait()
	if status, body, err := w.get("/proxy/services/main/svc/"); err != nil || status != http.StatusNotFound || body != `{"detail":"Service main/svc not found"}` {
		t.Errorf("a service that was stopped: %d %s %v", status, body, err)
	}
}

// caller asks a service without a pause, several at a time.
type caller struct {
	mu       sync.Mutex
	asked    int
	failures []string
	stop     context.CancelFunc
	done     sync.WaitGroup
}

func (w *world) keepAsking(path string) *caller {
	ctx, stop := context.WithCancel(w.t.Context())
	c := &caller{stop: stop}
	for range 4 {
		c.done.Go(func() {
			for ctx.Err() == nil {
				status, body, err := w.get(path)
				c.mu.Lock()
				if c.asked++; err != nil || status != http.StatusOK {
					c.failures = append(c.failures, fmt.Sprintf("%s: %d %s %v", time.Now().Format("15:04:05.000"), status, body, err))
				}
				c.mu.Unlock()
				<-time.After(10 * time.Millisecond)
			}
		})
	}
	return c
}

// end stops asking and returns what went wrong.
func (c *caller) end() (asked int, failures []string) {
	c.stop()
	c.done.Wait()
	return c.asked, c.failures
}

func serviceLossAndRollout(t *testing.T, w *world, hosts ...*machine) {
	config := func(greeting string) string {
		return w.service("svc", "replicas: 2\nretry: true\nauth: false\nenv:\n  - BOOT=2s\n  - GREETING="+greeting+"\n")
	}
	w.must("apply", "-y", "-d", "-f", config("one"))
	before := w.answering("svc", 2)

	// One is killed: from when that is noticed on, the other answers alone, then a new one too.
	for _, m := range hosts {
		if list := m.containers(); len(list) > 0 {
			if err := m.run("docker", "kill", list[0]); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	eventually(t, 10*time.Second, "the loss is noticed", func() bool {
		status, _, err := w.get("/proxy/services/main/svc/")
		return err == nil && status == http.StatusOK && len(w.answeringNow("svc")) == 1
	})
	c := w.keepAsking("/proxy/services/main/svc/?takes=50ms")
	after := w.answering("svc", 2)
	fresh := 0
	for id := range after {
		if !before[id] {
			fresh++
		}
	}
	if asked, failures := c.end(); fresh != 1 || len(failures) > 0 {
		t.Errorf("after a loss %d new replicas; of %d requests failed %d:\n%s", fresh, asked, len(failures), strings.Join(failures, "\n"))
	}

	// A change reaches the replicas one by one, and nobody notices but by the answers.
	c = w.keepAsking("/proxy/services/main/svc/?takes=50ms")
	r := w.must("apply", "-y", "-d", "-f", config("two"))
	if !strings.Contains(r.both(), "updated in-place") {
		t.Errorf("apply does not say that the service is changed in place:\n%s", r.both())
	}
	eventually(t, 90*time.Second, "all replicas are new", func() bool {
		for range 6 {
			if _, body, _ := w.get("/proxy/services/main/svc/"); !strings.HasPrefix(body, "two ") {
				return false
			}
		}
		return len(w.answeringNow("svc")) == 2 && !strings.Contains(w.run("ps").Out, "deployment=0")
	})
	if asked, failures := c.end(); len(failures) > 0 {
		t.Errorf("of %d requests during the rollout failed %d:\n%s", asked, len(failures), strings.Join(failures[:min(5, len(failures))], "\n"))
	}
	w.must("stop", "-x", "-y", "svc")
}

// answeringNow are the jobs that answer a few requests.
func (w *world) answeringNow(name string) map[string]bool {
	jobs := map[string]bool{}
	for range 6 {
		if status, body, err := w.get("/proxy/services/main/" + name + "/"); err == nil && status == http.StatusOK {
			fields := strings.Fields(body)
			jobs[fields[len(fields)-2]] = true
		}
	}
	return jobs
}

func serviceScaling(t *testing.T, w *world, _ ...*machine) {
	w.must("apply", "-y", "-d", "-f", w.service("sleepy", "replicas: 0..2\nscaling:\n  metric: rps\n  target: 100\n  window: 30s\n  scale_up_delay: 0\n  scale_down_delay: 0\n"))
	w.waitStatus("sleepy", "pending")
	if status, body, err := w.get("/proxy/services/main/sleepy/"); err != nil || status != http.StatusServiceUnavailable || !strings.Contains(body, "no replicas") {
		t.Errorf("asked while it sleeps: %d %s %v", status, body, err)
	}
	w.answering("sleepy", 1)
	w.waitStatus("sleepy", "pending") // nobody asks any more
	w.must("stop", "-y", "sleepy")
	w.waitStatus("sleepy", "terminated")
}
