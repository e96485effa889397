package instance

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(d time.Duration) time.Time { return start.Add(d) }

func sshHost(status api.InstanceStatus) Snapshot {
	return Snapshot{
		Instance: Instance{
			Status: status, CreatedAt: start,
			Data: Data{Remote: &RemoteHost{}, Provisioning: &api.JobProvisioningData{}, Host: &agentapi.HostInfo{}, IdleSeconds: -1, Touched: true},
		},
		Link: Link{Watched: true, Connected: true},
	}
}

func paid(status api.InstanceStatus) Snapshot {
	host := "192.0.2.1"
	return Snapshot{
		Instance: Instance{
			Status: status, CreatedAt: start, IntentID: "i1", Blocks: 1,
			Data: Data{StartedAt: start, Provisioning: &api.JobProvisioningData{Hostname: &host, InstanceType: api.InstanceType{Resources: api.Resources{CPUs: 8}}}, IdleSeconds: 300, Offer: &api.InstanceOffer{}},
		},
		Machine:    Machine{Created: true, Hostname: host},
		Link:       Link{Watched: true, Connected: true},
		SpareNodes: true,
	}
}

// atOnce stands for the time of the step itself.
const atOnce = time.Duration(1)

func changed(s Snapshot, change func(*Snapshot)) Snapshot {
	change(&s)
	return s
}

