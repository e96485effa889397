package pricelist

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

// spot is a list of spot instances alone, otherwise as priced.
func spot(t *testing.T, rows ...[5]any) *List {
	t.Helper()
	l := priced(t, rows...)
	for i := range l.columns.spot {
		l.columns.spot[i] = true
	}
	return l
}

// priced is a list of rows "backend instance region price date".
func priced(t *testing.T, rows ...[5]any) *List {
	t.Helper()
	var b Builder
	for _, r := range rows {
		row := Row{Backend: r[0].(string), Instance: r[1].(string), Region: r[2].(string), CPUs: 1, MemoryMiB: 1024, Arch: "x86", Price: r[3].(float64), AsOf: r[4].(string)}
		if err := b.Add(row); err != nil {
			t.Fatal(err)
		}
	}
	return b.List()
}

// both is one list of two.
func both(t *testing.T, a, b *List) *List {
	t.Helper()
	var all Builder
	for _, l := range []*List{a, b} {
		for i := range l.Len() {
			if err := all.Add(l.Row(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all.List()
}

func lines(l *List) []string {
	var list []string
	for i := range l.Len() {
		r := l.Row(i)
		line := fmt.Sprint(r.Backend, " ", r.Instance, " ", r.Region, " ", r.Price, " ", r.AsOf)
		if r.Spot {
			line += " spot"
		}
		list = append(list, line)
	}
	return list
}

func TestReplace(t *testing.T) {
	base := priced(t, [5]any{"aws", "a", "r1", 3.0, "2026-07-20"}, [5]any{"aws", "b", "r2", 1.0, "2026-07-01"}, [5]any{"oci", "c", "r", 2.0, "2026"}, [5]any{"vultr", "v", "r", 4.0, "2026-11-01"})
	for name, tt := range map[string]struct {
		others []*List
		want   []string
	}{
		"nothing": {nil, lines(base)},
		"newer prices of one": {[]*List{priced(t, [5]any{"aws", "a", "r1", 2.5, "2026-11-25"})},
			[]string{"oci c r 2 2026", "aws a r1 2.5 2026-11-25", "vultr v r 4 2026-11-01"}},
		"of two, one of them new": {[]*List{priced(t, [5]any{"lambda", "l", "r", 0.5, "2026-11-25"}), priced(t, [5]any{"oci", "d", "r", 9.0, "2026-08"})},
			[]string{"lambda l r 0.5 2026-11-25", "aws b r2 1 2026-07-01", "aws a r1 3 2026-07-20", "vultr v r 4 2026-11-01", "oci d r 9 2026-08"}},
		"spot prices beside those on demand": {[]*List{spot(t, [5]any{"aws", "a", "r1", 0.5, "2026-07-02"}, [5]any{"aws", "a", "r2", 5.0, "2026-07-02"})},
			[]string{"aws a r1 0.5 2026-07-02 spot", "aws b r2 1 2026-07-01", "oci c r 2 2026", "aws a r1 3 2026-07-20", "vultr v r 4 2026-11-01", "aws a r2 5 2026-07-02 spot"}},
		"both, and the newer spot prices": {[]*List{spot(t, [5]any{"oci", "c", "r", 0.5, "2026-11-02"}), both(t, priced(t, [5]any{"oci", "c", "r", 2.5, "2026-11-01"}), spot(t, [5]any{"oci", "c", "r", 0.7, "2026-11-01"}))},
			[]string{"oci c r 0.5 2026-11-02 spot", "aws b r2 1 2026-07-01", "oci c r 2.5 2026-11-01", "aws a r1 3 2026-07-20", "vultr v r 4 2026-11-01"}},
		"older than what is there": {[]*List{priced(t, [5]any{"vultr", "v", "r", 9.0, "2026-10-31"})}, lines(base)},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := base.Replace(tt.others...)
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Errorf("the list differs (-want +got):\n%s", diff)
			}
			found, total := got.Search(api.Requirements{}, config.ProfileParams{}, -1)
			if total != len(tt.want) || !slices.IsSortedFunc(found, func(a, b Offer) int { return int(1e6*a.Price) - int(1e6*b.Price) }) {
				t.Errorf("a search finds %d, or not in order", total)
			}
		})
	}
}

func TestWhatIsThere(t *testing.T) {
	l := priced(t, [5]any{"oci", "c", "r2", 2.0, "2026"}, [5]any{"aws", "a", "r1", 3.0, "2026"}, [5]any{"aws", "b", "", 1.0, "2026"}, [5]any{"aws", "b", "r0", 1.0, "2026"})
	if diff := cmp.Diff([]string{"aws", "oci"}, l.Backends()); diff != "" {
		t.Errorf("backends (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"r0", "r1"}, l.Regions("aws")); diff != "" {
		t.Errorf("regions (-want +got):\n%s", diff)
	}
	types := l.Types("aws")
	if len(types) != 2 || types["a"].CPUs != 1 || types["a"].Price != 0 {
		t.Errorf("types are %v", types)
	}
}
