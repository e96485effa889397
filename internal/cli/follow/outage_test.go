package follow

import (
	"testing"
	"time"
)

func TestOutage(t *testing.T) {
	type failure struct {
		at          time.Duration
		answered    bool
		say, giveUp bool
	}
	for name, failures := range map[string][]failure{
		"a moment":      {{at: 0}, {at: quiet / 2}},
		"said once":     {{at: 0}, {at: quiet, say: true}, {at: 2 * quiet}},
		"given up":      {{at: 0}, {at: patience, say: true}, {at: patience + 1, giveUp: true}},
		"a second one":  {{at: 0}, {at: quiet, say: true}, {at: 2 * quiet, answered: true}, {at: 3 * quiet, say: true}},
		"after silence": {{at: 10 * patience, answered: true}, {at: 10*patience + quiet, say: true}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
			var o outage
			for i, f := range failures {
				say, giveUp := o.failed(start.Add(f.at), f.answered)
				if say != f.say || giveUp != f.giveUp {
					t.Errorf("failure %d: say %v, give up %v; want %v, %v", i, say, giveUp, f.say, f.giveUp)
				}
			}
		})
	}
}