func TestStep(t *testing.T) {
	held := []Assignment{{JobID: "j", Blocks: 1}}
	lost := func(since time.Duration) func(*Snapshot) {
		return func(s *Snapshot) {
			s.Link = Link{Watched: true, Since: at(since), Problem: "no route to host"}
			s.Instance.Data.LostAt = at(since)
		}
	}
	for _, c := range []struct {
		name    string
		s       Snapshot
		now     time.Duration
		status  api.InstanceStatus
		reason  api.InstanceTerminationReason
		effects []Effect
		again   time.Duration // after start, 0: only when woken
		freed   bool
	}{
		{name: "an SSH host is added", s: sshHost(api.InstancePending), status: api.InstancePending, effects: []Effect{Onboard}},
		{name: "an SSH host that cannot be added for too long is given up", s: sshHost(api.InstancePending), now: addTimeout + time.Second,
			status: api.InstanceTerminated, reason: api.InstanceProvisioningTimeout},
		{name: "but not by a server that was away itself", s: changed(sshHost(api.InstancePending), func(s *Snapshot) { s.Began = at(time.Hour) }), now: time.Hour + TryFor,
			status: api.InstancePending, effects: []Effect{Onboard}},
		{name: "nor is one that was never tried", s: changed(sshHost(api.InstancePending), func(s *Snapshot) { s.Instance.Data.Touched = false }), now: addTimeout + time.Second,
			status: api.InstancePending, effects: []Effect{Onboard}},
		{name: "from when on it has as long as any", s: changed(sshHost(api.InstancePending), func(s *Snapshot) { s.Instance.Data.StartedAt = at(time.Hour) }), now: time.Hour + addTimeout,
			status: api.InstancePending, effects: []Effect{Onboard}},
		{name: "a machine without an offer yet", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Instance.IntentID, s.Machine = "", Machine{} }),
			status: api.InstancePending, effects: []Effect{Provision}},
		{name: "a refused machine is looked for elsewhere", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Machine = Machine{Refused: true, Message: "no capacity"} }),
			status: api.InstancePending, effects: []Effect{Provision}},
		{name: "a machine that is gone before anybody looked ends", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Machine = Machine{Gone: true} }),
			status: api.InstanceTerminating, reason: api.InstanceError, again: atOnce},
		{name: "a machine that was given is news for those who wait for one", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Link = Link{} }),
			status: api.InstanceProvisioning, effects: []Effect{Watch}, again: 10 * time.Minute, freed: true},
		{name: "a machine for a job that is over is not made", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Instance.Data.ForJob, s.Machine = "j", Machine{} }),
			status: api.InstanceTerminating, reason: api.InstanceJobFinished, again: atOnce},
		{name: "nor kept while it boots", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Instance.Data.ForJob, s.Link = "j", Link{} }),
			status: api.InstanceTerminating, reason: api.InstanceJobFinished, again: atOnce},
		{name: "but for others who wait for such", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Instance.Data.ForJob, s.Link, s.Awaited = "j", Link{}, true }), now: time.Minute,
			status: api.InstanceProvisioning, effects: []Effect{Watch}, again: time.Minute + lookIfAwaited},
		{name: "also when it was only just given", s: changed(paid(api.InstancePending), func(s *Snapshot) { s.Instance.Data.ForJob, s.Link, s.Awaited = "j", Link{}, true }),
			status: api.InstanceProvisioning, effects: []Effect{Watch}, again: lookIfAwaited, freed: true},
		{name: "who have its idle time to take it", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) {
			s.Instance.Data.ForJob, s.Instance.LastJobAt, s.Awaited = "j", at(time.Second), true
		}), now: 9 * time.Minute, status: api.InstanceIdle, again: 9*time.Minute + 300*time.Second, freed: true},
		{name: "if it has any", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) {
			s.Instance.Data.ForJob, s.Instance.Data.IdleSeconds, s.Link, s.Awaited = "j", 0, Link{}, true
		}), status: api.InstanceTerminating, reason: api.InstanceJobFinished, again: atOnce},
		{name: "a machine that will never run is given back", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Machine.Failed = true }), now: time.Second,
			status: api.InstanceTerminating, reason: api.InstanceError, again: time.Second},
		{name: "a machine that boots is waited for", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Link = Link{} }), now: time.Minute,
			status: api.InstanceProvisioning, effects: []Effect{Watch}, again: 10 * time.Minute},
		{name: "a machine whose agent answers is idle", s: paid(api.InstanceProvisioning), now: time.Minute,
			status: api.InstanceIdle, again: 360 * time.Second, freed: true},
		{name: "a machine that was made for a job is busy at once", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Instance.Assignments = held }),
			status: api.InstanceBusy, freed: true},
		{name: "a machine that never answers is given back", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Link = Link{Watched: true, Since: start} }), now: 10 * time.Minute,
			status: api.InstanceTerminating, reason: api.InstanceProvisioningTimeout, again: 10 * time.Minute},
		{name: "one that came up while the server was away is tried first", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Link, s.Began = Link{}, at(time.Hour) }), now: time.Hour,
			status: api.InstanceProvisioning, effects: []Effect{Watch}, again: time.Hour + TryFor},
		{name: "and is not tried for ever", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Link = Link{Watched: true, Since: at(time.Hour)} }), now: time.Hour + TryFor,
			status: api.InstanceTerminating, reason: api.InstanceProvisioningTimeout, again: time.Hour + TryFor},
		{name: "a cloud is asked for the address first, after the server was away", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) {
			s.Instance.Data.Provisioning, s.Machine.Hostname, s.Link, s.Began = nil, "", Link{}, at(time.Hour)
		}), now: time.Hour, status: api.InstanceProvisioning, again: time.Hour + TryFor},
		{name: "a machine that vanished while booting ends", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Machine.Gone = true }), now: time.Second,
			status: api.InstanceTerminating, reason: api.InstanceError, again: time.Second},
		{name: "so does one that turns out to be somebody else's", s: changed(paid(api.InstanceProvisioning), func(s *Snapshot) { s.Machine = Machine{Refused: true} }), now: time.Second,
			status: api.InstanceTerminating, reason: api.InstanceError, again: time.Second},
		{name: "a released machine is idle and wakes the queue", s: paid(api.InstanceBusy), now: time.Minute,
			status: api.InstanceIdle, again: 300 * time.Second, freed: true},
		{name: "a claimed machine is busy", s: changed(paid(api.InstanceIdle), func(s *Snapshot) { s.Instance.Assignments = held }), status: api.InstanceBusy},
		{name: "an idle machine is given back in time", s: paid(api.InstanceIdle), now: 300 * time.Second,
			status: api.InstanceTerminating, reason: api.InstanceIdleTimeout, again: 300 * time.Second},
		{name: "idleness counts from the last job", s: changed(paid(api.InstanceIdle), func(s *Snapshot) { s.Instance.LastJobAt = at(200 * time.Second) }), now: 300 * time.Second,
			status: api.InstanceIdle, again: 500 * time.Second},
		{name: "the fleet's minimum is kept", s: changed(paid(api.InstanceIdle), func(s *Snapshot) { s.SpareNodes = false }), now: time.Hour, status: api.InstanceIdle},
		{name: "a busy machine is never idle", s: changed(paid(api.InstanceBusy), func(s *Snapshot) { s.Instance.Assignments = held }), now: time.Hour, status: api.InstanceBusy},
		{name: "SSH hosts have no idle limit", s: sshHost(api.InstanceIdle), now: 1000 * time.Hour, status: api.InstanceIdle},
		{name: "a short loss of the connection is no news", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			s.Link, s.Instance.Assignments = Link{Watched: true, Since: at(time.Minute)}, held
		}), now: time.Minute + time.Second, status: api.InstanceBusy, again: time.Minute + lostGrace},
		{name: "nor is a start of the server", s: changed(sshHost(api.InstanceIdle), func(s *Snapshot) { s.Link = Link{} }), status: api.InstanceIdle, effects: []Effect{Watch}, again: lostGrace},
		{name: "the cloud is asked about a machine that does not answer", s: changed(paid(api.InstanceBusy), func(s *Snapshot) { lost(0)(s); s.Instance.Assignments = held }),
			now: lostGrace, status: api.InstanceBusy, effects: []Effect{AskCloud}, again: lostGrace + askEvery},
		{name: "but not each time that connecting to it fails", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Link.Asked, s.Instance.Assignments = at(lostGrace), held
		}), now: lostGrace + askEvery - time.Second, status: api.InstanceBusy, again: lostGrace + askEvery},
		{name: "once in a while", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Link.Asked, s.Instance.Assignments = at(lostGrace), held
		}), now: lostGrace + askEvery, status: api.InstanceBusy, effects: []Effect{AskCloud}, again: lostGrace + 2*askEvery},
		{name: "a lost paid machine is given back at last", s: changed(paid(api.InstanceBusy), func(s *Snapshot) { lost(0)(s); s.Instance.Assignments = held }),
			now: lostLimit, status: api.InstanceTerminating, reason: api.InstanceUnreachable, again: lostLimit},
		{name: "not by a server that was away and has not tried it yet", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Link, s.Instance.Unreachable, s.Instance.Assignments = Link{}, true, held
		}), now: time.Hour, status: api.InstanceBusy, effects: []Effect{Watch, AskCloud}, again: time.Hour + askEvery},
		{name: "but by one that has", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Link.Since, s.Instance.Unreachable, s.Instance.Assignments = at(time.Hour), true, held
		}), now: time.Hour + TryFor, status: api.InstanceTerminating, reason: api.InstanceUnreachable, again: time.Hour + TryFor},
		{name: "one that the cloud says has failed is given back at once", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Instance.Assignments, s.Machine.Failed = held, true
		}), now: lostGrace, status: api.InstanceTerminating, reason: api.InstanceUnreachable, again: lostGrace},
		{name: "but not while its agent answers", s: changed(paid(api.InstanceBusy), func(s *Snapshot) { s.Instance.Assignments, s.Machine.Failed = held, true }), status: api.InstanceBusy},
		{name: "nor by one that cannot begin to", s: changed(paid(api.InstanceBusy), func(s *Snapshot) {
			lost(0)(s)
			s.Link.Watched, s.Instance.Unreachable, s.Instance.Assignments = false, true, held
		}), now: time.Hour, status: api.InstanceBusy, effects: []Effect{Watch, AskCloud}, again: time.Hour + askEvery},
		{name: "a lost SSH host is never given up", s: changed(sshHost(api.InstanceIdle), lost(0)), now: 1000 * time.Hour, status: api.InstanceIdle},
		{name: "a connection is kept", s: changed(sshHost(api.InstanceIdle), func(s *Snapshot) { s.Link.Watched = false }), status: api.InstanceIdle, effects: []Effect{Watch}},
		{name: "jobs end before their machine", s: changed(paid(api.InstanceTerminating), func(s *Snapshot) { s.Instance.Assignments = held }), status: api.InstanceTerminating},
		{name: "the machine is given back", s: paid(api.InstanceTerminating), status: api.InstanceTerminating, effects: []Effect{Forget, GiveBack}},
		{name: "the instance ends when the cloud confirms it", s: changed(paid(api.InstanceTerminating), func(s *Snapshot) { s.Machine.Gone = true }),
			status: api.InstanceTerminated, effects: []Effect{Forget}},
		{name: "the agent is taken off an SSH host", s: sshHost(api.InstanceTerminating), status: api.InstanceTerminating, effects: []Effect{Uninstall}},
		{name: "also when nobody knows how far adding it came", s: changed(sshHost(api.InstanceTerminating), func(s *Snapshot) { s.Instance.Data.Host = nil }),
			status: api.InstanceTerminating, effects: []Effect{Uninstall}},
		{name: "a host that was never touched just goes", s: changed(sshHost(api.InstanceTerminating), func(s *Snapshot) { s.Instance.Data.Touched = false }),
			status: api.InstanceTerminated, effects: []Effect{Forget}},
		{name: "a host that cannot be reached is removed all the same", s: changed(sshHost(api.InstanceTerminating), func(s *Snapshot) { s.Instance.Data.Tries = uninstallTries }),
			status: api.InstanceTerminated, effects: []Effect{Forget}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Step(at(c.now), c.s)
			if d.Instance.Status != c.status || d.Instance.Data.Reason != c.reason {
				t.Errorf("%s (%s), want %s (%s)", d.Instance.Status, d.Instance.Data.Reason, c.status, c.reason)
			}
			if !slices.Equal(d.Effects, c.effects) {
				t.Errorf("effects %v, want %v", d.Effects, c.effects)
			}
			want := time.Time{}
			if c.again != 0 {
				want = at(c.again)
			}
			if !d.Again.Equal(want) && c.again != atOnce {
				t.Errorf("again at %v, want %v", d.Again, want)
			}
			if d.Freed != c.freed {
				t.Errorf("freed = %v, want %v", d.Freed, c.freed)
			}
			if moved := d.Instance.Status != c.s.Instance.Status; moved && (!d.Changed || len(d.Events) == 0) {
				t.Error("a change of the status is neither stored nor told")
			}
		})
	}
}

