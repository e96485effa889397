// Package jobspec says what a run's configuration means for its jobs: which of them there are, what each
// runs and needs, and what the server fills in or refuses before that. It is pure; what a run becomes after
// that is package run's.
//
// Test it with go test ./internal/jobspec.
package jobspec

import (
	"fmt"
	"slices"
	"strings"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
)

// Defaults of job specs (configurations 5.7).
const (
	// WorkflowDir is where a run's code is.
	WorkflowDir = "/workflow"
	// DefaultStop is how long a job may take to end when it is asked to, in seconds.
	DefaultStop  = 300
	defaultRetry = 3600 // seconds
)

// Replica derives the jobs of one replica of a run (lifecycle 4.3).
func (im Images) Replica(spec api.RunSpec, name, group string, replica int) ([]api.JobSpec, error) {
	specs, err := im.jobSpecs(OfGroup(spec, group), name)
	for i := range specs {
		specs[i].ReplicaGroup, specs[i].ReplicaNum = group, replica
		specs[i].JobName = Name(name, specs[i].JobNum, replica)
	}
	return specs, err
}

// Name is that of a job.
func Name(run string, num, replica int) string { return fmt.Sprintf("%s-%d-%d", run, num, replica) }

// Planned are the jobs of one replica of each group.
func (im Images) Planned(spec api.RunSpec, name string) ([]api.JobSpec, error) {
	var all []api.JobSpec
	for _, g := range Groups(spec.Configuration) {
		specs, err := im.Replica(spec, name, g.Name, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, specs...)
	}
	return all, nil
}

// jobSpecs derives the jobs of the first replica of a run without groups of replicas.
func (im Images) jobSpecs(spec api.RunSpec, name string) ([]api.JobSpec, error) {
	groups := []config.NodeGroup{{Nodes: 1}}
	t := spec.Configuration.Task
	switch {
	case t != nil && t.Groups != nil:
		groups = t.Groups
	case t != nil:
		groups[0].Nodes = *t.Nodes
	}
	total := 0
	for _, g := range groups {
		total += g.Nodes
	}
	var specs []api.JobSpec
	for i, g := range groups {
		one := spec
		if t != nil && t.Groups != nil {
			one.Configuration = config.AnyRun{Task: ofNodes(t, g)}
		}
		for n := range g.Nodes {
			j, err := im.Job(one, name, len(specs), total)
			if err != nil {
				return nil, err
			}
			j.NodeGroupIndex, j.NodeGroupJobIndex = i, n
			if g.Name != nil {
				j.NodeGroupName = *g.Name
			}
			specs = append(specs, j)
		}
	}
	return specs, nil
}

// ofNodes is a task as the nodes of one of its groups have it.
func ofNodes(t *config.Task, g config.NodeGroup) *config.Task {
	one := *t
	one.Groups, one.Nodes = nil, &g.Nodes
	one.Commands, one.Ports, one.Resources = g.Commands, g.Ports, g.Resources
	return &one
}

// Job derives one job of so many of a replica, of a run without groups.
func (im Images) Job(spec api.RunSpec, name string, num, total int) (api.JobSpec, error) {
	c := spec.Configuration.Common()
	p := spec.Merged()
	commands, err := jobCommands(spec)
	if err != nil {
		return api.JobSpec{}, err
	}
	home := c.HomeDir
	j := api.JobSpec{
		JobNum: num, JobName: Name(name, num, 0), JobsPerReplica: total, ReplicaGroup: OnlyGroup, AppSpecs: []api.AppSpec{},
		User: unixUser(c.User), Commands: commands, Env: c.Env.Values(), HomeDir: &home, ImageName: im.of(c),
		Privileged: c.Privileged || isTrue(c.Docker), SingleBranch: c.SingleBranch, MaxDuration: seconds(p.MaxDuration, 0),
		StopDuration: seconds(p.StopDuration, DefaultStop), UtilizationPolicy: p.UtilizationPolicy, RegistryAuth: c.RegistryAuth,
		Requirements: requirements(c, p, total > 1), Retry: retry(p.Retry), Volumes: c.Volumes, WorkingDir: c.WorkingDir,
		RepoData: spec.RepoData, RepoCodeHash: spec.RepoCodeHash, RepoDir: WorkflowDir, FileArchives: spec.FileArchives,
		Probes: []api.ProbeSpec{}, NodeGroupName: "0",
	}
	if _, own := j.Env["DSTACK_SERVER_URL"]; ServerAccess(spec) && !own {
		j.Env["DSTACK_SERVER_URL"] = agentapi.ServerURL
	}
	if j.SingleBranch == nil {
		single := spec.Configuration.DevEnvironment == nil
		j.SingleBranch = &single
	}
	if len(c.Repos) > 0 {
		j.RepoDir = c.Repos[0].Path
		j.RepoExistsAction = &c.Repos[0].IfExists
	} else if spec.RepoDir != nil {
		j.RepoDir = *spec.RepoDir
	}
	if sv := spec.Configuration.Service; sv != nil {
		j.ServicePort, j.Probes = &sv.Port.ContainerPort, probeSpecs(sv)
	}
	for i, m := range ports(spec.Configuration) {
		if m.ContainerPort >= 10000 && m.ContainerPort <= 10999 {
			continue // reserved for the agents
		}
		j.AppSpecs = append(j.AppSpecs, api.AppSpec{Port: m.ContainerPort, MapToPort: m.LocalPort, AppName: fmt.Sprintf("app_%d", i)})
	}
	return j, nil
}

