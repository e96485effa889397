//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dstack/internal/backend/backendtest/openapi"
)

// cloud is an account of Lambda's, as far as the server calls it, whose machines are containers
// with sshd and Docker, and without an agent, as theirs are. The exchanges are held to Lambda's
// description of its API.
type cloud struct {
	w *world
	// prepare is called with a machine that has just booted; optional.
	prepare func(m *machine)

	booting  sync.WaitGroup
	mu       sync.Mutex
	keys     []map[string]any
	machines map[string]*rented
	added    int // keys
	launches int
	held     map[string]*held
}

// held is a kind of request whose answers wait.
type held struct {
	done chan struct{} // holds a token when one was done
	gate chan struct{} // closed when the answers may go
}

// rented is a machine of the account.
type rented struct {
	doc  map[string]any
	host *machine // nil while it boots
}

func newCloud(t *testing.T, w *world) *cloud {
	t.Helper()
	c := &cloud{w: w, keys: []map[string]any{{"id": fmt.Sprintf("%032x", 1), "name": "users-own", "public_key": w.publicKey}}, machines: map[string]*rented{}, held: map[string]*held{}}
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (int, any){
		"GET /api/v1/instance-types": func(*http.Request) (int, any) {
			return 200, map[string]any{"gpu_1x_a10": map[string]any{"instance_type": lambdaType, "regions_with_capacity_available": []any{lambdaRegion}}}
		},
		"GET /api/v1/regions":                        func(*http.Request) (int, any) { return 200, []any{lambdaRegion} },
		"GET /api/v1/instances":                      c.list,
		"GET /api/v1/instances/{id}":                 c.get,
		"POST /api/v1/instance-operations/launch":    c.launch,
		"POST /api/v1/instance-operations/terminate": c.terminate,
		"GET /api/v1/ssh-keys":                       func(*http.Request) (int, any) { return 200, c.keys },
		"POST /api/v1/ssh-keys":                      c.addKey,
		"DELETE /api/v1/ssh-keys/{id}":               c.deleteKey,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			status, body, h := c.do(pattern, f, r)
			if h != nil {
				h.wait(r)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write(body) // the server may be gone
		})
	}
	srv := httptest.NewServer(openapi.Load(t, "../internal/backend/lambda/testdata/openapi.json.gz").Check(t, mux))
	t.Cleanup(func() {
		srv.Close()
		c.booting.Wait()
	})
	w.extra = append(w.extra, "DSTACK_ENDPOINT_LAMBDA="+srv.URL)
	w.write("server/config.yml", "projects:\n  - name: main\n    backends:\n      - type: lambda\n        creds: {type: api_key, api_key: secret_e2e_0123456789}\n")
	return c
}

// do does what is asked for, and returns the answer and what it has to wait for.
func (c *cloud) do(pattern string, f func(*http.Request) (int, any), r *http.Request) (status int, answer []byte, h *held) {
	c.mu.Lock()
	defer c.mu.Unlock()
	status, body := f(r)
	if status == 200 {
		body = map[string]any{"data": body}
	}
	answer, err := json.Marshal(body)
	if err != nil {
		c.w.t.Error(err)
	}
	return status, answer, c.held[pattern]
}

// hold lets the answers to a kind of request wait until the gate is open. What is asked for is
// done at once.
func (c *cloud) hold(pattern string) *held {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &held{done: make(chan struct{}, 1), gate: make(chan struct{})}
	c.held[pattern] = h
	return h
}

func (h *held) wait(r *http.Request) {
	select {
	case <-h.gate:
		return
	default:
	}
	select {
	case h.done <- struct{}{}:
	default:
	}
	select {
	case <-h.gate:
	case <-r.Context().Done():
	}
}

// waitDone waits until something was done whose answer waits.
func (h *held) waitDone(t *testing.T, what string) {
	t.Helper()
	select {
	case <-h.done:
	case <-time.After(time.Minute):
		t.Fatalf("not within a minute: %s", what)
	}
}

func (h *held) open() { close(h.gate) }

var (
	lambdaRegion = map[string]any{"name": "us-west-1", "description": "Somewhere"}
	lambdaType   = map[string]any{
		"name": "gpu_1x_a10", "description": "1x A10 (24 GB PCIe)", "gpu_description": "A10 (24 GB PCIe)", "price_cents_per_hour": 75,
		"specs": map[string]any{"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1},
	}
)

func (c *cloud) list(*http.Request) (int, any) {
	all := []any{}
	for _, m := range c.machines {
		all = append(all, m.doc)
	}
	return 200, all
}

func absent() (int, any) {
	return 404, map[string]any{"error": map[string]any{"code": "global/object-does-not-exist", "message": "Specified instance does not exist.", "suggestion": ""}}
}

func (c *cloud) get(r *http.Request) (int, any) {
	if m := c.machines[r.PathValue("id")]; m != nil {
		return 200, m.doc
	}
	return absent()
}

func (c *cloud) addKey(r *http.Request) (int, any) {
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		c.w.t.Error(err)
	}
	c.added++
	key := map[string]any{"id": fmt.Sprintf("%032x", 1+c.added), "name": in["name"], "public_key": in["public_key"]}
	c.keys = append(c.keys, key)
	return 200, key
}

