package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"dstack/internal/agentapi"
)

func TestContainerName(t *testing.T) {
	c := Container{Name: "my-run-0-0", ID: "23a2c7a0-6c88-48ee-8028-b9ad9f6f5c24"}
	if got := containerName(c); got != "my-run-0-0-dc8ea21c" {
		t.Error(got)
	}
}

// What the engine is asked for, by what the task asks for (host-agents 1.6).
func TestConfig(t *testing.T) {
	d := &Docker{self: "/opt/agent", home: "/home"}
	gpus := []agentapi.GPU{{ID: "0"}, {ID: "1"}}
	for _, c := range []struct {
		name  string
		c     Container
		check func(cfg *container.Config, host *container.HostConfig) (want, got any)
	}{
		{"limits", Container{Spec: agentapi.TaskSpec{CPUs: 1.5, Memory: 1 << 30, Privileged: true}}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []any{int64(15e8), int64(1 << 30), true}, []any{h.NanoCPUs, h.Memory, h.Privileged}
		}},
		{"shared memory may be executed", Container{Spec: agentapi.TaskSpec{ShmSize: 1 << 20}}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []any{int64(1 << 20), map[string]string{"/dev/shm": "exec,size=1048576"}}, []any{h.ShmSize, h.Tmpfs}
		}},
		{"a bridge publishes SSH on the loopback alone", Container{Spec: agentapi.TaskSpec{Network: "bridge"}}, func(cfg *container.Config, h *container.HostConfig) (any, any) {
			var bound []string
			for p, b := range h.PortBindings {
				for _, at := range b {
					bound = append(bound, fmt.Sprintf("%s on %s", p, at.HostIP))
				}
			}
			return []any{"bridge", []string{"10022/tcp on 127.0.0.1"}, false}, []any{string(h.NetworkMode), bound, listens(cfg)}
		}},
		{"the host's network is not opened to others", Container{Spec: agentapi.TaskSpec{Network: "host"}}, func(cfg *container.Config, h *container.HostConfig) (any, any) {
			return []any{"host", 0, true}, []any{string(h.NetworkMode), len(h.PortBindings), listens(cfg)}
		}},
		{"nodes of a cluster reach each other", Container{Spec: agentapi.TaskSpec{Network: "host", Job: agentapi.JobSpec{Cluster: agentapi.Cluster{NodeIPs: []string{"10.0.0.1", "10.0.0.2"}}}}}, func(cfg *container.Config, h *container.HostConfig) (any, any) {
			return []any{"host", false}, []any{string(h.NetworkMode), listens(cfg)}
		}},
		{"mounts", Container{Dir: "/tasks/1/job", Blobs: "/tasks/1/blobs", Spec: agentapi.TaskSpec{Mounts: []agentapi.Mount{{Source: "/data", Target: "/mnt"}}, Volumes: []agentapi.VolumeMount{{Name: "vol", Target: "/vol"}}}}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []mount.Mount{
				{Type: mount.TypeBind, Source: "/tasks/1/job", Target: "/dstack/task"},
				{Type: mount.TypeBind, Source: "/tasks/1/blobs", Target: "/dstack/blobs", ReadOnly: true},
				{Type: mount.TypeBind, Source: "/opt/agent", Target: "/dstack/agent", ReadOnly: true},
				{Type: mount.TypeBind, Source: "/data", Target: "/mnt"},
				{Type: mount.TypeBind, Source: "/mnt/disks/dstack-volumes/vol", Target: "/vol"},
			}, h.Mounts
		}},
		{"labels", Container{ID: "id"}, func(cfg *container.Config, _ *container.HostConfig) (any, any) {
			return map[string]string{"ai.dstack.shim.is-task": "true", "ai.dstack.shim.task-id": "id", "ai.dstack.shim.home": "/home", "ai.dstack.shim.gpus": ""}, cfg.Labels
		}},
		{"nvidia", Container{Vendor: "nvidia", GPUs: gpus}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []container.DeviceRequest{{DeviceIDs: []string{"0", "1"}, Capabilities: [][]string{{"gpu", "utility", "compute", "graphics", "video", "display", "compat32"}}}}, h.DeviceRequests
		}},
		{"amd", Container{Vendor: "amd", GPUs: []agentapi.GPU{{ID: "/dev/dri/renderD128"}}}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []any{[]container.DeviceMapping{device("/dev/kfd"), device("/dev/dri/renderD128")}, "host", []string{"SYS_PTRACE"}, []string{"seccomp=unconfined"}}, []any{devices(h), string(h.IpcMode), h.CapAdd, h.SecurityOpt}
		}},
		{"intel", Container{Vendor: "intel", GPUs: gpus}, func(cfg *container.Config, h *container.HostConfig) (any, any) {
			return []any{"habana", "host", []string{"SYS_NICE"}, true}, []any{h.Runtime, string(h.IpcMode), h.CapAdd, strings.Contains(strings.Join(cfg.Env, "|"), "HABANA_VISIBLE_DEVICES=0,1")}
		}},
		{"tenstorrent", Container{Vendor: "tenstorrent", GPUs: gpus}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []container.DeviceMapping{device("/dev/tenstorrent/0"), device("/dev/tenstorrent/1")}, devices(h)
		}},
		{"devices instead of a vendor's way", Container{Vendor: "nvidia", GPUs: gpus, Spec: agentapi.TaskSpec{Devices: []string{"/dev/nvidia0"}}}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []any{[]container.DeviceMapping{device("/dev/nvidia0")}, 0}, []any{devices(h), len(h.DeviceRequests)}
		}},
		{"a task without GPUs sees none", Container{Vendor: "nvidia"}, func(_ *container.Config, h *container.HostConfig) (any, any) {
			return []any{0, 0}, []any{len(h.DeviceRequests), len(devices(h))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, got := c.check(d.config(c.c))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// devices leaves out what every container of a host with InfiniBand gets.
func devices(h *container.HostConfig) []container.DeviceMapping {
	var list []container.DeviceMapping
	for _, d := range h.Devices {
		if d.PathOnHost != "/dev/infiniband" {
			list = append(list, d)
		}
	}
	return list
}

// listens says that the runner keeps to the loopback.
func listens(cfg *container.Config) bool {
	return strings.Contains(strings.Join(cfg.Entrypoint, " "), "--listen 127.0.0.1")
}

func TestPassed(t *testing.T) {
	env := map[string]string{"https_proxy": "http://proxy:3128", "NO_PROXY": "localhost", "SECRET": "x", "PJRT_DEVICE": "TPU"}
	want := []string{"https_proxy=http://proxy:3128", "NO_PROXY=localhost", "PJRT_DEVICE=TPU"}
	if diff := cmp.Diff(want, passed(func(k string) string { return env[k] })); diff != "" {
		t.Error(diff)
	}
}

func TestLayers(t *testing.T) {
	type event struct {
		id, status     string
		current, total int64
	}
	for _, c := range []struct {
		name   string
		events []event
		want   agentapi.PullProgress
	}{
		{"begins", []event{{"a", "Pulling fs layer", 0, 0}}, agentapi.PullProgress{}},
		{"downloads", []event{{"a", "Downloading", 10, 100}, {"b", "Waiting", 0, 0}}, agentapi.PullProgress{Downloaded: 10, Total: 100}},
		{"all sizes are known", []event{{"a", "Downloading", 10, 100}, {"b", "Already exists", 0, 0}}, agentapi.PullProgress{Downloaded: 10, Total: 100, TotalFinal: true}},
		{"extracts", []event{{"a", "Downloading", 10, 100}, {"a", "Download complete", 0, 0}, {"a", "Extracting", 50, 100}}, agentapi.PullProgress{Downloaded: 100, Extracted: 50, Total: 100, TotalFinal: true}},
		{"is complete", []event{{"a", "Downloading", 10, 100}, {"a", "Pull complete", 0, 0}}, agentapi.PullProgress{Downloaded: 100, Extracted: 100, Total: 100, TotalFinal: true}},
		{"other lines", []event{{"", "Status: Downloaded", 0, 0}, {"latest", "Pulling from library/x", 0, 0}}, agentapi.PullProgress{TotalFinal: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLayers()
			for _, e := range c.events {
				l.see(e.id, e.status, e.current, e.total)
			}
			if diff := cmp.Diff(c.want, l.sum()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// engine is a Docker engine that knows a few answers and remembers what it was asked.
type engine struct {
	mu    sync.Mutex
	asked []string
	auth  string
	has   map[string]bool // images
	pull  string          // the answer to a pull
	start func(n int) (int, string)
	n     int
	slow  chan struct{} // if not nil, a creation waits for it, whoever else does
	made  bool          // a container

	labels map[string]string        // of the container
	state  container.ContainerState // of the container

	path   string           // of requests that
	answer http.HandlerFunc // answers instead
	close  func()
}

// at has requests of a path answered otherwise.
func (e *engine) at(path string, answer http.HandlerFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.path, e.answer = path, answer
}

func newEngine(t *testing.T) (*engine, *Docker) {
	t.Helper()
	e := &engine{has: map[string]bool{}, state: container.StateRunning}
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: e}
	go func() { _ = srv.Serve(l) }()
	e.close = func() { srv.Close() }
	t.Cleanup(e.close)
	t.Setenv("DOCKER_HOST", "unix://"+l.Addr().String())
	d, err := NewDocker("/opt/agent", dir)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	path := r.URL.Path
	if i := strings.Index(path[1:], "/"); strings.HasPrefix(path, "/v1.") {
		path = path[i+1:]
	}
	w.Header().Set("Api-Version", "1.44")
	reply := func(status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	image, inspect := strings.CutPrefix(path, "/images/")
	switch {
	case e.answer != nil && path == e.path:
		e.answer(w, r)
	case path == "/_ping":
		reply(200, "OK")
	case path == "/images/create":
		e.asked = append(e.asked, "pull "+r.URL.Query().Get("fromImage")+":"+r.URL.Query().Get("tag"))
		e.auth = r.Header.Get("X-Registry-Auth")
		if strings.HasPrefix(e.pull, "!") {
			reply(500, fmt.Sprintf(`{"message":%q}`, e.pull[1:]))
			return
		}
		reply(200, e.pull)
	case inspect && e.has[strings.TrimSuffix(image, "/json")]:
		reply(200, `{"Id":"sha256:1","Config":{"Entrypoint":["/entry"],"Cmd":["a","b"]}}`)
	case inspect:
		reply(404, `{"message":"No such image"}`)
	case path == "/containers/create":
		data, _ := io.ReadAll(r.Body)
		e.asked = append(e.asked, "create", string(data))
		if slow := e.slow; slow != nil {
			e.mu.Unlock()
			<-slow
			e.mu.Lock()
		}
		e.made = true
		reply(201, `{"Id":"c1"}`)
	case path == "/containers/json":
		list, _ := json.Marshal([]container.Summary{{ID: "c1", Labels: e.labels, State: e.state}})
		reply(200, string(list))
	case strings.HasSuffix(path, "/start"):
		e.n++
		status, body := e.start(e.n)
		reply(status, body)
	default:
		e.asked = append(e.asked, r.Method+" "+path)
		reply(204, "")
	}
}

func TestPull(t *testing.T) {
	const downloads = `{"status":"Pulling from x","id":"latest"}
{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"l1"}
{"status":"Downloading","progressDetail":{"current":7,"total":10,"units":"s"},"id":"l1"}
{"status":"Pull complete","progressDetail":{},"id":"l1"}
{"status":"Status: Downloaded newer image"}
`
	for _, c := range []struct {
		name, image, answer string
		auth                *agentapi.RegistryAuth
		has                 string
		asked               []string
		wantAuth, fails     string
		last                agentapi.PullProgress
	}{
		{name: "a tag that is there is not pulled", image: "repo/x:1", has: "repo/x:1"},
		{name: "latest always is", image: "repo/x", has: "repo/x:latest", answer: downloads, asked: []string{"pull docker.io/repo/x:latest"}, last: agentapi.PullProgress{Downloaded: 10, Extracted: 10, Total: 10, TotalFinal: true}},
		{name: "a registry with a port", image: "127.0.0.1:5000/x", answer: downloads, asked: []string{"pull 127.0.0.1:5000/x:latest"}, last: agentapi.PullProgress{Downloaded: 10, Extracted: 10, Total: 10, TotalFinal: true}},
		{name: "credentials", image: "r.example/x:2", answer: downloads, auth: &agentapi.RegistryAuth{Username: "me", Password: "p/w?"}, asked: []string{"pull r.example/x:2"}, wantAuth: `{"password":"p/w?","username":"me"}`, last: agentapi.PullProgress{Downloaded: 10, Extracted: 10, Total: 10, TotalFinal: true}},
		{name: "no credentials", image: "r.example/x:2", answer: downloads, auth: &agentapi.RegistryAuth{}, asked: []string{"pull r.example/x:2"}, last: agentapi.PullProgress{Downloaded: 10, Extracted: 10, Total: 10, TotalFinal: true}},
		{name: "refused", image: "r.example/x:2", answer: "!unauthorized", asked: []string{"pull r.example/x:2"}, fails: "failed pulling r.example/x:2"},
		{name: "breaks off", image: "r.example/x:2", answer: `{"errorDetail":{"message":"no space left"},"error":"no space left"}`, asked: []string{"pull r.example/x:2"}, fails: "no space left"},
		{name: "the registry is away but the image is there", image: "repo/x:latest", has: "repo/x:latest", answer: "!timeout", asked: []string{"pull docker.io/repo/x:latest"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, d := newEngine(t)
			e.pull, e.has[c.has] = c.answer, true
			var last agentapi.PullProgress
			err := d.Pull(t.Context(), Container{Spec: agentapi.TaskSpec{Image: c.image, RegistryAuth: c.auth}}, func(p agentapi.PullProgress) { last = p })
			if c.fails != "" {
				var image *ImageError
				if !errors.As(err, &image) || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, want %q", err, c.fails)
				}
			} else if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.asked, e.asked); diff != "" {
				t.Errorf("asked, -want +got:\n%s", diff)
			}
			auth, err := base64.URLEncoding.DecodeString(e.auth)
			if err != nil || string(auth) != c.wantAuth {
				t.Errorf("credentials %q (%v), want %q", auth, err, c.wantAuth)
			}
			if diff := cmp.Diff(c.last, last); diff != "" {
				t.Errorf("progress, -want +got:\n%s", diff)
			}
		})
	}
}

// An engine that goes while it is asked is told apart from one that says no: what was asked may be asked again.
func TestEngineIsAway(t *testing.T) {
	breaksOff := func(w http.ResponseWriter, _ *http.Request) { // in the middle of an answer
		_, _ = io.WriteString(w, `{"status":"Pulling from x","id":"latest"}`+"\n"+`{"status":"Downl`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	hangsUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) } // without an answer
	ends := func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errorDetail":{"message":"context canceled"},"error":"context canceled"}`)
	}
	stops := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"message":"mount: context canceled"}`)
	}
	pull := func(d *Docker, c Container) error { return d.Pull(t.Context(), c, func(agentapi.PullProgress) {}) }
	start := func(d *Docker, c Container) error { return d.Start(t.Context(), c) }
	for name, c := range map[string]struct {
		at     string // the path of a request
		answer http.HandlerFunc
		step   func(*Docker, Container) error
		says   string
	}{
		"a pull breaks off":          {"/images/create", breaksOff, pull, "unexpected EOF"},
		"a pull is not answered":     {"/images/create", hangsUp, pull, "EOF"},
		"a pull ends with it":        {"/images/create", ends, pull, "context canceled"},
		"an image is not shown":      {"/images/x:1/json", hangsUp, start, "EOF"},
		"a creation is not answered": {"/containers/create", hangsUp, start, "EOF"},
		"a start is broken off":      {"/containers/c1/start", stops, start, "context canceled"},
		"a start is not answered":    {"/containers/c1/start", hangsUp, start, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			e, d := newEngine(t)
			e.start = func(int) (int, string) { return 204, "" }
			task := Container{ID: "id", Name: "n", Dir: t.TempDir(), Spec: agentapi.TaskSpec{Image: "x:1", Job: agentapi.JobSpec{Command: []string{"true"}}}}
			e.at(c.at, c.answer)
			e.has["x:1"] = strings.HasPrefix(c.at, "/containers/")
			err := c.step(d, task)
			var image *ImageError
			if !errors.Is(err, ErrAway) || errors.As(err, &image) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			e.at("", nil)
			e.has["x:1"] = true
			if err := c.step(d, task); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

// A socket that is not there, or that nobody listens at, is that of an engine that is away.
func TestEngineIsNotThere(t *testing.T) {
	e, d := newEngine(t)
	e.close()
	task := Container{ID: "id", Name: "n", Dir: t.TempDir(), Spec: agentapi.TaskSpec{Image: "x:1"}}
	if err := d.Pull(t.Context(), task, nil); !errors.Is(err, ErrAway) {
		t.Errorf("pull: %v", err)
	}
	if err := d.Start(t.Context(), task); !errors.Is(err, ErrAway) {
		t.Errorf("start: %v", err)
	}
}

// A container that was made while the engine went is there, and is started.
func TestStartAfterTheEngineWent(t *testing.T) {
	e, d := newEngine(t)
	e.has["x:1"] = true
	e.start = func(int) (int, string) { return 204, "" }
	e.at("/containers/create", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"message":"Conflict. The container name is already in use"}`)
	})
	task := Container{ID: "id", Name: "n", Dir: t.TempDir(), Spec: agentapi.TaskSpec{Image: "x:1", Job: agentapi.JobSpec{Command: []string{"true"}}}}
	if err := d.Start(t.Context(), task); err != nil || e.n != 1 {
		t.Errorf("%v, starts: %d", err, e.n)
	}
}

// A host that cannot show pictures runs jobs all the same.
func TestStartWithoutDisplay(t *testing.T) {
	e, d := newEngine(t)
	e.has["x:1"] = true
	e.start = func(n int) (int, string) {
		if n == 1 {
			return 500, `{"message":"failed to open /dev/nvidia-modeset"}`
		}
		return 204, ""
	}
	c := Container{ID: "id", Name: "n", Dir: t.TempDir(), Vendor: "nvidia", GPUs: []agentapi.GPU{{ID: "GPU-1"}}, Spec: agentapi.TaskSpec{Image: "x:1"}}
	if err := d.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if len(e.asked) != 5 || !strings.Contains(e.asked[1], `"display"`) || e.asked[2] != "DELETE /containers/c1" || strings.Contains(e.asked[4], `"display"`) {
		t.Errorf("%q", e.asked)
	}
}

// Containers say which GPUs they have, also when they have none; those of older agents do not.
func TestGPUsOfContainers(t *testing.T) {
	e, d := newEngine(t)
	made := func(gpus ...agentapi.GPU) map[string]string {
		cfg, _ := d.config(Container{ID: "id", GPUs: gpus})
		return cfg.Labels
	}
	for name, c := range map[string]struct {
		labels map[string]string
		want   []string
	}{
		"two":              {made(agentapi.GPU{ID: "GPU-1"}, agentapi.GPU{ID: "GPU-2"}), []string{"GPU-1", "GPU-2"}},
		"none":             {made(), []string{}},
		"an older agent's": {map[string]string{labelID: "id"}, nil},
	} {
		e.labels = c.labels
		found, err := d.List(t.Context())
		if diff := cmp.Diff([]Found{{ID: "id", Running: true, GPUs: c.want}}, found); err != nil || diff != "" {
			t.Errorf("%s: %s (%v)", name, diff, err)
		}
	}
}

// A container that is paused runs, and has its GPUs.
func TestListOfStates(t *testing.T) {
	e, d := newEngine(t)
	e.labels = map[string]string{labelID: "id"}
	for state, running := range map[container.ContainerState]bool{
		container.StateRunning: true, container.StatePaused: true, container.StateRestarting: true,
		container.StateCreated: false, container.StateExited: false, container.StateDead: false,
	} {
		e.state = state
		if found, err := d.List(t.Context()); err != nil || len(found) != 1 || found[0].Running != running {
			t.Errorf("%s: %+v (%v)", state, found, err)
		}
	}
}

// A run without commands gets the image's own.
func TestStartWithTheImagesCommand(t *testing.T) {
	e, d := newEngine(t)
	e.has["x:1"] = true
	e.start = func(int) (int, string) { return 204, "" }
	dir := t.TempDir()
	if err := d.Start(t.Context(), Container{ID: "id", Name: "n", Dir: dir, Spec: agentapi.TaskSpec{Image: "x:1"}}); err != nil {
		t.Fatal(err)
	}
	var job agentapi.JobSpec
	data, err := os.ReadFile(filepath.Join(dir, "spec.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &job); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/entry", "a", "b"}, job.Command); diff != "" {
		t.Error(diff)
	}
}

// The engine makes a container whether or not somebody waits for it: a start that is ended
// meanwhile returns when it is there, so that it can be removed, and does not start it.
func TestStartThatIsEnded(t *testing.T) {
	e, d := newEngine(t)
	e.has["x:1"], e.slow = true, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- d.Start(ctx, Container{ID: "id", Name: "n", Dir: t.TempDir(), Spec: agentapi.TaskSpec{Image: "x:1", Job: agentapi.JobSpec{Command: []string{"true"}}}})
	}()
	for asked := false; !asked; <-time.After(time.Millisecond) {
		e.mu.Lock()
		asked = len(e.asked) > 0
		e.mu.Unlock()
	}
	cancel()
	select {
	case err := <-done:
		t.Errorf("it returned before the container was made: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(e.slow)
	if err := <-done; !errors.Is(err, context.Canceled) || !e.made || e.n != 0 {
		t.Errorf("%v; made: %v, starts: %d", err, e.made, e.n)
	}
	if err := d.Remove(t.Context(), "id"); err != nil || e.asked[len(e.asked)-1] != "DELETE /containers/c1" {
		t.Errorf("%v, asked %q", err, e.asked)
	}
}

// A wait that the engine breaks off, or whose container somebody could not remove, says nothing of one that runs on.
func TestWaitThatFails(t *testing.T) {
	const failed = `,"Error":{"Message":"unable to remove filesystem"}}`
	for name, c := range map[string]struct {
		state   container.ContainerState
		answers []string
		want    int
	}{
		"it runs on":      {container.StateRunning, []string{`{"StatusCode":0` + failed, `{"StatusCode":7}`}, 7},
		"it is paused":    {container.StatePaused, []string{`{"StatusCode":-1` + failed, `{"StatusCode":7}`}, 7},
		"it ended before": {container.StateExited, []string{`{"StatusCode":128` + failed}, 128},
	} {
		t.Run(name, func(t *testing.T) {
			e, d := newEngine(t)
			e.state = c.state
			asked := 0
			e.at("/containers/c1/wait", func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, c.answers[min(asked, len(c.answers)-1)])
				asked++
			})
			exit, err := d.Wait(t.Context(), "id")
			if err != nil || exit.Code != c.want || asked != len(c.answers) {
				t.Errorf("code %d (%v) after %d questions, want %d after %d", exit.Code, err, asked, c.want, len(c.answers))
			}
		})
	}
}
