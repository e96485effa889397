package instance

import (
	"slices"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
)

// A lost machine is tried where the cloud says that it is, and by turns where it answered last. One that answers stays
// where it is, whatever the cloud says.
func TestLostMachineIsSoughtElsewhere(t *testing.T) {
	on := func(hostname string) *api.JobProvisioningData {
		if hostname == "" {
			return nil
		}
		return &api.JobProvisioningData{Hostname: &hostname}
	}
	for _, c := range []struct {
		name             string
		here, left, said string
		tried            time.Duration // how long the present address
		lost             time.Duration // for how long it is lost
		answers          bool
		want, wantLeft   string
		moves            bool
	}{
		{name: "it answers", here: "a", said: "b", answers: true, want: "a"},
		{name: "it has not been lost for long", here: "a", said: "b", lost: lostGrace - time.Second, want: "a"},
		{name: "the cloud says the same", here: "a", said: "a", lost: time.Minute, want: "a"},
		{name: "the cloud does not say", here: "a", lost: time.Minute, want: "a"},
		{name: "the cloud says another", here: "a", said: "b", lost: lostGrace, want: "b", wantLeft: "a", moves: true},
		{name: "it is tried for a while", here: "b", left: "a", said: "b", lost: time.Minute, tried: tryAddress - time.Second, want: "b", wantLeft: "a"},
		{name: "then it is looked for where it was", here: "b", left: "a", said: "b", lost: 2 * time.Minute, tried: tryAddress, want: "a", wantLeft: "a", moves: true},
		{name: "for a while too", here: "a", left: "a", said: "b", lost: 3 * time.Minute, tried: tryAddress - time.Second, want: "a", wantLeft: "a"},
		{name: "and so on", here: "a", left: "a", said: "b", lost: 3 * time.Minute, tried: tryAddress, want: "b", wantLeft: "a", moves: true},
		{name: "the cloud says yet another", here: "b", left: "a", said: "c", lost: time.Minute, tried: time.Second, want: "c", wantLeft: "a", moves: true},
		{name: "the cloud says the first again", here: "b", left: "a", said: "a", lost: time.Minute, tried: time.Second, want: "a", wantLeft: "a", moves: true},
		{name: "the cloud says nothing any more", here: "b", left: "a", lost: 2 * time.Minute, tried: tryAddress, want: "a", wantLeft: "a", moves: true},
		{name: "it answers there", here: "b", left: "a", said: "b", answers: true, want: "b"},
		{name: "it answers where it was", here: "a", left: "a", said: "b", answers: true, want: "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := at(time.Hour)
			s := paid(api.InstanceBusy)
			s.Instance.Assignments = []Assignment{{JobID: "j", Blocks: 1}}
			s.Instance.Data.Provisioning, s.Instance.Data.Left = on(c.here), on(c.left)
			s.Machine = Machine{Created: true, Hostname: c.said, Provisioning: on(c.said)}
			if !c.answers {
				s.Link = Link{Watched: true, Since: now.Add(-c.lost), Tried: now.Add(-c.tried)}
			}
			d := Step(now, s)
			left := ""
			if l := d.Instance.Data.Left; l != nil {
				left = *l.Hostname
			}
			if got := *d.Instance.Data.Provisioning.Hostname; got != c.want || left != c.wantLeft || slices.Contains(d.Effects, Move) != c.moves || c.moves && !d.Changed {
				t.Errorf("at %q, from %q, effects %v; want %q, %q, and that it moves: %v", got, left, d.Effects, c.want, c.wantLeft, c.moves)
			}
			changed := c.answers && c.left != "" && c.left != c.here
			if slices.Contains(d.Events, "Instance address changed a -> b") != changed {
				t.Errorf("events %q", d.Events)
			}
		})
	}
}

// To look for it elsewhere does not prolong for how long a lost machine is kept.
func TestSoughtMachineIsGivenBack(t *testing.T) {
	s := paid(api.InstanceBusy)
	s.Instance.Assignments = []Assignment{{JobID: "j", Blocks: 1}}
	other := "192.0.2.2"
	s.Machine.Hostname, s.Machine.Provisioning = other, &api.JobProvisioningData{Hostname: &other}
	s.Link = Link{Watched: true, Since: start, Tried: start}
	s.Instance.Data.Host = &agentapi.HostInfo{}
	for now := start; now.Before(at(lostLimit)); now = now.Add(lostGrace) {
		d := Step(now, s)
		if d.Instance.Status != api.InstanceBusy {
			t.Fatalf("%s after %v", d.Instance.Status, now.Sub(start))
		}
		if slices.Contains(d.Effects, Move) {
			s.Link.Tried = now
		}
		s.Instance = d.Instance
	}
	if d := Step(at(lostLimit), s); d.Instance.Status != api.InstanceTerminating {
		t.Errorf("%s, want terminating", d.Instance.Status)
	}
}

// A machine that boots is where the cloud says at last, until it answers. A cloud is asked again while it does not.
func TestAddressOfABootingMachine(t *testing.T) {
	other := "192.0.2.2"
	booting := func(change func(*Snapshot)) Snapshot {
		return changed(paid(api.InstanceProvisioning), func(s *Snapshot) {
			s.Machine.Hostname, s.Machine.Provisioning = other, &api.JobProvisioningData{Hostname: &other}
			s.Link = Link{Watched: true, Since: start, Problem: "no route to host"}
			change(s)
		})
	}
	for name, tt := range map[string]struct {
		s       Snapshot
		now     time.Duration
		want    string
		effects []Effect
	}{
		"another":                {booting(func(*Snapshot) {}), time.Second, other, []Effect{Move}},
		"another, but it is met": {booting(func(s *Snapshot) { s.Link = Link{Watched: true, Connected: true} }), time.Second, "192.0.2.1", nil},
		"the same":               {booting(func(s *Snapshot) { s.Instance.Data.Provisioning = s.Machine.Provisioning }), askEvery - time.Second, other, nil},
		"the same for a while":   {booting(func(s *Snapshot) { s.Instance.Data.Provisioning = s.Machine.Provisioning }), askEvery, other, []Effect{AskCloud}},
		"none any more":          {booting(func(s *Snapshot) { s.Machine.Hostname, s.Machine.Provisioning.Hostname = "", nil }), time.Second, "192.0.2.1", nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := Step(at(tt.now), tt.s)
			if got := *d.Instance.Data.Provisioning.Hostname; got != tt.want || !slices.Equal(d.Effects, tt.effects) {
				t.Errorf("at %q, effects %v; want %q, %v", got, d.Effects, tt.want, tt.effects)
			}
		})
	}
}
