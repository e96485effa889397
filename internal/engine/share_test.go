package engine

import "testing"

func TestShare(t *testing.T) {
	const lease = 100
	for name, tt := range map[string]struct {
		there map[string]int64
		want  int // of "me"
	}{
		"alone, just started":            {map[string]int64{"me": 100}, 64},
		"alone":                          {map[string]int64{"me": 900}, 64},
		"all just started":               {map[string]int64{"me": 199, "b": 100}, 32},
		"new among others":               {map[string]int64{"me": 199, "b": 100, "c": 900}, 0},
		"with a new one":                 {map[string]int64{"me": 200, "b": 199}, 64},
		"with old and new ones":          {map[string]int64{"me": 200, "b": 199, "c": 900, "d": 900}, 22},
		"new with one that does not say": {map[string]int64{"me": 100, "b": -1}, 32},
		"old with one that does not say": {map[string]int64{"me": 900, "b": -1, "c": 100}, 22},
	} {
		t.Run(name, func(t *testing.T) {
			if got := share(tt.there, "me", lease); got != tt.want {
				t.Errorf("share(%v) = %d, want %d", tt.there, got, tt.want)
			}
		})
	}
}
