package offer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/cli/catalog"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// catalogDir is the variable that names a directory of catalog files, as for the original's library.
const catalogDir = "GPUHUNT_CATALOG_DIR"

// few is the number of offers up to which it is said what would give more.
const few = 2

// takeProviders takes names of providers in place of backends.
func (o *Options) takeProviders() error {
	for _, name := range o.Override.TakeBackends() {
		provider, ok := pricelist.FindProvider(name)
		if !ok {
			return fmt.Errorf("argument --backend: there are no list prices of %q: use one of %s", name, strings.Join(pricelist.Providers(), ", "))
		}
		if !strings.EqualFold(name, provider) {
			o.Sayf("%s is called %s now.\n", name, provider)
		}
		if !slices.Contains(o.Providers, provider) {
			o.Providers = append(o.Providers, provider)
		}
	}
	return nil
}

// catalog lists or groups list prices. It asks no server and no cloud.
func (o Options) catalog(ctx context.Context, spec api.RunSpec, group []string) error {
	list, about, err := o.prices(ctx)
	if err != nil {
		return err
	}
	q := question{list: list, about: about, want: effective(spec), params: spec.Merged().ProfileParams}
	o.sayNotOfAList(q.params)
	if len(o.Providers) > 0 {
		q.params.Backends = o.Providers
	}
	for _, name := range q.params.Backends {
		provider, ok := pricelist.FindProvider(name)
		if rows, _ := list.Size(provider); ok && rows == 0 {
			q.missing = append(q.missing, missing{provider, o.whyMissing(provider)})
		}
	}
	if len(group) > 0 {
		return o.groupedPrices(q, group)
	}
	return o.listPrices(q)
}

// sayNotOfAList names what a profile asks of a project, of which list prices know nothing.
func (o Options) sayNotOfAList(p config.ProfileParams) {
	var names []string
	for name, given := range map[string]bool{"fleets": len(p.Fleets) > 0, "instances": len(p.Instances) > 0} {
		if given {
			names = append(names, "`"+name+"`")
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		o.Sayf("List prices know nothing of the profile's %s: `dstack offer` asks the server.\n", strings.Join(names, " and "))
	}
	if p.Reservation != nil {
		o.Sayf("List prices do not know what is in the profile's `reservation`: they are of the providers that have any.\n")
	}
}

// question is what to look for and where.
type question struct {
	list    *pricelist.List
	about   source
	want    api.Requirements
	params  config.ProfileParams
	missing []missing
}

// missing is a provider that is asked for and of which there are no prices, also as JSON.
type missing struct {
	Provider string `json:"provider"`
	Reason   string `json:"reason"`
}

// whyMissing says why there are no prices of a provider, and what to do.
func (o Options) whyMissing(provider string) string {
	if len(o.Files) > 0 || o.Env(catalogDir) != "" {
		return "none of the catalogs is of this provider"
	}
	i := slices.IndexFunc(collect.Sources(), func(s collect.Source) bool { return s.Name() == provider })
	if i < 0 {
		return "its prices or its machines are told to accounts only"
	}
	refresh := "dstack catalog refresh --provider " + provider
	s := collect.Sources()[i]
	if len(s.Needs) > 0 {
		return fmt.Sprintf("its prices or its machines are told to accounts only: set %s and run `%s`", s.Settings(s.Needs), refresh)
	}
	return fmt.Sprintf("they change too often to come with the program: run `%s`", refresh)
}

// source describes a list of prices, also as JSON.
type source struct {
	Source string `json:"source"` // "embedded", or the files
	// Refreshed are the providers whose prices were collected since the program was made.
	Refreshed []string `json:"refreshed,omitempty"`
	Rows      int      `json:"rows"`
	Oldest    string   `json:"oldest"` // dates of prices
	Newest    string   `json:"newest"`
}

func (s source) String() string {
	from := s.Source
	if len(s.Refreshed) > 0 {
		from += " and refreshed (" + strings.Join(s.Refreshed, ", ") + ")"
	}
	return fmt.Sprintf("%s, %d list prices of %s", from, s.Rows, dates(s.Oldest, s.Newest))
}

func dates(oldest, newest string) string {
	if oldest == newest {
		return newest
	}
	return oldest + " to " + newest
}

// effective are the requirements by which a server would choose: without a policy, on-demand instances.
func effective(spec api.RunSpec) api.Requirements {
	w := wanted(spec)
	req := api.Requirements{Resources: w.Resources, MaxPrice: w.MaxPrice, Spot: w.Spot, Reservation: w.Reservation}
	if spec.Merged().SpotPolicy == nil {
		req.Spot = new(bool)
	}
	return req
}

// prices are those of the files that the user names, else of the directory in the environment, else of the program.
func (o Options) prices(ctx context.Context) (*pricelist.List, source, error) {
	wd, err := o.WorkDir()
	if err != nil {
		return nil, source{}, err
	}
	var files []string
	for _, f := range o.Files {
		files = append(files, o.Path(wd, f))
	}
	var list *pricelist.List
	var refreshed []string
	name := strings.Join(o.Files, ", ")
	switch dir := o.Env(catalogDir); {
	case len(files) > 0:
		list, err = o.readFiles(ctx, files, func(err error) error { return err })
	case dir != "":
		name = dir
		list, err = o.readDir(ctx, o.Path(wd, dir))
	default:
		name = "embedded"
		list, refreshed, err = o.present()
	}
	if err != nil {
		return nil, source{}, err
	}
	oldest, newest := list.Dates()
	return list, source{name, refreshed, list.Len(), oldest, newest}, nil
}

// present are the embedded prices and instead of them, where there are some, those that were
// collected since.
func (o Options) present() (list *pricelist.List, refreshed []string, err error) {
	if list, err = pricelist.Embedded(); err != nil {
		return nil, nil, err
	}
	kept, err := catalog.Shelf(o.Program).Lists(o.Time())
	if err != nil {
		o.Say(o.Paint(term.Warning, err.Error()+": run `dstack catalog refresh`"))
	}
	list, refreshed = list.Replace(slices.Collect(maps.Values(kept))...)
	return list, refreshed, nil
}

// maxNames is how many accelerators that are not known are named.
const maxNames = 10

// readFiles reads catalogs, each of another provider. One that is refused ends it, unless refused
// returns nil.
func (o Options) readFiles(ctx context.Context, files []string, refused func(error) error) (*pricelist.List, error) {
	var lists []*pricelist.List
	var unknown []string
	of := map[string]string{}
	kept := collect.Files{Shelf: collect.Shelf{Dir: filepath.Join(catalog.Shelf(o.Program).Dir, "files")}, Version: o.Version}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, names, err := kept.Read(f, o.Time())
		if err == nil && of[l.Backends()[0]] != "" {
			err = fmt.Errorf("%s and %s are both catalogs of %s", of[l.Backends()[0]], f, l.Backends()[0])
		}
		if err != nil {
			if err := refused(err); err != nil {
				return nil, err
			}
			continue
		}
		of[l.Backends()[0]] = f
		lists, unknown = append(lists, l), append(unknown, names...)
	}
	o.sayUnknown(unknown)
	if len(lists) == 0 {
		return nil, errors.New("none of the catalogs can be read")
	}
	all, _ := new(pricelist.List).Replace(lists...)
	return all, nil
}

