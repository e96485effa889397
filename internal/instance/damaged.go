package instance

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// A row whose document makes no sense still has its columns: it is shown, takes no jobs, can be
// ended, and its machine with it.

// Intact says what a document lacks; nil is nothing.
func (d *Data) Intact() error {
	if d.Ask == nil && d.Offer == nil && d.Remote == nil {
		return errors.New("there is neither a machine nor a host")
	}
	return nil
}

// whole takes the error of reading a row, and puts a stand-in for a damaged document.
func (i *Instance) whole(err error) error {
	damage, ok := errors.AsType[*store.Damage](err)
	if !ok {
		return err
	}
	if !damage.Document { // where it is is known
		i.odd(damage)
		return nil
	}
	problem := unreadable(damage)
	if i.SSHHost != "" { // how to log in, and the host key, are lost
		problem += fmt.Sprintf(". Host %s is not reached once the present connection has ended: containers of jobs may run on there until you add it again", i.SSHHost)
	}
	i.Data = Data{Damage: damage.Error(), Problem: problem, IdleSeconds: -1}
	return nil
}

// odd notes that a column of the row makes no sense.
func (i *Instance) odd(why error) { i.Data.Damage, i.Data.Problem = why.Error(), unreadable(why) }

func unreadable(why error) string {
	return fmt.Sprintf("The stored record of this instance cannot be read (%v). It takes no jobs; delete it", why)
}

// damaged decides over an instance of which only the columns are known. The jobs on a machine go on, and
// end there when they are told to: the ledger knows where it is.
func (d *Decision) damaged(now time.Time, s Snapshot) {
	works := s.Instance.Status == api.InstanceIdle || s.Instance.Status == api.InstanceBusy
	switch {
	case s.Machine.Gone:
		d.terminate(now, api.InstanceUnreachable, "The backend says that the instance does not exist any more")
	case !works || s.Instance.IntentID == "" && s.Instance.Data.Remote == nil:
	case s.Instance.IntentID != "" && s.Machine.Hostname == "":
		d.reached(false)
	default:
		if !s.Link.Watched {
			d.Effects = append(d.Effects, Watch)
		}
		since := cmp.Or(s.Link.Since, now) // it is about to be connected to
		if s.Link.Connected || now.Sub(since) >= lostGrace {
			d.reached(s.Link.Connected)
			return
		}
		d.again(since.Add(lostGrace))
	}
}

// reached notes in a column whether the agent answers: other replicas know nothing else of it.
func (d *Decision) reached(answers bool) {
	if d.Instance.Unreachable != answers {
		return
	}
	text := "Instance became unreachable"
	if answers {
		text = "Instance became reachable"
	}
	d.Instance.Unreachable, d.Changed, d.Events = !answers, true, append(d.Events, text)
}

// recall gives a damaged instance the address of its machine, as the ledger has it. The host key was in the
// record: this is a first contact again, with an address that the cloud vouches for. That of a host of the
// user nobody does.
func (s *Service) recall(ctx context.Context, inst *Instance) error {
	r, err := s.Ledger.Get(ctx, s.DB.Read(), inst.IntentID)
	if err != nil {
		return err
	}
	got := r.Instance()
	jpd := describeMachine(r.Price, *inst, got)
	inst.Data.Provisioning, inst.Data.Socket = &jpd, got.Socket
	return nil
}

const liveInShards = `SELECT id FROM instance WHERE NOT deleted AND shard IN`

// ownerless are owners of machines that are wanted, and no instances (any more).
const ownerless = `
SELECT DISTINCT owner_id FROM intent
WHERE  owner_kind = 'instance' AND kind = 'instance' AND wanted AND state <> 'gone'
  AND  owner_id NOT IN (SELECT id FROM instance WHERE NOT deleted)`

// toLookAt lists the live instances, and those that are not there though a machine is wanted for
// them: there is none unless rows were lost or edited.
func toLookAt(ctx context.Context, q store.Querier, shards []int) ([]string, error) {
	ids, err := engine.LiveQuery(liveInShards)(ctx, q, shards)
	if err != nil {
		return nil, fmt.Errorf("list live instances: %w", err)
	}
	missing, err := engine.HashedQuery(ownerless)(ctx, q, shards)
	if err != nil {
		return nil, fmt.Errorf("list machines without an instance: %w", err)
	}
	return append(ids, missing...), nil
}

