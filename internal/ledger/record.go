package ledger

import (
	"strings"
	"time"

	"dstack/internal/backend"
)

// State is how far an intent is.
type State string

// The states. All but Intended and Gone may cost money.
const (
	Intended State = "intended" // recorded, nothing was asked of the provider
	Unknown  State = "unknown"  // asked; the answer is not known
	Created  State = "created"  // exists
	Deleting State = "deleting" // deletion was or is about to be asked for
	Gone     State = "gone"     // the provider, or an administrator, says that it does not exist
)

// Outcome says why an intent is gone.
type Outcome string

// The outcomes. Those up to Lost mean that the resource never existed.
const (
	NoCapacity  Outcome = "no_capacity"
	NoQuota     Outcome = "no_quota"
	AuthFailed  Outcome = "auth"
	Invalid     Outcome = "invalid"   // the provider will never accept the request
	Cancelled   Outcome = "cancelled" // released before anything was asked for
	RateLimited Outcome = "rate_limited"
	NoPlacement Outcome = "no_placement" // it cannot be where its cluster is
	TooDear     Outcome = "too_dear"     // its price rose above what may be paid, before it was asked for
	Lost        Outcome = "lost"         // asked for, never answered, never found
	Vanished    Outcome = "vanished"     // ended without us: preempted, or deleted by somebody
	Deleted     Outcome = "deleted"      // because we asked
	Forgotten   Outcome = "forgotten"    // an administrator says that it does not exist any more
)

// Record is an intent with all that is known about its resource.
type Record struct {
	ID      string
	Version int64

	Kind               backend.ResourceKind
	Backend            string
	Region             string
	ProjectID          string
	OwnerKind, OwnerID string

	State  State
	Wanted bool
	Price  float64 // US dollars per hour, now
	// CreatedAt is when the intent was recorded; BilledFrom and BilledTo bound what is paid
	// for, zero while unknown.
	CreatedAt, BilledFrom, BilledTo time.Time
	// Earlier are the prices before, oldest first.
	Earlier Prices

	// GroupID is the intent of the placement group that an instance joins, "" for none.
	GroupID string

	Doc Doc

	checkAt  time.Time
	memberAt time.Time // of a group: when somebody last joined or left it
	idle     bool
	healed   bool // see heal
	// Filled in by load.
	group   *Record // that an instance which was not asked for joins; nil for none
	members int     // of a group
}

// Doc is the part of a record that no query looks into.
type Doc struct {
	Create *backend.CreateRequest `json:"create,omitempty"`
	Volume *backend.VolumeRequest `json:"volume,omitempty"`
	// Placement describes a group, Cluster whose group an instance has to be in where its
	// backend has groups.
	Placement *backend.PlacementRequest `json:"placement,omitempty"`
	Cluster   string                    `json:"cluster,omitempty"`
	// MaxPrice is what an instance may cost when it is asked for, in US dollars per hour; nil: anything.
	MaxPrice *float64 `json:"max_price,omitempty"`

	// Accounts are those that asked for the resource or have shown it ([backend.AccountOf]), the
	// latest last: more than one when credentials were changed within one account.
	Accounts []string `json:"accounts,omitempty"`

	// Instance is the provider's latest answer; Ref is set once the resource is known, or named by
	// the answer to Create.
	Instance backend.Instance `json:"instance"`
	Outcome  Outcome          `json:"outcome,omitempty"` // when Gone
	// Message is the latest error or the provider's explanation, for people.
	Message string `json:"message,omitempty"`

	AskedAt     time.Time `json:"asked_at,omitzero"`     // begin of the last Create
	TriedAt     time.Time `json:"tried_at,omitzero"`     // last Create: its begin, then its end
	Tries       int       `json:"tries,omitempty"`       // of the present state's call, for back-off
	SeenAt      time.Time `json:"seen_at,omitzero"`      // Describe or List last showed it, as ours
	Proof       string    `json:"proof,omitempty"`       // which one that was, see [Record.shown]
	DescribedAt time.Time `json:"described_at,omitzero"` // last answer of Describe
	AstrayAt    time.Time `json:"astray_at,omitzero"`    // when the present credentials first did not know it
	MissingAt   time.Time `json:"missing_at,omitzero"`   // first of the present run of "not found"
	DeletingAt  time.Time `json:"deleting_at,omitzero"`  // when deletion was first due
	Taken       bool      `json:"taken,omitempty"`       // the provider took a request to delete it
	Priced      bool      `json:"priced,omitempty"`      // the provider has said what it costs
	GoneAt      time.Time `json:"gone_at,omitzero"`

	// Damage is why this is a stand-in for what is stored, "" when it is not.
	Damage string `json:"-"`
}

// Refused reports whether the resource never existed.
func (r Record) Refused() bool {
	return r.State == Gone && r.BilledFrom.IsZero()
}

// Instance is the provider's latest answer about the resource.
func (r Record) Instance() backend.Instance { return r.Doc.Instance }

// Message is the latest error or explanation, for people.
func (r Record) Message() string { return r.Doc.Message }

// maxName is what all providers allow in a name, in bytes.
const maxName = 60

// resourceName makes a provider-side name: dstack-<project>-<name>-<8 of the id>, with the
// middle cut to fit and everything but a-z, 0-9 and '-' dropped.
func resourceName(project, name, id string) string {
	head := "dstack"
	for _, part := range []string{project, name} {
		if part = plain(part); part != "" {
			head += "-" + part
		}
	}
	tail := "-" + id[:8]
	if len(head) > maxName-len(tail) {
		head = strings.TrimRight(head[:maxName-len(tail)], "-")
	}
	return head + tail
}

func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r == '_', r == '.', r == ' ':
			return '-'
		}
		return -1
	}, strings.ToLower(s))
	return strings.Trim(s, "-")
}