func (o Options) sayUnknown(names []string) {
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	names = slices.Compact(names)
	text := strings.Join(names[:min(len(names), maxNames)], ", ")
	if rest := len(names) - maxNames; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	o.Sayf("Left out, since these accelerators are not known: %s\n", text)
}

// readDir reads the catalogs in a directory. What is none is passed over and said, so that one bad
// file does not hide all others.
func (o Options) readDir(ctx context.Context, dir string) (*pricelist.List, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.csv"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("%s=%s: there are no catalogs, <provider>.csv, in that directory", catalogDir, dir)
	}
	return o.readFiles(ctx, files, func(err error) error {
		o.Say(o.Paint(term.Warning, "Passed over "+err.Error()))
		return nil
	})
}

func (o Options) listPrices(q question) error {
	offers, total := q.list.Search(q.want, q.params, o.MaxOffers)
	var tally *scheduler.Tally
	if total <= few {
		tally = q.list.WhyNot(q.want, q.params)
	}
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Catalog      source            `json:"catalog"`
			Requirements requirements      `json:"requirements"`
			Offers       []pricelist.Offer `json:"offers"`
			TotalOffers  int               `json:"total_offers"`
			Excluded     []api.Exclusion   `json:"excluded,omitempty"` // where few or none fit
			Missing      []missing         `json:"missing,omitempty"`
		}{q.about, shown(q.want), append([]pricelist.Offer{}, offers...), total, exclusions(tally), q.missing})
	}
	o.Facts(q.facts())
	o.Println()
	if total > 0 {
		o.printPrices(offers, total)
	}
	o.sayMissing(q.missing)
	if tally != nil {
		o.whyNot(tally)
	}
	return nil
}

