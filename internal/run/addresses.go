package run

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/jobspec"
	"dstack/internal/store"
)

// Replicas of a service may need the addresses of others before they start: those that their
// commands name, and, of workers behind a Dynamo router, the router's (lifecycle 9.3).

// addressWait is how long a replica waits for such an address, since it was placed: its machine costs
// money meanwhile, which the queue, in which it may have waited for longer, does not.
const addressWait = 30 * time.Minute

// routerVariable tells workers the address of their Dynamo router.
const routerVariable = "DSTACK_ROUTER_INTERNAL_IP"

// A place is where a replica is.
type place struct {
	known bool   // it has a host
	ip    string // "": the host has no internal address
}

// Lack is an address of another replica that a job needs.
type Lack struct {
	// Name is the reference that cannot be replaced yet, "" when it is the router's address.
	Name string
	// Never says that the router has ended, so that there will be none.
	Never bool
}

// late says why a job does not wait any more.
func (l *Lack) late() string {
	if l.Name == "" {
		return fmt.Sprintf("Router replica did not acquire an internal IP within %ds; terminating worker.", int(addressWait.Seconds()))
	}
	return fmt.Sprintf("Groups IP interpolation error: IP not available for %s within %ds", l.Name, int(addressWait.Seconds()))
}

// lackOf finds the first address that commands name and that is not known.
func lackOf(commands []string, places [][]place) *Lack {
	for _, c := range commands {
		var lack *Lack
		_, _ = jobspec.ReplaceRefs(c, jobspec.ReplicaMember, func(g, n int) (string, error) { // what else is wrong is told when they are replaced
			switch {
			case g >= len(places) || n >= len(places[g]):
				return "", jobspec.ErrOutOfRange
			case !places[g][n].known && lack == nil:
				lack = &Lack{Name: fmt.Sprintf("groups[%d].replicas[%d].IP_ADDRESS", g, n)}
			}
			return "an address", nil
		})
		if lack != nil {
			return lack
		}
	}
	return nil
}

// placesOf puts the jobs of a service into the slots that its groups have from the start on, by
// replica number. Those that have ended, or are about to, leave theirs to the next.
func placesOf(a config.AnyRun, jobs []Job, at func(Job) place) [][]place {
	sizes := jobspec.Sizes(a)
	places := make([][]place, len(sizes))
	for i, g := range jobspec.Groups(a) {
		for _, j := range latestOf(jobs) {
			if j.Num == 0 && j.Data.Spec.ReplicaGroup == g.Name && !j.Finished() && j.Status != api.JobTerminating && len(places[i]) < sizes[i] {
				places[i] = append(places[i], at(j))
			}
		}
		for len(places[i]) < sizes[i] {
			places[i] = append(places[i], place{})
		}
	}
	return places
}

// find says where a run's replicas are now.
func (s *Service) find(ctx context.Context, q store.Querier, r Run) ([][]place, []Job, error) {
	byRun, err := s.rows.jobsOf(ctx, q, r.ID)
	if err != nil {
		return nil, nil, err
	}
	jobs := byRun[r.ID]
	var ids []string
	for _, j := range latestOf(jobs) {
		if j.InstanceID != "" {
			ids = append(ids, j.InstanceID)
		}
	}
	list, err := instance.ByID(ctx, q, ids)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]*instance.Instance{}
	for _, inst := range list {
		byID[inst.ID] = inst
	}
	return placesOf(r.Data.Spec.Configuration, jobs, func(j Job) place { return placeOf(j, byID[j.InstanceID]) }), jobs, nil
}

// placeOf is where a job is: a host is known when it has answered once.
func placeOf(j Job, inst *instance.Instance) place {
	if inst == nil || inst.Data.Host == nil || inst.Status == api.InstancePending {
		return place{known: j.Data.Provisioning != nil && j.Data.Provisioning.Hostname != nil, ip: internalIP(j.Data.Provisioning)}
	}
	jpd := provisioning(j, inst)
	return place{known: jpd != nil, ip: internalIP(jpd)}
}

// loadLack adds the address that a replica of a service waits for.
func (s *Service) loadLack(ctx context.Context, q store.Querier, snap *JobSnapshot) error {
	r, err := s.rows.run(ctx, q, snap.Job.RunID)
	if err != nil {
		return err
	}
	behind := behindDynamo(r, snap.Job)
	if !behind && !jobspec.RefersTo(snap.Job.Data.Spec.Commands) {
		return nil
	}
	places, jobs, err := s.find(ctx, q, r)
	if err != nil {
		return err
	}
	if snap.Lack = lackOf(snap.Job.Data.Spec.Commands, places); !behind || snap.Lack != nil {
		return nil
	}
	at, ended := routerPlace(r, places, jobs)
	if ended || at.ip == "" {
		snap.Lack = &Lack{Never: ended}
	}
	return nil
}

// needsAddresses says that some replica of a run waits for addresses of others.
func needsAddresses(r Run) bool {
	sv := r.Data.Spec.Configuration.Service
	if sv == nil {
		return false
	}
	g := routerOf(sv)
	return g != nil && g.Router.Type == "dynamo" || jobspec.RefersTo(jobspec.Commands(r.Data.Spec.Configuration))
}

// behindDynamo says that a job is a worker behind a Dynamo router.
func behindDynamo(r Run, j Job) bool {
	g := routerOf(r.Data.Spec.Configuration.Service)
	return g != nil && g.Router.Type == "dynamo" && j.Data.Spec.ReplicaGroup != *g.Name
}

// routerPlace is where the router of a service is; ended says that it is none any more.
func routerPlace(r Run, places [][]place, jobs []Job) (at place, ended bool) {
	router := routerOf(r.Data.Spec.Configuration.Service)
	for i, g := range jobspec.Groups(r.Data.Spec.Configuration) {
		if g.Name == *router.Name {
			at = places[i][0]
		}
	}
	ended = true
	for _, j := range latestOf(jobs) {
		if j.Data.Spec.ReplicaGroup == *router.Name && !j.Finished() && j.Status != api.JobTerminating {
			ended = false
		}
	}
	return at, ended
}

// addresses are those of a run's replicas by group, and of its Dynamo router if j is behind one.
func (s *Service) addresses(ctx context.Context, r Run, j Job) (groups [][]string, router string, err error) {
	behind := behindDynamo(r, j)
	if !behind && !jobspec.RefersTo(j.Data.Spec.Commands) {
		return nil, "", nil
	}
	places, jobs, err := s.find(ctx, s.DB.Read(), r)
	if err != nil {
		return nil, "", err
	}
	if behind {
		at, _ := routerPlace(r, places, jobs)
		router = at.ip
	}
	groups = make([][]string, len(places))
	for i := range places {
		for _, p := range places[i] {
			groups[i] = append(groups[i], p.ip)
		}
	}
	return groups, router, nil
}
