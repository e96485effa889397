// Package backend is the contract with compute providers: what each must do ([Backend]),
// may do (capabilities, found by type assertion), and how it says that it could not
// (errors). Package backendtest states the contract as tests.
//
// Backends know nothing of runs, jobs and fleets. Only the ledger calls Create, Terminate
// and List; only the catalog calls Offers.
package backend

import (
	"context"
	"reflect"
	"time"

	"dstack/internal/offer"
)

// Backend is one configured account at one provider. Implementations are safe for
// concurrent use.
type Backend interface {
	// Offers lists what could be provisioned, with price and availability as known to the
	// provider.
	Offers(ctx context.Context, q offer.Query) ([]offer.Offer, error)
	// Create asks for one instance and may return before it has booted or has addresses. It
	// must be idempotent in req.Token: asking again returns the same instance. An error for
	// which [Refused] is false leaves open whether the instance exists.
	Create(ctx context.Context, req CreateRequest) (Instance, error)
	// Describe reports state, addresses and whose it is; ErrNotFound when the provider says that
	// the instance does not exist.
	Describe(ctx context.Context, ref Ref) (Instance, error)
	// Terminate asks for deletion and need not wait for it; nil or ErrNotFound when the
	// instance is already gone.
	Terminate(ctx context.Context, ref Ref) error
	// List returns everything that carries this server's tag, of every kind and in every
	// region, for adoption and reaping; also what is still being made or deleted. When some of it
	// cannot be read, it returns the rest with an [*UnreadError].
	List(ctx context.Context, serverID string) ([]Owned, error)
}

// ResourceKind is a kind of thing that costs money, or would pile up where it costs none.
type ResourceKind string

// The kinds.
const (
	InstanceResource  ResourceKind = "instance"
	VolumeResource    ResourceKind = "volume"
	PlacementResource ResourceKind = "placement"
)

// Ref is how a provider finds one of its resources again. Its text is part of what proves the resource ours: a field that
// is added has to be left out when it is empty.
type Ref struct {
	Region string `json:"region"`
	ID     string `json:"id"` // the provider's own
	// Data is for the backend that made the Ref: what it needs to find or delete the
	// resource beyond the id.
	Data map[string]string `json:"data,omitempty"`
}

// Names of the tags that mark our resources. Their values are at most 63 characters of
// a-z, 0-9 and '-', so that they fit every provider's rules for tags and labels.
const (
	TagServer  = "dstack-server"  // server id: without it, a resource is foreign
	TagIntent  = "dstack-intent"  // ledger intent
	TagProject = "dstack-project" // project name
	TagFleet   = "dstack-fleet"   // fleet name
	TagName    = "dstack-name"    // instance name
)

// CreateRequest is everything that a provider needs to make one instance.
type CreateRequest struct {
	// Token is the client token, the same for each attempt of one intent: a UUID.
	Token string `json:"token"`
	// Rank is whose turn it is where requests have to wait.
	Rank
	// Name is unique per intent and at most 60 characters of a-z, 0-9 and '-', starting with
	// a letter. Backends without client tokens look for it before they create.
	Name    string `json:"name"`
	Project string `json:"project"`
	Fleet   string `json:"fleet"`

	Offer Offer  `json:"offer"`
	Zone  string `json:"zone,omitempty"` // "" leaves the choice to the backend

	// Tags go on every resource that is made; they hold those of this package and the user's.
	Tags map[string]string `json:"tags"`
	// SSHKeys are public keys that may log in as the user that the Instance names.
	SSHKeys []string `json:"ssh_keys"`
	// UserData is a cloud-init document to run at first boot, "" for none.
	UserData string `json:"user_data,omitempty"`
	DiskMiB  int    `json:"disk_mib,omitempty"` // 0: as the offer says

	Reservation string   `json:"reservation,omitempty"`
	Placement   *Ref     `json:"placement,omitempty"`  // group made by PlacementBackend
	Volumes     []Ref    `json:"volumes,omitempty"`    // to be attached at creation
	Container   *Contain `json:"container,omitempty"`  // for ContainerBackend only
	PublicIP    bool     `json:"public_ip,omitempty"`  // false: reachable in the private network only
	Privileged  bool     `json:"privileged,omitempty"` // containers will need it
}

