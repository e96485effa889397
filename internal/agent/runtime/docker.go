package runtime

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"dstack/internal/agentapi"
)

// Labels of our containers; other tools find them by these names.
const (
	labelTask = "ai.dstack.shim.is-task"
	labelID   = "ai.dstack.shim.task-id"
	labelHome = "ai.dstack.shim.home"
	labelGPUs = "ai.dstack.shim.gpus" // their ids, with commas between
)

// Places inside the container.
const (
	taskDir   = "/dstack/task"
	blobsDir  = "/dstack/blobs"
	agentPath = "/dstack/agent"
)

// pullTimeout bounds an image pull (host-agents 1.5).
const pullTimeout = 20 * time.Minute

// Docker runs containers with a Docker engine.
type Docker struct {
	cli  *client.Client
	self string
	home string
}

// NewDocker connects to the engine that DOCKER_HOST names, or the local one. self is the
// agent binary, home tells the containers of this agent from those of another.
func NewDocker(self, home string) (*Docker, error) {
	cli, err := client.New(client.FromEnv)
	if err != nil {
		return nil, fmt.Errorf("connect to Docker: %w", err)
	}
	return &Docker{cli: cli, self: self, home: home}, nil
}

// Name is "docker".
func (d *Docker) Name() string { return "docker" }

// Version asks the engine.
func (d *Docker) Version(ctx context.Context) (string, error) {
	v, err := d.cli.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", fmt.Errorf("ask Docker for its version: %w", err)
	}
	return v.Version, nil
}

// Root is the folder in which the engine keeps images, "" when it does not say.
func (d *Docker) Root(ctx context.Context) string {
	info, err := d.cli.Info(ctx, client.InfoOptions{})
	if err != nil {
		return ""
	}
	return info.Info.DockerRootDir
}

// containerName is <name>-<8 hex digits>, the same after a restart (host-agents 1.5).
func containerName(c Container) string {
	sum := sha256.Sum256([]byte(c.Name + "/" + c.ID))
	return c.Name + "-" + hex.EncodeToString(sum[:4])
}