func (c *cloud) deleteKey(r *http.Request) (int, any) {
	at := slices.IndexFunc(c.keys, func(k map[string]any) bool { return k["id"] == r.PathValue("id") })
	if at < 0 {
		return absent()
	}
	c.keys = slices.Delete(c.keys, at, at+1)
	return 200, map[string]any{}
}

// onlyUsersKey waits until the account has the keys that it had at first.
func (c *cloud) onlyUsersKey() {
	c.w.t.Helper()
	eventually(c.w.t, 30*time.Second, "the account has only its user's key", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.keys) == 1 && c.keys[0]["name"] == "users-own"
	})
}

// launch makes a machine that lets the account's key in. It has an address at once and boots.
func (c *cloud) launch(r *http.Request) (int, any) {
	var in struct {
		Name string   `json:"name"`
		Keys []string `json:"ssh_key_names"`
		Tags []any    `json:"tags"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		c.w.t.Error(err)
	}
	key := ""
	for _, k := range c.keys {
		if len(in.Keys) == 1 && k["name"] == in.Keys[0] {
			key = k["public_key"].(string)
		}
	}
	c.launches++
	id := fmt.Sprintf("%032x", 0x100+c.launches)
	able := map[string]any{"available": true}
	m := &rented{doc: map[string]any{
		"id": id, "name": in.Name, "status": "booting", "ssh_key_names": in.Keys, "file_system_names": []any{},
		"region": lambdaRegion, "instance_type": lambdaType, "tags": in.Tags,
		"actions": map[string]any{"migrate": able, "rebuild": able, "restart": able, "cold_reboot": able, "terminate": able},
	}}
	c.machines[id] = m
	c.booting.Go(func() { c.boot(m, key) })
	return 200, map[string]any{"instance_ids": []any{id}}
}

func (c *cloud) boot(m *rented, key string) {
	host := c.w.startHost(hostOptions{Key: key})
	if c.prepare != nil {
		c.prepare(host)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.host = host
	m.doc["status"], m.doc["ip"], m.doc["private_ip"] = "active", host.Addr, host.Addr
}

func (c *cloud) terminate(r *http.Request) (int, any) {
	var in struct {
		IDs []string `json:"instance_ids"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		c.w.t.Error(err)
	}
	ended := []any{}
	for _, id := range in.IDs {
		m := c.machines[id]
		if m == nil {
			return absent()
		}
		m.doc["status"] = "terminating"
		ended = append(ended, m.doc)
		delete(c.machines, id)
		if m.host != nil {
			_ = exec.Command("docker", "rm", "-f", "-v", m.host.ID).Run() // the test's end would do it too
		}
	}
	return 200, map[string]any{"terminated_instances": ended}
}

// billed counts the machines that cost money.
func (c *cloud) billed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.machines)
}

// TestCloud runs a job on a machine of a cloud, from nothing until nothing is left. Docker is not
// there yet when SSH is, as on a machine that is still being set up.
func TestCloud(t *testing.T) {
	w := prepareWorld(t)
	c := newCloud(t, w)
	c.prepare = func(m *machine) {
		m.out("sh", "-c", "mv /usr/sbin/dockerd /usr/sbin/dockerd.later; mv /var/run/docker.sock /var/run/docker.later")
	}
	w.startServer()
	w.login()
	w.must("apply", "-y", "-f", w.write("rented.fleet.dstack.yml", "type: fleet\nname: rented\nnodes: 0..1\nbackends: [lambda]\nidle_duration: 5s\nresources: {gpu: 1}\n"))
	w.write("job.dstack.yml", cloudJob("job", "echo hello from a cloud; exit 7"))
	job := w.start("apply", "-y", "-f", "job.dstack.yml")
	const reason = "Docker does not answer on"
	eventually(t, 90*time.Second, "the fleet says what the machine lacks", func() bool { return strings.Contains(w.run("fleet", "-v").Out, reason) })
	eventually(t, 10*time.Second, "so do its events", func() bool { return strings.Contains(w.run("event", "list").Out, "Instance is not ready yet: "+reason) })
	var waits struct {
		Waiting string `json:"waiting"`
	}
	if status := w.api("/api/project/main/runs/watch", map[string]any{"run_name": "job", "seen": "", "wait": 0}, &waits); status != http.StatusOK || !strings.Contains(waits.Waiting, reason) {
		t.Errorf("who follows the run reads %q (status %d)", waits.Waiting, status)
	}
	c.mu.Lock()
	for _, m := range c.machines {
		m.host.out("sh", "-c", "mv /usr/sbin/dockerd.later /usr/sbin/dockerd; mv /var/run/docker.later /var/run/docker.sock")
	}
	c.mu.Unlock()
	if code := job.wait(); code != 1 || !strings.Contains(job.out.String(), "hello from a cloud") || !strings.Contains(job.out.String(), "Exited (7)") {
		t.Errorf("apply ended with %d:\n%s", code, job.out.String())
	}
	if got := w.must("logs", "job").Out; !strings.Contains(got, "hello from a cloud") {
		t.Errorf("the log is %q", got)
	}
	var run struct {
		Cost float64 `json:"cost"`
	}
	if status := w.api("/api/project/main/runs/get", map[string]any{"run_name": "job"}, &run); status != http.StatusOK || run.Cost <= 0 {
		t.Errorf("the run cost %v (status %d)", run.Cost, status)
	}
	eventually(t, 60*time.Second, "the idle machine is given back", func() bool { return c.billed() == 0 })
	c.prepare = nil
	w.must("apply", "-y", "-d", "-f", w.write("again.dstack.yml", cloudJob("again", "sleep 600")))
	w.waitStatus("again", "running")
	w.must("stop", "-x", "-y", "again")
	w.waitStatus("again", "terminated")
	w.must("fleet", "delete", "-y", "rented")
	eventually(t, 60*time.Second, "the machine of a deleted fleet is given back", func() bool { return c.billed() == 0 })
	if c.launches != 2 {
		t.Errorf("%d machines were launched for two runs", c.launches)
	}
	w.stopServer(syscall.SIGTERM) // keys are looked at with the account: at the start, and now and then
	w.startServer()
	c.onlyUsersKey()
}

