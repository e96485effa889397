package instance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
)

// TryFor is for how long a server tries to reach a machine before it gives that up, whenever it was
// last seen or should have come up: the server may have been away, and not the machine.
const TryFor = 2 * time.Minute

const (
	// addTimeout is how long an SSH host may take to be added (lifecycle 10.1).
	addTimeout = 10 * time.Minute
	// onboardRetry spaces attempts to add an SSH host that could not be reached.
	onboardRetry = 10 * time.Second
	// lostGrace is how long a connection may be gone before the instance is shown as
	// unreachable; reconnects take a moment and are no news.
	lostGrace = 15 * time.Second
	// askEvery spaces the questions to the cloud about a machine that does not answer.
	askEvery = time.Minute
	// tryAddress is for how long one address of a lost machine is tried until another is.
	tryAddress = time.Minute
	// lostLimit is when an unreachable paid machine is given back (lifecycle 10.4).
	lostLimit = 20 * time.Minute
	// lookIfAwaited is how often it is looked whether a machine without a job that boots is still of use.
	lookIfAwaited = 15 * time.Second
	// uninstallTries bounds the attempts to take the agent off a host that is removed.
	uninstallTries = 3
)

// Machine is what the ledger knows about a paid machine.
type Machine struct {
	Refused      bool   // it does not exist and will not
	Apart        bool   // and was not asked for: it could not be where its cluster is
	Gone         bool   // the cloud confirmed that it does not exist any more
	Message      string // why it was refused, or what the latest attempt ran into
	Created      bool
	Failed       bool                     // it exists, but the cloud says that it will never run
	TooDear      string                   // why it costs more than was allowed, "" when it does not or nobody has said
	Hostname     string                   // "" while the cloud has not said
	Provisioning *api.JobProvisioningData // of what was created; its price is the present one
	Socket       string                   // local agent
	Home         string
}

// Link is the state of the server's connection to the agent.
type Link struct {
	Watched   bool
	Connected bool
	Since     time.Time // of the present state of a watched connection, or of attempts to watch it
	Tried     time.Time // since when the present address is tried
	Asked     time.Time // when the cloud was last asked whether the machine exists, since the connection was lost
	Info      *agentapi.HostInfo
	Problem   string
	Reached   bool // Problem is what the host itself says, not that it cannot be reached
}

// Snapshot is all that Step looks at.
type Snapshot struct {
	Instance Instance
	Machine  Machine // paid machines only
	Link     Link
	// Retraced says that the instance named an intent that does not exist, and has its own again.
	Retraced bool
	// Awaited says of a machine whose job is over before it is up that a run which waits could use it.
	Awaited bool
	// SpareNodes says that the fleet has more live instances than its minimum.
	SpareNodes bool
	// Began is since when this server looks at instances.
	Began time.Time
}

// Effect is something to do outside the database, after the decision is stored.
type Effect int

// The effects of a Decision. Each may be repeated.
const (
	Onboard   Effect = iota + 1 // push the agent to an SSH host
	Provision                   // choose the next offer and tell the ledger
	Watch                       // keep a connection to the agent
	Move                        // keep it to another address from now on
	Forget                      // end the connection
	Uninstall                   // take the agent off an SSH host
	GiveBack                    // tell the ledger that the machine is not wanted
	AskCloud                    // have the ledger look whether the machine still exists
)

// Decision is what should happen to an instance now.
type Decision struct {
	Instance Instance // as it should be stored
	Changed  bool
	Effects  []Effect
	Events   []string
	Freed    bool      // capacity became usable, or was given: wake the queue
	Spare    bool      // only if the fleet keeps its minimum without it
	Single   bool      // only if no other instance is the same host
	Again    time.Time // when to look again, zero: only when woken
}

// BootTimeout is how long a created machine may take until its agent answers (lifecycle 9.4).
func BootTimeout(inst Instance) time.Duration {
	name := ""
	if inst.Data.Offer != nil {
		name = inst.Data.Offer.Instance.Name
	}
	switch {
	case inst.Backend == "vultr" && strings.HasPrefix(name, "vbm"):
		return 55 * time.Minute
	case inst.Backend == "lambda":
		return 30 * time.Minute
	case inst.Backend == "runpod", inst.Backend == "kubernetes", inst.Backend == "slurm", inst.Backend == "oci" && strings.HasPrefix(name, "BM."):
		return 20 * time.Minute
	case inst.Backend == "gcp" && name == "a4-highgpu-8g":
		return 16 * time.Minute
	}
	return 10 * time.Minute
}