// Pull gets the image unless it is there under a tag that does not move.
func (d *Docker) Pull(ctx context.Context, c Container, progress func(agentapi.PullProgress)) error {
	ref := c.Spec.Image
	if i := strings.LastIndex(ref, ":"); i < strings.LastIndex(ref, "/")+1 && !strings.Contains(ref, "@") {
		ref += ":latest"
	}
	if !strings.HasSuffix(ref, ":latest") {
		if _, err := d.cli.ImageInspect(ctx, ref); err == nil {
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	opts := client.ImagePullOptions{}
	if a := c.Spec.RegistryAuth; a != nil && (a.Username != "" || a.Password != "") {
		data, err := json.Marshal(map[string]string{"username": a.Username, "password": a.Password})
		if err != nil {
			return fmt.Errorf("pull %s: %w", ref, err)
		}
		opts.RegistryAuth = base64.URLEncoding.EncodeToString(data)
	}
	resp, err := d.cli.ImagePull(ctx, ref, opts)
	if err != nil {
		return d.pullFailed(ctx, ref, err)
	}
	defer resp.Close()
	layers := newLayers()
	for m, err := range resp.JSONMessages(ctx) {
		if err != nil { // of the connection: what the engine has to say comes as a message
			return d.pullFailed(ctx, ref, fmt.Errorf("%w: %w", ErrAway, err))
		}
		if m.Error != nil {
			return d.pullFailed(ctx, ref, m.Error)
		}
		var cur, total int64
		if m.Progress != nil {
			if m.Progress.Units != "" && m.Progress.Units != "bytes" {
				continue // seconds say nothing about the size
			}
			cur, total = m.Progress.Current, m.Progress.Total
		}
		if layers.see(m.ID, m.Status, cur, total) {
			progress(layers.sum())
		}
	}
	return nil
}

// pullFailed says what is wrong. An image that is there already is good enough when the
// registry cannot be reached.
func (d *Docker) pullFailed(ctx context.Context, ref string, err error) error {
	if ctx.Err() == nil {
		_, ierr := d.cli.ImageInspect(ctx, ref)
		switch {
		case ierr == nil:
			return nil
		case client.IsErrConnectionFailed(ierr) && !errors.Is(err, ErrAway): // it has ended just now, and its pulls before it
			err = fmt.Errorf("%w: %w", ErrAway, err)
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &ImageError{fmt.Sprintf("image pull interrupted: %s took more than %v", ref, pullTimeout)}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err = away(err); errors.Is(err, ErrAway) {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	return &ImageError{fmt.Sprintf("failed pulling %s: %v", ref, err)}
}

// away marks an error that is no answer of the engine.
func away(err error) error {
	// As an engine that is stopped says of what it was doing.
	ended := err != nil && !errors.Is(err, context.Canceled) && strings.HasSuffix(err.Error(), context.Canceled.Error())
	if !errors.Is(err, ErrAway) && (ended || client.IsErrConnectionFailed(err)) {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// Start creates and starts the container.
func (d *Docker) Start(ctx context.Context, c Container) error {
	img, err := d.cli.ImageInspect(ctx, c.Spec.Image)
	if err = away(err); errors.Is(err, ErrAway) {
		return err
	}
	if err != nil {
		return &ImageError{fmt.Sprintf("image %s: %v", c.Spec.Image, err)}
	}
	if len(c.Spec.Job.Command) == 0 && img.Config != nil {
		if err := useImageCommand(c, append(append([]string{}, img.Config.Entrypoint...), img.Config.Cmd...)); err != nil {
			return err
		}
	}
	cfg, host := d.config(c)
	err = d.createAndStart(ctx, c, cfg, host)
	if err != nil && strings.Contains(err.Error(), "/dev/nvidia-modeset") && withoutDisplay(host) {
		// Some hosts cannot show anything (host-agents 1.5).
		if err := d.Remove(ctx, c.ID); err != nil {
			return away(err)
		}
		err = d.createAndStart(ctx, c, cfg, host)
	}
	return away(err)
}

func (d *Docker) createAndStart(ctx context.Context, c Container, cfg *container.Config, host *container.HostConfig) error {
	name := containerName(c)
	id, err := d.create(ctx, client.ContainerCreateOptions{Name: name, Config: cfg, HostConfig: host})
	if cerrdefs.IsConflict(err) { // made before a crash, its own or the engine's
		id, err = name, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("create the container: %w", err)
	}
	if _, err := d.cli.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return nil
}

// createGrace is how long the creation of a container that is not wanted any more may take.
// Agents that are replaced have 8 s to end.
const createGrace = 5 * time.Second

// create makes a container. The engine goes on with that when nobody waits for its answer: after
// the end of ctx it is waited for, so that whoever removes the container then finds it.
func (d *Docker) create(ctx context.Context, o client.ContainerCreateOptions) (id string, err error) {
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(createGrace, cancel) })
	defer stop()
	created, err := d.cli.ContainerCreate(patient, o)
	return created.ID, err
}

// withoutDisplay takes the display from what NVIDIA's GPUs are asked for, and says whether
// it was there.
func withoutDisplay(host *container.HostConfig) bool {
	found := false
	for _, r := range host.DeviceRequests {
		for i, set := range r.Capabilities {
			n := len(set)
			r.Capabilities[i] = slices.DeleteFunc(set, func(s string) bool { return s == "display" })
			found = found || len(r.Capabilities[i]) < n
		}
	}
	return found
}

// useImageCommand writes the image's own command into the job, for a run without commands.
func useImageCommand(c Container, command []string) error {
	c.Spec.Job.Command = command
	data, err := json.Marshal(c.Spec.Job)
	if err != nil {
		return fmt.Errorf("take over the image's command: %w", err)
	}
	path := c.Dir + "/spec.json"
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("take over the image's command: %w", err)
	}
	return os.Rename(path+".new", path)
}

// config translates a task into the engine's terms (host-agents 1.6).
func (d *Docker) config(c Container) (*container.Config, *container.HostConfig) {
	args := []string{"runner", "--dir", taskDir, "--blobs", blobsDir, "--ssh-port", strconv.Itoa(agentapi.RunnerSSHPort), "--http-port", strconv.Itoa(agentapi.RunnerHTTPPort)}
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode("bridge"),
		Privileged:  c.Spec.Privileged,
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: c.Dir, Target: taskDir},
			{Type: mount.TypeBind, Source: c.Blobs, Target: blobsDir, ReadOnly: true},
			{Type: mount.TypeBind, Source: d.self, Target: agentPath, ReadOnly: true},
		},
	}
	switch {
	case c.Spec.Network == "host" && len(c.Spec.Job.Cluster.NodeIPs) > 1:
		host.NetworkMode = "host" // the other nodes log in over SSH
	case c.Spec.Network == "host":
		host.NetworkMode = "host"
		args = append(args, "--listen", "127.0.0.1")
	default:
		port := network.MustParsePort(fmt.Sprintf("%d/tcp", agentapi.RunnerSSHPort))
		host.PortBindings = network.PortMap{port: {{HostIP: loopback(), HostPort: ""}}}
	}
	gpus := make([]string, len(c.GPUs))
	for i, g := range c.GPUs {
		gpus[i] = g.ID
	}
	cfg := &container.Config{
		Image: c.Spec.Image, User: "0", Entrypoint: append([]string{agentPath}, args...), Cmd: []string{},
		Labels: map[string]string{labelTask: "true", labelID: c.ID, labelHome: d.home, labelGPUs: strings.Join(gpus, ",")},
		Env:    passed(os.Getenv),
	}
	if host.PortBindings != nil {
		cfg.ExposedPorts = network.PortSet{}
		for p := range host.PortBindings {
			cfg.ExposedPorts[p] = struct{}{}
		}
	}
	for _, m := range c.Spec.Mounts {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target})
	}
	for _, v := range c.Spec.Volumes {
		host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: "/mnt/disks/dstack-volumes/" + v.Name, Target: v.Target})
	}
	if c.Spec.CPUs > 0 {
		host.NanoCPUs = int64(c.Spec.CPUs * 1e9)
	}
	host.Memory = c.Spec.Memory
	if c.Spec.ShmSize > 0 {
		host.ShmSize = c.Spec.ShmSize
		host.Tmpfs = map[string]string{"/dev/shm": "exec,size=" + strconv.FormatInt(c.Spec.ShmSize, 10)}
	}
	if _, err := os.Stat("/dev/infiniband"); err == nil {
		host.Devices = append(host.Devices, device("/dev/infiniband"))
		unlimited := int64(-1)
		host.Ulimits = append(host.Ulimits, &container.Ulimit{Name: "memlock", Soft: unlimited, Hard: unlimited})
	}
	gpuConfig(c, cfg, host)
	return cfg, host
}

