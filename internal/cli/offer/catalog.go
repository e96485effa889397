package offer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/cli/catalog"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
	"dstack/internal/scheduler"
)

// catalogDir is the variable that names a directory of catalog files, as for the original's library.
const catalogDir = "GPUHUNT_CATALOG_DIR"

// few is the number of offers up to which it is said what would give more.
const few = 2

// catalog lists or groups list prices. It asks no server and no cloud.
func (o Options) catalog(ctx context.Context, spec api.RunSpec, group []string) error {
	list, about, err := o.prices(ctx)
	if err != nil {
		return err
	}
	q := question{list: list, about: about, spec: spec, want: effective(spec)}
	if len(group) > 0 {
		return o.groupedPrices(q, group)
	}
	return o.listPrices(q)
}

// question is what to look for and where.
type question struct {
	list  *pricelist.List
	about source
	spec  api.RunSpec
	want  api.Requirements
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
	dates := s.Newest
	if s.Oldest != s.Newest {
		dates = s.Oldest + " to " + s.Newest
	}
	from := s.Source
	if len(s.Refreshed) > 0 {
		from += " and refreshed (" + strings.Join(s.Refreshed, ", ") + ")"
	}
	return fmt.Sprintf("%s, %d list prices of %s", from, s.Rows, dates)
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
	name := strings.Join(o.Files, ", ")
	if dir := o.Env(catalogDir); dir != "" && len(files) == 0 {
		name = dir
		if files, err = filepath.Glob(filepath.Join(o.Path(wd, dir), "*.csv")); err != nil || len(files) == 0 {
			return nil, source{}, fmt.Errorf("%s=%s: there are no catalogs, <provider>.csv, in that directory", catalogDir, dir)
		}
	}
	var list *pricelist.List
	var refreshed []string
	if len(files) == 0 {
		name = "embedded"
		list, refreshed, err = o.present()
	} else {
		list, err = o.readFiles(ctx, files)
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
	kept, err := catalog.Shelf(o.Program).Lists()
	if err != nil {
		o.Say(o.Paint(term.Warning, err.Error()+": run `dstack catalog refresh`"))
	}
	list, refreshed = list.Replace(slices.Collect(maps.Values(kept))...)
	return list, refreshed, nil
}

// maxNames is how many accelerators that are not known are named.
const maxNames = 10

func (o Options) readFiles(ctx context.Context, files []string) (*pricelist.List, error) {
	var b pricelist.Builder
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := b.AddFile(f); err != nil {
			return nil, err
		}
	}
	if names := b.Unknown(); len(names) > 0 {
		o.Sayf("Left out, since these accelerators are not known: %s\n", strings.Join(names[:min(len(names), maxNames)], ", "))
	}
	return b.List(), nil
}

func (o Options) listPrices(q question) error {
	offers, total := q.list.Search(q.want, q.spec.Merged().ProfileParams, o.MaxOffers)
	var tally *scheduler.Tally
	if total <= few {
		tally = q.list.WhyNot(q.want, q.spec.Merged().ProfileParams)
	}
	if o.JSON {
		out := struct {
			Catalog      source            `json:"catalog"`
			Requirements requirements      `json:"requirements"`
			Offers       []pricelist.Offer `json:"offers"`
			TotalOffers  int               `json:"total_offers"`
			Excluded     []api.Exclusion   `json:"excluded,omitempty"` // where few or none fit
		}{q.about, shown(q.want), append([]pricelist.Offer{}, offers...), total, nil}
		if tally != nil {
			out.Excluded = tally.Exclusions()
		}
		return o.PrintCompactJSON(out)
	}
	o.Facts(q.facts())
	o.Println()
	if total > 0 {
		o.printPrices(offers, total)
	}
	if tally != nil {
		o.whyNot(tally)
	}
	return nil
}

func (q question) facts() [][2]string {
	return [][2]string{
		{"Catalog", q.about.String()},
		{"Resources", format.Requirements(q.want.Resources)},
		{"Spot policy", spotName(q.want.Spot)},
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
	o.Println(o.Paint(term.Secondary, "What providers charge where they have it, not what they have now. `dstack offer` asks your backends."))
}

func (o Options) whyNot(tally *scheduler.Tally) {
	all, fit := tally.Offers()
	if fit == 0 {
		o.Println(o.Paint(term.Warning, fmt.Sprintf("None of %d list prices fits.", all)))
	}
	PrintWhyNot(o.IO, tally.Exclusions())
}

// groupedPrices lists kinds of GPUs instead of offers.
func (o Options) groupedPrices(q question, group []string) error {
	by := slices.DeleteFunc(slices.Clone(group), func(s string) bool { return s == "gpu" })
	how := scheduler.GPUGrouping{Backend: slices.Contains(by, "backend"), Region: slices.Contains(by, "region"), Count: slices.Contains(by, "count")}
	if how.Region && !how.Backend {
		return fmt.Errorf("Cannot group by 'region' without also grouping by 'backend'")
	}
	found, _ := q.list.Search(q.want, q.spec.Merged().ProfileParams, -1)
	offers := make([]api.InstanceOffer, len(found))
	for i, p := range found {
		offers[i] = p.InstanceOffer
	}
	gpus := scheduler.GroupGPUs(offers, how)
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Catalog      source         `json:"catalog"`
			Requirements requirements   `json:"requirements"`
			GroupBy      []string       `json:"group_by"`
			Gpus         []api.GpuGroup `json:"gpus"`
		}{q.about, shown(q.want), group, gpus})
	}
	o.Facts(append(q.facts(),
		[2]string{"Reservation", cmp.Or(deref(q.want.Reservation), "-")},
		[2]string{"Group by", strings.Join(group, ", ")},
	))
	o.Println()
	if len(gpus) == 0 {
		o.whyNot(q.list.WhyNot(q.want, q.spec.Merged().ProfileParams))
		return nil
	}
	o.Print(gpuTable(gpus, by))
	o.Println()
	return nil
}
