package fleet

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/instance"
	"dstack/internal/project"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// remotes turns the hosts of a configuration into what instances keep, keys sealed.
func (s *Service) remotes(c config.Fleet) ([]instance.RemoteHost, error) {
	var out []instance.RemoteHost
	for _, h := range c.SSHConfig.Hosts {
		r := instance.RemoteHost{Env: c.Env.Values()}
		e, err := s.endpoint(h.Hostname, first(h.Port, c.SSHConfig.Port), deref(h.User, c.SSHConfig.User), firstKey(h.SSHKey, c.SSHConfig.SSHKey))
		if err != nil {
			return nil, err
		}
		r.Host = e
		jump := h.ProxyJump
		if jump == nil {
			jump = c.SSHConfig.ProxyJump
		}
		if jump != nil {
			j, err := s.endpoint(jump.Hostname, first(jump.Port, nil), jump.User, jump.SSHKey)
			if err != nil {
				return nil, err
			}
			r.Jump = &j
		}
		if h.InternalIP != nil {
			r.InternalIP = *h.InternalIP
		}
		if c.SSHConfig.Network != nil {
			r.Network = *c.SSHConfig.Network
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Service) endpoint(name string, port int, user string, key *config.SSHKey) (instance.Endpoint, error) {
	e := instance.Endpoint{Hostname: name, Port: port, User: user}
	if key == nil || key.Private == nil {
		return e, nil
	}
	sealed, err := s.Box.Seal(*key.Private)
	if err != nil {
		return e, err
	}
	e.Sealed = []string{sealed}
	if p := strings.TrimSpace(key.Public); p != "" {
		e.Public = []string{p}
	}
	return e, nil
}

func first(a, b *int) int {
	switch {
	case a != nil:
		return *a
	case b != nil:
		return *b
	}
	return 22
}

func deref(a, b *string) string {
	switch {
	case a != nil:
		return *a
	case b != nil:
		return *b
	}
	return ""
}

func firstKey(a, b *config.SSHKey) *config.SSHKey {
	if a != nil {
		return a
	}
	return b
}

// Plan says what apply would do.
func (s *Service) Plan(ctx context.Context, sc project.Scope, r api.GetFleetPlanRequest) (api.FleetPlan, error) {
	effective, err := normalise(r.Spec)
	if err != nil {
		return api.FleetPlan{}, err
	}
	effective.Configuration = effective.Configuration.WithoutKeys()
	plan := api.FleetPlan{ProjectName: sc.Project.Name, User: sc.User.Name, Spec: r.Spec, EffectiveSpec: &effective, Offers: []api.InstanceOffer{}}
	action := api.ActionCreate
	if c := effective.Configuration; c.Name != nil {
		f, err := get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *c.Name)
		if err == nil {
			if err := f.stays(); err != nil {
				return plan, err
			}
			v, err := s.view(ctx, f)
			if err != nil {
				return plan, err
			}
			if v.Spec.Configuration, err = s.present(ctx, f); err != nil {
				return plan, err
			}
			plan.CurrentResource = &v
			if _, _, err := changes(v.Spec.Configuration, c); err == nil {
				action = api.ActionUpdate
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			return plan, err
		}
	}
	id := ""
	if plan.CurrentResource != nil {
		id = plan.CurrentResource.ID
	}
	if err := s.taken(ctx, effective.Configuration, id); err != nil {
		return plan, err
	}
	plan.Action = &action
	return plan, s.planOffers(ctx, sc, &plan)
}

// maxPlanOffers is how many offers a plan shows.
const maxPlanOffers = 50

// errChanged is the answer to a plan for what is not there any more.
var errChanged = api.Invalid("Failed to apply plan. Resource has been changed. Try again or use force apply.")

// planOffers lists of what the nodes of a cloud fleet could be made. A fleet that begins with
// none lists none, as published.
func (s *Service) planOffers(ctx context.Context, sc project.Scope, plan *api.FleetPlan) error {
	c := plan.EffectiveSpec.Configuration
	if c.Nodes == nil {
		return nil
	}
	ask := Fleet{Spec: *plan.EffectiveSpec}.Ask()
	market, err := s.Market(ctx, sc.Project.ID, ask)
	if err != nil {
		return err
	}
	plan.BackendProblems = market.Problems
	offers, why := scheduler.Nodes(ask, c.Blocks.N, c.Blocks.Auto, scheduler.Supply{Offers: market.Offers, Index: market.Index, Backends: market.Backends})
	plan.WhyNot = why.Worth(scheduler.Few)
	if c.Nodes.Target == 0 {
		plan.WhyNot = &why // says how many there would be
		return nil
	}
	plan.TotalOffers, plan.MaxOfferPrice = offers.Len(), offers.MaxPrice()
	plan.Offers = append(plan.Offers, offers.First(maxPlanOffers)...)
	plan.LoweredOffers = scheduler.Lowered(plan.Offers)
	return nil
}

// present is a fleet's configuration with only those hosts that it has instances for, so
// that applying it again brings back what was removed or could not be added.
func (s *Service) present(ctx context.Context, f Fleet) (config.Fleet, error) {
	c := f.Spec.Configuration
	if c.SSHConfig == nil {
		return c, nil
	}
	list, err := s.Instances().InFleets(ctx, s.DB.Read(), f.ID)
	if err != nil {
		return c, err
	}
	there := map[string]bool{}
	for _, inst := range list[f.ID] {
		there[inst.SSHHost] = there[inst.SSHHost] || inst.Stays()
	}
	ssh := *c.SSHConfig
	ssh.Hosts = slices.DeleteFunc(slices.Clone(ssh.Hosts), func(h config.SSHHost) bool { return !there[address(h, c)] })
	c.SSHConfig = &ssh
	return c, nil
}

// address names a host of a fleet as instances have it.
func address(h config.SSHHost, c config.Fleet) string {
	return fmt.Sprintf("%s:%d", h.Hostname, first(h.Port, c.SSHConfig.Port))
}

func addresses(hosts []config.SSHHost, c config.Fleet) []string {
	list := make([]string, len(hosts))
	for n, h := range hosts {
		list[n] = address(h, c)
	}
	return list
}

// taken refuses hosts that another fleet uses.
func (s *Service) taken(ctx context.Context, c config.Fleet, fleetID string) error {
	if c.SSHConfig == nil {
		return nil
	}
	hosts, used := addresses(c.SSHConfig.Hosts, c), map[string]bool{}
	for batch := range slices.Chunk(hosts, 500) {
		rows, err := s.DB.Read().QueryContext(ctx, `SELECT ssh_host FROM instance WHERE ssh_host <> '' AND NOT deleted AND fleet_id <> $1 AND ssh_host IN (`+store.Marks(2, len(batch))+`)`,
			append([]any{fleetID}, store.Args(batch)...)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var host string
			err := rows.Scan(&host)
			used[host] = true
			return err
		})
		if err != nil {
			return fmt.Errorf("look for hosts of other fleets: %w", err)
		}
	}
	var busy []string
	for n, h := range c.SSHConfig.Hosts {
		if used[hosts[n]] {
			busy = append(busy, h.Hostname)
		}
	}
	if busy != nil {
		return api.Invalid("Instances [%s] are already assigned to a fleet.", strings.Join(busy, ", "))
	}
	return nil
}

// Apply creates a fleet or changes one in place.
func (s *Service) Apply(ctx context.Context, sc project.Scope, r api.ApplyFleetPlanRequest) (api.Fleet, error) {
	spec, err := normalise(r.Plan.Spec)
	if err != nil {
		return api.Fleet{}, err
	}
	r.Plan.Spec = spec
	if spec.Configuration.SSHConfig != nil && !s.Projects.CanManageSSHFleets(sc) {
		return api.Fleet{}, api.Forbidden()
	}
	if spec.Configuration.Name != nil {
		f, err := get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *spec.Configuration.Name)
		if err == nil {
			return s.change(ctx, sc, f, r)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return api.Fleet{}, err
		}
	}
	f, err := s.create(ctx, sc, spec)
	if err != nil {
		return api.Fleet{}, err
	}
	return s.view(ctx, f)
}

