package scheduler

import (
	"time"
	"unique"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// A Gang is what is placed together or not at all: the waiting jobs of one replica.
type Gang struct {
	ID string
	// Key is equal for gangs that ask for the same: one that cannot be placed says the same
	// of those behind it, which makes a long queue of equal runs cheap. "" is unique.
	Key     string
	Jobs    []Want
	Profile config.ProfileParams
	// Fleets are the ids of the fleets that may serve the gang, nil for all.
	Fleets []string
	// Cluster asks for nodes that reach each other; set when the replica has several nodes.
	Cluster bool
	// Beside restricts a cluster to where the replica's other nodes are; the zero value for
	// none.
	Beside Site
	// Reuse allows no new instances.
	Reuse bool
	// BuyFrom is when new instances are allowed again of offers that were refused lately, if that is not
	// now: this gang was one of those that were refused.
	BuyFrom time.Time
	// Asks says of such a gang that its last refusal is a while ago: it may have new instances of other
	// offers, and asks with the first behind it that would have the same.
	Asks bool
	// AwaitsUntil says of one that was refused until when it may wait for a machine that boots instead of asking
	// for another; the zero value for never.
	AwaitsUntil time.Time
	// Patient gangs wait for their turn: what they could use is kept from those behind them.
	Patient bool
	// Open says that it is not known yet what backends offer that the gang may use: it is placed on
	// hosts that exist, or not yet.
	Open bool
	// Run is the name of the run, for what those behind it are told.
	Run string
}

// Want is what one job of a gang needs.
type Want struct {
	Job          string
	Requirements api.Requirements
}

// Site is a place whose instances reach each other.
type Site struct {
	Fleet, Backend, Region string
}

// Host is an instance that exists or comes to be.
type Host struct {
	ID    string
	Fleet string // id
	// Key is equal for hosts with the same Offer, Blocks and Zone, of which rules are asked
	// once; its zero value is like no other.
	Key unique.Handle[string]
	// Name, Hostnames (and addresses), and Num in its fleet are what people select it by.
	Name      string
	Hostnames []string
	Num       int
	Zone      string // "" when unknown
	// Offer is the whole instance with its price.
	Offer  api.InstanceOffer
	Blocks int // in how many parts it can be shared, ≥ 1
	Busy   int // of them
	Ready  bool
	// Out says that it is not ready because something is wrong: it does not answer, or its GPUs
	// have failed. Plans leave it out (lifecycle 7.6), while who waits for it may still get it.
	Out bool
	// UpBy says of one that boots by when it has booted, or never will.
	UpBy time.Time
}

// Fleet is a group of hosts with limits for new ones.
type Fleet struct {
	ID, Name, Project string
	Cluster           bool
	// Hosts says that the instances are the user's own: no new ones.
	Hosts bool
	// Room is how many instances may be added, -1 without limit.
	Room int
	// At is where its cluster is, the zero value while that is nowhere: new instances are made there.
	At  Site
	Ask Ask
}

// Supply is everything that gangs can be placed on.
type Supply struct {
	Fleets []Fleet // in the order in which ties are decided
	Hosts  []*Host // by fleet and number; nobody changes them
	// Stock is that of Hosts; nil has it made.
	Stock *Stock
	// Coming are machines that boot and are kept for those who wait, as they will be; by fleet and number.
	Coming []*Host
	// Offers are what backends could provide, in the order of [Sort].
	Offers []api.InstanceOffer
	// Index is that of Offers; nil has it made.
	Index *Index
	// Refused says which of them could not be had lately; nil for none.
	Refused func(offer.Key) bool
	// Again is how many of such an offer were given since it was last refused, and last asked for: gangs that
	// were refused ask for no more than that, one after the other; nil: for none.
	Again func(offer.Key) int
	// Backends is how many there are that could provide any.
	Backends int
	// Silent are those that do not say what they offer.
	Silent []Silence
}

// A Silence is a backend that does not say what it offers, with a sentence for people.
type Silence struct{ Backend, Text string }

// A Node is one job's place: Blocks of a host, or a new instance of an offer.
type Node struct {
	Job    string
	Host   string // "": a new instance
	Blocks int
	// Offer is the share of the host, or what to create.
	Offer api.InstanceOffer
	// Ask is the combined wish of fleet and run, for a new instance whose first offer fails.
	Ask Ask
}

// Verdict is what becomes of one gang.
type Verdict struct {
	Gang  string
	Fleet string
	Nodes []Node // in the order of the jobs; nil when it is not placed
	// Why tells people what is missing; NoFleet that no fleet could ever serve the gang.
	Why     string
	NoFleet bool
	// Later says that hosts which exist would do if they were free, Open that nothing is decided.
	Later, Open bool
	// Grows says of one that comes later that a new instance would do as well, if somebody offered it.
	Grows bool
	// Awaits are the places on machines that boot which a gang waits for rather than asking for new ones, nil when
	// it waits for none; UpBy is by when they are there, or never will be.
	Awaits []Node
	UpBy   time.Time
	// Reasons are the sentences of Why, but for what may help.
	Reasons []string
}

// indexed is a supply with the index of its offers.
func (s Supply) indexed() Supply {
	if s.Index == nil {
		s.Index = NewIndex(s.Offers)
	}
	return s
}

// stocked is a supply with the stock of its hosts.
func (s Supply) stocked() Supply {
	if s.Stock == nil {
		s.Stock = NewStock(s.Hosts)
	}
	return s
}
