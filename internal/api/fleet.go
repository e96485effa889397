package api

import (
	"encoding/json"

	"dstack/internal/config"
)

// Fleet is a fleet with its instances.
type Fleet struct {
	ID            string      `json:"id"`
	Name          string      `json:"name"`
	ProjectName   string      `json:"project_name"`
	Spec          FleetSpec   `json:"spec"`
	CreatedAt     Time        `json:"created_at"`
	Status        FleetStatus `json:"status"`
	StatusMessage *string     `json:"status_message"`
	// MachineCost is an addition of ours: US dollars so far for all its machines, also those that are
	// gone. It is in answers about one fleet for which something was paid.
	MachineCost *float64   `json:"machine_cost,omitempty"`
	Instances   []Instance `json:"instances"` // at the end: lists are put together of such texts
}

// FleetSpec is what a user applies.
type FleetSpec struct {
	Configuration     config.Fleet   `json:"configuration" cfg:"req"`
	ConfigurationPath *string        `json:"configuration_path"`
	Profile           config.Profile `json:"profile" cfg:"req"`
	Autocreated       bool           `json:"autocreated"`
}

// Merged is the profile that counts.
func (s *FleetSpec) Merged() config.Profile {
	m := config.Merge(&s.Profile, s.Configuration.Params())
	if m.SpotPolicy == nil {
		policy := "on-demand"
		m.SpotPolicy = &policy
	}
	if m.Retry == nil {
		m.Retry = &config.RetryOption{}
	}
	return m
}

// FleetPlan is what apply would do.
type FleetPlan struct {
	ProjectName     string          `json:"project_name"`
	User            string          `json:"user"`
	Spec            FleetSpec       `json:"spec"`
	EffectiveSpec   *FleetSpec      `json:"effective_spec"`
	CurrentResource *Fleet          `json:"current_resource"`
	Offers          []InstanceOffer `json:"offers"`
	TotalOffers     int             `json:"total_offers"`
	MaxOfferPrice   *float64        `json:"max_offer_price"`
	Action          *ApplyAction    `json:"action"`
	// WhyNot is an addition of ours: what excludes the others, where few or none fit, or none
	// are listed.
	WhyNot *WhyNot `json:"why_not,omitempty"`
	PlanNotes
}

// Instance is one machine of a fleet.
type Instance struct {
	ID                       string         `json:"id"`
	ProjectName              string         `json:"project_name"`
	Backend                  *BackendType   `json:"backend"`
	InstanceType             *InstanceType  `json:"instance_type"`
	Name                     string         `json:"name"`
	FleetID                  *string        `json:"fleet_id"`
	FleetName                *string        `json:"fleet_name"`
	InstanceNum              int            `json:"instance_num"`
	JobName                  *string        `json:"job_name"`
	Hostname                 *string        `json:"hostname"`
	Status                   InstanceStatus `json:"status"`
	Unreachable              bool           `json:"unreachable"`
	HealthStatus             HealthStatus   `json:"health_status"`
	TerminationReason        *string        `json:"termination_reason"`
	TerminationReasonMessage *string        `json:"termination_reason_message"`
	Created                  Time           `json:"created"`
	FinishedAt               *Time          `json:"finished_at"`
	Region                   *string        `json:"region"`
	AvailabilityZone         *string        `json:"availability_zone"`
	Price                    *float64       `json:"price"`
	TotalBlocks              *int           `json:"total_blocks"`
	BusyBlocks               int            `json:"busy_blocks"`
	GPUDriver                *GPUDriverInfo `json:"gpu_driver"`
	// MachineCost is an addition of ours: US dollars so far, from the creation of its machine to the
	// confirmed end. It is in answers about one instance or fleet for which something was paid.
	MachineCost *float64 `json:"machine_cost,omitempty"`
}

// ListFleetsRequest pages through the fleets that the caller may see.
type ListFleetsRequest struct {
	ProjectName     *string `json:"project_name"`
	OnlyActive      bool    `json:"only_active"`
	IncludeImported bool    `json:"include_imported"`
	PrevCreatedAt   *Time   `json:"prev_created_at"`
	PrevID          *string `json:"prev_id" cfg:"uuid"`
	Limit           *int    `json:"limit" cfg:"min=0,max=100"`
	Ascending       bool    `json:"ascending"`
}

// ListProjectFleetsRequest lists the fleets of a project.
type ListProjectFleetsRequest struct {
	IncludeImported bool `json:"include_imported"`
}

// Optional says that the request may be sent without a body.
func (*ListProjectFleetsRequest) Optional() {}

// GetFleetRequest names a fleet by name or id.
type GetFleetRequest struct {
	Name *string `json:"name"`
	ID   *string `json:"id" cfg:"uuid"`
}

// GetFleetPlanRequest asks for a plan.
type GetFleetPlanRequest struct {
	Spec FleetSpec `json:"spec" cfg:"req"`
}

// ApplyFleetPlanRequest creates or changes a fleet.
type ApplyFleetPlanRequest struct {
	Plan struct {
		Spec            FleetSpec       `json:"spec" cfg:"req"`
		CurrentResource json.RawMessage `json:"current_resource"`
	} `json:"plan" cfg:"req"`
	Force bool `json:"force" cfg:"req"`
}

// DeleteFleetsRequest deletes fleets by name.
type DeleteFleetsRequest struct {
	Names []string `json:"names" cfg:"req"`
}

// DeleteFleetInstancesRequest removes single instances.
type DeleteFleetInstancesRequest struct {
	Name         string `json:"name" cfg:"req"`
	InstanceNums []int  `json:"instance_nums" cfg:"req"`
}

// ListInstancesRequest pages through instances.
type ListInstancesRequest struct {
	ProjectNames    []string `json:"project_names" cfg:"opt"`
	FleetIDs        []string `json:"fleet_ids" cfg:"opt,uuid"`
	OnlyActive      bool     `json:"only_active"`
	IncludeImported bool     `json:"include_imported"`
	PrevCreatedAt   *Time    `json:"prev_created_at"`
	PrevID          *string  `json:"prev_id" cfg:"uuid"`
	Limit           *int     `json:"limit" cfg:"min=0"`
	Ascending       bool     `json:"ascending"`
}

// GetInstanceRequest names an instance by id.
type GetInstanceRequest struct {
	ID string `json:"id" cfg:"req,uuid"`
}

// HealthChecksRequest asks for the health checks of an instance, newest first; 1000 at most, however
// many are asked for.
type HealthChecksRequest struct {
	FleetName   string `json:"fleet_name" cfg:"req"`
	InstanceNum int    `json:"instance_num" cfg:"req"`
	After       *Time  `json:"after"`
	Before      *Time  `json:"before"`
	Limit       *int   `json:"limit" cfg:"min=0"`
}

// HealthChecks are the checks of an instance's accelerators.
type HealthChecks struct {
	HealthChecks []HealthCheck `json:"health_checks"`
}

// HealthCheck is one check and what it found.
type HealthCheck struct {
	CollectedAt Time          `json:"collected_at"`
	Status      HealthStatus  `json:"status"`
	Events      []HealthEvent `json:"events"`
}

// HealthEvent is one finding.
type HealthEvent struct {
	Timestamp Time         `json:"timestamp"`
	Status    HealthStatus `json:"status"`
	Message   string       `json:"message"`
}