// Step decides what should happen to one instance now. It reads nothing but its
// arguments.
func Step(now time.Time, s Snapshot) Decision {
	d := Decision{Instance: s.Instance}
	if s.Instance.Data.Damage != "" && s.Instance.Status != api.InstanceTerminating {
		d.damaged(now, s)
		return d
	}
	switch s.Instance.Status {
	case api.InstancePending:
		d.pending(now, s)
	case api.InstanceProvisioning:
		d.provisioning(now, s)
	case api.InstanceIdle, api.InstanceBusy:
		d.live(now, s)
	case api.InstanceTerminating:
		d.terminating(now, s)
	}
	return d
}

func (d *Decision) pending(now time.Time, s Snapshot) {
	if s.Instance.SSH() {
		if !d.Instance.Data.Touched { // recorded before it is done
			d.Instance.Data.Touched, d.Instance.Data.StartedAt, d.Changed = true, now, true
		}
		began := cmp.Or(d.Instance.Data.StartedAt, s.Instance.CreatedAt) // of many hosts, some have waited for their turn as long
		if now.After(latest(began.Add(addTimeout), s.Began.Add(TryFor))) {
			msg := fmt.Sprintf("Failed to add SSH instance in %ds", int(addTimeout.Seconds()))
			if p := s.Instance.Data.Problem; p != "" {
				msg += ". " + p
			}
			d.end(now, api.InstanceProvisioningTimeout, msg)
			return
		}
		d.Effects = append(d.Effects, Onboard)
		return
	}
	switch {
	case d.unneeded(now, s):
	case s.Instance.IntentID == "":
		d.Effects = append(d.Effects, Provision)
	case s.Machine.Gone: // it was there, and gone before anybody looked
		d.terminate(now, api.InstanceError, "Error while waiting for instance to become running")
	case s.Machine.Refused:
		d.refused(s.Machine)
		d.Effects = append(d.Effects, Provision)
	case s.Machine.Created:
		d.to(now, api.InstanceProvisioning)
		d.Instance.Data.StartedAt, d.Freed = now, true
		d.provisioning(now, s)
	}
}

// left says that a machine was made for a job which is over while it boots. One that may not be idle is
// nobody else's either: it would be given back as soon as it is up.
func (s *Snapshot) left() bool {
	i := &s.Instance
	return i.Data.ForJob != "" && len(i.Assignments) == 0 && i.Data.IdleSeconds != 0 && s.Machine.Created &&
		(i.Status == api.InstancePending || i.Status == api.InstanceProvisioning)
}

// unneeded ends a machine that was wanted for a job which is over before the machine is
// there, unless others wait for such.
func (d *Decision) unneeded(now time.Time, s Snapshot) bool {
	if s.Instance.Data.ForJob == "" || len(s.Instance.Assignments) > 0 || s.left() && s.Awaited {
		return false
	}
	d.terminate(now, api.InstanceJobFinished, "")
	return true
}