// ServerAccess says that the jobs of a run may call the server: `dstack: true`.
func ServerAccess(spec api.RunSpec) bool { return spec.Configuration.Common().Dstack }

func ports(a config.AnyRun) []config.PortMapping {
	switch {
	case a.Task != nil:
		return a.Task.Ports
	case a.DevEnvironment != nil:
		return a.DevEnvironment.Ports
	}
	return nil
}

func unixUser(u *config.UnixUser) *api.UnixUser {
	if u == nil {
		return nil
	}
	p, err := config.ParseUnixUser(string(*u))
	if err != nil {
		return nil // refused when the configuration was read
	}
	v := &api.UnixUser{UID: p.UID, GID: p.GID}
	if p.Username != "" {
		v.Username = &p.Username
	}
	if p.Groupname != "" {
		v.Groupname = &p.Groupname
	}
	return v
}

func seconds(d *config.OffDuration, def int64) *int64 {
	switch {
	case d == nil && def == 0 || d != nil && d.Off:
		return nil
	case d == nil:
		return &def
	}
	return &d.Seconds
}

func retry(r *config.RetryOption) *api.Retry {
	if r == nil || !r.Object && !r.Enabled {
		return nil
	}
	out := &api.Retry{OnEvents: []string{"no-capacity", "interruption", "error"}, Duration: defaultRetry}
	if r.Object {
		if r.OnEvents != nil {
			out.OnEvents = r.OnEvents
		}
		if r.Duration != nil {
			out.Duration = int64(*r.Duration)
		}
		if r.Scope != nil && *r.Scope == api.RetryNode {
			out.Scope = api.RetryNode
		}
	}
	return out
}

func requirements(c *config.RunCommon, p config.Profile, multinode bool) api.Requirements {
	no := false
	req := api.Requirements{Resources: c.Resources, MaxPrice: p.MaxPrice, Reservation: p.Reservation, Multinode: &multinode, BackendOptions: p.BackendOptions, Spot: &no}
	if c.Image == nil && req.Resources.CPU.Arch == nil {
		x86 := "x86"
		req.Resources.CPU.Arch = &x86
	}
	if p.SpotPolicy != nil {
		switch *p.SpotPolicy {
		case "auto":
			req.Spot = nil
		case "spot":
			yes := true
			req.Spot = &yes
		}
	}
	return req
}

// jobCommands is the argv of the job (host-agents 3). Empty means the image's own.
func jobCommands(spec api.RunSpec) ([]string, error) {
	c := spec.Configuration.Common()
	var commands []string
	switch {
	case spec.Configuration.Task != nil:
		commands = spec.Configuration.Task.Commands
	case spec.Configuration.Service != nil:
		commands = spec.Configuration.Service.Commands
	case spec.Configuration.DevEnvironment != nil:
		commands = devCommands(spec)
	}
	if c.Entrypoint != nil {
		argv, err := config.ShellSplit(*c.Entrypoint)
		if err != nil {
			return nil, api.Invalid("entrypoint: %v", err)
		}
		return append([]string{}, slices.Concat(argv, commands)...), nil // also of none
	}
	defaults := c.Image == nil && !isTrue(c.Docker)
	if len(commands) == 0 {
		if c.Image == nil {
			return nil, api.Invalid("Could not determine what command to run. Please specify either `commands` or `entrypoint` in your run configuration")
		}
		return []string{}, nil
	}
	switch {
	case defaults:
		commands = append(venv(c), commands...)
	case isTrue(c.Docker):
		commands = append([]string{"start-dockerd"}, commands...)
	}
	return []string{shell(c), "-i", "-c", config.JoinCommands(commands)}, nil
}

func shell(c *config.RunCommon) string {
	switch {
	case c.Shell != nil && strings.HasPrefix(string(*c.Shell), "/"):
		return string(*c.Shell)
	case c.Shell != nil:
		return "/bin/" + string(*c.Shell)
	case c.Image == nil:
		return "/bin/bash"
	}
	return "/bin/sh"
}

// devCommands keep a dev environment alive and say how to reach it.
func devCommands(spec api.RunSpec) []string {
	dev := spec.Configuration.DevEnvironment
	name := "dev"
	if spec.RunName != nil {
		name = *spec.RunName
	}
	commands := append(append([]string{}, dev.Setup...), dev.Init...)
	commands = append(commands, "echo")
	if dev.IDE != nil {
		title, url := IDE(*dev.IDE, name, `$DSTACK_WORKING_DIR`)
		commands = append(commands, fmt.Sprintf(`echo "To open in %s Desktop, use link below:"`, title), "echo", fmt.Sprintf(`echo "  %s"`, url), "echo")
	}
	return append(commands, fmt.Sprintf("echo 'To connect via SSH, use: `ssh %s`'", name), "echo",
		`echo -n 'To exit, press Ctrl+C.'`, "echo", "while true; do sleep 3600; done")
}

// IDE is what the word for an editor in a configuration stands for: its name, and the link that opens a
// folder on a host in it.
func IDE(word, host, dir string) (title, url string) {
	switch word {
	case "cursor":
		return "Cursor", "cursor://vscode-remote/ssh-remote+" + host + dir
	case "windsurf":
		return "Windsurf", "windsurf://vscode-remote/ssh-remote+" + host + dir
	case "zed":
		return "Zed", "zed://ssh/" + host + dir
	}
	return "VS Code", "vscode://vscode-remote/ssh-remote+" + host + dir
}