func TestStepShowsLostConnections(t *testing.T) {
	s := sshHost(api.InstanceBusy)
	s.Link = Link{Watched: true, Since: start, Problem: "no route to host"}
	if d := Step(at(0), s); d.Instance.Unreachable || d.Instance.Data.Problem != "" {
		t.Fatalf("just lost: %+v", d.Instance)
	}
	d := Step(at(lostGrace), s)
	if !d.Instance.Unreachable || !d.Instance.Data.LostAt.Equal(start) || d.Instance.Data.Problem != "no route to host" || !slices.Contains(d.Events, "Instance became unreachable") {
		t.Fatalf("after the grace: %+v, events %v", d.Instance, d.Events)
	}
	s.Instance, s.Link = d.Instance, Link{Watched: true, Connected: true}
	d = Step(at(time.Hour), s)
	if d.Instance.Unreachable || !d.Instance.Data.LostAt.IsZero() || !d.Freed || !slices.Contains(d.Events, "Instance became reachable") {
		t.Fatalf("back again: %+v, events %v", d.Instance, d.Events)
	}
}

// A machine whose number of blocks follows from its hardware gets it when it is known.
func TestStepSplitsMachines(t *testing.T) {
	s := paid(api.InstanceProvisioning)
	s.Instance.Blocks, s.Instance.Data.AutoBlocks = 0, true
	if d := Step(at(0), s); d.Instance.Blocks != 8 || d.Instance.Status != api.InstanceIdle {
		t.Errorf("%d blocks, %s; want 8, idle", d.Instance.Blocks, d.Instance.Status)
	}
	s.Instance.Blocks, s.Instance.Data.AutoBlocks = 3, false
	if d := Step(at(0), s); d.Instance.Status != api.InstanceTerminating || d.Instance.Data.Message != "Cannot split into blocks" {
		t.Errorf("%s (%s), want terminating: 8 CPUs have no thirds", d.Instance.Status, d.Instance.Data.Message)
	}
}

