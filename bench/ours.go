package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const resources = "resources: {cpu: 1.., memory: 0GB.., disk: 1GB..}\n"

// idleFor is how long the load of an idle server is watched.
const idleFor = 20 * time.Second

func measureOurs(ctx context.Context, o options, t *table) error {
	w, err := newWorld(o.Dstack)
	if err != nil {
		return err
	}
	defer w.close()
	backends, image := "[{type: local}]", "image: none:1\n" // processes have no image
	if o.HostTag != "" {
		backends, image = "[]", "image: job:1\n"
	}
	if _, err := w.write("server/config.yml", "projects:\n  - name: main\n    backends: "+backends+"\n"); err != nil {
		return err
	}
	if err := program(ctx, o, w, t); err != nil {
		return err
	}
	var hosts *hosts
	if o.HostTag != "" {
		if hosts, err = startHosts(ctx, w, o.HostTag, 2); err != nil {
			return err
		}
		defer hosts.close()
		if err := fleet(ctx, w, hosts, t); err != nil {
			return err
		}
	}
	if err := lives(ctx, o, w, t, image); err != nil {
		return err
	}
	if err := many(ctx, w, t, image); err != nil {
		return err
	}
	if err := idle(ctx, w, t, (*table).add); err != nil {
		return err
	}
	if o.HostTag == "" {
		return nil
	}
	return far(ctx, o, w, t, image)
}

// far measures with 50 ms between server, client and host.
func far(ctx context.Context, o options, w *world, t *table, image string) error {
	h, err := startHosts(ctx, w, o.HostTag, 1)
	if err != nil {
		return err
	}
	defer h.close()
	way, err := stretch(net.JoinHostPort(h.addrs[0], "22"), 50*time.Millisecond)
	if err != nil {
		return err
	}
	defer way.close()
	text := fmt.Sprintf("type: fleet\nname: far\nssh_config:\n  user: root\n  identity_file: %s\n  hosts: [{hostname: 127.0.0.1, port: %d}]\n", h.key, way.port())
	path, err := w.write("far.dstack.yml", text)
	if err != nil {
		return err
	}
	if _, err := w.must(ctx, "apply", "-y", "-f", path); err != nil {
		return err
	}
	return first(ctx, o, w, t, image+"fleets: [far]\n", "first log line, 50 ms to the hosts", "far")
}

