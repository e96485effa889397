package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/host"
	"dstack/internal/ledger"
	"dstack/internal/scheduler"
	"dstack/internal/sshkey"
	"dstack/internal/store"
)

// Onboarder sets hosts of the user up and takes the agent off again.
type Onboarder interface {
	Onboard(ctx context.Context, r host.OnboardRequest) (host.Onboarded, error)
	Uninstall(ctx context.Context, r host.UninstallRequest) error
}

// endpoint opens an endpoint's sealed keys; extra keys are tried first.
func (s *Service) endpoint(e Endpoint, extra ...ssh.Signer) (host.Endpoint, error) {
	out := host.Endpoint{Addr: e.Hostname, Port: e.Port, User: e.User, HostKey: e.HostKey, Keys: extra}
	for _, sealed := range e.Sealed {
		private, err := s.Sealer.Open(sealed)
		if err != nil {
			return out, fmt.Errorf("key of %s: %w", e.Hostname, err)
		}
		signer, err := sshkey.Signer(private)
		if err != nil {
			return out, err
		}
		out.Keys = append(out.Keys, signer)
	}
	return out, nil
}

func (s *Service) jump(r *RemoteHost) (*host.Endpoint, error) {
	if r.Jump == nil {
		return nil, nil
	}
	j, err := s.endpoint(*r.Jump)
	return &j, err
}

// projectSigner is the key with which the server logs in once a host knows it.
func (s *Service) projectSigner(ctx context.Context, projectID string) (ssh.Signer, string, error) {
	public, private, err := s.Keys.ProjectKey(ctx, projectID)
	if err != nil {
		return nil, "", err
	}
	signer, err := sshkey.Signer(private)
	return signer, public, err
}

// target is how the pool reaches the instance's agent.
func (s *Service) target(ctx context.Context, inst Instance) (host.Target, error) {
	if inst.Data.Damage != "" && inst.IntentID != "" && inst.Data.Provisioning == nil {
		if err := s.recall(ctx, &inst); err != nil {
			return host.Target{}, err
		}
	}
	t := host.Target{ID: inst.ID, Local: inst.Data.Socket, Home: inst.Data.Home}
	if t.Local != "" {
		return t, nil
	}
	signer, _, err := s.projectSigner(ctx, inst.ProjectID)
	if err != nil {
		return t, err
	}
	if r := inst.Data.Remote; r != nil {
		if t.Endpoint, err = s.endpoint(r.Host, signer); err != nil {
			return t, err
		}
		t.Endpoint.HostKey = inst.Data.HostKey
		t.Jump, err = s.jump(r)
		return t, err
	}
	jpd := inst.Data.Provisioning
	if jpd == nil || jpd.Hostname == nil {
		return t, errors.New("instance: no address yet")
	}
	t.Bare, t.Forgotten = true, inst.Data.Damage != "" && inst.Data.HostKey == ""
	t.Moved = inst.Data.Left != nil
	t.New = inst.Data.Host == nil && inst.Data.Damage == ""
	if inst.Data.Host != nil {
		t.Key = inst.Data.Host.InstanceKey
	}
	t.Endpoint = host.Endpoint{Addr: *jpd.Hostname, Port: sshPort(jpd), User: jpd.Username, Keys: []ssh.Signer{signer}, HostKey: inst.Data.HostKey}
	return t, nil
}

// Target is how to connect to an instance.
func (s *Service) Target(ctx context.Context, id string) (host.Target, error) {
	inst, err := s.Get(ctx, s.DB.Read(), id)
	if err != nil {
		return host.Target{}, err
	}
	return s.target(ctx, inst)
}

