package api

// Doctor is what costs money now and how sure the server is of it. The endpoint is an
// addition of ours.
type Doctor struct {
	Resources []DoctorResource `json:"resources"` // the most expensive first
	Accounts  []DoctorAccount  `json:"accounts"`
	// HourlyUSD is what all resources cost per hour, UnconfirmedUSD those of them that the
	// provider does not confirm.
	HourlyUSD      float64 `json:"hourly_usd"`
	UnconfirmedUSD float64 `json:"unconfirmed_usd"`
}

// DoctorResource is one thing that costs or may cost money.
type DoctorResource struct {
	Project string `json:"project"`
	Kind    string `json:"kind"` // instance, volume, …
	Name    string `json:"name"` // of the instance that it is for, "" when nobody knows
	Backend string `json:"backend"`
	Region  string `json:"region"`
	ID      string `json:"id"`      // the provider's, "" while not known
	State   string `json:"state"`   // of the ledger: intended, unknown, created, deleting
	Verdict string `json:"verdict"` // confirmed, expected, unconfirmed, broken, ending, unexplained
	// Debt says that it is unknown or cannot be deleted for longer than normal.
	Debt      bool    `json:"debt"`
	HourlyUSD float64 `json:"hourly_usd"`
	CostUSD   float64 `json:"cost_usd"` // so far
	Since     Time    `json:"since"`
	Message   string  `json:"message"` // what the provider last said
	// Intent is the ledger's id of it, "" of what is unexplained. Forgettable says that nobody can be
	// asked about it, so that an administrator may give it up.
	Intent      string `json:"intent"`
	Forgettable bool   `json:"forgettable"`
}

// ForgetRequest names a resource that the server shall give up. The endpoint is an addition of ours.
type ForgetRequest struct {
	Intent string `json:"intent" cfg:"req"`
}

// DoctorAccount is one configured backend.
type DoctorAccount struct {
	Project string `json:"project"`
	Backend string `json:"backend"`
	Error   string `json:"error"` // "" when it answered
	// Unread is what of its answer could not be read, and may be something that costs money.
	Unread string `json:"unread,omitempty"`
}
