package api

import (
	"encoding/json"

	"dstack/internal/config"
)

// Gateway is a public entry for services.
type Gateway struct {
	ID             string           `json:"id"`
	Name           string           `json:"name"`
	ProjectName    string           `json:"project_name"`
	Configuration  config.Gateway   `json:"configuration"`
	CreatedAt      Time             `json:"created_at"`
	Status         GatewayStatus    `json:"status"`
	StatusMessage  *string          `json:"status_message"`
	Hostname       *string          `json:"hostname"` // of a load balancer
	WildcardDomain *string          `json:"wildcard_domain"`
	Default        bool             `json:"default"` // of the project that looks at it
	Replicas       []GatewayReplica `json:"replicas"`
	// The rest is for clients before 0.20.25.
	Backend    *string `json:"backend"`
	Region     *string `json:"region"`
	IPAddress  *string `json:"ip_address"`
	InstanceID *string `json:"instance_id"`
}

// GatewayReplica is one machine of a gateway.
type GatewayReplica struct {
	Hostname      *string              `json:"hostname"`
	ReplicaNum    int                  `json:"replica_num"`
	Backend       *string              `json:"backend"`
	Region        *string              `json:"region"`
	CreatedAt     Time                 `json:"created_at"`
	Status        GatewayReplicaStatus `json:"status"`
	StatusMessage *string              `json:"status_message"`
}

// GatewaySpec is what a user applies.
type GatewaySpec struct {
	Configuration     config.Gateway `json:"configuration" cfg:"req"`
	ConfigurationPath *string        `json:"configuration_path"`
}

// GatewayPlan is what apply would do.
type GatewayPlan struct {
	ProjectName     string       `json:"project_name"`
	User            string       `json:"user"`
	Spec            GatewaySpec  `json:"spec"`
	EffectiveSpec   *GatewaySpec `json:"effective_spec"`
	CurrentResource *Gateway     `json:"current_resource"`
	Action          ApplyAction  `json:"action"`
}

// GetGatewayPlanRequest asks for a plan.
type GetGatewayPlanRequest struct {
	Spec GatewaySpec `json:"spec" cfg:"req"`
}

// ApplyGatewayPlanRequest creates a gateway or changes one in place.
type ApplyGatewayPlanRequest struct {
	Plan struct {
		Spec            GatewaySpec     `json:"spec" cfg:"req"`
		CurrentResource json.RawMessage `json:"current_resource"`
	} `json:"plan" cfg:"req"`
	Force bool `json:"force" cfg:"req"`
}

// CreateGatewayRequest is how clients before plans create a gateway.
type CreateGatewayRequest struct {
	Configuration config.Gateway `json:"configuration" cfg:"req"`
}

// ListGatewaysRequest asks for gateways.
type ListGatewaysRequest struct {
	IncludeImported bool `json:"include_imported"`
}

// Optional says that the request may be sent without a body.
func (*ListGatewaysRequest) Optional() {}

// SetDefaultGatewayRequest chooses the default gateway; its project, if it is imported.
type SetDefaultGatewayRequest struct {
	Name           string  `json:"name" cfg:"req"`
	GatewayProject *string `json:"gateway_project"`
}

// SetWildcardDomainRequest sets the domain of a gateway, null for none.
type SetWildcardDomainRequest struct {
	Name           string  `json:"name" cfg:"req"`
	WildcardDomain *string `json:"wildcard_domain" cfg:"req"`
}