// onboard pushes the agent to a host of the user. A refusal is shown and tried again: the
// user may be mending the host.
func (s *Service) onboard(ctx context.Context, it engine.Item, inst Instance) (time.Time, error) {
	r := inst.Data.Remote
	signer, public, err := s.projectSigner(ctx, inst.ProjectID)
	if err != nil {
		return time.Time{}, err
	}
	e, err := s.endpoint(r.Host, signer)
	if err != nil {
		return time.Time{}, s.endSSH(ctx, it, inst, api.InstanceError, "Unsupported private SSH key type")
	}
	e.HostKey = inst.Data.HostKey
	jump, err := s.jump(r)
	if err != nil {
		return time.Time{}, s.endSSH(ctx, it, inst, api.InstanceError, "Unsupported private SSH key type")
	}
	done, err := s.Onboard.Onboard(ctx, host.OnboardRequest{
		Endpoint: e, Jump: jump, Env: r.Env, AuthorizedKeys: append([]string{public}, r.Host.Public...),
		Taken: func(ctx context.Context, key, bootID string) error {
			return s.taken(ctx, s.DB.Read(), inst, key, bootID)
		},
	})
	if taken, ok := errors.AsType[*takenError](err); ok {
		return s.leave(ctx, it, inst, taken)
	}
	if err != nil {
		return time.Now().Add(onboardRetry), s.problem(ctx, it, inst, err)
	}
	jpd, err := describeSSH(*r, done.Info)
	blocks := inst.Blocks
	if err == nil {
		blocks, err = splitBlocks(inst.Blocks, inst.Data.AutoBlocks, jpd.InstanceType.Resources)
	}
	if err != nil { // its end is the end of it: nobody takes the agent off later
		e.HostKey = done.HostKey
		if uerr := s.Onboard.Uninstall(ctx, host.UninstallRequest{Endpoint: e, Jump: jump}); uerr != nil {
			s.Log.Warn("clean a host that is not what its fleet says", "host", inst.SSHHost, "instance", inst.Name, "err", uerr)
		}
		return time.Time{}, s.endSSH(ctx, it, inst, api.InstanceError, err.Error())
	}
	d := Decision{Instance: inst}
	d.Instance.Blocks = blocks
	d.add(time.Now(), jpd, done)
	err = s.commit(ctx, it, inst, &d)
	if taken, ok := errors.AsType[*takenError](err); ok {
		return s.leave(ctx, it, inst, taken)
	}
	if err != nil {
		return time.Time{}, err
	}
	s.setLink(inst.ID, func(l *Link) { l.Connected = false })
	return time.Now(), nil
}

// add takes a host of the user with what its agent has found. One that lacks GPUs already gets no jobs.
func (d *Decision) add(now time.Time, jpd api.JobProvisioningData, done host.Onboarded) {
	inst := &d.Instance
	inst.Data.Provisioning, inst.Data.Host, inst.Data.HostKey = &jpd, &done.Info, done.HostKey
	if r := inst.Data.Remote; r.Jump != nil && r.Jump.HostKey == "" {
		pinned, jump := *r, *r.Jump
		jump.HostKey = done.JumpKey
		pinned.Jump = &jump
		inst.Data.Remote = &pinned
	}
	inst.Data.Problem, inst.Data.StartedAt = "", now
	inst.Data.Offer = &api.InstanceOffer{Backend: Remote, Instance: jpd.InstanceType, Region: Remote, BackendData: map[string]any{},
		Availability: api.Available, InstanceRuntime: api.RuntimeShim, Blocks: 1, TotalBlocks: inst.Blocks}
	d.to(now, api.InstanceIdle)
	d.count(now, &done.Info)
	d.Freed, d.Single = true, true // two names of a host without an agent may have been looked at at the same time
}

// takenError says that a host is another instance already, which somebody has added under another name. One
// host cannot be two: each takes the other's jobs for what is left over of its own.
type takenError struct {
	by   string
	goes bool // the other is being removed
}

func (e *takenError) Error() string {
	if e.goes {
		return "the host is being removed under another name: " + e.by
	}
	return "the host is in use under another name: " + e.by
}

// Taken is [host.Sink.Taken]: lists of clouds may name the address of another instance.
func (s *Service) Taken(ctx context.Context, id, key, bootID string) (why string, err error) {
	inst, err := s.Get(ctx, s.DB.Read(), id)
	if err != nil {
		return "", err
	}
	err = s.taken(ctx, s.DB.Read(), inst, key, bootID)
	if taken, ok := errors.AsType[*takenError](err); ok {
		return taken.Error(), nil
	}
	return "", err
}