func (s *Service) create(ctx context.Context, sc project.Scope, spec api.FleetSpec) (Fleet, error) {
	c := spec.Configuration
	if err := s.taken(ctx, c, ""); err != nil {
		return Fleet{}, err
	}
	if c.Name == nil {
		free, err := FreeName(func(name string) (bool, error) { return named(ctx, s.DB.Read(), sc.Project.ID, name) })
		if err != nil {
			return Fleet{}, err
		}
		c.Name = &free
	}
	name := *c.Name
	stored := spec
	stored.Configuration = c.WithoutKeys()
	f := Fleet{ID: uuid.NewString(), ProjectID: sc.Project.ID, Name: name, Status: api.FleetActive, CreatedAt: time.Now(), Spec: stored, Version: 1}
	f.Spec.Configuration.Name = &name
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			f.ID, f.ProjectID, f.Name, f.Status, store.Micros(f.CreatedAt), engine.Shard(f.ID), store.JSON(&f.Spec))
		if err != nil {
			return err
		}
		if err := s.record(ctx, tx, f, sc.Actor(event.Event{Message: "Fleet created. Status: ACTIVE"})); err != nil {
			return err
		}
		tx.OnCommit(func() {
			s.Engine.Wake(Kind, f.ID)
			s.Freed(f.ProjectID)
		})
		if c.Nodes != nil {
			return s.addNodes(ctx, tx, f, c.Nodes.Target)
		}
		return s.addHosts(ctx, tx, f, c)
	})
	switch store.Constraint(err) {
	case "fleet_project_id_name_key":
		return Fleet{}, api.Exists("")
	case hostTaken:
		return Fleet{}, errTaken
	}
	return f, err
}

