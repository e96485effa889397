// Package instance owns the machines that jobs run on: their rows, who holds which part
// of them, the pure Step that moves them through their life, and the reconciler that
// carries it out through the ledger (paid machines) or over SSH (hosts of the user).
//
// Test it with go test ./internal/instance; the suite runs on SQLite, and on PostgreSQL
// when TEST_POSTGRES is set.
package instance

import (
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/scheduler"
)

// Remote is the backend name of SSH hosts.
const Remote = "remote"

// Instance is one row with what hangs on it.
type Instance struct {
	ID        string
	ProjectID string
	FleetID   string
	Num       int
	Name      string // <fleet>-<num>
	Status    api.InstanceStatus
	Backend   string
	SSHHost   string
	IntentID  string
	// Unreachable says that the server has no connection to the agent; see Data.LostAt.
	Unreachable bool
	Deleted     bool
	CreatedAt   time.Time
	FinishedAt  time.Time
	LastJobAt   time.Time
	// Blocks is in how many parts the instance can be shared, 0 while unknown ("auto").
	Blocks  int
	Version int64
	Data    Data

	// Assignments are the jobs that hold blocks, loaded with the row.
	Assignments []Assignment
}

// Data is the part of a row that no query looks into.
type Data struct {
	Offer        *api.InstanceOffer            `json:"offer,omitempty"`
	Provisioning *api.JobProvisioningData      `json:"provisioning,omitempty"`
	Remote       *RemoteHost                   `json:"remote,omitempty"`
	Left         *api.JobProvisioningData      `json:"left,omitempty"` // where a lost machine answered that is tried elsewhere
	Host         *agentapi.HostInfo            `json:"host,omitempty"`
	HostKey      string                        `json:"host_key,omitempty"` // pinned, authorized_keys form
	Socket       string                        `json:"socket,omitempty"`   // local agent: path of its Unix socket
	Home         string                        `json:"home,omitempty"`     // of the agent, "" for the default
	Tags         map[string]string             `json:"tags,omitempty"`
	Reason       api.InstanceTerminationReason `json:"reason,omitempty"`
	Message      string                        `json:"message,omitempty"`
	Health       api.HealthStatus              `json:"health,omitempty"`    // "" is healthy
	LostGPUs     int                           `json:"lost_gpus,omitempty"` // that its agent does not list
	LackAt       time.Time                     `json:"lack_at,omitzero"`    // since when it does not list some
	StartedAt    time.Time                     `json:"started_at,omitzero"`
	ReadyAt      time.Time                     `json:"ready_at,omitzero"` // its agent first answered
	// ForJob is the job that the instance was created for, "" for fleet nodes.
	ForJob string `json:"for_job,omitempty"`
	// IdleSeconds until an idle instance is given back, -1 never.
	IdleSeconds int64 `json:"idle_seconds"`
	// AutoBlocks is the fleet's "blocks: auto": the number follows from the hardware.
	AutoBlocks bool `json:"auto_blocks,omitempty"`
	// Split is how an instance that was made for a job and is that one's alone is to be shared; nil when it is.
	Split *Split `json:"split,omitempty"`
	// Next is what the SSH host becomes once this instance of it has gone, nil for nothing.
	Next *NewHost `json:"next,omitempty"`
	// Touched says that something was or may have been installed on an SSH host.
	Touched bool `json:"touched,omitempty"`
	// LostAt is when the connection was lost, zero while there is one.
	LostAt time.Time `json:"lost_at,omitzero"`
	// Damage is why this is a stand-in for what is stored, "" when it is not.
	Damage string `json:"-"`
	// Problem is the latest reason why the instance is not further, for people.
	Problem string `json:"problem,omitempty"`
	// Tries counts attempts of the step that Problem speaks of.
	Tries int `json:"tries,omitempty"`

	// Ask is what a machine to be created must be like; Tried are the offers that were asked
	// for, Errors what the backends said.
	Ask     *scheduler.Ask `json:"ask,omitempty"`
	Cluster bool           `json:"cluster,omitempty"`
	Tried   []string       `json:"tried,omitempty"`
	Errors  []string       `json:"errors,omitempty"`
	// Skipped is how many of Tried could not be asked for, Skips says why.
	Skipped int      `json:"skipped,omitempty"`
	Skips   []string `json:"skips,omitempty"`
	// SpareUntil is until when offers are not asked for that could not be had lately, but the first.
	SpareUntil time.Time `json:"spare_until,omitzero"`
	// Rank is that of the run it was created for, zero for fleet nodes.
	Rank backend.Rank `json:"rank,omitzero"`
}

