package agentapi

// HostInfo is what the agent knows about its machine.
type HostInfo struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"` // of the agent binary
	Hash     string `json:"hash"`    // SHA-256 of the agent binary, hex
	BootID   string `json:"boot_id"` // changes when the machine restarts
	// InstanceKey is made up once per agent home; it tells a reinstalled or swapped
	// machine behind the same address from the one that was known.
	InstanceKey string `json:"instance_key"`

	Runtime        string `json:"runtime"` // "docker" or "process"
	RuntimeVersion string `json:"runtime_version"`

	Arch      string   `json:"arch"` // "x86" or "arm"
	Hostname  string   `json:"hostname"`
	CPUs      int      `json:"cpus"`
	Memory    int64    `json:"memory"`    // bytes
	DiskSize  int64    `json:"disk_size"` // bytes available where images are stored
	Addresses []string `json:"addresses"` // CIDR, loopback left out
	// DefaultAddress is the address of the interface of the default route, "" when there is none.
	DefaultAddress string `json:"default_address"`
	UnixMicros     int64  `json:"unix_micros"` // the host's clock when it answered

	GPUVendor string `json:"gpu_vendor"` // "nvidia", "amd", "intel", "tenstorrent" or "none"
	GPUs      []GPU  `json:"gpus"`
	// HeldGPUs are the host's as well, and not among GPUs while what is left of tasks that have ended holds them. Older
	// agents do not tell.
	HeldGPUs []GPU `json:"held_gpus,omitempty"`
	// Warnings are sentences for people: what is odd on this host but did not stop the agent.
	Warnings []string `json:"warnings"`
}

// GPU is one accelerator of a host.
type GPU struct {
	ID        string `json:"id"` // the vendor's lock id: UUID, render node or index
	Name      string `json:"name"`
	MemoryMiB int    `json:"memory_mib"`
	Driver    string `json:"driver"`
}
