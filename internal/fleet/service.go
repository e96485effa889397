package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
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
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

// validate applies the rules of configurations 7 in their order.
func validate(spec api.FleetSpec) error {
	c := spec.Configuration
	if c.Name != nil {
		if err := config.CheckName(*c.Name); err != nil {
			return api.Invalid("%v", err)
		}
	}
	switch {
	case c.SSHConfig == nil && c.Nodes == nil:
		return api.Invalid("No ssh_config or nodes specified")
	case c.SSHConfig != nil && c.Nodes != nil:
		return api.Invalid("ssh_config and nodes are mutually exclusive")
	case c.SSHConfig == nil && len(c.Env) > 0:
		return api.Invalid("Backend fleet configuration does not support the following fields: ['env']")
	case c.SSHConfig == nil:
		return nil
	}
	return validateSSH(c)
}

func validateSSH(c config.Fleet) error {
	var other []string
	for name, set := range map[string]bool{
		"reservation": c.Reservation != nil, "resources": c.Resources != nil, "backends": c.Backends != nil, "regions": c.Regions != nil,
		"availability_zones": c.AvailabilityZones != nil, "instance_types": c.InstanceTypes != nil, "spot_policy": c.SpotPolicy != nil,
		"max_price": c.MaxPrice != nil, "idle_duration": c.IdleDuration != nil, "tags": c.Tags != nil, "backend_options": c.BackendOptions != nil,
	} {
		if set {
			other = append(other, name)
		}
	}
	if other != nil {
		return api.Invalid("SSH fleet configuration does not support the following fields: %s", api.List(other))
	}
	ssh := c.SSHConfig
	internal := 0
	for _, h := range ssh.Hosts {
		key := h.SSHKey
		if key == nil {
			key = ssh.SSHKey
		}
		switch {
		case key == nil:
			return api.Invalid("No ssh key specified for host %s", h.Hostname)
		case h.User == nil && ssh.User == nil:
			return api.Invalid("No ssh user specified for host %s", h.Hostname)
		case key.Private == nil:
			return api.Invalid("Private key not provided")
		}
		if _, err := sshkey.Signer(*key.Private); err != nil {
			return api.Invalid("%v", sshkey.ErrUnsupported)
		}
		if h.InternalIP != nil {
			internal++
		}
	}
	switch {
	case internal > 0 && internal < len(ssh.Hosts):
		return api.Invalid("internal_ip must be specified for all hosts")
	case internal > 0 && ssh.Network != nil:
		return api.Invalid("internal_ip is mutually exclusive with network")
	}
	return nil
}

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
	if err := validate(r.Spec); err != nil {
		return api.FleetPlan{}, err
	}
	effective := r.Spec
	effective.Configuration = effective.Configuration.WithoutKeys()
	plan := api.FleetPlan{ProjectName: sc.Project.Name, User: sc.User.Name, Spec: r.Spec, EffectiveSpec: &effective, Offers: []api.InstanceOffer{}}
	action := api.ActionCreate
	if c := r.Spec.Configuration; c.Name != nil {
		f, err := get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *c.Name)
		if err == nil {
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
		id := ""
		if plan.CurrentResource != nil {
			id = plan.CurrentResource.ID
		}
		if err := s.taken(ctx, c, id); err != nil {
			return plan, err
		}
	}
	plan.Action = &action
	return plan, s.planOffers(ctx, sc, &plan)
}

// maxPlanOffers is how many offers a plan shows.
const maxPlanOffers = 50

// planOffers lists of what the nodes of a cloud fleet could be made.
func (s *Service) planOffers(ctx context.Context, sc project.Scope, plan *api.FleetPlan) error {
	nodes := plan.EffectiveSpec.Configuration.Nodes
	if nodes == nil || nodes.Target == 0 {
		return nil
	}
	offers, err := s.Offers(ctx, sc.Project.ID)
	if err != nil {
		return err
	}
	ask := Fleet{Spec: *plan.EffectiveSpec}.Ask()
	for _, o := range offers {
		if scheduler.Fits(ask.Requirements, ask.Profile, o) != "" {
			continue
		}
		if plan.TotalOffers++; plan.TotalOffers <= maxPlanOffers {
			plan.Offers = append(plan.Offers, o)
		}
		if plan.MaxOfferPrice == nil || o.Price > *plan.MaxOfferPrice {
			plan.MaxOfferPrice = &o.Price
		}
	}
	return nil
}

