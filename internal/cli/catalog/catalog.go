// Package catalog is `dstack catalog`: the list prices that `dstack offer --catalog` searches.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"dstack/internal/backend"
	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// Shelf is where the client keeps the prices that it has collected.
func Shelf(p *program.Program) collect.Shelf {
	return collect.Shelf{Dir: filepath.Join(string(p.Dir()), "catalog")}
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	cmd := &cobra.Command{Use: "catalog", Short: "Manage list prices", Args: cobra.NoArgs}
	cmd.AddCommand(newRefresh(p))
	return cmd
}

// options are what the user says.
type options struct {
	*program.Program
	providers []string
	json      bool
}

func newRefresh(p *program.Program) *cobra.Command {
	o := options{Program: p}
	cmd := &cobra.Command{
		Use: "refresh", Short: "Ask providers for their present prices",
		Args: func(cmd *cobra.Command, args []string) error { // so that an unknown name is an error of usage
			if err := cobra.NoArgs(cmd, args); err != nil {
				return err
			}
			_, err := o.sources()
			return err
		},
		Long: "Collect the price lists of providers, for `dstack offer --catalog` on this machine. Most are public, and some\n" +
			"have more with credentials in the environment; others need those, and are passed over without. A list that cannot\n" +
			"be read whole, or that lacks what it must have, is refused, and the last good one stays. With GPUHUNT_CATALOG_URL,\n" +
			"published catalogs at that URL are taken instead, of the providers that are published there. The exit code is 1 when a provider's prices could not be collected.",
		RunE: func(cmd *cobra.Command, _ []string) error { return refresh(cmd.Context(), o) },
	}
	cmd.Flags().StringArrayVar(&o.providers, "provider", nil, "collect the prices of this provider only; repeatable")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

// outcome is what became of one provider's prices, also as JSON.
type outcome struct {
	Provider string   `json:"provider"`
	Status   string   `json:"status"`           // "refreshed", "older" (kept, and not used), "failed", "skipped"
	Rows     int      `json:"rows"`             // that are used now
	AsOf     string   `json:"as_of"`            // their date, "" without any
	LeftOut  []string `json:"left_out"`         // types and accelerators that are not known
	More     int      `json:"left_out_more"`    // how many of those are not named
	Free     int      `json:"free"`             // rows that say no price, left out too
	Reason   string   `json:"reason,omitempty"` // of a failure, or why it was passed over or is not used
	Hint     string   `json:"hint,omitempty"`   // what would make more of it
}

// atOnce is how many providers are asked at a time. Published catalogs are taken one by one: each is an
// archive in memory.
func atOnce(c collect.Config) int {
	if c.Catalogs != "" {
		return 1
	}
	return 4
}

func refresh(ctx context.Context, o options) error {
	sources, err := o.sources()
	if err != nil {
		return err
	}
	known, err := pricelist.Embedded()
	if err != nil {
		return err
	}
	c := collect.Config{
		Transport: backend.NewTransport(backend.TransportConfig{Log: slog.New(slog.DiscardHandler), Version: o.Version}),
		Env:       o.Env, Known: known, Catalogs: o.Env(collect.CatalogsVariable),
	}
	list := make([]outcome, len(sources))
	err = o.While("Collecting prices...", func() error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce(c))
		for i, s := range sources {
			g.Go(func() error {
				list[i] = o.one(ctx, c, s)
				return ctx.Err()
			})
		}
		return g.Wait()
	})
	if err != nil {
		return err
	}
	o.addUsed(list, sources, known)
	return o.print(list)
}

// sources are those that the user names, else those that need not be named.
func (o options) sources() ([]collect.Source, error) {
	all := collect.Sources()
	published := o.Env(collect.CatalogsVariable) != ""
	if len(o.providers) == 0 {
		return slices.DeleteFunc(all, func(s collect.Source) bool { return s.Pointless(published) || !published && s.Huge }), nil
	}
	var chosen []collect.Source
	for _, name := range o.providers {
		i := slices.IndexFunc(all, func(s collect.Source) bool { return strings.EqualFold(s.Name(), name) })
		if i < 0 {
			var names []string
			for _, s := range all {
				names = append(names, s.Name())
			}
			return nil, fmt.Errorf("there is no provider %q: use one of %s", name, strings.Join(names, ", "))
		}
		if !slices.ContainsFunc(chosen, func(s collect.Source) bool { return s.Name() == all[i].Name() }) {
			chosen = append(chosen, all[i])
		}
	}
	return chosen, nil
}