func (d *Decision) provisioning(now time.Time, s Snapshot) {
	if s.Machine.Gone || s.Machine.Refused || s.Machine.Failed { // refused: what was taken for it is somebody else's
		d.terminate(now, api.InstanceError, "Error while waiting for instance to become running")
		return
	}
	if d.unneeded(now, s) {
		return
	}
	d.priced(s.Machine)
	if s.Machine.TooDear != "" { // nothing runs on it yet
		d.terminate(now, api.InstanceNoOffers, s.Machine.TooDear)
		return
	}
	moved := d.made(s)
	known := d.Instance.Data.Provisioning != nil && deref(d.Instance.Data.Provisioning.Hostname) != ""
	deadline := latest(d.Instance.Data.StartedAt.Add(BootTimeout(d.Instance)), s.Began.Add(TryFor))
	if s.Link.Watched {
		deadline = latest(deadline, s.Link.Since.Add(TryFor))
	}
	switch {
	case known && s.Link.Connected:
		d.adopt(now, s.Link.Info)
		d.Single = s.Link.Info != nil
		blocks, err := splitBlocks(d.Instance.Blocks, d.Instance.Data.AutoBlocks, d.Instance.Data.Provisioning.InstanceType.Resources)
		if err != nil {
			d.terminate(now, api.InstanceError, err.Error())
			return
		}
		d.Instance.Blocks, d.Instance.Data.Problem, d.Instance.Data.ReadyAt = blocks, "", now
		d.to(now, d.busyOrIdle())
		d.Freed = true
		d.idle(now, s)
	case !now.Before(deadline) && known:
		msg := "Instance did not become reachable in time"
		if p := cmp.Or(s.Link.Problem, s.Instance.Data.Problem); p != "" {
			msg += ". " + p
		}
		d.terminate(now, api.InstanceProvisioningTimeout, msg)
	case !now.Before(deadline):
		d.terminate(now, api.InstanceProvisioningTimeout, "Backend did not complete provisioning in time")
	default:
		d.Again = deadline
		if s.left() {
			d.again(now.Add(lookIfAwaited))
		}
		switch {
		case known && !s.Link.Watched:
			d.Effects = append(d.Effects, Watch)
		case known && moved:
			d.Effects = append(d.Effects, Move)
		case known && s.Link.Problem != "": // where the cloud says that it is there may be another
			due := latest(s.Link.Since, s.Link.Asked).Add(askEvery)
			if !now.Before(due) {
				d.Effects = append(d.Effects, AskCloud)
				due = now.Add(askEvery)
			}
			d.again(due)
		}
		d.booting(s.Link)
	}
}

// made takes over what the cloud says of a machine: that it is there, later its address, which may become another while
// it has not answered. It says whether that is new.
func (d *Decision) made(s Snapshot) (moved bool) {
	data, m := &d.Instance.Data, s.Machine
	if m.Provisioning == nil || data.Provisioning != nil && (m.Hostname == "" || s.Link.Connected || samePlace(data.Provisioning, m.Provisioning)) {
		return false
	}
	data.Provisioning, data.Socket, data.Home = m.Provisioning, m.Socket, m.Home
	d.Changed = true
	return true
}

// priced takes over what the cloud says of the price: jobs are placed by it from now on.
func (d *Decision) priced(m Machine) {
	data := &d.Instance.Data
	if m.Provisioning == nil || data.Offer == nil {
		return
	}
	price := m.Provisioning.Price
	if data.Offer.Price != price {
		d.Events = append(d.Events, fmt.Sprintf("Instance price changed $%g -> $%g an hour", data.Offer.Price, price))
		o := *data.Offer
		o.Price = price
		data.Offer, d.Changed = &o, true
	}
	if data.Provisioning != nil && data.Provisioning.Price != price {
		jpd := *data.Provisioning
		jpd.Price = price
		data.Provisioning, d.Changed = &jpd, true
	}
}

// booting shows what a machine that boots still lacks. That it does not answer yet is no news.
func (d *Decision) booting(l Link) {
	if l.Problem == "" || l.Problem == d.Instance.Data.Problem {
		return
	}
	d.Instance.Data.Problem = l.Problem
	d.Changed = true
	if l.Reached {
		d.Events = append(d.Events, "Instance is not ready yet: "+l.Problem)
	}
}

func (d *Decision) live(now time.Time, s Snapshot) {
	if !s.Instance.SSH() && s.Machine.Gone {
		d.terminate(now, api.InstanceUnreachable, "The backend says that the instance does not exist any more")
		return
	}
	d.priced(s.Machine)
	if !s.Link.Watched {
		d.Effects = append(d.Effects, Watch)
	}
	d.link(now, s)
	if d.Instance.Status == api.InstanceTerminating {
		return
	}
	if want := d.busyOrIdle(); want != d.Instance.Status {
		d.to(now, want)
		d.Freed = d.Freed || want == api.InstanceIdle
	}
	d.idle(now, s)
}