// program measures what needs no host.
func program(ctx context.Context, o options, w *world, t *table) error {
	for range o.Runs {
		took, err := w.start(ctx)
		if err != nil {
			return err
		}
		t.add("server start", took.Seconds())
		w.stop()
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	if _, err := w.must(ctx, "project", "add", "--name", "main", "--url", w.url(), "--token", token, "-y"); err != nil {
		return err
	}
	return commands(ctx, o, w, func(name string, values []float64) { t.add(name, values...) })
}

// commands measures how long short commands take.
func commands(ctx context.Context, o options, w *world, add func(string, []float64)) error {
	for _, args := range [][]string{{"--version"}, {"ps"}} {
		var values []float64
		for range o.Runs {
			took, err := w.must(ctx, args...)
			if err != nil {
				return err
			}
			values = append(values, took.Seconds())
		}
		add(args[0], values)
	}
	return nil
}

func fleet(ctx context.Context, w *world, h *hosts, t *table) error {
	text := fmt.Sprintf("type: fleet\nname: boxes\nssh_config:\n  user: root\n  identity_file: %s\n  hosts: [%s]\n", h.key, strings.Join(h.addrs, ", "))
	path, err := w.write("fleet.dstack.yml", text)
	if err != nil {
		return err
	}
	took, err := w.must(ctx, "apply", "-y", "-f", path)
	if err == nil {
		t.add("fresh fleet of two hosts", took.Seconds())
	}
	return err
}

// first measures from the command to the first line of its job.
func first(ctx context.Context, o options, w *world, t *table, image, row, prefix string) error {
	for i := range o.Runs {
		path, err := w.write("hi.dstack.yml", fmt.Sprintf("type: task\nname: %s%d\n%scommands: [echo hi]\n%s", prefix, i, image, resources))
		if err != nil {
			return err
		}
		took, err := w.line(ctx, "hi", "apply", "-y", "-f", path)
		if err != nil {
			return err
		}
		t.add(row, took.Seconds())
	}
	return nil
}

func lives(ctx context.Context, o options, w *world, t *table, image string) error {
	if err := first(ctx, o, w, t, image, "first log line", "hi"); err != nil {
		return err
	}
	for i := range o.Runs {
		name := fmt.Sprintf("life%d", i)
		path, err := w.write("life.dstack.yml", fmt.Sprintf("type: task\nname: %s\n%scommands: [echo hi]\n%s", name, image, resources))
		if err != nil {
			return err
		}
		if _, err := w.must(ctx, "apply", "-y", "-d", "-f", path); err != nil {
			return err
		}
		r, done, err := w.until(ctx, name, "done")
		if err != nil {
			return err
		}
		t.add("submit to done", done.Sub(r.SubmittedAt).Seconds())
	}
	for i := range o.Runs {
		for _, how := range []string{"stop", "abort"} {
			if err := end(ctx, w, t, image, fmt.Sprintf("%s%d", how, i), how); err != nil {
				return err
			}
		}
	}
	return nil
}

// many measures jobs that are submitted at once and take turns on the hosts.
func many(ctx context.Context, w *world, t *table, image string) error {
	const jobs = 20
	retry := "retry: {on_events: [no-capacity], duration: 1h}\n"
	begin := time.Now()
	err := inParallel(ctx, 4, jobs, func(i int) error {
		path, err := w.write(fmt.Sprintf("many%d.dstack.yml", i), fmt.Sprintf("type: task\nname: many%d\n%scommands: [echo hi]\n%s%s", i, image, resources, retry))
		if err != nil {
			return err
		}
		_, err = w.must(ctx, "apply", "-y", "-d", "-f", path)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.untilNoneActive(ctx, 2*time.Minute); err != nil {
		return err
	}
	t.add("20 jobs at once, all done", time.Since(begin).Seconds())
	return nil
}

// end measures a job that runs until it is told to end.
func end(ctx context.Context, w *world, t *table, image, name, how string) error {
	path, err := w.write("long.dstack.yml", fmt.Sprintf("type: task\nname: %s\n%scommands: [sleep 1000]\n%s", name, image, resources))
	if err != nil {
		return err
	}
	if _, err := w.must(ctx, "apply", "-y", "-d", "-f", path); err != nil {
		return err
	}
	r, running, err := w.until(ctx, name, "running")
	if err != nil {
		return err
	}
	t.add("submit to running", running.Sub(r.SubmittedAt).Seconds())
	begin := time.Now()
	var none any
	if err := w.api(ctx, "/api/project/main/runs/stop", map[string]any{"runs_names": []string{name}, "abort": how == "abort"}, &none); err != nil {
		return err
	}
	_, ended, err := w.until(ctx, name, "terminated")
	if err == nil {
		t.add(how, ended.Sub(begin).Seconds())
	}
	return err
}

// idle measures a server that has nothing to do.
func idle(ctx context.Context, w *world, t *table, add func(*table, string, ...float64)) error {
	pause(ctx, 3*time.Second)
	_, before, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	pause(ctx, idleFor)
	memory, after, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	add(t, "idle memory", memory)
	add(t, "idle load", 100*float64(after-before)/float64(idleFor))
	return nil
}

// measureOriginal measures of the original what needs no hosts.
func measureOriginal(ctx context.Context, o options, t *table) error {
	w, err := newWorld(o.Original)
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := w.start(ctx, "-y"); err != nil { // the first start makes the database
		return err
	}
	w.stop()
	var starts []float64
	for range 3 {
		took, err := w.start(ctx, "-y")
		if err != nil {
			return err
		}
		starts = append(starts, took.Seconds())
		w.stop()
	}
	t.original("server start", starts)
	if _, err := w.start(ctx, "-y"); err != nil {
		return err
	}
	o.Runs = 3
	if err := commands(ctx, o, w, t.original); err != nil {
		return err
	}
	if err := idle(ctx, w, t, func(t *table, name string, values ...float64) { t.original(name, values) }); err != nil {
		return err
	}
	return originalPages(ctx, w, t)
}

// hosts are machines in containers, as the end-to-end suite has them.
type hosts struct {
	network string
	key     string
	ids     []string
	addrs   []string
}

func docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func startHosts(ctx context.Context, w *world, tag string, n int) (*hosts, error) {
	h := &hosts{key: filepath.Join(w.dir, "key")}
	if _, err := os.Stat(h.key); err != nil {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", h.key).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make a key: %w\n%s", err, out)
		}
	}
	public, err := os.ReadFile(h.key + ".pub")
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	h.network = fmt.Sprintf("dstack-bench-%d-%d", os.Getpid(), n)
	if _, err := docker(ctx, "network", "create", "--subnet", fmt.Sprintf("10.%d.%d.0/24", 190+n, os.Getpid()%250), h.network); err != nil {
		return nil, err
	}
	for range n {
		if err := h.start(ctx, tag, strings.TrimSpace(string(public))); err != nil {
			h.close()
			return nil, err
		}
	}
	return h, nil
}

func (h *hosts) start(ctx context.Context, tag, key string) error {
	id, err := docker(ctx, "run", "-d", "--network", h.network, "-e", "AUTHORIZED_KEY="+key,
		"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm", "-v", "/sys/fs/cgroup:/sys/fs/cgroup", "-v", "/var/lib/docker",
		"dstack-e2e-host:"+tag)
	if err != nil {
		return err
	}
	h.ids = append(h.ids, id)
	addr, err := docker(ctx, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id)
	if err != nil {
		return err
	}
	h.addrs = append(h.addrs, addr)
	for begin := time.Now(); ; pause(ctx, 100*time.Millisecond) {
		if _, err = docker(ctx, "exec", id, "docker", "info"); err == nil {
			break
		}
		if time.Since(begin) > 30*time.Second {
			return err
		}
	}
	load := fmt.Sprintf("docker save dstack-e2e-job:%[1]s | docker exec -i %[2]s docker load && docker exec %[2]s docker tag dstack-e2e-job:%[1]s job:1", tag, id)
	if out, err := exec.CommandContext(ctx, "sh", "-c", load).CombinedOutput(); err != nil {
		return fmt.Errorf("load the job's image: %w\n%s", err, out)
	}
	return nil
}

func (h *hosts) close() {
	ctx := context.Background() // also after an interrupt
	for _, id := range h.ids {
		_, _ = docker(ctx, "rm", "-f", "-v", id)
	}
	_, _ = docker(ctx, "network", "rm", h.network)
}
