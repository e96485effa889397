package api

import "testing"

func TestWhyNotWorth(t *testing.T) {
	excluded, away := []Exclusion{{Requirement: "cpu", Excludes: 1}}, []Unavailable{{Busy, 1}}
	for name, tt := range map[string]struct {
		why  WhyNot
		want bool
	}{
		"there is nothing":               {WhyNot{}, false},
		"there is nothing, for a reason": {WhyNot{Reasons: []string{"no backend"}}, true},
		"all fit":                        {WhyNot{Considered: 1, Fit: 1}, false},
		"all fit, some are away":         {WhyNot{Considered: 2, Fit: 1, Unavailable: away}, false},
		"all are away":                   {WhyNot{Considered: 1, Unavailable: away}, true},
		"few fit":                        {WhyNot{Considered: 3, Fit: 2, Excluded: excluded}, true},
		"enough fit":                     {WhyNot{Considered: 4, Fit: 3, Excluded: excluded}, false},
		"enough fit, to no avail":        {WhyNot{Considered: 4, Fit: 3, Reasons: []string{"5 are needed"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.why.Worth(2) != nil; got != tt.want {
				t.Errorf("Worth = %t, want %t", got, tt.want)
			}
		})
	}
}