// Rank orders requests that have to wait for each other as the queue orders who they are for: one that is
// repeated comes before the first of those behind it.
type Rank struct {
	Priority int       `json:"priority,omitempty"` // the highest is first
	Since    time.Time `json:"since,omitzero"`     // since when it is waited for, then the oldest
}

// Before says that a request has its turn before one of rank o.
func (r Rank) Before(o Rank) bool {
	return r.Priority > o.Priority || r.Priority == o.Priority && r.Since.Before(o.Since)
}

// Offer is the part of an offer that creating needs; see [offer.Offer].
type Offer = offer.Offer

// Contain is the container that a provider runs itself.
type Contain struct {
	Image    string            `json:"image"`
	Username string            `json:"username,omitempty"` // of the registry
	Password string            `json:"password,omitempty"`
	Command  []string          `json:"command"`
	Env      map[string]string `json:"env,omitempty"`
}

// State is what the provider says about an instance.
type State string

// The states. What exists at all costs money until the provider says StateGone or
// ErrNotFound.
const (
	StatePending  State = "pending"  // being made or booting
	StateRunning  State = "running"  // on; addresses are set
	StateDeleting State = "deleting" // deletion was asked for
	StateGone     State = "gone"     // still listed by the provider, but deleted and free
	StateFailed   State = "failed"   // will never run; has to be terminated
)

// Mark is what tells whose a resource is, as the provider shows it, never as it was asked for:
// the answer to a Create may name somebody else's.
type Mark struct {
	IntentID string `json:"intent_id,omitempty"` // value of TagIntent, "" when the provider lost it
	Name     string `json:"name,omitempty"`
}

// Of reports whether the resource is that of a request, by its tag, else by its name, which is
// as unique.
func (m Mark) Of(token, name string) bool {
	return m.IntentID == token && token != "" || m.IntentID == "" && m.Name == name && name != ""
}

// Instance is what a provider knows about one instance.
type Instance struct {
	Mark
	Ref   Ref   `json:"ref"`
	State State `json:"state"`
	// Message is the provider's explanation of the state, for people.
	Message string `json:"message,omitempty"`

	Hostname   string `json:"hostname,omitempty"` // public name or address; private without PublicIP
	InternalIP string `json:"internal_ip,omitempty"`
	SSHPort    int    `json:"ssh_port,omitempty"` // 0: 22
	Username   string `json:"username,omitempty"` // who SSHKeys log in as, sudo without password
	Jump       *Jump  `json:"jump,omitempty"`     // host to go through, nil for none
	Zone       string `json:"zone,omitempty"`
	// Socket is the path of the agent's Unix socket on this machine, for a backend that runs
	// the agent itself; SSH is not used then.
	Socket string `json:"socket,omitempty"`

	// Price is what it really costs, in US dollars per hour, 0: as offered.
	Price float64 `json:"price,omitempty"`
	// CreatedAt and GoneAt bound what is billed, zero where the provider does not say.
	CreatedAt time.Time `json:"created_at,omitzero"`
	GoneAt    time.Time `json:"gone_at,omitzero"`
}

// Ready reports whether the instance runs and can be connected to.
func (i Instance) Ready() bool {
	return i.State == StateRunning && (i.Hostname != "" || i.Socket != "")
}

// Equal says that both are the same to people: times are, however they are written.
func (i Instance) Equal(o Instance) bool {
	if !i.CreatedAt.Equal(o.CreatedAt) || !i.GoneAt.Equal(o.GoneAt) {
		return false
	}
	i.CreatedAt, i.GoneAt = o.CreatedAt, o.GoneAt
	return reflect.DeepEqual(i, o)
}

// Jump is an SSH server on the way to an instance.
type Jump struct {
	Hostname string `json:"hostname"`
	Port     int    `json:"port"`
	Username string `json:"username"`
}

// Owned is a resource found by the server's tag.
type Owned struct {
	Mark
	Kind      ResourceKind
	Ref       Ref
	State     State
	CreatedAt time.Time // zero where the provider does not say
	Price     float64   // US dollars per hour, 0 when not known
}
