package config

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Resources is what a job or a fleet's node needs.
type Resources struct {
	CPU     CPU         `json:"cpu"`
	Memory  MemoryRange `json:"memory"`
	ShmSize *Memory     `json:"shm_size"`
	GPU     *GPU        `json:"gpu"`
	Disk    *Disk       `json:"disk"`
}

// CPU is the number of virtual CPUs and their architecture ("x86", "arm", nil for any).
type CPU struct {
	Arch  *string  `json:"arch"`
	Count IntRange `json:"count"`
}

// GPU describes accelerators. Names are matched without regard to case.
type GPU struct {
	Vendor            *string      `json:"vendor"`
	Name              []string     `json:"name"`
	Count             IntRange     `json:"count"`
	Memory            *MemoryRange `json:"memory"`
	TotalMemory       *MemoryRange `json:"total_memory"`
	ComputeCapability []int        `json:"compute_capability"` // [major, minor]
}

// Disk is the size of the instance's disk.
type Disk struct {
	Size MemoryRange `json:"size" cfg:"req"`
}

// DefaultResources is what a configuration without resources asks for.
func DefaultResources() Resources {
	r := Resources{}
	r.setDefaults()
	return r
}

func (r *Resources) setDefaults() {
	r.CPU = CPU{Count: Between(2, -1)}
	r.Memory = AtLeast(8)
	r.GPU = &GPU{Count: Between(0, -1)}
	r.Disk = &Disk{Size: AtLeast(100)}
}

// UnmarshalJSON reads stored resources.
func (r *Resources) UnmarshalJSON(data []byte) error { return decodeStored(data, r) }

func (r *Resources) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		d.add(n, loc, "model_type", "Input should be a valid dictionary or instance of ResourcesSpec")
		return
	}
	r.setDefaults()
	for _, k := range n.keys {
		v, at := n.values[k], at(loc, k)
		switch k {
		case "cpu":
			r.CPU.decodeNode(d, v, at)
		case "memory":
			r.Memory.decodeNode(d, v, at)
		case "shm_size":
			if v.kind != nullKind {
				r.ShmSize = new(Memory)
				r.ShmSize.decodeNode(d, v, at)
			}
		case "gpu":
			r.GPU = nil
			if v.kind != nullKind {
				r.GPU = &GPU{}
				r.GPU.decodeNode(d, v, at)
			}
		case "disk":
			r.Disk = nil
			if v.kind != nullKind {
				r.Disk = &Disk{}
				r.Disk.decodeNode(d, v, at)
			}
		default:
			if !d.lenient {
				d.unknown(n, loc, k)
			}
		}
	}
}

func (c *CPU) decodeNode(d *decoder, n *node, loc []any) {
	c.Count = Between(2, -1)
	switch n.kind {
	case intKind:
		c.Count.decodeNode(d, n, loc)
	case stringKind:
		c.parse(d, n, loc)
	case mapKind:
		if n.get("min") != nil || n.get("max") != nil {
			c.Count.decodeNode(d, n, at(loc, "count"))
			return
		}
		for _, k := range n.keys {
			v := n.values[k]
			switch k {
			case "arch":
				if v.kind == nullKind {
					continue
				}
				arch := strings.ToLower(v.text)
				if v.kind != stringKind || arch != "x86" && arch != "arm" {
					d.reject(v, at(loc, k), "Invalid CPU architecture: %s", v.scalarText())
					continue
				}
				c.Arch = &arch
			case "count":
				c.Count.decodeNode(d, v, at(loc, k))
			default:
				if !d.lenient {
					d.unknown(n, loc, k)
				}
			}
		}
	default:
		d.add(n, loc, "model_type", "Input should be a valid dictionary or instance of CPUSpec")
	}
}

func (c *CPU) parse(d *decoder, n *node, loc []any) {
	var haveCount bool
	for _, token := range strings.Split(strings.ReplaceAll(n.text, " ", ""), ":") {
		switch {
		case token == "":
			d.reject(n, loc, "CPU spec contains empty token: %s", n.text)
			return
		case strings.Contains(token, "..") || allDigits(token):
			if haveCount {
				d.reject(n, loc, "CPU spec count conflict: %s", n.text)
				return
			}
			haveCount = true
			c.Count = IntRange{}
			c.Count.decodeNode(d, n.with(token), loc)
		default:
			arch := strings.ToLower(token)
			if arch != "x86" && arch != "arm" {
				d.reject(n, loc, "Invalid CPU architecture: %s", token)
				return
			}
			if c.Arch != nil {
				d.reject(n, loc, "CPU spec arch conflict: %s", n.text)
				return
			}
			c.Arch = &arch
		}
	}
}

func (g *GPU) decodeNode(d *decoder, n *node, loc []any) {
	g.Count = Between(1, -1)
	switch n.kind {
	case intKind:
		g.Count.decodeNode(d, n, loc)
	case stringKind:
		g.parse(d, n, loc)
	case mapKind:
		g.object(d, n, loc)
	default:
		d.add(n, loc, "model_type", "Input should be a valid dictionary or instance of GPUSpec")
	}
}