// present is a fleet's configuration with only those hosts that it has instances for, so
// that applying it again brings back what was removed or could not be added.
func (s *Service) present(ctx context.Context, f Fleet) (config.Fleet, error) {
	c := f.Spec.Configuration
	if c.SSHConfig == nil {
		return c, nil
	}
	list, err := instance.OfFleets(ctx, s.DB.Read(), f.ID)
	if err != nil {
		return c, err
	}
	there := map[string]bool{}
	for _, inst := range list {
		there[inst.SSHHost] = there[inst.SSHHost] || inst.Live()
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

// taken refuses hosts that another fleet uses.
func (s *Service) taken(ctx context.Context, c config.Fleet, fleetID string) error {
	if c.SSHConfig == nil {
		return nil
	}
	var busy []string
	for _, h := range c.SSHConfig.Hosts {
		var n int
		host := address(h, c)
		err := s.DB.Read().QueryRowContext(ctx, `SELECT count(*) FROM instance WHERE NOT deleted AND ssh_host = $1 AND fleet_id <> $2`, host, fleetID).Scan(&n)
		if err != nil {
			return fmt.Errorf("look for host %s: %w", host, err)
		}
		if n > 0 {
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
	spec := r.Plan.Spec
	if err := validate(spec); err != nil {
		return api.Fleet{}, err
	}
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
	name := GeneratedName()
	if c.Name != nil {
		name = *c.Name
	}
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
	case "instance_ssh_host_key":
		return Fleet{}, api.Invalid("Instances of this configuration are already assigned to a fleet.")
	}
	return f, err
}

func (s *Service) addHosts(ctx context.Context, tx *store.Tx, f Fleet, c config.Fleet) error {
	if c.SSHConfig == nil || len(c.SSHConfig.Hosts) == 0 {
		return nil
	}
	remotes, err := s.remotes(c)
	if err != nil {
		return err
	}
	return s.Instances().CreateSSH(ctx, tx, f.ProjectID, f.ID, f.Name, remotes, func(n int) (int, bool) {
		b := c.Blocks
		if h := c.SSHConfig.Hosts[n].Blocks; h != nil {
			b = *h
		}
		return b.N, b.Auto
	})
}

// changes compares two configurations and returns the hosts to add and to remove; an error
// when the change cannot be made in place.
func changes(old, now config.Fleet) (add, remove []config.SSHHost, err error) {
	if (old.SSHConfig == nil) != (now.SSHConfig == nil) {
		from, to := "Cloud", "SSH"
		if old.SSHConfig != nil {
			from, to = to, from
		}
		return nil, nil, api.Invalid("Fleet type changed from %s to %s, cannot update", from, to)
	}
	a, b := old.WithoutKeys(), now.WithoutKeys()
	if old.SSHConfig == nil {
		for _, c := range []*config.Fleet{&a, &b} {
			c.Nodes, c.Reservation, c.Tags, c.Resources, c.Backends, c.Regions = nil, nil, nil, nil, nil, nil
			c.AvailabilityZones, c.InstanceTypes, c.SpotPolicy, c.MaxPrice = nil, nil, nil, nil
		}
		if !same(a, b) {
			return nil, nil, api.Invalid("Failed to update fields [%s]. Can only update [nodes, reservation, tags, resources, backends, regions, availability_zones, instance_types, spot_policy, max_price].", strings.Join(differing(a, b), ", "))
		}
		return nil, nil, nil
	}
	was, is := map[string]config.SSHHost{}, map[string]config.SSHHost{}
	for _, h := range a.SSHConfig.Hosts {
		was[h.Hostname] = plain(h)
	}
	for i, h := range b.SSHConfig.Hosts {
		is[h.Hostname] = plain(h)
		o, ok := was[h.Hostname]
		if !ok {
			add = append(add, now.SSHConfig.Hosts[i])
		} else if !same(o, plain(h)) {
			return nil, nil, api.Invalid("Hosts configuration changed, cannot update: ['%s']", h.Hostname)
		}
	}
	for _, h := range a.SSHConfig.Hosts {
		if _, ok := is[h.Hostname]; !ok {
			remove = append(remove, h)
		}
	}
	a.SSHConfig.Hosts, b.SSHConfig.Hosts = nil, nil
	if !same(a, b) {
		return nil, nil, api.Invalid("Failed to update fields [%s]. Can only update [ssh_config.hosts].", strings.Join(differing(a, b), ", "))
	}
	return add, remove, nil
}

// plain is a host without what may differ.
func plain(h config.SSHHost) config.SSHHost {
	h.IdentityFile, h.Plain = nil, false
	return h
}

// same compares wire forms: pointers and absent values do not matter.
func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}

func differing(a, b config.Fleet) []string {
	var names []string
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if !same(x.Field(i).Interface(), y.Field(i).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, "'"+name+"'")
		}
	}
	return names
}

// change updates a fleet in place.
func (s *Service) change(ctx context.Context, sc project.Scope, f Fleet, r api.ApplyFleetPlanRequest) (api.Fleet, error) {
	old, err := s.present(ctx, f)
	if err != nil {
		return api.Fleet{}, err
	}
	if !r.Force && !unchanged(f.ID, old, r.Plan.CurrentResource) {
		return api.Fleet{}, api.Invalid("Failed to apply plan. Resource has been changed. Try again or use force apply.")
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
		ssh := *c.SSHConfig
		ssh.Hosts = add
		c.SSHConfig = &ssh
		if err := s.forgetFailed(ctx, tx, f, c); err != nil {
			return err
		}
		return s.addHosts(ctx, tx, f, c)
	})
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
	list, err := instance.OfFleets(ctx, tx, f.ID)
	if err != nil {
		return err
	}
	for _, h := range c.SSHConfig.Hosts {
		for _, inst := range list {
			if inst.SSHHost == address(h, c) && inst.Status == api.InstanceTerminated {
				if err := s.Instances().Terminate(ctx, tx, inst, "", ""); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *Service) removeHosts(ctx context.Context, tx *store.Tx, f Fleet, hosts []config.SSHHost) error {
	if len(hosts) == 0 {
		return nil
	}
	list, err := instance.OfFleets(ctx, tx, f.ID)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		for _, inst := range list {
			if !strings.HasPrefix(inst.SSHHost, h.Hostname+":") {
				continue
			}
			if inst.Busy() > 0 {
				return api.Invalid("Failed to delete fleet %s instances [%d]. Fleet instances are in use.", f.Name, inst.Num)
			}
			if err := s.Instances().Terminate(ctx, tx, inst, api.InstanceTerminatedByUser, ""); err != nil {
				return err
			}
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
