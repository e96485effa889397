package jobspec

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// MaxNodes bounds the jobs of a run, as each is in every answer about it. The published server
// has no such limit.
const MaxNodes = 1000

// Limits bound what a configuration may ask for; zero fields are the published ones
// (configurations 5.7).
type Limits struct {
	Probes       int   // of a service, 0: 10
	ProbeTimeout int64 // seconds, 0: 300
	Window       int64 // of a utilization policy, seconds, 0: 3600
}

func (l Limits) probes() int { return cmp.Or(l.Probes, 10) }

// LongestProbe is how long a probe may take, in seconds.
func (l Limits) LongestProbe() int64 { return cmp.Or(l.ProbeTimeout, 300) }
func (l Limits) window() int64       { return cmp.Or(l.Window, 3600) }

// Normalise refuses what can never run, in the order of lifecycle 4.1, and fills in what the
// server decides. It changes what spec points to. The result stays as it is when it is
// normalised again.
func (l Limits) Normalise(spec *api.RunSpec, userKey string) error {
	Explicit(spec)
	for _, step := range []func(*api.RunSpec) error{checkNames, checkSize, checkGroupRefs, checkMounts, fillRepo, l.checkPolicies, FillDefaults, checkAccelerators, checkCPU} {
		if err := step(spec); err != nil {
			return err
		}
	}
	if spec.SSHKeyPub == nil {
		if userKey == "" {
			return api.Invalid("ssh_key_pub must be set if the user has no ssh_public_key")
		}
		spec.SSHKeyPub = &userKey
	}
	if unresolved := spec.Configuration.Common().Env.Unresolved(); len(unresolved) > 0 {
		return api.Invalid("not all variables are resolved: %s", strings.Join(unresolved, ", "))
	}
	return nil
}

// Explicit writes out what a client may leave away, as responses always have it.
func Explicit(spec *api.RunSpec) {
	if spec.FileArchives == nil {
		spec.FileArchives = []api.FileArchiveMapping{}
	}
	if t := spec.Configuration.Task; t != nil && t.Nodes == nil && t.Groups == nil {
		task, one := *t, 1
		task.Nodes = &one
		spec.Configuration.Task = &task
	}
}

func checkNames(spec *api.RunSpec) error {
	for _, name := range []*string{spec.RunName, spec.Configuration.Common().Name} {
		if name == nil {
			continue
		}
		if err := config.CheckName(*name); err != nil {
			return api.Invalid("%v", err)
		}
	}
	return nil
}

func checkSize(spec *api.RunSpec) error {
	total := 0
	for _, n := range Sizes(spec.Configuration) {
		if n > MaxNodes-total {
			return api.Invalid("A run cannot have more than %d nodes", MaxNodes)
		}
		total += n
	}
	return nil
}

func checkMounts(spec *api.RunSpec) error {
	for _, m := range spec.Configuration.Common().Volumes {
		if !mountable(m.Path) {
			return api.Invalid("Invalid volume mount path: %s", m.Path)
		}
	}
	return nil
}

// mountable says that something can be mounted at a path of a container.
func mountable(path string) bool {
	return strings.HasPrefix(path, "/") && (path == "/" || !strings.HasSuffix(path, "/")) && !strings.Contains(path, "\x00")
}

func fillRepo(spec *api.RunSpec) error {
	switch {
	case spec.RepoID == nil && spec.RepoData != nil && spec.RepoData.RepoType != "virtual":
		return api.Invalid("repo_data must not be set if repo_id is not set")
	case spec.RepoID != nil && spec.RepoData == nil:
		return api.Invalid("repo_id must not be set if repo_data is not set")
	case spec.RepoID == nil:
		none := "none"
		spec.RepoID, spec.RepoData = &none, &api.RepoData{RepoType: "virtual"}
	}
	return nil
}

// checkPolicies looks at what the server does by itself while a run is alive.
func (l Limits) checkPolicies(spec *api.RunSpec) error {
	p := spec.Merged()
	if u := p.UtilizationPolicy; u != nil && int64(u.TimeWindow) > l.window() {
		return api.Invalid("Maximum utilization_policy.time_window is %ds", l.window())
	}
	sv := spec.Configuration.Service
	if sv == nil {
		return nil
	}
	if p.Schedule != nil && !slices.ContainsFunc(Sizes(spec.Configuration), func(n int) bool { return n > 0 }) {
		return api.Invalid("Scheduled services with autoscaling to zero are not supported")
	}
	if len(sv.Probes) > l.probes() {
		return api.Invalid("Cannot configure more than %d probes", l.probes())
	}
	for _, probe := range sv.Probes {
		if probe.Timeout != nil && int64(*probe.Timeout) > l.LongestProbe() {
			return api.Invalid("Probe timeout cannot be longer than %ds", l.LongestProbe())
		}
	}
	return nil
}

