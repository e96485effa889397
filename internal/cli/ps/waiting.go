package ps

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/cli/format"
)

// maxWaiting bounds the runs whose waiting is explained below a table.
const maxWaiting = 10

// Waiting explains, a line each, which runs wait in the queue, where they stand, since when
// and for what; the head of the queue first.
func Waiting(runs []api.Run, now time.Time) []string {
	waiting := slices.DeleteFunc(slices.Clone(runs), func(r api.Run) bool { return r.Waiting == nil })
	slices.SortStableFunc(waiting, func(a, b api.Run) int { return cmp.Compare(a.Waiting.Position, b.Waiting.Position) })
	var lines []string
	for i, r := range waiting {
		if i == maxWaiting {
			lines = append(lines, fmt.Sprintf(" … and %d more", len(waiting)-i))
			break
		}
		w := r.Waiting
		reason, _, _ := strings.Cut(w.Reason, "\n")
		lines = append(lines, fmt.Sprintf(" %s is #%d in the queue since %s: %s", runName(r), w.Position, format.Age(now, w.Since.Time), reason))
	}
	if lines != nil {
		lines = append([]string{""}, lines...)
	}
	return lines
}