// taken is a [takenError] when another instance is the host with an agent's key, in this boot or, as far as a cloud
// says where its machine is, at the same address: it may have restarted since it was last seen.
func (s *Service) taken(ctx context.Context, q store.Querier, inst Instance, key, bootID string) error {
	if key == "" {
		return nil
	}
	list, err := query(ctx, q, selectTwins, key, inst.ID)
	if err != nil {
		return err
	}
	for i := range list { // copies of a disk have the key, too
		other := &list[i]
		same := other.Data.Damage != "" || !inst.SSH() && samePlace(other.Data.Provisioning, inst.Data.Provisioning)
		if h := other.Data.Host; same || h != nil && h.BootID == bootID {
			return &takenError{by: other.seenFrom(inst), goes: !other.Live()}
		}
	}
	return nil
}

// samePlace says that two machines are reached at one address.
func samePlace(a, b *api.JobProvisioningData) bool {
	return a != nil && b != nil && deref(a.Hostname) != "" && deref(a.Hostname) == deref(b.Hostname) && sshPort(a) == sshPort(b)
}

func sshPort(jpd *api.JobProvisioningData) int {
	if jpd.SSHPort == nil {
		return 22
	}
	return *jpd.SSHPort
}

// leave gives up a host that is another instance; one that goes is waited for.
func (s *Service) leave(ctx context.Context, it engine.Item, inst Instance, taken *takenError) (time.Time, error) {
	if taken.goes {
		return time.Now().Add(onboardRetry), s.problem(ctx, it, inst, taken)
	}
	return time.Time{}, s.endSSH(ctx, it, inst, api.InstanceError, "The"+strings.TrimPrefix(taken.Error(), "the"))
}

// seenFrom names an instance for the users of another.
func (i *Instance) seenFrom(other Instance) string {
	if i.ProjectID != other.ProjectID {
		return "an instance of another project"
	}
	return "instance " + i.Name
}

// problem shows why a host is not added yet.
func (s *Service) problem(ctx context.Context, it engine.Item, inst Instance, err error) error {
	d := Decision{Instance: inst}
	text := err.Error()
	if inst.Data.Problem != text {
		d.Events = []string{"Instance cannot be added yet: " + text}
	}
	d.Instance.Data.Problem = text
	d.Instance.Data.Tries++
	return s.commit(ctx, it, inst, &d)
}

func (s *Service) endSSH(ctx context.Context, it engine.Item, inst Instance, reason api.InstanceTerminationReason, msg string) error {
	d := Decision{Instance: inst}
	d.end(time.Now(), reason, msg)
	return s.commit(ctx, it, inst, &d)
}

// uninstall takes the agent off a host; after some tries the instance ends without it.
func (s *Service) uninstall(ctx context.Context, it engine.Item, inst Instance) (time.Time, error) {
	s.forget(inst.ID)
	t, err := s.target(ctx, inst)
	if err == nil {
		err = s.Onboard.Uninstall(ctx, host.UninstallRequest{Endpoint: t.Endpoint, Jump: t.Jump})
	}
	d := Decision{Instance: inst}
	if err == nil {
		d.gone(time.Now())
		return time.Time{}, s.commit(ctx, it, inst, &d)
	}
	d.Instance.Data.Tries++
	d.Instance.Data.Problem = err.Error()
	if d.Instance.Data.Tries >= uninstallTries {
		d.Events = []string{"The agent stays on the host: " + err.Error()}
	}
	return time.Now().Add(2 * time.Second), s.commit(ctx, it, inst, &d)
}

// Pinned remembers the host key of a first contact.
func (s *Service) Pinned(ctx context.Context, id, key string) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		inst, err := s.Get(ctx, tx, id)
		if err != nil || inst.Data.HostKey != "" {
			return err
		}
		inst.Data.HostKey = key
		return s.update(ctx, tx, &inst)
	})
}

