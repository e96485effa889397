package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jobspec"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Served is a live service as whoever passes requests on to it sees it.
type Served struct {
	RunID, Project, Name string
	SubmittedAt          time.Time
	Service              *config.Service // not to be changed
	// ChatTemplate and EOSToken are those of a model of format tgi.
	ChatTemplate, EOSToken string
	// Replicas take requests, by their number.
	Replicas []Endpoint
}

// Routed says that a router stands in front of the service's workers.
func (s *Served) Routed() bool { return routerOf(s.Service) != nil }

// Scales says that the number of replicas follows the number of requests.
func (s *Served) Scales() bool { return jobspec.Scales(s.Service) }

// Endpoint is where a job answers.
type Endpoint struct {
	JobID, InstanceID, ProjectID string
	Port                         int // of the service
	// SSHPort is the port of the host's loopback where the job's SSH server listens, behind
	// which Port is; 0: Port is one of the host itself.
	SSHPort int
	User    string
}

// endpoint is where a job of a service answers, false when that is not known.
func endpoint(j Job) (Endpoint, bool) {
	rt, jpd, port := j.Data.Runtime, j.Data.Provisioning, j.Data.Spec.ServicePort
	if rt == nil || jpd == nil || port == nil || rt.Ports == nil {
		return Endpoint{}, false
	}
	e := Endpoint{JobID: j.ID, InstanceID: j.InstanceID, ProjectID: j.ProjectID, Port: *port, User: "root"}
	if rt.Username != nil && *rt.Username != "" {
		e.User = *rt.Username
	}
	// Of a plain process the host's own ports are the only ones. A container behind an address
	// of its own must not get what listens on its host: that belongs to somebody else.
	_, process := rt.Ports[agentapi.RunnerHTTPPort]
	if (jpd.Dockerized || !process) && rt.NetworkMode != api.NetworkHost {
		e.SSHPort = rt.Ports[agentapi.RunnerSSHPort]
		return e, e.SSHPort != 0
	}
	return e, true
}

// takesRequests says that a job is a replica to which requests may go; of a service with a router, by
// way of that.
func takesRequests(j Job) bool { return j.Status == api.JobRunning && j.Data.Ready && j.Num == 0 }

// Served finds a live service by name, store.ErrNotFound when there is none.
func (s *Service) Served(ctx context.Context, projectName, name string) (Served, error) {
	p, err := s.Projects.ByName(ctx, s.DB.Read(), projectName)
	if err != nil {
		return Served{}, err
	}
	r, err := getRun(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", p.ID, name)
	if err != nil {
		return Served{}, err
	}
	list, err := s.served(ctx, p, r)
	if err != nil || len(list) == 0 {
		return Served{}, errors.Join(err, store.ErrNotFound)
	}
	return list[0], nil
}

// Models lists the live services of a project that have a model, the newest first.
func (s *Service) Models(ctx context.Context, projectName string) ([]Served, error) {
	p, err := s.Projects.ByName(ctx, s.DB.Read(), projectName)
	if err != nil {
		return nil, err
	}
	runs, err := listRuns(ctx, s.DB.Read(), "WHERE project_id = $1 AND status IN ('submitted', 'pending', 'provisioning', 'running') ORDER BY submitted_at DESC, id", p.ID)
	if err != nil {
		return nil, err
	}
	var models []Run
	for _, r := range runs {
		if sv := r.Data.Spec.Configuration.Service; sv != nil && sv.Model != nil {
			models = append(models, r)
		}
	}
	return s.served(ctx, p, models...)
}

// served are those of runs that are live services.
func (s *Service) served(ctx context.Context, p project.Project, runs ...Run) (list []Served, err error) {
	var ids []string
	for _, r := range runs {
		if sv := r.Data.Spec.Configuration.Service; sv != nil && !r.Status.Finished() && r.Status != api.RunTerminating {
			one := Served{RunID: r.ID, Project: p.Name, Name: r.Name, SubmittedAt: r.SubmittedAt, Service: sv}
			if one.ChatTemplate, one.EOSToken, err = promptOf(r); err != nil {
				return nil, err
			}
			list = append(list, one)
			ids = append(ids, r.ID)
		}
	}
	jobs, err := jobsOf(ctx, s.DB.Read(), ids...)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Replicas = replicasFor(list[i].Service, jobs[list[i].RunID])
	}
	return list, nil
}

// replicasFor are those of a service that requests go to: of one with a router, that alone.
func replicasFor(sv *config.Service, jobs []Job) []Endpoint {
	var list []Endpoint
	router := routerOf(sv)
	for _, j := range latestOf(jobs) {
		if e, ok := endpoint(j); ok && takesRequests(j) && (router == nil || j.Data.Spec.ReplicaGroup == *router.Name) {
			list = append(list, e)
		}
	}
	return list
}

// publication is where a service without a gateway will answer (lifecycle 14.4); m is its model
// with all that the configuration leaves open, nil for none.
func publication(projectName, runName string, m *config.Model) (*api.ServiceSpec, error) {
	spec := &api.ServiceSpec{URL: fmt.Sprintf("/proxy/services/%s/%s/", projectName, runName), Options: []byte("{}")}
	if m == nil {
		return spec, nil
	}
	base := fmt.Sprintf("/proxy/models/%s/", projectName)
	if m.Format == "openai" {
		base = strings.TrimSuffix(spec.URL, "/") + m.Prefix
	}
	spec.Model = &api.ServiceModel{Name: m.Name, BaseURL: base, Type: m.Type}
	options, err := json.Marshal(map[string]any{"openai": map[string]any{"model": m}})
	if err != nil {
		return nil, fmt.Errorf("describe model %s: %w", m.Name, err)
	}
	spec.Options = options
	return spec, nil
}
