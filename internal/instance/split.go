package instance

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// Parts are in how many parts an instance could be shared that is one job's until now, 1 for no more: many a
// machine on which a run fits cannot be divided into its fleet's blocks, and is made all the same.
func (i *Instance) Parts() int {
	if i.Data.Split == nil || i.Blocks != 1 || i.Data.Provisioning == nil {
		return 1
	}
	r := i.Data.Provisioning.InstanceType.Resources
	n, ok := scheduler.Divide(i.Data.Split.Blocks, i.Data.Split.Auto, r.CPUs, len(r.Gpus))
	if !ok {
		return 1
	}
	return n
}

// split divides an instance that was one job's.
func (i *Instance) split() {
	if n := i.Parts(); n > 1 {
		i.Blocks, i.Data.Split = n, nil
	}
}

// Share has the job that an instance was made for keep so many of its parts from now on, so that others get the rest.
// Until now it has held all of it. store.ErrConflict means that the instance is not as it was.
func (s *Service) Share(ctx context.Context, tx *store.Tx, instanceID, jobID string, blocks, of int) error {
	inst, err := s.Get(ctx, tx, instanceID)
	if err != nil {
		return err
	}
	if of < 2 || inst.Parts() != of || len(inst.Assignments) != 1 || inst.Assignments[0].JobID != jobID {
		return fmt.Errorf("share instance %s: %w", inst.Name, store.ErrConflict)
	}
	now := time.Now()
	if err := keepHeld(ctx, tx, inst, jobID, now); err != nil {
		return err
	}
	inst.split()
	if _, err := tx.ExecContext(ctx, setAssignment, blocks, store.Micros(now), jobID, inst.ID); err != nil {
		return fmt.Errorf("share instance %s: %w", inst.Name, err)
	}
	inst.Assignments = []Assignment{{JobID: jobID, Blocks: blocks}} // others may know the row as it was
	if err := s.update(ctx, tx, &inst); err != nil {
		return err
	}
	tx.OnCommit(func() { s.Freed(inst.ProjectID) })
	return s.record(ctx, tx, inst, fmt.Sprintf("Instance is shared. Instance blocks: %d/%d busy", blocks, of))
}