// passed are the agent's own variables that every container gets: proxies, and what tells
// a TPU host.
func passed(getenv func(string) string) []string {
	var env []string
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PJRT_DEVICE"} {
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func device(path string) container.DeviceMapping {
	return container.DeviceMapping{PathOnHost: path, PathInContainer: path, CgroupPermissions: "rwm"}
}

// gpuConfig passes the task's accelerators through, in each vendor's way.
func gpuConfig(c Container, cfg *container.Config, host *container.HostConfig) {
	if len(c.Spec.Devices) > 0 {
		for _, dev := range c.Spec.Devices {
			host.Devices = append(host.Devices, device(dev))
		}
		return
	}
	if len(c.GPUs) == 0 {
		return
	}
	ids := make([]string, len(c.GPUs))
	for i, g := range c.GPUs {
		ids[i] = g.ID
	}
	switch c.Vendor {
	case "nvidia":
		host.DeviceRequests = []container.DeviceRequest{{
			DeviceIDs:    ids,
			Capabilities: [][]string{{"gpu", "utility", "compute", "graphics", "video", "display", "compat32"}},
		}}
	case "amd":
		host.Devices = append(host.Devices, device("/dev/kfd"))
		for _, id := range ids {
			host.Devices = append(host.Devices, device(id))
		}
		host.IpcMode = "host"
		host.CapAdd = append(host.CapAdd, "SYS_PTRACE")
		host.SecurityOpt = append(host.SecurityOpt, "seccomp=unconfined")
	case "intel":
		host.Runtime = "habana"
		host.IpcMode = "host"
		host.CapAdd = append(host.CapAdd, "SYS_NICE")
		cfg.Env = append(cfg.Env, "HABANA_VISIBLE_DEVICES="+strings.Join(ids, ","))
	case "tenstorrent":
		for _, id := range ids {
			host.Devices = append(host.Devices, device("/dev/tenstorrent/"+id))
		}
		if _, err := os.Stat("/dev/hugepages-1G"); err == nil {
			host.Mounts = append(host.Mounts, mount.Mount{Type: mount.TypeBind, Source: "/dev/hugepages-1G", Target: "/dev/hugepages-1G"})
		}
	}
}

// find looks a task's container up by its label.
func (d *Docker) find(ctx context.Context, id string) (container.Summary, error) {
	list, err := d.cli.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelID+"="+id)})
	if err != nil {
		return container.Summary{}, fmt.Errorf("look for the container of task %s: %w", id, err)
	}
	if len(list.Items) == 0 {
		return container.Summary{}, ErrNotFound
	}
	return list.Items[0], nil
}