// FillDefaults writes out the resources and the priority that a configuration leaves open. It changes what
// spec points to.
func FillDefaults(spec *api.RunSpec) error {
	c := spec.Configuration.Common()
	if c.Priority == nil {
		zero := 0
		c.Priority = &zero
	}
	fillGPU(whole(c))
	machines, _ := hardware(spec.Configuration)
	for _, m := range machines {
		fillGPU(m)
	}
	return nil
}

// A machine is what equal jobs of a run need, and in which kind of image they run there.
type machine struct {
	resources     *config.Resources
	image, docker bool
}

func whole(c *config.RunCommon) machine {
	return machine{&c.Resources, c.Image != nil, isTrue(c.Docker)}
}

// Resources are what the jobs of each group of a run need, to be changed where they are.
func Resources(a config.AnyRun) []*config.Resources {
	machines, _ := hardware(a)
	list := make([]*config.Resources, len(machines))
	for i, m := range machines {
		list[i] = m.resources
	}
	return list
}

// hardware lists the machines of a run's groups; a run without groups is one, not grouped.
func hardware(a config.AnyRun) (list []machine, grouped bool) {
	c := a.Common()
	switch {
	case a.Task != nil && a.Task.Groups != nil:
		for i := range a.Task.Groups {
			list = append(list, machine{&a.Task.Groups[i].Resources, c.Image != nil, isTrue(c.Docker)})
		}
	case a.Service != nil && a.Service.Groups != nil:
		for i := range a.Service.Groups {
			g := &a.Service.Groups[i]
			docker := g.Docker
			if docker == nil {
				docker = c.Docker
			}
			list = append(list, machine{&g.Resources, g.Image != nil || c.Image != nil, isTrue(docker)})
		}
	default:
		return []machine{whole(c)}, false
	}
	return list, true
}

// fillGPU is configurations 2.7: an absent GPU is any number, and the vendor follows from
// the names or, with the default image, is NVIDIA.
func fillGPU(m machine) {
	if m.resources.GPU == nil {
		m.resources.GPU = &config.GPU{Count: config.Between(0, -1)}
	}
	g := m.resources.GPU
	if g.Vendor != nil || g.Count.Max != nil && *g.Count.Max == 0 {
		return
	}
	vendor := ""
	switch {
	case len(g.Name) > 0:
		vendor = vendorOf(g.Name)
	case !m.image && !m.docker:
		vendor = "nvidia"
	}
	if vendor != "" {
		g.Vendor = &vendor
	}
}

// vendorOf is the vendor that makes all GPUs of these names, "" when there is no such one.
func vendorOf(names []string) string {
	vendor := config.GPUVendorOf(names[0])
	for _, name := range names[1:] {
		if config.GPUVendorOf(name) != vendor {
			return ""
		}
	}
	return vendor
}

// checkAccelerators refuses accelerators for which the default image has no software.
func checkAccelerators(spec *api.RunSpec) error {
	machines, grouped := hardware(spec.Configuration)
	var where []int
	unsupported := map[string]bool{}
	for i, m := range machines {
		vendors := foreign(m)
		if len(vendors) > 0 {
			where = append(where, i)
		}
		for _, v := range vendors {
			unsupported[v] = true
		}
	}
	if where == nil {
		return nil
	}
	return api.Invalid("%s`image` must be set when the requested accelerator is not supported by the default image: %s",
		ofGroups(where, grouped), api.List(slices.Sorted(maps.Keys(unsupported))))
}

// foreign lists the vendors that the default image does not support and that m may get.
func foreign(m machine) []string {
	g := m.resources.GPU
	if m.image || m.docker || g.Count.Max != nil && *g.Count.Max == 0 {
		return nil
	}
	var vendors []string
	if g.Vendor != nil {
		vendors = []string{*g.Vendor}
	} else {
		for _, name := range g.Name {
			vendors = append(vendors, config.GPUVendorOf(name))
		}
	}
	return slices.DeleteFunc(vendors, func(v string) bool { return v == "" || v == "nvidia" || v == "google" })
}

// checkCPU refuses ARM processors for our own images, which are not built for them.
func checkCPU(spec *api.RunSpec) error {
	machines, grouped := hardware(spec.Configuration)
	var docker, plain []int
	for i, m := range machines {
		switch arch := m.resources.CPU.Arch; {
		case arch == nil || *arch != "arm":
		case m.docker:
			docker = append(docker, i)
		case !m.image:
			plain = append(plain, i)
		}
	}
	var problems []string
	if docker != nil {
		problems = append(problems, ofGroups(docker, grouped)+"`docker: true` is not supported on ARM CPU")
	}
	if plain != nil {
		problems = append(problems, ofGroups(plain, grouped)+"`image` must be set when ARM CPU requested")
	}
	if problems != nil {
		return api.Invalid("%s", strings.Join(problems, "\n"))
	}
	return nil
}

// ofGroups begins a message about some groups of a run.
func ofGroups(numbers []int, grouped bool) string {
	if !grouped {
		return ""
	}
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprint(n)
	}
	return "groups[" + strings.Join(texts, ", ") + "]: "
}

func isTrue(b *bool) bool { return b != nil && *b }
