package cost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// maxRows bounds the rows of a report.
const maxRows = 20_000

// Config is what New needs; all fields are required.
type Config struct {
	DB       *store.DB
	Projects *project.Service
}

// Service answers what things cost.
type Service struct{ Config }

// New checks c.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Projects == nil {
		return nil, errors.New("cost: every field of Config is required")
	}
	return &Service{c}, nil
}

// Report adds up what was paid for by projects that the user may see.
func (s *Service) Report(ctx context.Context, u user.User, r api.CostsRequest) (api.Costs, error) {
	now := time.Now()
	var from time.Time
	to := now
	if r.Since != nil {
		from = r.Since.Time
	}
	if r.Until != nil && r.Until.Before(now) {
		to = r.Until.Time
	}
	if !from.Before(to) {
		return api.Costs{}, api.Invalid("since must be before until, and before now")
	}
	projects, err := s.projects(ctx, u, r.ProjectNames)
	if err != nil {
		return api.Costs{}, err
	}
	w := ledger.Which{Projects: append([]string{}, slices.Collect(maps.Keys(projects))...), From: from, To: to, Now: now}
	p, err := s.load(ctx, projects, slices.Contains(r.By, api.CostByRun) || slices.Contains(r.By, api.CostByUser), w)
	if err != nil {
		return api.Costs{}, err
	}
	if err := p.only(r.FleetNames); err != nil {
		return api.Costs{}, err
	}
	rows, all, err := p.rows(r.By)
	return api.Costs{Since: r.Since, Until: api.At(to), Rows: rows, CostSum: sum(all)}, err
}

// projects are those with the names, or all, that the user may see, by id. Administrators see what
// deleted ones have cost: by name, when no other has it now.
func (s *Service) projects(ctx context.Context, u user.User, names []string) (map[string]named, error) {
	live, err := s.Projects.Of(ctx, u)
	if err != nil {
		return nil, err
	}
	byName, all := map[string][]string{}, map[string]named{}
	add := func(p project.Project) {
		byName[p.Name], all[p.ID] = append(byName[p.Name], p.ID), named{p.Name, p.Deleted}
	}
	for _, p := range live {
		add(p)
	}
	if u.Admin() {
		deleted, err := s.Projects.Former(ctx)
		if err != nil {
			return nil, err
		}
		for _, p := range deleted {
			if len(byName[p.Name]) == 0 || all[byName[p.Name][0]].deleted {
				add(p)
			} else {
				all[p.ID] = named{p.Name, true}
			}
		}
	}
	if names == nil {
		return all, nil
	}
	chosen := map[string]named{}
	for _, name := range names {
		if len(byName[name]) == 0 {
			return nil, api.NotExists("Project %s not found", name)
		}
		for _, id := range byName[name] {
			chosen[id] = all[id]
		}
	}
	return chosen, nil
}

// paid is what projects paid for, with the names of things.
type paid struct {
	parts    []Part
	machines map[string]machine // by id
	projects map[string]named   // by id, as the others
	fleets   map[string]named
	runs     map[string]owned
}

// load reads what was paid for, in as many queries for ten thousand machines as for one. With runs it
// is cut by who held the machines. All is as of one moment: what a job gives up meanwhile is not found
// twice, as held and as given up.
func (s *Service) load(ctx context.Context, projects map[string]named, runs bool, w ledger.Which) (p *paid, err error) {
	err = s.DB.Snapshot(ctx, func(q store.Querier) error {
		p, err = read(ctx, q, projects, runs, w)
		return err
	})
	return p, err
}

func read(ctx context.Context, q store.Querier, projects map[string]named, runs bool, w ledger.Which) (*paid, error) {
	ids, p := w.Projects, &paid{projects: projects}
	costs, err := ledger.Costs(ctx, q, w)
	if err != nil {
		return nil, err
	}
	if p.machines, err = machines(ctx, q, "project_id", ids, ""); err != nil {
		return nil, err
	}
	if p.fleets, err = fleetNames(ctx, q, ids); err != nil {
		return nil, err
	}
	if !runs {
		p.parts = Whole(costs)
		return p, nil
	}
	holds, err := holdsOn(ctx, q, ids, p.machines, w.From, w.To)
	if err != nil {
		return nil, err
	}
	p.parts = Split(costs, holds)
	held := map[string]bool{}
	for _, part := range p.parts {
		if part.RunID != "" {
			held[part.RunID] = true
		}
	}
	p.runs, err = runNames(ctx, q, slices.Collect(maps.Keys(held)))
	return p, err
}