// Ports reads the host's ports of a container on the bridge.
func (d *Docker) Ports(ctx context.Context, id string) (map[int]int, error) {
	c, err := d.find(ctx, id)
	if err != nil {
		return nil, err
	}
	ports := map[int]int{}
	for _, p := range c.Ports {
		if p.PublicPort != 0 && p.Type == "tcp" && (!p.IP.IsValid() || p.IP.Is4()) {
			ports[int(p.PrivatePort)] = int(p.PublicPort)
		}
	}
	return ports, nil
}

// Wait returns when the container has stopped; it reconnects while the engine is away.
func (d *Docker) Wait(ctx context.Context, id string) (Exit, error) {
	for {
		c, err := d.find(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return Exit{}, err
		}
		if err == nil {
			w := d.cli.ContainerWait(ctx, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
			select {
			case r := <-w.Result:
				// An error beside the code may be that of the wait, or of somebody's attempt to remove the container,
				// which may run on. An ended one may keep such an error for good.
				if r.Error == nil || !runs(c) {
					return Exit{Code: int(r.StatusCode), Tail: d.tail(ctx, c.ID)}, nil
				}
			case err = <-w.Error:
				if cerrdefs.IsNotFound(err) {
					return Exit{}, ErrNotFound
				}
			}
		}
		select {
		case <-ctx.Done():
			return Exit{}, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// runs says that a container ran when the engine was asked for it. One that is paused does.
func runs(c container.Summary) bool {
	return c.State == container.StateRunning || c.State == container.StatePaused || c.State == container.StateRestarting
}

// tail is the last output of the runner itself, not of the job.
func (d *Docker) tail(ctx context.Context, id string) string {
	r, err := d.cli.ContainerLogs(ctx, id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: "5"})
	if err != nil {
		return ""
	}
	defer r.Close()
	var out bytes.Buffer
	head := make([]byte, 8)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			break
		}
		n := int64(binary.BigEndian.Uint32(head[4:]))
		if _, err := io.CopyN(&out, r, min(n, 64<<10)); err != nil {
			break
		}
	}
	return lastLines(out.String(), 5)
}

// Kill ends the container.
func (d *Docker) Kill(ctx context.Context, id string) error {
	c, err := d.find(ctx, id)
	if err != nil {
		return err
	}
	_, err = d.cli.ContainerKill(ctx, c.ID, client.ContainerKillOptions{Signal: "KILL"})
	if err != nil && !cerrdefs.IsConflict(err) && !cerrdefs.IsNotFound(err) { // conflict: not running
		return fmt.Errorf("kill the container of task %s: %w", id, err)
	}
	return nil
}

// Remove deletes the container with its anonymous volumes.
func (d *Docker) Remove(ctx context.Context, id string) error {
	c, err := d.find(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = d.cli.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove the container of task %s: %w", id, err)
	}
	return nil
}

// List finds the containers of this agent.
func (d *Docker) List(ctx context.Context) ([]Found, error) {
	list, err := d.cli.ContainerList(ctx, client.ContainerListOptions{All: true,
		Filters: client.Filters{}.Add("label", labelTask+"=true").Add("label", labelHome+"="+d.home)})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var found []Found
	for _, c := range list.Items {
		f := Found{ID: c.Labels[labelID], Running: runs(c)}
		if ids, ok := c.Labels[labelGPUs]; ok {
			f.GPUs = strings.FieldsFunc(ids, func(r rune) bool { return r == ',' })
		}
		found = append(found, f)
	}
	return found, nil
}