func (g *GPU) object(d *decoder, n *node, loc []any) {
	for _, k := range n.keys {
		v, at := n.values[k], at(loc, k)
		if v.kind == nullKind && k != "count" {
			continue
		}
		switch k {
		case "vendor":
			vendor, ok := gpuVendor(v.text)
			if v.kind != stringKind {
				d.reject(v, at, "Unsupported type: %s", v.scalarText())
			} else if !ok {
				d.reject(v, at, "'%s' is not a valid AcceleratorVendor", v.text)
			} else {
				g.Vendor = &vendor
			}
		case "name":
			g.names(d, v, at)
		case "count":
			g.Count.decodeNode(d, v, at)
		case "memory":
			g.Memory = &MemoryRange{}
			g.Memory.decodeNode(d, v, at)
		case "total_memory":
			g.TotalMemory = &MemoryRange{}
			g.TotalMemory.decodeNode(d, v, at)
		case "compute_capability":
			g.capability(d, v, at)
		default:
			if !d.lenient {
				d.unknown(n, loc, k)
			}
		}
	}
}

func (g *GPU) names(d *decoder, v *node, loc []any) {
	list := v.list
	if v.kind == stringKind || v.kind == intKind || v.kind == floatKind {
		for _, part := range strings.Split(v.scalarText(), ",") {
			list = append(list, v.with(part))
		}
	} else if v.kind != listKind {
		d.add(v, loc, "list_type", "Input should be a valid list")
		return
	}
	g.Name = []string{}
	for i, item := range list {
		if s, ok := d.text(item, at(loc, i)); ok {
			g.Name = append(g.Name, dropTPU(s))
		}
	}
}

func (g *GPU) capability(d *decoder, v *node, loc []any) {
	var parts []string
	switch v.kind {
	case floatKind, stringKind, intKind:
		parts = strings.Split(v.scalarText(), ".")
	case listKind:
		for _, item := range v.list {
			part := item.scalarText()
			if item.kind == floatKind {
				part, _, _ = strings.Cut(part, ".") // whole numbers only, as the original cuts them
			}
			parts = append(parts, part)
		}
	}
	if len(parts) == 2 {
		major, err1 := strconv.Atoi(strings.TrimSpace(parts[0]))
		minor, err2 := strconv.Atoi(strings.TrimSpace(parts[1]))
		if err1 == nil && err2 == nil {
			g.ComputeCapability = []int{major, minor}
			return
		}
	}
	d.reject(v, loc, "Invalid compute capability: %s", v.scalarText())
}

func (g *GPU) parse(d *decoder, n *node, loc []any) {
	var haveCount bool
	conflict := func(what string) { d.reject(n, loc, "GPU spec %s conflict: %s", what, n.text) }
	for _, token := range strings.Split(strings.ReplaceAll(n.text, " ", ""), ":") {
		if token == "" {
			d.reject(n, loc, "GPU spec contains empty token: %s", n.text)
			return
		}
		if vendor, ok := gpuVendor(token); ok {
			if g.Vendor != nil {
				conflict("vendor")
				return
			}
			g.Vendor = &vendor
			continue
		}
		switch {
		case beginsWithLetter(token):
			if g.Name != nil {
				conflict("name")
				return
			}
			for _, name := range strings.Split(token, ",") {
				if name == "" {
					d.reject(n, loc, "GPU name can not be empty: %s", n.text)
					return
				}
				g.Name = append(g.Name, dropTPU(name))
			}
		case strings.ContainsFunc(token, unicode.IsLetter):
			if g.Memory != nil {
				conflict("memory")
				return
			}
			g.Memory = &MemoryRange{}
			g.Memory.decodeNode(d, n.with(token), loc)
		default:
			if haveCount {
				conflict("count")
				return
			}
			haveCount = true
			g.Count = IntRange{}
			g.Count.decodeNode(d, n.with(token), loc)
		}
	}
}

// gpuVendor resolves vendors and their short names.
func gpuVendor(s string) (string, bool) {
	switch v := strings.ToLower(s); v {
	case "nvidia", "amd", "google", "intel", "tenstorrent":
		return v, true
	case "tpu":
		return "google", true
	case "tt":
		return "tenstorrent", true
	}
	return "", false
}

// dropTPU removes a prefix that old configurations carry.
func dropTPU(name string) string { return strings.TrimPrefix(name, "tpu-") }

// beginsWithLetter tells names of GPUs from their counts and sizes.
func beginsWithLetter(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return unicode.IsLetter(r)
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func (k *Disk) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		k.Size.decodeNode(d, n, loc)
		return
	}
	size := n.get("size")
	for _, key := range n.keys {
		if key != "size" && !d.lenient {
			d.unknown(n, loc, key)
		}
	}
	if size == nil {
		d.add(n, at(loc, "size"), "missing", "Field required")
		return
	}
	k.Size.decodeNode(d, size, at(loc, "size"))
}