// only leaves out what is not of fleets with the names; nil keeps everything.
func (p *paid) only(names []string) error {
	if names == nil {
		return nil
	}
	known := map[string]bool{}
	for _, f := range p.fleets {
		known[f.name] = true
	}
	for _, name := range names {
		if !known[name] {
			return api.NotExists("Fleet %s not found", name)
		}
	}
	p.parts = slices.DeleteFunc(p.parts, func(part Part) bool {
		f, ok := p.fleets[p.machines[part.OwnerID].fleetID]
		return !ok || !slices.Contains(names, f.name)
	})
	return nil
}

// key is what parts in one row have in common: ids, "" for what is not asked for.
type key struct{ project, kind, fleet, instance, backend, run, user, day string }

// rows adds up the parts by what is asked for.
func (p *paid) rows(by []api.CostBy) ([]api.CostRow, Sum, error) {
	asked := map[api.CostBy]bool{}
	for _, b := range by {
		asked[b] = true
	}
	sums := Sums[key]{Max: maxRows}
	for _, part := range p.parts {
		k := p.key(part, asked)
		if !asked[api.CostByDay] {
			if !sums.Add(k, part) {
				return nil, Sum{}, errTooMany
			}
			continue
		}
		for day := range Days(part) {
			k.day = day.From.UTC().Format(time.DateOnly)
			if !sums.Add(k, day) {
				return nil, Sum{}, errTooMany
			}
		}
	}
	rows := make([]api.CostRow, 0, len(sums.Groups))
	for k, group := range sums.Groups {
		rows = append(rows, p.row(k, *group))
	}
	slices.SortFunc(rows, compare)
	return rows, sums.All, nil
}

var errTooMany = api.Invalid("These are more than %d rows: ask for a shorter period, fewer fleets or projects, or fewer groupings", maxRows)

func (p *paid) key(part Part, asked map[api.CostBy]bool) key {
	k := key{kind: string(part.Kind)}
	if asked[api.CostByProject] {
		k.project = part.ProjectID
	}
	if asked[api.CostByBackend] {
		k.backend = part.Backend
	}
	if asked[api.CostByRun] {
		k.run = part.RunID
	}
	if asked[api.CostByUser] {
		k.user = p.runs[part.RunID].user
	}
	if m, ok := p.machines[part.OwnerID]; ok {
		if asked[api.CostByFleet] {
			k.fleet = m.fleetID
		}
		if asked[api.CostByInstance] {
			k.instance = m.id
		}
	}
	return k
}

// row names what a key stands for.
func (p *paid) row(k key, s Sum) api.CostRow {
	r := api.CostRow{
		Project: text(p.projects[k.project].name), ProjectID: text(k.project), ProjectDeleted: p.projects[k.project].deleted, Kind: k.kind, Backend: text(k.backend), User: text(k.user), Day: text(k.day), CostSum: sum(s),
		RunID: text(k.run), Run: text(p.runs[k.run].name), FleetID: text(k.fleet), Fleet: text(p.fleets[k.fleet].name), FleetDeleted: p.fleets[k.fleet].deleted,
	}
	if m, ok := p.machines[k.instance]; ok {
		name := fmt.Sprintf("%s-%d", p.fleets[m.fleetID].name, m.num)
		r.Instance, r.InstanceID, r.InstanceNum = &name, &m.id, &m.num
	}
	return r
}

