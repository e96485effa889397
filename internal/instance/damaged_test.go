package instance

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
)

// TestStepDamaged keeps machines in reach whose record is lost, and says when they are not.
func TestStepDamaged(t *testing.T) {
	for name, tt := range map[string]struct {
		change                           func(*Snapshot)
		now                              time.Duration
		watch, changed, unreachable, end bool
	}{
		"connected":                    {change: func(*Snapshot) {}},
		"after a restart":              {change: func(s *Snapshot) { s.Link = Link{} }, watch: true},
		"not connected yet":            {change: func(s *Snapshot) { s.Link = Link{Watched: true, Since: start} }, now: lostGrace - 1},
		"lost":                         {change: func(s *Snapshot) { s.Link = Link{Watched: true, Since: start} }, now: lostGrace, changed: true, unreachable: true},
		"still lost":                   {change: func(s *Snapshot) { s.Link, s.Instance.Unreachable = Link{Watched: true, Since: start}, true }, now: time.Hour, unreachable: true},
		"back":                         {change: func(s *Snapshot) { s.Instance.Unreachable = true }, changed: true},
		"the address is not known":     {change: func(s *Snapshot) { s.Machine.Hostname = "" }, changed: true, unreachable: true},
		"the machine is gone":          {change: func(s *Snapshot) { s.Machine.Gone = true }, changed: true, end: true},
		"a host of the user":           {change: func(s *Snapshot) { s.Machine, s.Instance.IntentID = Machine{}, "" }},
		"a host, after a restart":      {change: func(s *Snapshot) { s.Machine, s.Instance.IntentID, s.Link = Machine{}, "", Link{} }},
		"a machine that is being made": {change: func(s *Snapshot) { s.Instance.Status, s.Link = api.InstanceProvisioning, Link{} }},
	} {
		t.Run(name, func(t *testing.T) {
			s := paid(api.InstanceBusy)
			s.Instance.Data = Data{Damage: "no JSON", IdleSeconds: -1}
			tt.change(&s)
			d := Step(at(tt.now), s)
			if got := slices.Contains(d.Effects, Watch); got != tt.watch {
				t.Errorf("watch: %v", got)
			}
			if d.Changed != tt.changed || d.Instance.Unreachable != tt.unreachable || (d.Instance.Status == api.InstanceTerminating) != tt.end {
				t.Errorf("changed %v, unreachable %v, %s", d.Changed, d.Instance.Unreachable, d.Instance.Status)
			}
			if tt.watch || name == "not connected yet" {
				if d.Again.IsZero() {
					t.Error("it is not looked at again")
				}
			}
		})
	}
}

// TestDamagedHost says of a host whose record is lost what may be left on it; a machine is deleted.
func TestDamagedHost(t *testing.T) {
	for host, want := range map[string]bool{"10.0.0.7": true, "": false} {
		i := Instance{SSHHost: host}
		if err := i.whole(&store.Damage{Err: errors.New("no JSON"), Document: true}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(i.Data.Problem, "containers of jobs may run on"); got != want {
			t.Errorf("host %q: %s", host, i.Data.Problem)
		}
	}
}
