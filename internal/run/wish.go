package run

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// wish is what a gang asks for by itself, in the scheduler's words: it is the same for as long
// as its rows are.
func wish(g *gang) scheduler.Gang {
	p := g.run.Data.Spec.Merged()
	a := scheduler.Gang{
		ID: g.jobs[0].ID, Profile: p.ProfileParams, Cluster: g.jobs[0].Data.Spec.JobsPerReplica > 1, Patient: !g.until().IsZero(),
		Reuse: p.CreationPolicy != nil && *p.CreationPolicy == "reuse",
	}
	for _, j := range g.jobs {
		a.Jobs = append(a.Jobs, scheduler.Want{Job: j.ID, Requirements: j.Data.Spec.Requirements})
	}
	a.Key = key(a)
	a.Run = g.run.Name
	if !g.buyFrom().IsZero() {
		a.AwaitsUntil = g.until()
	}
	return a
}

// relate adds to a wish what depends on others and on the time: the fleets that it names, whether it
// may have new instances yet, and where the other nodes of the gang's replica are.
func (s *Service) relate(ctx context.Context, a *scheduler.Gang, g *gang, fleets []scheduler.Fleet) error {
	a.Fleets = named(a.Profile.Fleets, fleets) // equal for equal keys, which have the names
	if from, now := g.buyFrom(), time.Now(); now.Before(from) {
		a.BuyFrom, a.Asks = from, !now.Before(g.asksFrom())
	}
	if len(g.jobs) >= g.jobs[0].Data.Spec.JobsPerReplica {
		return nil
	}
	var err error
	a.Beside, err = s.beside(ctx, g)
	a.Key += fmt.Sprint(a.Beside)
	return err
}

// beside is where the other nodes of a replica are.
func (s *Service) beside(ctx context.Context, g *gang) (scheduler.Site, error) {
	all, err := s.rows.jobsOf(ctx, s.DB.Read(), g.run.ID)
	if err != nil {
		return scheduler.Site{}, err
	}
	for _, j := range latestOf(all[g.run.ID]) {
		if o := jobRuntimeOffer(j); o != nil && j.Replica == g.jobs[0].Replica && !j.Finished() {
			return scheduler.Site{Fleet: g.run.Data.FleetID, Backend: string(o.Backend), Region: o.Region}, nil
		}
	}
	return scheduler.Site{}, nil
}

func jobRuntimeOffer(j Job) *api.InstanceOffer {
	if j.Data.Runtime == nil {
		return nil
	}
	return j.Data.Runtime.Offer
}

// named are the ids of the fleets that references name, nil for no reference.
func named(refs []config.EntityRef, fleets []scheduler.Fleet) []string {
	if refs == nil {
		return nil
	}
	ids := []string{}
	for _, ref := range refs {
		for _, f := range fleets {
			if f.Is(ref) {
				ids = append(ids, f.ID)
			}
		}
	}
	return ids
}

// key is equal for gangs that ask for the same.
func key(g scheduler.Gang) string {
	g.ID, g.Key = "", ""
	reqs := make([]api.Requirements, len(g.Jobs))
	for i, w := range g.Jobs {
		reqs[i] = w.Requirements
	}
	g.Jobs = nil
	p := g.Profile
	g.Profile = config.ProfileParams{}
	// What does not decide where a job can run.
	p.Retry, p.MaxDuration, p.StopDuration, p.Schedule, p.UtilizationPolicy, p.StartupOrder, p.StopCriteria = nil, nil, nil, nil, nil, nil, nil
	h := fnv.New128a()
	_ = json.NewEncoder(h).Encode([]any{g, reqs, p}) // writing to a hash never fails
	return string(h.Sum(nil))
}

// supply is all that the project's jobs can be placed on, but for offers.
func (s *Service) supply(ctx context.Context, projectID string) (scheduler.Supply, error) {
	var out scheduler.Supply
	fleets, instances, err := s.Fleets.Usable(ctx, s.DB.Read(), projectID)
	if err != nil {
		return out, err
	}
	projects := map[string]string{}
	if out.Backends, err = s.Catalog.Backends(ctx, projectID); err != nil {
		return out, err
	}
	live, hosts, lists := map[string]int{}, make([]fleetHosts, len(fleets)), make([][]*scheduler.Host, len(fleets))
	for i, f := range fleets {
		hosts[i] = s.hosts.of(f.ID, instances[f.ID])
		live[f.ID], lists[i] = hosts[i].live, hosts[i].list
		for _, h := range hosts[i].up {
			if time.Now().Before(h.UpBy) {
				out.Coming = append(out.Coming, h)
			}
		}
	}
	all := s.hosts.stock(projectID, lists)
	out.Hosts, out.Stock, out.Fleets = all.hosts, all.found, make([]scheduler.Fleet, 0, len(fleets))
	for i, f := range fleets {
		if projects[f.ProjectID] == "" {
			p, err := s.Projects.ByID(ctx, s.DB.Read(), f.ProjectID)
			if err != nil {
				return out, err
			}
			projects[f.ProjectID] = p.Name
		}
		one := f.Supply(projects[f.ProjectID], live[f.ID])
		if f.ProjectID != projectID { // imported: people name it with its project
			one.Name = one.Project + "/" + one.Name
		}
		if at := hosts[i].at; at != nil && one.Cluster {
			one.At = scheduler.Site{Fleet: f.ID, Backend: string(at.Backend), Region: at.Region}
		}
		out.Fleets = append(out.Fleets, one)
	}
	slices.SortStableFunc(out.Fleets, func(a, b scheduler.Fleet) int { // those with instances first
		return min(live[b.ID], 1) - min(live[a.ID], 1)
	})
	return out, nil
}