// hostTaken is the constraint that a host is in one fleet, errTaken what is said when somebody
// else was faster.
const hostTaken = "instance_ssh_host_key"

var errTaken = api.Invalid("Instances of this configuration are already assigned to a fleet.")

func (s *Service) addHosts(ctx context.Context, tx *store.Tx, f Fleet, c config.Fleet) error {
	if c.SSHConfig == nil || len(c.SSHConfig.Hosts) == 0 {
		return nil
	}
	remotes, err := s.remotes(c)
	if err != nil {
		return err
	}
	hosts := make([]instance.NewHost, len(remotes))
	for n, r := range remotes {
		b := c.Blocks
		if own := c.SSHConfig.Hosts[n].Blocks; own != nil {
			b = *own
		}
		hosts[n] = instance.NewHost{Remote: r, Blocks: b.N, AutoBlocks: b.Auto}
	}
	return s.Instances().CreateSSH(ctx, tx, f.ProjectID, f.ID, f.Name, hosts)
}

// stays refuses to change a fleet that ends.
func (f Fleet) stays() error {
	if f.Status == api.FleetTerminating {
		return api.Invalid("Fleet '%s' is being deleted. Try again later.", f.Name)
	}
	return nil
}

// change updates a fleet in place.
func (s *Service) change(ctx context.Context, sc project.Scope, f Fleet, r api.ApplyFleetPlanRequest) (api.Fleet, error) {
	if err := f.stays(); err != nil {
		return api.Fleet{}, err
	}
	old, err := s.present(ctx, f)
	if err != nil {
		return api.Fleet{}, err
	}
	if !r.Force && !unchanged(f.ID, old, r.Plan.CurrentResource) {
		return api.Fleet{}, errChanged
	}
	c := r.Plan.Spec.Configuration
	add, remove, err := changes(old, c)
	if err != nil {
		return api.Fleet{}, err
	}
	if err := s.taken(ctx, c, f.ID); err != nil {
		return api.Fleet{}, err
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		now, err := get(ctx, tx, "id = $1", f.ID)
		if err != nil {
			return err
		}
		if now.Version != f.Version { // what was compared above is not what is there
			return errChanged
		}
		now.Spec = r.Plan.Spec
		now.Spec.Configuration = c.WithoutKeys()
		now.Spec.Configuration.Name = &now.Name
		now.Attempts, now.ConsolidatedAt = 0, time.Time{}
		if err := s.update(ctx, tx, &now); err != nil {
			return err
		}
		tx.OnCommit(func() {
			s.Engine.Wake(Kind, f.ID)
			s.Freed(f.ProjectID)
		})
		if err := s.removeHosts(ctx, tx, f, remove); err != nil {
			return err
		}
		if add == nil {
			return nil
		}
		ssh, added := *c.SSHConfig, c // c is as it was when this runs again
		ssh.Hosts = add
		added.SSHConfig = &ssh
		if err := s.forgetFailed(ctx, tx, f, added); err != nil {
			return err
		}
		return s.addHosts(ctx, tx, f, added)
	})
	if store.Constraint(err) == hostTaken {
		return api.Fleet{}, errTaken
	}
	if err != nil {
		return api.Fleet{}, err
	}
	if f, err = s.ByID(ctx, s.DB.Read(), f.ID); err != nil {
		return api.Fleet{}, err
	}
	return s.view(ctx, f)
}