// abandon gives back the machines of an instance that does not exist (any more).
func (s *Service) abandon(ctx context.Context, it engine.Item) error {
	ids, err := s.Ledger.Wanted(ctx, s.DB.Read(), Kind, it.ID)
	if err != nil || len(ids) == 0 {
		return err
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		for _, id := range ids {
			s.Log.Error("a machine belongs to no instance: given back", "intent", id, "instance", it.ID)
			if err := s.Ledger.Release(ctx, tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// retrace finds the machine of an instance that names an intent which does not exist: by what the
// ledger has for this instance. Without any, the machine is as good as gone.
func (s *Service) retrace(ctx context.Context, snap *Snapshot) error {
	inst := &snap.Instance
	ids, err := s.Ledger.Wanted(ctx, s.DB.Read(), Kind, inst.ID)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		s.Log.Error("an instance names an intent that does not exist", "instance", inst.Name, "id", inst.ID, "intent", inst.IntentID)
		snap.Machine = Machine{Gone: true}
		return nil
	}
	s.Log.Error("an instance names an intent that does not exist: it gets its own again", "instance", inst.Name, "id", inst.ID, "intent", inst.IntentID, "own", ids[0])
	inst.IntentID, snap.Retraced = ids[0], true
	snap.Machine, err = s.machine(ctx, s.DB.Read(), *inst)
	return err
}

// releaseUncounted ends a hold of which the instance does not know: somebody made or moved the row by hand, which
// counts no version.
func (s *Service) releaseUncounted(ctx context.Context, tx *store.Tx, inst Instance, jobID string) error {
	if err := keepHeld(ctx, tx, inst, jobID, time.Now()); err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, deleteAssignment, jobID, inst.ID)
	if err != nil {
		return fmt.Errorf("release instance %s: %w", inst.Name, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	tx.OnCommit(func() { s.Engine.Wake(Kind, inst.ID) })
	return recount(ctx, tx, inst.ID)
}

// recount has everybody read an instance again, with its holds.
func recount(ctx context.Context, tx *store.Tx, id string) error {
	if _, err := tx.ExecContext(ctx, `UPDATE instance SET version = `+store.NextVersion+` WHERE id = $1`, id); err != nil {
		return fmt.Errorf("count a change of instance %s: %w", id, err)
	}
	return nil
}

// ErrNoRoom says that an instance cannot be held again: it is gone, or others hold it.
var ErrNoRoom = errors.New("the instance has no room")

// Rehold has a job that runs on an instance hold its blocks again, and those of no other one: the row was lost or moved
// by hand. How much of it there was to hold is as it was then. What is known of the instance is not believed.
func (s *Service) Rehold(ctx context.Context, tx *store.Tx, c Claim) (Instance, error) {
	var other string
	err := tx.QueryRowContext(ctx, `SELECT instance_id FROM assignment WHERE job_id = $1 AND instance_id <> $2`, c.JobID, c.InstanceID).Scan(&other)
	if err == nil {
		_, err = s.Release(ctx, tx, other, c.JobID)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) && !errors.Is(err, store.ErrNotFound) {
		return Instance{}, fmt.Errorf("release what job %s holds elsewhere: %w", c.JobID, err)
	}
	if err := recount(ctx, tx, c.InstanceID); err != nil {
		return Instance{}, err
	}
	inst, err := s.Get(ctx, tx, c.InstanceID)
	if err != nil {
		return Instance{}, err
	}
	for _, a := range inst.Assignments {
		if a.JobID == c.JobID {
			return inst, nil
		}
	}
	if !inst.Exists() || inst.Busy()+c.Blocks > max(1, inst.Blocks) {
		return Instance{}, fmt.Errorf("hold %d of %d blocks of instance %s: %w", c.Blocks, inst.Blocks, inst.Name, ErrNoRoom)
	}
	tx.OnCommit(func() { s.Engine.Wake(Kind, inst.ID) })
	return s.take(ctx, tx, inst, c)
}

// Exists says that there is a machine or a host, or is to be one, or that it goes.
func (i *Instance) Exists() bool { return !i.Deleted && i.Status != api.InstanceTerminated }