// link follows the connection: a short loss is no news and not stored, a long one is shown
// and, for a paid machine, makes the cloud be asked, a very long one, or one of a machine that
// has failed, gives a paid machine back. SSH hosts are never given up.
func (d *Decision) link(now time.Time, s Snapshot) {
	inst := &d.Instance
	if s.Link.Connected {
		d.adopt(now, s.Link.Info)
		if !inst.Data.LostAt.IsZero() {
			inst.Data.LostAt = time.Time{}
			inst.Data.Problem = ""
			d.Changed = true
		}
		if left := inst.Data.Left; left != nil {
			inst.Data.Left, d.Changed = nil, true
			if !samePlace(left, inst.Data.Provisioning) {
				d.Events = append(d.Events, fmt.Sprintf("Instance address changed %s -> %s", deref(left.Hostname), deref(inst.Data.Provisioning.Hostname)))
			}
		}
		if inst.Unreachable {
			inst.Unreachable = false
			d.Changed, d.Freed = true, true
			d.Events = append(d.Events, "Instance became reachable")
		}
		return
	}
	if inst.Data.LostAt.IsZero() {
		since := s.Link.Since
		if since.IsZero() {
			since = now // it is about to be connected to
		}
		if now.Sub(since) < lostGrace {
			d.again(since.Add(lostGrace))
			return
		}
		inst.Data.LostAt = since
		d.Changed = true
	}
	if s.Link.Problem != "" && s.Link.Problem != inst.Data.Problem {
		inst.Data.Problem = s.Link.Problem
		d.Changed = true
	}
	if !inst.Unreachable {
		inst.Unreachable = true
		d.Changed = true
		d.Events = append(d.Events, "Instance became unreachable")
	}
	if inst.SSH() {
		return
	}
	if s.Machine.Failed { // preempted, say: nobody has to wait for it
		msg := "The backend says that the instance will not run any more"
		if s.Machine.Message != "" {
			msg += ": " + s.Machine.Message
		}
		d.terminate(now, api.InstanceUnreachable, msg)
		return
	}
	tried := now // it is about to be connected to, or the server lacks what it needs for that
	if s.Link.Watched {
		tried = s.Link.Since
	}
	if limit := latest(inst.Data.LostAt.Add(lostLimit), tried.Add(TryFor)); now.Before(limit) {
		due := s.Link.Asked.Add(askEvery) // each attempt to connect that fails wakes us
		if !now.Before(due) {
			d.Effects = append(d.Effects, AskCloud)
			due = now.Add(askEvery)
		}
		d.again(due)
		d.again(limit)
		d.seek(now, s)
		return
	}
	d.terminate(now, api.InstanceUnreachable, "")
}

// seek has a lost machine tried where the cloud says that it is now, and by turns where it answered last: what a cloud
// says may be wrong for a while. The host has to be the one that was met, by its keys.
func (d *Decision) seek(now time.Time, s Snapshot) {
	data := &d.Instance.Data
	here, left, next := data.Provisioning, data.Left, data.Left
	if !s.Link.Watched || here == nil || data.Socket != "" {
		return
	}
	if said := s.Machine.Provisioning; s.Machine.Hostname != "" && said != nil && !samePlace(said, here) {
		next = said
	}
	if next == nil || samePlace(next, here) {
		return
	}
	if left != nil && (samePlace(here, left) || next == left) { // by turns
		if due := s.Link.Tried.Add(tryAddress); now.Before(due) {
			d.again(due)
			return
		}
	}
	if left == nil {
		data.Left = here
	}
	moved := *next
	moved.Price = here.Price
	data.Provisioning, d.Changed = &moved, true
	d.Effects = append(d.Effects, Move)
}

// idle gives back a paid machine that has had nothing to do for long enough.
func (d *Decision) idle(now time.Time, s Snapshot) {
	inst := &d.Instance
	if inst.Status != api.InstanceIdle || inst.SSH() || inst.Data.IdleSeconds < 0 {
		return
	}
	if !s.SpareNodes {
		return // nobody tells when the fleet has more again: the sweep looks, within some 75 s
	}
	since := inst.LastJobAt
	switch {
	case !inst.Data.ReadyAt.IsZero(): // that it booted is not its fault
		since = latest(since, inst.Data.ReadyAt)
	case !since.IsZero():
	default:
		since = inst.CreatedAt
	}
	limit := agentapi.Seconds(inst.Data.IdleSeconds)
	if now.Sub(since) >= limit {
		d.Spare = true
		d.terminate(now, api.InstanceIdleTimeout, fmt.Sprintf("Instance idle for %ds", int64(now.Sub(since).Seconds())))
		return
	}
	d.again(since.Add(limit))
}

