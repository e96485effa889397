package attach

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/sshuser"
)

// SSHPort is where the SSH server of a job answers, if nothing else is said.
const SSHPort = 10022

// hostSuffix and jumpSuffix make the names of the hops before the job.
const (
	hostSuffix = "-host"
	jumpSuffix = "-jump-host"
)

// errNotProvisioned means that a run has no host yet.
var errNotProvisioned = errors.New("Failed to attach. The run is not provisioned yet.")

// Choose returns the job to attach to: that of the replica, or of the lowest running one if replica is nil.
func Choose(r api.Run, replica *int, job int) (api.Job, error) {
	var found *api.Job
	better := func(j *api.Job) bool {
		if found == nil {
			return true
		}
		jr, fr := running(*j), running(*found)
		if jr != fr {
			return jr
		}
		return j.JobSpec.ReplicaNum < found.JobSpec.ReplicaNum
	}
	for i := range r.Jobs {
		j := &r.Jobs[i]
		if j.JobSpec.JobNum != job || replica != nil && j.JobSpec.ReplicaNum != *replica {
			continue
		}
		if better(j) {
			found = j
		}
	}
	if found != nil {
		return *found, nil
	}
	which := "<any running>"
	if replica != nil {
		which = fmt.Sprint(*replica)
	}
	return api.Job{}, fmt.Errorf("Failed to find replica=%s job=%d", which, job)
}

func running(j api.Job) bool {
	s := lastOf(j)
	return s != nil && s.Status == api.JobRunning
}

func lastOf(j api.Job) *api.JobSubmission {
	if len(j.JobSubmissions) == 0 {
		return nil
	}
	return &j.JobSubmissions[len(j.JobSubmissions)-1]
}

// HostName is the name under which users reach a job.
func HostName(r api.Run, j api.Job) string {
	if j.JobSpec.ReplicaNum == 0 && j.JobSpec.JobNum == 0 && r.RunSpec.RunName != nil {
		return *r.RunSpec.RunName
	}
	return j.JobSpec.JobName
}

// RouteTo returns the hops to a job whose run has the private key at the path key. Home has the user's SSH configuration.
func RouteTo(r api.Run, j api.Job, key, home string) (Route, error) {
	name := HostName(r, j)
	if ci := j.JobConnectionInfo; ci != nil && ci.SSHProxyHostname != nil && ci.SSHProxyUpstreamID != nil {
		port := 22
		if ci.SSHProxyPort != nil {
			port = *ci.SSHProxyPort
		}
		id := *ci.SSHProxyUpstreamID
		return Route{{Alias: name, Hostname: *ci.SSHProxyHostname, Port: port, User: id, Tunnel: id + "_root", Identity: key, Verified: true}}, nil
	}
	s := lastOf(j)
	if s == nil || s.JobProvisioningData == nil || cmp.Or(format.Text(s.JobProvisioningData.Hostname), "") == "" {
		return nil, errNotProvisioned
	}
	jpd := s.JobProvisioningData
	direct := Hop{Alias: name, Hostname: *jpd.Hostname, Port: port(jpd.SSHPort), User: user(j, s), Tunnel: "root", Identity: key}
	if !jpd.Dockerized {
		if p := jpd.SSHProxy; p != nil {
			return Route{{Alias: name + jumpSuffix, Hostname: p.Hostname, Port: p.Port, User: p.Username, Identity: key}, direct}, nil
		}
		return Route{direct}, nil
	}
	var route Route
	if p := jpd.SSHProxy; p != nil {
		own := sshuser.Lookup(home, p.Hostname).IdentityFile
		route = append(route, Hop{Alias: name + jumpSuffix, Hostname: p.Hostname, Port: p.Port, User: p.Username, Identity: own})
	}
	host := direct
	host.Alias, host.User, host.Tunnel = name+hostSuffix, jpd.Username, ""
	container := direct
	container.Hostname, container.Port = "localhost", SSHPort
	if s.JobRuntimeData != nil {
		if mapped, ok := s.JobRuntimeData.Ports[SSHPort]; ok {
			container.Port = mapped
		}
	}
	return append(route, host, container), nil
}

func user(j api.Job, s *api.JobSubmission) string {
	if s.JobRuntimeData != nil && format.Text(s.JobRuntimeData.Username) != "" {
		return *s.JobRuntimeData.Username
	}
	if u := j.JobSpec.User; u != nil && format.Text(u.Username) != "" {
		return *u.Username
	}
	return "root"
}

func port(p *int) int {
	if p == nil || *p == 0 {
		return 22
	}
	return *p
}

// Ports are the ports to forward for a job: those that its applications serve, with the user's choice of local ones.
func Ports(j api.JobSpec, override []Port) ([]Port, error) {
	var ports []Port
	for _, a := range j.AppSpecs {
		p := Port{Remote: a.Port}
		if a.MapToPort != nil {
			p.Local = *a.MapToPort
		}
		ports = append(ports, p)
	}
	for _, o := range override {
		i := slices.IndexFunc(ports, func(p Port) bool { return p.Remote == o.Remote })
		if i < 0 {
			return nil, fmt.Errorf("Cannot override port %d not exposed by the run", o.Remote)
		}
		ports[i].Local = o.Local
	}
	return ports, nil
}

// LinksFor are the replacements for addresses in the log of a job, see [Links].
func LinksFor(r api.Run, j api.Job, forwards []*Forward, server string) *Links {
	links := map[int]Link{}
	for _, f := range forwards {
		links[f.Remote] = Link{Local: f.Local}
	}
	for _, a := range j.JobSpec.AppSpecs {
		if l, ok := links[a.Port]; ok {
			l.Query = a.URLQueryParams
			links[a.Port] = l
		}
	}
	if r.Service != nil && j.JobSpec.ServicePort != nil {
		if u, err := ServiceURL(server, r.Service.URL); err == nil {
			l := links[*j.JobSpec.ServicePort]
			l.Service = u
			links[*j.JobSpec.ServicePort] = l
		}
	}
	host := ""
	if s := lastOf(j); s != nil && s.JobProvisioningData != nil {
		host = format.Text(s.JobProvisioningData.Hostname)
	}
	return newLinks(host, links)
}

// ServiceURL completes the address of a service, which may be relative to the server.
func ServiceURL(server, address string) (*url.URL, error) {
	if strings.Contains(address, "://") {
		return url.Parse(address)
	}
	base, err := url.Parse(strings.TrimRight(server, "/"))
	if err != nil {
		return nil, err
	}
	return base.Parse(address)
}
