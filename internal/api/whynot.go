package api

import "slices"

// PlanNotes are an addition of ours to plans: what the offers do not say.
type PlanNotes struct {
	// BackendProblems are backends that do not answer, or with errors.
	BackendProblems []BackendProblem `json:"backend_problems,omitempty"`
	// LoweredOffers are those of the plan that could not be had lately.
	LoweredOffers []LoweredOffer `json:"lowered_offers,omitempty"`
}

// A LoweredOffer could not be had lately and so comes after offers that cost more.
type LoweredOffer struct {
	Backend  BackendType `json:"backend"`
	Region   string      `json:"region"`
	Instance string      `json:"instance"`
	Spot     bool        `json:"spot"`
	// Penalty is how much later: the offer has the place of one whose price is higher by so
	// many times its own.
	Penalty float64 `json:"penalty"`
}

// WhyNot says why few offers fit.
type WhyNot struct {
	Considered int `json:"considered"` // instances and offers that there are
	Fit        int `json:"fit"`        // of them, and can be had now
	// Unavailable are those that fit and cannot be had now, most first.
	Unavailable []Unavailable `json:"unavailable,omitempty"`
	// Reasons are sentences about what no single offer is to blame for: there is no fleet, or
	// it and the run exclude each other.
	Reasons []string `json:"reasons,omitempty"`
	// Excluded are the requirements that exclude any, first the one without which most would
	// fit; 20 at most.
	Excluded []Exclusion `json:"excluded"`
}

// Worth is w where it says something, nil where more than so many fit or those that do are all
// that there are.
func (w WhyNot) Worth(few int) *WhyNot {
	if w.Reasons == nil && (w.Fit > few || len(w.Excluded) == 0 && (w.Fit > 0 || w.Unavailable == nil)) {
		return nil
	}
	return &w
}

// Unavailable counts what fits and cannot be had now, for one reason.
type Unavailable struct {
	Availability InstanceAvailability `json:"availability"`
	Count        int                  `json:"count"`
}

// An Exclusion says how much a requirement narrows what there is.
type Exclusion struct {
	Requirement string `json:"requirement"`     // as a path in YAML: "gpu.name"
	Fleet       string `json:"fleet,omitempty"` // the fleet whose setting it is, "" for the run's own
	Excludes    int    `json:"excludes"`        // instances and offers, alone or together with others
	// Alone counts those that can be had now and that nothing else excludes: they fit without
	// the requirement. It is 0 for "gpu": machines without any are no answer to who asks for
	// GPUs.
	Alone int `json:"alone"`
	// From is the lowest price of those, in US dollars per hour; nil when there are none.
	From *float64 `json:"from"`
	// Unavailable counts those that nothing else excludes but that cannot be had now.
	Unavailable int `json:"unavailable,omitempty"`
}

// A BackendProblem is a backend whose offers are missing or old.
type BackendProblem struct {
	Backend  BackendType `json:"backend"`
	Message  string      `json:"message"`
	OffersAt *Time       `json:"offers_at"` // when those were heard that stand
}

// Published is the plan as clients of the original know it.
func (p RunPlan) Published() any {
	p.PlanNotes, p.JobPlans = PlanNotes{}, slices.Clone(p.JobPlans)
	for i := range p.JobPlans {
		p.JobPlans[i].WhyNot = nil
	}
	return p
}

// Published is the plan as clients of the original know it.
func (p FleetPlan) Published() any {
	p.PlanNotes, p.WhyNot = PlanNotes{}, nil
	return p
}

// Published are the groups as clients of the original know them.
func (r ListGpusResponse) Published() any { return ListGpusResponse{Gpus: r.Gpus} }
