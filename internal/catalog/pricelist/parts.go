package pricelist

import (
	"dstack/internal/api"
	"dstack/internal/offer"
)

// parts are the distinct values of what shapes are made of. Rules of requirements are asked
// once per value.
type parts struct {
	backends, archs       distinct[string]
	cpus, memories, disks distinct[int]
	gpus                  distinct[gpuSet]
	of                    []part // by shape
}

// part says which values a shape has, as indexes.
type part struct{ backend, arch, cpus, memory, disk, gpus uint32 }

// distinct numbers values in the order of their first appearance.
type distinct[T comparable] struct {
	values []T
	number map[T]uint32
}

func (d *distinct[T]) add(v T) uint32 {
	n, known := d.number[v]
	if !known {
		if d.number == nil {
			d.number = map[T]uint32{}
		}
		n = uint32(len(d.values))
		d.values = append(d.values, v)
		d.number[v] = n
	}
	return n
}

// full says that v would be one more than [maxDistinct].
func (d *distinct[T]) full(v T) bool {
	if len(d.values) < maxDistinct {
		return false
	}
	_, known := d.number[v]
	return !known
}

// gpuSet is some number of equal GPUs.
type gpuSet struct {
	kind  offer.GPU
	count int
}

// list has each of the GPUs.
func (s gpuSet) list() []api.Gpu {
	list := make([]api.Gpu, s.count)
	for i := range list {
		list[i] = api.Gpu{Name: s.kind.Name, MemoryMiB: s.kind.MemoryMiB, Vendor: api.AcceleratorVendor(s.kind.Vendor)}
	}
	return list
}

func partsOf(shapes []shape) parts {
	p := parts{of: make([]part, len(shapes))}
	for i, s := range shapes {
		p.of[i] = part{
			backend: p.backends.add(s.backend), arch: p.archs.add(s.arch),
			cpus: p.cpus.add(s.cpus), memory: p.memories.add(s.memoryMiB), disk: p.disks.add(s.diskMiB),
			gpus: p.gpus.add(gpuSet{s.gpu, s.gpus}),
		}
	}
	return p
}
