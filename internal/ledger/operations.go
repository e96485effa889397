package ledger

import (
	"context"
	"fmt"

	"dstack/internal/backend"
)

// ops are the calls for one kind of resource, all in the terms of instances.
type ops struct {
	create    func(ctx context.Context, r Record) (backend.Instance, error)
	describe  func(ctx context.Context, ref backend.Ref) (backend.Instance, error)
	terminate func(ctx context.Context, ref backend.Ref) error
}

func operations(b backend.Backend, kind backend.ResourceKind) (ops, error) {
	switch kind {
	case backend.InstanceResource:
		return ops{
			create: func(ctx context.Context, r Record) (backend.Instance, error) {
				return b.Create(ctx, *r.Doc.Create)
			},
			describe:  b.Describe,
			terminate: b.Terminate,
		}, nil
	case backend.VolumeResource:
		if v, ok := b.(backend.VolumeBackend); ok {
			return volumeOperations(v), nil
		}
	case backend.PlacementResource:
		if p, ok := b.(backend.PlacementBackend); ok {
			return placementOperations(p), nil
		}
	}
	return ops{}, &backend.InvalidError{Msg: fmt.Sprintf("this backend has no resources of kind %s", kind)}
}

func volumeOperations(b backend.VolumeBackend) ops {
	seen := func(v backend.Volume, err error) (backend.Instance, error) {
		return backend.Instance{
			Mark: v.Mark, Ref: v.Ref, State: v.State, Zone: v.Zone, Price: v.Price, CreatedAt: v.CreatedAt, GoneAt: v.GoneAt,
		}, err
	}
	return ops{
		create: func(ctx context.Context, r Record) (backend.Instance, error) {
			return seen(b.CreateVolume(ctx, *r.Doc.Volume))
		},
		describe: func(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
			return seen(b.DescribeVolume(ctx, ref))
		},
		terminate: b.DeleteVolume,
	}
}

func placementOperations(b backend.PlacementBackend) ops {
	seen := func(p backend.Placement, err error) (backend.Instance, error) {
		return backend.Instance{Mark: p.Mark, Ref: p.Ref, State: p.State, CreatedAt: p.CreatedAt, GoneAt: p.GoneAt}, err
	}
	return ops{
		create: func(ctx context.Context, r Record) (backend.Instance, error) {
			return seen(b.CreatePlacement(ctx, *r.Doc.Placement))
		},
		describe: func(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
			return seen(b.DescribePlacement(ctx, ref))
		},
		terminate: b.DeletePlacement,
	}
}
