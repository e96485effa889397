package catalog

import (
	"fmt"
	"testing"
)

// Lists are forgotten for their number and for what is in them, but never the one that was made last.
func TestShrink(t *testing.T) {
	for name, tt := range map[string]struct{ lists, size, most, want int }{
		"room for all":      {MaxLists, 2, 2 * MaxLists, MaxLists},
		"too many":          {MaxLists + 7, 2, 3 * MaxLists, MaxLists},
		"too many offers":   {40, 2, 7, 3},
		"one is too many":   {2, 10, 7, 1},
		"the last is alone": {1, 10, 7, 1},
	} {
		lists := map[string][]int{}
		last := ""
		for n := range tt.lists {
			last = fmt.Sprint(n)
			lists[last] = make([]int, tt.size)
		}
		Shrink(lists, last, tt.most, func(l []int) int { return len(l) })
		if lists[last] == nil || len(lists) != tt.want {
			t.Errorf("%s: %d lists are left, the last one: %v; want %d", name, len(lists), lists[last] != nil, tt.want)
		}
	}
}