// intend records the wish for a paid machine of an offer, in place of an earlier one that
// was refused.
func (s *Service) intend(ctx context.Context, tx *store.Tx, inst *Instance, o api.InstanceOffer, fleetName string) error {
	public, _, err := s.Keys.ProjectKey(ctx, inst.ProjectID)
	if err != nil {
		return err
	}
	req := &backend.CreateRequest{
		Rank:    inst.Data.Rank,
		Project: s.ProjectName(ctx, inst.ProjectID), Fleet: fleetName, Offer: fromAPI(o), Tags: inst.Data.Tags,
		SSHKeys: []string{strings.TrimSpace(public)}, DiskMiB: o.Instance.Resources.Disk.SizeMiB, PublicIP: true,
	}
	if a := inst.Data.Ask; a != nil && a.Profile.Reservation != nil {
		req.Reservation = *a.Profile.Reservation
	}
	intent := ledger.Intent{
		Kind: backend.InstanceResource, Backend: string(o.Backend), Region: o.Region, ProjectID: inst.ProjectID,
		OwnerKind: Kind, OwnerID: inst.ID, Price: o.Price, Name: inst.Name, Create: req,
	}
	if inst.Data.Ask != nil {
		intent.MaxPrice = inst.Data.Ask.Requirements.MaxPrice
	}
	if inst.Data.Cluster {
		intent.Cluster = inst.FleetID
	}
	inst.IntentID, err = s.Ledger.Intend(ctx, tx, intent)
	if err != nil {
		return err
	}
	inst.Backend, inst.Data.Offer = string(o.Backend), &o
	inst.Data.Tried = append(inst.Data.Tried, scheduler.OfferKey(o))
	return nil
}

// giveBack tells the ledger that the machine is not wanted.
func (s *Service) giveBack(ctx context.Context, inst Instance) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error { return s.Ledger.Release(ctx, tx, inst.IntentID) })
}

// askCloud has the ledger look whether a machine that does not answer still exists.
func (s *Service) askCloud(ctx context.Context, inst Instance) error {
	err := s.DB.Write(ctx, func(tx *store.Tx) error { return s.Ledger.Check(ctx, tx, inst.IntentID) })
	if err == nil {
		s.setLink(inst.ID, func(l *Link) { l.Asked = time.Now() })
	}
	return err
}

// machine is what the ledger knows about the instance's machine.
func (s *Service) machine(ctx context.Context, q store.Querier, inst Instance) (Machine, error) {
	r, err := s.Ledger.Get(ctx, q, inst.IntentID)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{Refused: r.Refused(), Apart: r.Doc.Outcome == ledger.NoPlacement, Message: r.Message(), Gone: r.State == ledger.Gone && !r.Refused()}
	got := r.Instance()
	m.Created = r.State == ledger.Created
	m.Failed = m.Created && got.State == backend.StateFailed
	if !m.Created {
		return m, nil
	}
	jpd := describeMachine(r.Price, inst, got)
	if got.Ready() {
		m.Hostname, m.Socket = *jpd.Hostname, got.Socket
	}
	if inst.Data.Offer == nil { // of a damaged row
		return m, nil
	}
	if limit := r.Doc.MaxPrice; limit != nil && r.Doc.Priced && r.Price > *limit {
		m.TooDear = fmt.Sprintf("It costs $%g an hour, more than the max_price of $%g", r.Price, *limit)
	}
	m.Provisioning = &jpd
	return m, nil
}

// describeMachine is what a cloud says of a machine.
func describeMachine(price float64, inst Instance, got backend.Instance) api.JobProvisioningData {
	jpd := api.JobProvisioningData{
		Backend: api.BackendType(inst.Backend), InstanceID: got.Ref.ID,
		PublicIPEnabled: true, Region: got.Ref.Region, Price: price, Username: cmp.Or(got.Username, "root"), Dockerized: got.Socket == "",
	}
	if o := inst.Data.Offer; o != nil {
		jpd.InstanceType, jpd.Region = o.Instance, cmp.Or(jpd.Region, o.Region)
	}
	if got.Ready() {
		hostname := cmp.Or(got.Hostname, "127.0.0.1")
		jpd.Hostname = &hostname
	}
	if got.InternalIP != "" {
		jpd.InternalIP = &got.InternalIP
	}
	if got.Zone != "" {
		jpd.AvailabilityZone = &got.Zone
	}
	if got.SSHPort != 0 {
		jpd.SSHPort = &got.SSHPort
	}
	return jpd
}