// RemoteHost is how to reach an SSH host of the user. Private keys are sealed.
type RemoteHost struct {
	Host       Endpoint          `json:"host"`
	Jump       *Endpoint         `json:"jump,omitempty"`
	InternalIP string            `json:"internal_ip,omitempty"`
	Network    string            `json:"network,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
}

// NewHost is an SSH host of the user that is to become an instance.
type NewHost struct {
	Remote     RemoteHost `json:"remote"`
	Blocks     int        `json:"blocks"`
	AutoBlocks bool       `json:"auto_blocks,omitempty"` // as in Data
}

// address names the host as in SSHHost.
func (h *NewHost) address() string {
	return fmt.Sprintf("%s:%d", h.Remote.Host.Hostname, h.Remote.Host.Port)
}

// Split is a fleet's wish for blocks.
type Split struct {
	Blocks int  `json:"blocks"`
	Auto   bool `json:"auto,omitempty"` // as the hardware is
}

// Endpoint is one SSH server and the keys to try there.
type Endpoint struct {
	Hostname string   `json:"hostname"`
	Port     int      `json:"port"`
	User     string   `json:"user"`
	Public   []string `json:"public"`
	Sealed   []string `json:"sealed"` // private keys, encrypted at rest
	HostKey  string   `json:"host_key,omitempty"`
}

// Assignment is a job's hold on an instance.
type Assignment struct {
	JobID  string
	Blocks int
}

// Busy is how many blocks are held.
func (i *Instance) Busy() int {
	n := 0
	for _, a := range i.Assignments {
		n += a.Blocks
	}
	return n
}

// Available says that the instance can take jobs now, as far as it has free blocks.
func (i *Instance) Available() bool {
	return (i.Status == api.InstanceIdle || i.Status == api.InstanceBusy) &&
		i.Well() && i.Data.Provisioning != nil
}

// Well says that nothing is known to be wrong with the instance: it answers, its GPUs are all
// there and have not failed.
func (i *Instance) Well() bool { return !i.Unreachable && i.health() != api.Failure }

// Stays says that the instance, or another of the same host, exists or is wanted.
func (i *Instance) Stays() bool { return i.Live() || !i.Deleted && i.Data.Next != nil }

// Live says that the instance exists or is wanted.
func (i *Instance) Live() bool {
	return !i.Deleted && i.Status != api.InstanceTerminating && i.Status != api.InstanceTerminated
}

// SSH says that the instance is a host of the user.
func (i *Instance) SSH() bool { return i.Data.Remote != nil }

// Claim is a job's wish to hold part of an instance.
type Claim struct {
	InstanceID string
	JobID      string
	RunID      string // the job's
	Blocks     int
	Of         int // in how many parts the instance is shared
}

// Want describes an instance to be created for a job or as a node of a fleet.
type Want struct {
	ProjectID string
	FleetID   string
	FleetName string
	Ask       scheduler.Ask      // what the instance must be like
	First     *api.InstanceOffer // the offer to try first, nil for the cheapest that fits
	// Cluster puts the instance where the fleet's first one is, close to it where the backend has
	// placement groups.
	Cluster     bool
	JobID       string // "" for a fleet node; otherwise the job holds the whole instance
	RunID       string // the job's
	Blocks      int    // in how many parts it may be shared, 0 for "auto"
	Split       *Split // the same once it is more than the job's, nil for 1; see [Service.Share]
	IdleSeconds int64  // -1 never
	// SpareUntil is until when other offers than the first are left alone that could not be had lately.
	SpareUntil time.Time
	// Rank is the run's place in the queue, zero for a fleet node: its machine is asked for as if by a
	// run without priority that was submitted then.
	Rank backend.Rank
}