// Deciding twice about the same facts decides the same, and settles: what is stored after a
// step asks for no further change.
func TestStepSettles(t *testing.T) {
	for _, s := range []Snapshot{sshHost(api.InstanceIdle), paid(api.InstanceProvisioning), paid(api.InstanceIdle), paid(api.InstanceBusy)} {
		for n := range 5 {
			d := Step(at(time.Second), s)
			if n == 4 && d.Changed {
				t.Errorf("%s still changes after %d steps", s.Instance.Status, n)
			}
			s.Instance = d.Instance
		}
	}
}

// What a machine that boots lacks is kept for people, as an event too when the machine itself
// says it, once, and forgotten when its agent answers.
func TestBootingMachine(t *testing.T) {
	booting := func(l Link) Snapshot {
		return changed(paid(api.InstanceProvisioning), func(s *Snapshot) { l.Watched, s.Link = true, l })
	}
	known := func(s Snapshot, problem string) Snapshot {
		return changed(s, func(s *Snapshot) { s.Instance.Data.Problem = problem })
	}
	const docker = "Docker does not answer yet"
	for _, c := range []struct {
		name    string
		s       Snapshot
		now     time.Duration
		problem string
		events  []string
		message string
	}{
		{name: "not up", s: booting(Link{Problem: "connection refused"}), problem: "connection refused"},
		{name: "not ready", s: booting(Link{Problem: docker, Reached: true}), problem: docker, events: []string{"Instance is not ready yet: " + docker}},
		{name: "still not ready", s: known(booting(Link{Problem: docker, Reached: true}), docker), problem: docker},
		{name: "ready", s: known(paid(api.InstanceProvisioning), docker), events: []string{"Instance status changed PROVISIONING -> IDLE"}},
		{name: "never ready", s: known(booting(Link{Problem: docker, Since: start}), docker), now: time.Hour, problem: docker,
			message: "Instance did not become reachable in time. " + docker,
			events: []string{"Instance status changed PROVISIONING -> TERMINATING. Termination reason: PROVISIONING_TIMEOUT " +
				"(Instance did not become reachable in time. " + docker + ")"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Step(at(c.now), c.s)
			if got := d.Instance.Data.Problem; got != c.problem {
				t.Errorf("problem %q, want %q", got, c.problem)
			}
			if !slices.Equal(d.Events, c.events) {
				t.Errorf("events %q, want %q", d.Events, c.events)
			}
			if got := d.Instance.Data.Message; got != c.message {
				t.Errorf("message %q, want %q", got, c.message)
			}
			if news := c.problem != c.s.Instance.Data.Problem || c.events != nil; d.Changed != news {
				t.Errorf("changed = %v, want %v", d.Changed, news)
			}
		})
	}
}