// unchanged says that the client has seen the fleet as it is.
func unchanged(id string, c config.Fleet, seen json.RawMessage) bool {
	if len(seen) == 0 {
		return false
	}
	var v api.Fleet
	if json.Unmarshal(seen, &v) != nil || v.ID != id {
		return false
	}
	return same(v.Spec.Configuration.WithoutKeys(), c)
}

// forgetFailed hides the instances of earlier attempts to add the hosts.
func (s *Service) forgetFailed(ctx context.Context, tx *store.Tx, f Fleet, c config.Fleet) error {
	list, err := instance.OnHosts(ctx, tx, f.ID, addresses(c.SSHConfig.Hosts, c))
	if err != nil {
		return err
	}
	for _, inst := range list {
		if inst.Status == api.InstanceTerminated {
			if err := s.Instances().Terminate(ctx, tx, inst, "", ""); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) removeHosts(ctx context.Context, tx *store.Tx, f Fleet, hosts []config.SSHHost) error {
	list, err := instance.OnHosts(ctx, tx, f.ID, addresses(hosts, f.Spec.Configuration))
	if err != nil {
		return err
	}
	for _, inst := range list {
		if inst.Busy() > 0 {
			return api.Invalid("Failed to delete fleet %s instances [%d]. Fleet instances are in use.", f.Name, inst.Num)
		}
		if err := s.Instances().Terminate(ctx, tx, inst, api.InstanceTerminatedByUser, ""); err != nil {
			return err
		}
	}
	return nil
}

// EnsureLocal makes the fleet of a project's local backend, so that the first run needs
// nothing else. It is made once: a user who deletes it does not get it back.
func (s *Service) EnsureLocal(ctx context.Context, sc project.Scope) error {
	var n int
	if err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM fleet WHERE project_id = $1 AND name = 'local'`, sc.Project.ID).Scan(&n); err != nil || n > 0 {
		return err
	}
	name, one := "local", 1
	spec := api.FleetSpec{Autocreated: true, Profile: config.Profile{Name: "default"}, Configuration: config.Fleet{
		Type: config.TypeFleet, Name: &name, Blocks: config.Blocks{N: 1}, Nodes: &config.FleetNodes{Max: &one}, Backends: []string{"local"}, Env: config.Env{},
	}}
	_, err := s.create(ctx, sc, spec)
	return err
}