// exclusions are those of a tally, which there may not be.
func exclusions(tally *scheduler.Tally) []api.Exclusion {
	if tally == nil {
		return nil
	}
	return tally.Exclusions()
}

func (o Options) sayMissing(list []missing) {
	for _, m := range list {
		o.Println(o.Paint(term.Warning, fmt.Sprintf("There are no list prices of %s: %s.", m.Provider, m.Reason)))
	}
}

func (q question) facts() [][2]string {
	return [][2]string{
		{"Catalog", q.about.String()},
		{"Resources", format.Requirements(q.want.Resources)},
		{"Spot policy", format.SpotPolicy(q.want.Spot)},
		{"Max price", format.MaxPrice(q.want.MaxPrice)},
	}
}

func shown(r api.Requirements) requirements {
	return requirements{Resources: r.Resources, MaxPrice: r.MaxPrice, Spot: r.Spot, Reservation: r.Reservation}
}

func (o Options) printPrices(offers []pricelist.Offer, total int) {
	tb := &term.Table{Columns: term.Columns("#", "BACKEND", "RESOURCES", "INSTANCE TYPE", "LIST PRICE", "AS OF"), Expand: true}
	for i, p := range offers {
		tb.Add(strconv.Itoa(i+1), format.Backend(string(p.Backend), p.Region),
			format.Resources(p.Instance.Resources)+format.Spot(p.Instance.Resources.Spot),
			p.Instance.Name, format.Price(p.Price), p.AsOf)
	}
	o.Print(tb)
	if total > len(offers) {
		o.Println(o.Paint(term.Secondary, fmt.Sprintf(" Shown %d of %d list prices", len(offers), total)))
	}
	o.Println()
	o.sayListPrices()
}

func (o Options) sayListPrices() {
	o.Println(o.Paint(term.Secondary, "What providers charge where they have it, not what they have now. `dstack offer` asks your backends."))
}

func (o Options) whyNot(tally *scheduler.Tally) {
	all, fit := tally.Offers()
	if fit == 0 {
		o.Println(o.Paint(term.Warning, fmt.Sprintf("None of %d list prices fits.", all)))
	} else {
		o.Println()
	}
	printWhyNot(o.IO, tally.Exclusions(), option)
}

// groupedPrices lists kinds of GPUs instead of offers.
func (o Options) groupedPrices(q question, group []string) error {
	by := slices.DeleteFunc(slices.Clone(group), func(s string) bool { return s == "gpu" })
	how := scheduler.GPUGrouping{Backend: slices.Contains(by, "backend"), Region: slices.Contains(by, "region"), Count: slices.Contains(by, "count")}
	if how.Region && !how.Backend {
		return fmt.Errorf("Cannot group by 'region' without also grouping by 'backend'")
	}
	want := q.want
	want.Resources = scheduler.WithGPUs(want.Resources)
	gpus, total := q.list.Groups(want, q.params, how)
	var tally *scheduler.Tally
	if total <= few {
		tally = q.list.WhyNot(want, q.params)
	}
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Catalog      source            `json:"catalog"`
			Requirements requirements      `json:"requirements"`
			GroupBy      []string          `json:"group_by"`
			Gpus         []pricelist.Group `json:"gpus"`
			Excluded     []api.Exclusion   `json:"excluded,omitempty"` // where few or none fit
			Missing      []missing         `json:"missing,omitempty"`
		}{q.about, shown(q.want), group, gpus, exclusions(tally), q.missing})
	}
	o.Facts(append(q.facts(),
		[2]string{"Reservation", cmp.Or(format.Text(q.want.Reservation), "-")},
		[2]string{"Group by", strings.Join(group, ", ")},
	))
	o.Println()
	o.sayMissing(q.missing)
	if len(gpus) > 0 {
		o.Print(priceTable(gpus, by))
		o.Println()
		o.sayListPrices()
	}
	if tally != nil {
		o.whyNot(tally)
	}
	return nil
}

// priceTable is the table of groups with the dates of their prices.
func priceTable(gpus []pricelist.Group, by []string) *term.Table {
	groups := make([]api.GpuGroup, len(gpus))
	for i, g := range gpus {
		groups[i] = g.GpuGroup
	}
	tb := gpuTable(groups, by)
	asOf := len(tb.Columns) - 1 // instead of the availability, of which a list says nothing
	tb.Columns[asOf] = term.Columns("AS OF")[0]
	for i, g := range gpus {
		tb.Rows[i].Cells[asOf] = term.Text(dates(g.Oldest, g.Newest))
	}
	return tb
}
