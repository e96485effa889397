package offer

import (
	"fmt"
	"slices"
	"strconv"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
)

// A Listing is a part of the offers that were found.
type Listing struct {
	Offers   []api.InstanceOffer
	Total    int
	MaxPrice *float64 // over all offers
	Show     int      // at most as many rows; 0 means all
	Dim      bool     // all but the first, which will be tried first
	// Lowered are those that could not be had lately.
	Lowered []api.LoweredOffer
}

// Print writes the table of offers, and beneath it how many were left out.
func (l Listing) Print(t *term.IO) {
	tb := &term.Table{Columns: term.Columns("#", "BACKEND", "RESOURCES", "INSTANCE TYPE", "PRICE", ""), Expand: true}
	shown := l.Offers
	if l.Show > 0 {
		shown = shown[:min(l.Show, len(shown))]
	}
	for i, o := range shown {
		name := o.Instance.Name
		if o.TotalBlocks > 1 {
			name += fmt.Sprintf(" (%d/%d)", o.Blocks, o.TotalBlocks)
		}
		tb.Add(strconv.Itoa(i+1), format.Backend(string(o.Backend), o.Region),
			format.Resources(o.Instance.Resources)+format.Spot(o.Instance.Resources.Spot),
			name, format.Price(o.Price), State(o, l.Lowered))
		if l.Dim && i > 0 {
			tb.Rows[i].Style = term.Secondary
		}
	}
	more := l.Total > len(shown)
	if more {
		tb.Rows = append(tb.Rows, term.Row{Cells: []term.Cell{{}, term.Text("...")}, Style: term.Secondary})
	}
	t.Print(tb)
	if more {
		limit := ""
		if l.MaxPrice != nil {
			limit = ", " + format.MaxPrice(l.MaxPrice) + " max"
		}
		t.Println(t.Paint(term.Secondary, fmt.Sprintf(" Shown %d of %d offers%s", len(shown), l.Total, limit)))
	}
	t.Println()
}

// State is what there is to say of an offer beside its price: that it is not available, or was
// refused lately and so comes after others that cost more.
func State(o api.InstanceOffer, lowered []api.LoweredOffer) string {
	if s := format.Availability(string(o.Availability)); s != "" {
		return s
	}
	if slices.ContainsFunc(lowered, func(l api.LoweredOffer) bool {
		return l.Backend == o.Backend && l.Region == o.Region && l.Instance == o.Instance.Name && l.Spot == o.Instance.Resources.Spot
	}) {
		return "refused lately"
	}
	return ""
}

// None is what to say when there is no offer at all.
const None = "No matching instance offers available. Possible reasons: https://dstack.ai/docs/guides/troubleshooting/#no-offers"

// NoFleets is what to say when a project has no place to run on.
const NoFleets = "The project has no fleets. Create one before submitting a run: https://dstack.ai/docs/concepts/fleets"