// columns are by what rows are ordered, the first that differs.
var columns = []func(a, b *api.CostRow) int{
	func(a, b *api.CostRow) int { return order(a.Project, b.Project) },
	func(a, b *api.CostRow) int { return order(a.ProjectID, b.ProjectID) },
	func(a, b *api.CostRow) int { return order(a.Fleet, b.Fleet) },
	func(a, b *api.CostRow) int { return order(a.FleetID, b.FleetID) },
	func(a, b *api.CostRow) int { return number(a.InstanceNum, b.InstanceNum) },
	func(a, b *api.CostRow) int { return order(a.InstanceID, b.InstanceID) },
	func(a, b *api.CostRow) int { return order(a.Backend, b.Backend) },
	func(a, b *api.CostRow) int { return order(a.Run, b.Run) },
	func(a, b *api.CostRow) int { return order(a.RunID, b.RunID) },
	func(a, b *api.CostRow) int { return order(a.User, b.User) },
	func(a, b *api.CostRow) int { return order(a.Day, b.Day) },
	func(a, b *api.CostRow) int { return cmp.Compare(a.Kind, b.Kind) },
}

func compare(a, b api.CostRow) int {
	for _, by := range columns {
		if c := by(&a, &b); c != 0 {
			return c
		}
	}
	return 0
}

// order puts what there is not behind what there is.
func order(a, b *string) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return cmp.Compare(*a, *b)
}

func number(a, b *int) int {
	if a == nil || b == nil {
		return 0 // the ids tell
	}
	return cmp.Compare(*a, *b)
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func sum(s Sum) api.CostSum {
	return api.CostSum{Hours: round(s.Hours), CostUSD: round(s.USD), HourlyUSD: round(s.Hourly), UnconfirmedUSD: round(s.Unconfirmed)}
}

// round keeps six digits: a millionth of a dollar.
func round(v float64) float64 { return math.Round(v*1e6) / 1e6 }

// Fleet fills in what a fleet has cost so far, those of its instances that are gone included, and
// what each instance has that is shown.
func (s *Service) Fleet(ctx context.Context, projectID string, f *api.Fleet) error {
	if f.Spec.Configuration.SSHConfig != nil {
		return nil
	}
	all, err := machines(ctx, s.DB.Read(), "fleet_id", []string{f.ID}, " AND project_id = $1", projectID)
	if err != nil {
		return err
	}
	paid, err := s.owners(ctx, slices.Collect(maps.Keys(all)))
	if err != nil {
		return err
	}
	f.MachineCost = total(maps.Values(paid))
	for i, inst := range f.Instances {
		if usd, ok := paid[inst.ID]; ok {
			f.Instances[i].MachineCost = total(slices.Values([]float64{usd}))
		}
	}
	return nil
}

// Instance fills in what an instance has cost so far.
func (s *Service) Instance(ctx context.Context, i *api.Instance) error {
	paid, err := s.owners(ctx, []string{i.ID})
	i.MachineCost = total(maps.Values(paid))
	return err
}

// owners is what instances have cost so far, by id; those are missing for which nothing was paid.
func (s *Service) owners(ctx context.Context, ids []string) (map[string]float64, error) {
	costs, err := ledger.Costs(ctx, s.DB.Read(), ledger.Which{Owners: append([]string{}, ids...), To: time.Now()})
	paid := map[string]float64{}
	for _, c := range costs {
		paid[c.OwnerID] += c.USD()
	}
	return paid, err
}

// total is a sum, nil when nothing was paid.
func total(usd iter.Seq[float64]) *float64 {
	sum := 0.0
	for v := range usd {
		sum += v
	}
	if sum == 0 {
		return nil
	}
	sum = round(sum)
	return &sum
}

// Run fills in what a run's jobs have cost while they held machines. A run that has no cost by the
// published formula has had none that costs.
func (s *Service) Run(ctx context.Context, r *api.Run) error {
	if r.Cost == 0 {
		return nil
	}
	var holds []Hold
	var costs []ledger.Cost
	err := s.DB.Snapshot(ctx, func(q store.Querier) (err error) {
		now := time.Now()
		var ids []string
		if holds, ids, err = holdsOf(ctx, q, r.ID, now); err != nil {
			return fmt.Errorf("list what run %s held: %w", r.ID, err)
		}
		costs, err = ledger.Costs(ctx, q, ledger.Which{Owners: append([]string{}, ids...), To: now})
		return err
	})
	if err != nil {
		return err
	}
	r.MachineCost = total(func(yield func(float64) bool) {
		for _, p := range Split(costs, holds) {
			if p.RunID == r.ID && !yield(p.USD()) {
				return
			}
		}
	})
	return nil
}