// one collects and keeps the prices of a provider.
func (o options) one(ctx context.Context, c collect.Config, s collect.Source) outcome {
	out := outcome{Provider: s.Name(), Status: "refreshed", LeftOut: []string{}}
	if missing := s.Missing(o.Env); len(missing) > 0 && len(o.providers) == 0 && c.Catalogs == "" {
		out.Status, out.Reason = "skipped", "set "+s.Settings(missing)
		return out
	}
	found, err := collect.Collect(ctx, c, s, o.Time())
	if err == nil {
		err = Shelf(o.Program).Put(s, found.List, o.Time())
	}
	if errors.Is(err, collect.ErrNotPublished) && len(o.providers) == 0 {
		out.Status, out.Reason = "skipped", collect.ErrNotPublished.Error()
		return out
	}
	if errors.Is(err, collect.ErrOtherCredentials) && len(o.providers) == 0 {
		out.Status, out.Reason = "skipped", err.Error()
		return out
	}
	if err != nil {
		out.Status, out.Reason = "failed", err.Error()
		return out
	}
	if found.NoAccount != nil {
		out.Hint = "only what anybody is told, since the account was not: " + found.NoAccount.Error()
	} else if lacking := s.Lacking(o.Env); len(lacking) > 0 && c.Catalogs == "" {
		out.Hint = "for more of it set " + strings.Join(lacking, ", ")
	}
	out.LeftOut = append(out.LeftOut, found.LeftOut.Names...)
	out.More, out.Free = found.LeftOut.More, found.Free
	return out
}

// addUsed says what is searched from now on: new prices, or those that stayed.
func (o options) addUsed(list []outcome, sources []collect.Source, embedded *pricelist.List) {
	kept, err := Shelf(o.Program).Lists(o.Time())
	if err != nil {
		o.Say(o.Paint(term.Warning, err.Error()))
	}
	used, _ := embedded.Replace(slices.Collect(maps.Values(kept))...)
	for i, s := range sources {
		size := used.Size
		if s.Spot {
			size = used.SpotSize
		}
		list[i].Rows, list[i].AsOf = size(s.Provider)
		if l := kept[s.Name()]; l != nil && list[i].Status == "refreshed" {
			_, newest := l.Dates()
			_, before := embedded.Size(s.Provider)
			if s.Spot {
				before = list[i].AsOf // of the whole list too
			}
			if newest < before {
				list[i].Status, list[i].Reason = "older", fmt.Sprintf("those that are published are of %s, older than these, which stay in use", newest)
			}
		}
	}
}

func (o options) print(list []outcome) error {
	failed, unpublished := 0, 0
	for _, out := range list {
		switch {
		case out.Status == "failed":
			failed++
		case out.Reason == collect.ErrNotPublished.Error():
			unpublished++
		}
	}
	if o.json {
		if err := o.PrintJSON(list); err != nil {
			return err
		}
	} else {
		tb := &term.Table{Columns: term.Columns("PROVIDER", "STATUS", "PRICES", "AS OF", ""), Expand: true}
		for _, out := range list {
			tb.Add(out.Provider, out.Status, strconv.Itoa(out.Rows), cmp.Or(out.AsOf, "-"), out.remark())
		}
		o.Print(tb)
	}
	if failed > 0 {
		return fmt.Errorf("the prices of %d of %d providers could not be collected; those before stay", failed, len(list))
	}
	if unpublished == len(list) {
		return fmt.Errorf("there are no catalogs at %s=%s", collect.CatalogsVariable, o.Env(collect.CatalogsVariable))
	}
	return nil
}

// maxNames is how many of the things that were left out are named in the table.
const maxNames = 5

// remark is what else there is to say about a provider.
func (out outcome) remark() string {
	var parts []string
	if out.Reason != "" {
		parts = append(parts, out.Reason)
	}
	if n := len(out.LeftOut); n > 0 {
		text := "not known, left out: " + strings.Join(out.LeftOut[:min(n, maxNames)], ", ")
		if rest := n + out.More - maxNames; rest > 0 {
			text += fmt.Sprintf(" and %d more", rest)
		}
		parts = append(parts, text)
	}
	if out.Free > 0 {
		parts = append(parts, fmt.Sprintf("rows without a price: %d", out.Free))
	}
	if out.Hint != "" {
		parts = append(parts, out.Hint)
	}
	return strings.Join(parts, "; ")
}
