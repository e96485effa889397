package backend

import (
	"context"
	"time"

	"dstack/internal/offer"
)

// The interfaces below are capabilities: a backend has one when it implements it. They are
// found by type assertion, so that they cannot be claimed without code.

// SettleBackend says how long after a Create without answer the instance may still turn up
// in List. Backends without it get [DefaultSettle].
type SettleBackend interface {
	Settle() time.Duration
}

// DefaultSettle is ample for the providers that were measured: their lists lag by seconds.
const DefaultSettle = 3 * time.Minute

// Settle is the settle time of b.
func Settle(b Backend) time.Duration {
	if s, ok := b.(SettleBackend); ok {
		return s.Settle()
	}
	return DefaultSettle
}

// CheckBackend can say whether the credentials work, before anything depends on them.
type CheckBackend interface {
	// Check returns ErrAuth, with an *InvalidError in its chain that names the field, an
	// *InvalidError, or nil. Any other error leaves it open.
	Check(ctx context.Context) error
}

// AccountBackend can say whose account its credentials belong to.
type AccountBackend interface {
	// Account is the same for backends of one account and another for those of another: the
	// account's id, or where the provider does not tell it a digest of the credentials. It reveals
	// no secret and calls nobody. That something is not found is evidence for one account only.
	Account() string
}

// AccountOf is the account of b, "" when it has no more than one.
func AccountOf(b Backend) string {
	if a, ok := b.(AccountBackend); ok {
		return a.Account()
	}
	return ""
}

// QueueBackend has Creates wait for their turn outside of the call, with a [RateLimitedError] that
// is Queued.
type QueueBackend interface {
	// Withdraw says that nobody will come back with a token, so that others get its turn. It
	// asks nothing of the provider, and does nothing about a token that does not wait.
	Withdraw(token string)
}

// TidyBackend makes things beside its instances that cost nothing but must not pile up: SSH
// keys, firewall groups.
type TidyBackend interface {
	// Tidy deletes those of this server that nothing uses any more. It is called after each
	// sweep, and never takes away what a Create under way depends on.
	Tidy(ctx context.Context, serverID string) error
}

// PrivilegedBackend can run privileged containers.
type PrivilegedBackend interface{ Privileged() }

// MultinodeBackend gives its instances of one region a network in which they reach each other.
type MultinodeBackend interface{ Multinode() }

// ReservationBackend creates instances in reservations: in [CreateRequest].Reservation, or not at
// all. Spot instances are never in one.
type ReservationBackend interface {
	// Reservation lists what a reservation has, by the name or id that users write, with parts
	// that are full. It is empty when the account can use none of that name, whyever: it is
	// malformed, not known, not active, somebody else's. An error leaves that open.
	Reservation(ctx context.Context, name string) ([]offer.Reserved, error)
}

// RankedBackend lists its offers best first, by what prices do not tell: a score, say. Offers of
// all backends that fit a question are merged by price such that those of a ranked one keep their
// order: one does not come before another that its backend ranks higher, though it costs less.
type RankedBackend interface{ Ranked() }

// ContainerBackend runs CreateRequest.Container instead of a machine.
type ContainerBackend interface{ Containers() }

// VolumeBackend makes network disks.
type VolumeBackend interface {
	// CreateVolume must be idempotent in req.Token, like Create.
	CreateVolume(ctx context.Context, req VolumeRequest) (Volume, error)
	// DescribeVolume returns ErrNotFound when the provider says that there is none.
	DescribeVolume(ctx context.Context, ref Ref) (Volume, error)
	DeleteVolume(ctx context.Context, ref Ref) error
	// AttachVolume returns the device name on the instance, "" when the agent has to find it.
	AttachVolume(ctx context.Context, volume, instance Ref) (device string, err error)
	// DetachVolume asks for it; done once DescribeVolume shows no attachment.
	DetachVolume(ctx context.Context, volume, instance Ref, force bool) error
}

// VolumeRequest describes a disk to be made.
type VolumeRequest struct {
	Token   string            `json:"token"`
	Name    string            `json:"name"`
	Region  string            `json:"region"`
	Zone    string            `json:"zone,omitempty"`
	SizeGiB int               `json:"size_gib"`
	Tags    map[string]string `json:"tags"`
}

// Volume is what a provider knows about a disk.
type Volume struct {
	Mark
	Ref        Ref       `json:"ref"`
	State      State     `json:"state"` // StateRunning: usable
	Zone       string    `json:"zone,omitempty"`
	SizeGiB    int       `json:"size_gib"`
	Price      float64   `json:"price,omitempty"` // US dollars per hour
	AttachedTo []Ref     `json:"attached_to,omitempty"`
	CreatedAt  time.Time `json:"created_at,omitzero"`
	GoneAt     time.Time `json:"gone_at,omitzero"`
}

// GatewayBackend makes instances that everybody reaches at the ports of gateways, 80 and 443.
type GatewayBackend interface{ Gateways() }

// PlacementBackend makes groups whose instances are close to each other. The ledger makes one
// for a fleet that is a cluster, in each region where it has instances, has every instance
// join it ([CreateRequest].Placement), and deletes it when the last one is gone. List shows
// groups too.
type PlacementBackend interface {
	// CreatePlacement must be idempotent in req.Token, like Create. An error for which [Refused]
	// is true excludes the offer.
	CreatePlacement(ctx context.Context, req PlacementRequest) (Placement, error)
	// DescribePlacement returns ErrNotFound when the provider says that there is none.
	DescribePlacement(ctx context.Context, ref Ref) (Placement, error)
	// DeletePlacement asks for deletion like Terminate. It returns ErrInUse, and does nothing,
	// while instances are in the group.
	DeletePlacement(ctx context.Context, ref Ref) error
	// Placeable reports whether instances of an offer can join a group; for the zero Ref,
	// whether there are groups for them at all. It calls nobody.
	Placeable(o Offer, group Ref) bool
	// PlacesReserved reports whether instances in reservations join groups too. Where not, the
	// reservation alone says how close they are.
	PlacesReserved() bool
}

// PlacementRequest describes a group to be made.
type PlacementRequest struct {
	Token  string            `json:"token"`
	Name   string            `json:"name"` // like [CreateRequest].Name
	Region string            `json:"region"`
	Offer  Offer             `json:"offer"` // of the first instance that will join
	Tags   map[string]string `json:"tags"`
}

// Placement is what a provider knows about a group. What is needed to tell whose instances can
// join (a zone, a kind of network) belongs into Ref.Data.
type Placement struct {
	Mark
	Ref       Ref       `json:"ref"`
	State     State     `json:"state"` // StateRunning: instances can join
	CreatedAt time.Time `json:"created_at,omitzero"`
	GoneAt    time.Time `json:"gone_at,omitzero"`
}
