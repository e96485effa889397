package catalog

// MaxLists bounds the lists of offers that are remembered in one place.
const MaxLists = 1_000

// Shrink forgets any lists but the one that is named, until there are no more than [MaxLists] and no
// more offers in them than most; size is how many are in one.
func Shrink[L any](lists map[string]L, but string, most int, size func(L) int) {
	offers := 0
	for _, l := range lists {
		offers += size(l)
	}
	for name, l := range lists {
		if len(lists) <= MaxLists && offers <= most {
			return
		}
		if name != but {
			delete(lists, name)
			offers -= size(l)
		}
	}
}
