package scheduler

import "dstack/internal/api"

// Divide says in how many equal parts a machine can be shared: want, or with auto as many
// as it has GPUs, or CPUs where these are fewer or there are no GPUs. It is false when the
// parts would not be whole (lifecycle 7.7). A TPU slice counts as one GPU.
func Divide(want int, auto bool, cpus, gpus int) (int, bool) {
	if auto {
		want = cpus
		if gpus > 0 {
			want = min(cpus, gpus)
		}
	}
	if want < 1 || cpus%want != 0 || gpus%want != 0 {
		return 0, false
	}
	return want, true
}

// Share is the part of a machine that blocks of total get: their CPUs, memory and GPUs; the
// disk is everybody's (lifecycle 7.6). The architecture stays: a share of an ARM machine is
// nothing for an x86 image, though the original forgets it (lifecycle 23 #24).
func Share(r api.Resources, blocks, total int) api.Resources {
	if total <= 1 || blocks == total {
		return r
	}
	r.CPUs = r.CPUs / total * blocks
	r.MemoryMiB = r.MemoryMiB / total * blocks
	r.Gpus = r.Gpus[:len(r.Gpus)/total*blocks]
	return r
}