// cloudJob is a task on the fleet of rented machines. They have no GPU here: a job that needs one
// would wait for it.
func cloudJob(name, command string) string {
	return "type: task\nname: " + name + "\nimage: job:1\nfleets: [rented]\nresources: {gpu: 0.., cpu: 1.., memory: 0.., disk: 1GB..}\ncommands: [" + command + "]\n"
}

// TestCloudServerKilled kills the server while it plans with a cloud, when the cloud has made a
// machine and not said so, while that boots, and when the cloud has taken it back and not said so.
func TestCloudServerKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	w := prepareWorld(t)
	c := newCloud(t, w)
	boot := make(chan struct{})
	c.prepare = func(*machine) { <-boot }
	w.startServer()
	w.login()
	w.must("apply", "-y", "-f", w.write("rented.fleet.dstack.yml", "type: fleet\nname: rented\nnodes: 0..1\nbackends: [lambda]\nidle_duration: 5s\nresources: {gpu: 1}\n"))
	w.write("job.dstack.yml", cloudJob("job", "echo hello from a cloud; exit 7"))
	restart := func() {
		t.Helper()
		w.stopServer(syscall.SIGKILL)
		w.startServer()
	}

	t.Run("Plan", func(t *testing.T) {
		offers := c.hold("GET /api/v1/instance-types")
		defer offers.open()
		restart() // it has to ask for offers
		planning := make(chan struct{})
		w.through(t, front{path: "/runs/get_plan", sent: func() { close(planning) }})
		plans := w.start("apply", "-y", "-d", "-f", "job.dstack.yml")
		<-planning
		offers.waitDone(t, "the cloud is asked for offers")
		restart()
		if code := plans.wait(); code == 0 || !strings.Contains(plans.out.String(), "Failed to connect") {
			t.Errorf("apply without a plan ends with %d:\n%s", code, plans.out.String())
		}
		if got := w.runStatus("job"); got != "" {
			t.Errorf("a run that was not planned yet is %s", got)
		}
	})

	launch := c.hold("POST /api/v1/instance-operations/launch")
	w.must("apply", "-y", "-d", "-f", "job.dstack.yml")
	launch.waitDone(t, "a machine is made")
	w.stopServer(syscall.SIGKILL)
	launch.open()
	w.startServer()
	eventually(t, 60*time.Second, "the machine is known again", func() bool { return strings.Contains(w.run("fleet").Out, "provisioning") })
	restart()
	if got := w.runStatus("job"); got != "provisioning" {
		t.Errorf("the job is %s while its machine boots, want provisioning", got)
	}
	close(boot)
	w.waitStatus("job", "failed")
	if got := w.exitStatus("job"); got != 7 {
		t.Errorf("exit status %d, want 7", got)
	}

	terminate := c.hold("POST /api/v1/instance-operations/terminate")
	terminate.waitDone(t, "the idle machine is given back")
	w.stopServer(syscall.SIGKILL)
	terminate.open()
	w.startServer()
	eventually(t, 60*time.Second, "the server knows of no machine", func() bool {
		return strings.Contains(w.run("server", "doctor").Out, "Nothing that costs money exists.")
	})
	if c.billed() != 0 || c.launches != 1 {
		t.Errorf("%d machines are billed, %d were launched for one run", c.billed(), c.launches)
	}
	c.onlyUsersKey()
}