// The price that a cloud tells of its machine replaces the one that was offered, and a machine that
// costs more than was allowed is given back before anything runs on it.
func TestPrices(t *testing.T) {
	told := func(status api.InstanceStatus, price float64) Snapshot {
		return changed(paid(status), func(s *Snapshot) {
			s.Instance.Data.Offer.Price, s.Instance.Data.Provisioning.Price = 0.75, 0.75
			s.Machine.Provisioning = &api.JobProvisioningData{Hostname: &s.Machine.Hostname, Price: price}
			s.Instance.Assignments = []Assignment{{JobID: "j", Blocks: 1}}
		})
	}
	for name, tt := range map[string]struct {
		s      Snapshot
		status api.InstanceStatus
		want   float64
		events []string
	}{
		"as offered":       {told(api.InstanceBusy, 0.75), api.InstanceBusy, 0.75, nil},
		"of one that runs": {told(api.InstanceBusy, 10), api.InstanceBusy, 10, []string{"Instance price changed $0.75 -> $10 an hour"}},
		"of one that boots": {changed(told(api.InstanceProvisioning, 10), func(s *Snapshot) { s.Link = Link{Watched: true} }), api.InstanceProvisioning, 10,
			[]string{"Instance price changed $0.75 -> $10 an hour"}},
		"of one without address": {changed(told(api.InstanceProvisioning, 10), func(s *Snapshot) {
			s.Instance.Data.Provisioning, s.Link, s.Machine.Hostname, s.Machine.Provisioning.Hostname = nil, Link{}, "", nil
		}), api.InstanceProvisioning, 10, []string{"Instance price changed $0.75 -> $10 an hour"}},
		"too dear": {changed(told(api.InstanceProvisioning, 10), func(s *Snapshot) { s.Machine.TooDear = "It costs too much" }), api.InstanceTerminating, 10,
			[]string{"Instance price changed $0.75 -> $10 an hour", "Instance status changed PROVISIONING -> TERMINATING. Termination reason: NO_OFFERS (It costs too much)"}},
		"too dear, but in use": {changed(told(api.InstanceBusy, 10), func(s *Snapshot) { s.Machine.TooDear = "It costs too much" }), api.InstanceBusy, 10,
			[]string{"Instance price changed $0.75 -> $10 an hour"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := Step(at(time.Second), tt.s)
			if d.Instance.Status != tt.status || d.Instance.Data.Provisioning == nil {
				t.Fatalf("%s, on %v; want %s", d.Instance.Status, d.Instance.Data.Provisioning, tt.status)
			}
			v := View(&d.Instance, "main", "f")
			if *v.Price != tt.want || d.Instance.Data.Provisioning.Price != tt.want || d.Changed != (tt.events != nil) {
				t.Errorf("shown at %v, placed at %v, changed %t; want %v", *v.Price, d.Instance.Data.Provisioning.Price, d.Changed, tt.want)
			}
			if !slices.Equal(d.Events, tt.events) {
				t.Errorf("events %q, want %q", d.Events, tt.events)
			}
		})
	}
}

// noKeys is a server that cannot read its keys.
type noKeys struct{}

func (noKeys) ProjectKey(context.Context, string) (string, string, error) {
	return "", "", errors.New("the key cannot be read")
}

// An instance to which the server cannot even begin to connect is shown as unreachable, with the reason.
func TestWatchThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{Config: Config{Keys: noKeys{}}, links: map[string]Link{}}
		snap := sshHost(api.InstanceIdle)
		snap.Instance.ID = "i"
		for _, want := range []bool{false, true} {
			snap.Link = s.linkOf("i")
			if d := Step(time.Now(), snap); d.Instance.Unreachable != want || !slices.Contains(d.Effects, Watch) || want && d.Instance.Data.Problem != "the key cannot be read" {
				t.Errorf("unreachable %v, effects %v, problem %q; want %v, the next attempt and the reason", d.Instance.Unreachable, d.Effects, d.Instance.Data.Problem, want)
			}
			if err := s.watch(t.Context(), snap.Instance); err == nil {
				t.Error("no error")
			}
			time.Sleep(lostGrace)
		}
	})
}
