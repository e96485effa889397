package api

// CostBy is what costs can be grouped by.
type CostBy string

// The groupings.
const (
	CostByProject  CostBy = "project"
	CostByFleet    CostBy = "fleet"
	CostByInstance CostBy = "instance"
	CostByBackend  CostBy = "backend"
	CostByRun      CostBy = "run"
	CostByUser     CostBy = "user"
	CostByDay      CostBy = "day"
)

// CostsRequest asks what was paid for in a period. The endpoint is an addition of ours.
type CostsRequest struct {
	// ProjectNames are the projects that pay, null for all that the caller may see, for administrators
	// also those that were deleted.
	ProjectNames []string `json:"project_names" cfg:"opt,minlen=1,maxlen=100"`
	// FleetNames leave out all that is not of fleets with these names, also deleted ones; null for
	// everything.
	FleetNames []string `json:"fleet_names" cfg:"opt,minlen=1,maxlen=100"`
	Since      *Time    `json:"since"` // null: the beginning
	Until      *Time    `json:"until"` // null: now, as is what lies ahead
	By         []CostBy `json:"by" cfg:"opt,maxlen=7,enum=project|fleet|instance|backend|run|user|day"`
}

// Costs are what was paid for in a period, in US dollars.
type Costs struct {
	Since *Time `json:"since"` // null: the beginning
	Until Time  `json:"until"`
	// Rows are in the order of the groupings that were asked for, names and days ascending.
	Rows []CostRow `json:"rows"`
	// The sums of the rows.
	CostSum
}

// CostSum is a sum of intervals in which machines and disks were paid for.
type CostSum struct {
	// Hours are those of machines; the share of one that is held in part counts in part.
	Hours   float64 `json:"hours"`
	CostUSD float64 `json:"cost_usd"`
	// HourlyUSD is what goes on being paid for costs now, an hour: at the end of the period.
	HourlyUSD float64 `json:"hourly_usd"`
	// UnconfirmedUSD is the part of CostUSD for what should be gone, or is not shown by its
	// provider, which has not confirmed its end: it counts until the end of the period.
	UnconfirmedUSD float64 `json:"unconfirmed_usd"`
}

// CostRow is one group. What is not asked for is null, and so is what there is not: the fleet of a
// disk, the run of an idle machine.
type CostRow struct {
	Project   *string `json:"project"`
	ProjectID *string `json:"project_id"`
	// ProjectDeleted and FleetDeleted say that these are gone: others may have their names.
	ProjectDeleted bool    `json:"project_deleted"`
	Kind           string  `json:"kind"` // instance, volume, …
	Fleet          *string `json:"fleet"`
	FleetID        *string `json:"fleet_id"`
	FleetDeleted   bool    `json:"fleet_deleted"`
	Instance       *string `json:"instance"`
	InstanceID     *string `json:"instance_id"`
	InstanceNum    *int    `json:"instance_num"`
	Backend        *string `json:"backend"`
	Run            *string `json:"run"`
	RunID          *string `json:"run_id"`
	User           *string `json:"user"` // whose run it is
	Day            *string `json:"day"`  // 2026-01-31, in UTC
	CostSum
}
