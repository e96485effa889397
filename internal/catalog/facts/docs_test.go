package facts

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"dstack/internal/catalog/pricelist"
)

// The page about offers says how many prices are embedded, and how many are left out.
func TestPageHasTheFigures(t *testing.T) {
	_, report, err := Build(os.DirFS("data"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/offers.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, left := map[string]string{}, map[string]string{} // by provider
	_, table, _ := strings.Cut(string(page), "| Provider | List prices |")
	table, _, _ = strings.Cut(table, "\n\n")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 {
			continue
		}
		split := func(i int) []string { return strings.Split(strings.TrimSpace(cells[i]), ", ") }
		for i, name := range split(1) {
			rows[name] = split(2)[min(i, len(split(2))-1)]
			left[name] = split(3)[min(i, len(split(3))-1)]
		}
	}
	for _, name := range pricelist.Providers() {
		want := "-"
		if n := report.NoShape[name]; n > 0 {
			want = fmt.Sprintf("%d of %d", n, len(report.Unshaped[name]))
		}
		if rows[name] != fmt.Sprint(report.Rows[name]) || left[name] != want {
			t.Errorf("the page has %s prices of %s and leaves out %s, not %d and %s", rows[name], name, left[name], report.Rows[name], want)
		}
	}
}