func (d *Decision) terminating(now time.Time, s Snapshot) {
	if len(s.Instance.Assignments) > 0 {
		return // the jobs end first and wake us
	}
	if s.Instance.SSH() {
		if s.Instance.Data.Touched && s.Instance.Data.Tries < uninstallTries {
			d.Effects = append(d.Effects, Uninstall)
			return
		}
		d.gone(now)
		return
	}
	if s.Instance.IntentID == "" || s.Machine.Gone || s.Machine.Refused {
		d.gone(now)
		return
	}
	d.Effects = append(d.Effects, Forget, GiveBack)
}

// gone ends the instance: nothing of it exists any more.
func (d *Decision) gone(now time.Time) {
	d.Effects = append(d.Effects, Forget)
	d.to(now, api.InstanceTerminated)
	d.Instance.FinishedAt = now
	d.Instance.Deleted = true
}

// end ends an instance that never came to be. The row stays visible until its fleet
// tidies up, so that people see the reason.
func (d *Decision) end(now time.Time, reason api.InstanceTerminationReason, msg string) {
	d.Instance.Data.Reason, d.Instance.Data.Message = reason, msg
	d.Instance.FinishedAt = now
	d.to(now, api.InstanceTerminated)
}

func (d *Decision) terminate(now time.Time, reason api.InstanceTerminationReason, msg string) {
	d.Instance.Data.Reason, d.Instance.Data.Message = reason, msg
	d.Instance.Data.Tries = 0
	d.to(now, api.InstanceTerminating)
	d.Again = now // go on at once with what terminating needs
}

func (d *Decision) to(_ time.Time, status api.InstanceStatus) {
	if d.Instance.Status == status {
		return
	}
	d.Events = append(d.Events, statusEvent(d.Instance.Status, status, d.Instance.Data))
	d.Instance.Status = status
	d.Changed = true
}

func (d *Decision) busyOrIdle() api.InstanceStatus {
	if len(d.Instance.Assignments) > 0 {
		return api.InstanceBusy
	}
	return api.InstanceIdle
}

// adopt takes over what the agent says about its machine.
func (d *Decision) adopt(now time.Time, info *agentapi.HostInfo) {
	if info == nil {
		return
	}
	was := d.Instance.Data.Host
	if was == nil || was.InstanceKey != info.InstanceKey || was.Hash != info.Hash || was.BootID != info.BootID || len(was.GPUs) != len(info.GPUs) ||
		!slices.Equal(was.Warnings, info.Warnings) {
		d.Instance.Data.Host = info
		d.Changed = true
	}
	d.count(now, info)
}

// count compares the accelerators that the agent lists with those that the instance was taken or made with. Without
// some of them it gets no jobs, which would fail there one after the other.
func (d *Decision) count(now time.Time, info *agentapi.HostInfo) {
	inst := &d.Instance
	was, lost := inst.Data.LostGPUs, inst.lostGPUs(info)
	if was == lost {
		return
	}
	health := inst.health()
	inst.Data.LostGPUs = lost
	d.Changed = true
	d.Freed = d.Freed || inst.health() != api.Failure
	text := healthEvent(health, inst.health()) + ". "
	switch {
	case lost == 0:
		inst.Data.LackAt = time.Time{}
		text += "All GPUs are there again"
	case was == 0:
		inst.Data.LackAt = now
		text += inst.Lack()
	default:
		text += inst.Lack()
	}
	d.Events = append(d.Events, text)
}

func (d *Decision) again(at time.Time) {
	if d.Again.IsZero() || at.Before(d.Again) {
		d.Again = at
	}
}

// latest is the later of two times.
func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// statusEvent is the text of lifecycle 10.1.
func statusEvent(from, to api.InstanceStatus, data Data) string {
	text := fmt.Sprintf("Instance status changed %s -> %s", upper(from), upper(to))
	ends := to == api.InstanceTerminating || to == api.InstanceTerminated && from != api.InstanceTerminating
	if ends && data.Reason != "" {
		text += fmt.Sprintf(". Termination reason: %s", upper(data.Reason))
		if data.Message != "" {
			text += fmt.Sprintf(" (%s)", data.Message)
		}
	}
	return text
}
