package client

import (
	"encoding/json"

	"dstack/internal/api"
	"dstack/internal/config"
)

// RunPlanRequest asks for a plan. Offers are cut down to what is asked for unless FullOffers is set.
type RunPlanRequest struct {
	api.GetRunPlanRequest
	FullOffers           bool `json:"full_offers,omitempty"`
	UnallocatedResources bool `json:"unallocated_resources,omitempty"`
}

// GpusRequest asks for kinds of GPUs.
type GpusRequest struct {
	api.ListGpusRequest
	FullOffers           bool `json:"full_offers,omitempty"`
	UnallocatedResources bool `json:"unallocated_resources,omitempty"`
}

// NameRequest names one object.
type NameRequest struct {
	Name string `json:"name"`
}

// NamesRequest names objects.
type NamesRequest struct {
	Names []string `json:"names"`
}

// Volume is a network disk.
type Volume struct {
	ID               string                  `json:"id"`
	Name             string                  `json:"name"`
	User             string                  `json:"user"`
	ProjectName      string                  `json:"project_name"`
	Configuration    config.Volume           `json:"configuration"`
	External         bool                    `json:"external"`
	CreatedAt        api.Time                `json:"created_at"`
	LastProcessedAt  api.Time                `json:"last_processed_at"`
	Status           string                  `json:"status"`
	StatusMessage    *string                 `json:"status_message"`
	Deleted          bool                    `json:"deleted"`
	DeletedAt        *api.Time               `json:"deleted_at"`
	VolumeID         *string                 `json:"volume_id"`
	ProvisioningData *VolumeProvisioningData `json:"provisioning_data"`
	Cost             float64                 `json:"cost"`
	Attachments      []VolumeAttachment      `json:"attachments"`
	AttachmentData   json.RawMessage         `json:"attachment_data"`
}

// VolumeProvisioningData is what the backend says about a volume.
type VolumeProvisioningData struct {
	Backend          *string  `json:"backend"`
	VolumeID         string   `json:"volume_id"`
	SizeGB           int      `json:"size_gb"`
	AvailabilityZone *string  `json:"availability_zone"`
	Price            *float64 `json:"price"`
	Attachable       bool     `json:"attachable"`
	Detachable       bool     `json:"detachable"`
	BackendData      *string  `json:"backend_data"`
}

// VolumeAttachment is an instance that has the volume.
type VolumeAttachment struct {
	Instance struct {
		Name        string  `json:"name"`
		FleetName   *string `json:"fleet_name"`
		InstanceNum int     `json:"instance_num"`
		InstanceID  *string `json:"instance_id"`
	} `json:"instance"`
	AttachmentData json.RawMessage `json:"attachment_data"`
}

// CreateVolumeRequest creates a volume.
type CreateVolumeRequest struct {
	Configuration config.Volume `json:"configuration"`
}

// Gateway is a public entry for services.
type Gateway struct {
	ID             string           `json:"id"`
	Name           string           `json:"name"`
	ProjectName    string           `json:"project_name"`
	Configuration  config.Gateway   `json:"configuration"`
	CreatedAt      api.Time         `json:"created_at"`
	Status         string           `json:"status"`
	StatusMessage  *string          `json:"status_message"`
	Hostname       *string          `json:"hostname"`
	WildcardDomain *string          `json:"wildcard_domain"`
	Default        bool             `json:"default"`
	Replicas       []GatewayReplica `json:"replicas"`
	Backend        *string          `json:"backend"`
	Region         *string          `json:"region"`
	IPAddress      *string          `json:"ip_address"`
	InstanceID     *string          `json:"instance_id"`
}

// GatewayReplica is one machine of a gateway.
type GatewayReplica struct {
	Hostname      *string  `json:"hostname"`
	ReplicaNum    int      `json:"replica_num"`
	Backend       *string  `json:"backend"`
	Region        *string  `json:"region"`
	CreatedAt     api.Time `json:"created_at"`
	Status        string   `json:"status"`
	StatusMessage *string  `json:"status_message"`
}

// GatewaySpec is what a user applies.
type GatewaySpec struct {
	Configuration     config.Gateway `json:"configuration"`
	ConfigurationPath *string        `json:"configuration_path"`
}

// GatewayPlan is what apply would do.
type GatewayPlan struct {
	ProjectName     string          `json:"project_name"`
	User            string          `json:"user"`
	Spec            GatewaySpec     `json:"spec"`
	EffectiveSpec   *GatewaySpec    `json:"effective_spec"`
	CurrentResource *Gateway        `json:"current_resource"`
	Action          api.ApplyAction `json:"action"`
}

// GatewayPlanRequest asks for a plan.
type GatewayPlanRequest struct {
	Spec GatewaySpec `json:"spec"`
}

// ApplyGatewayPlanRequest carries a plan out.
type ApplyGatewayPlanRequest struct {
	Plan struct {
		Spec            GatewaySpec `json:"spec"`
		CurrentResource *Gateway    `json:"current_resource"`
	} `json:"plan"`
	Force bool `json:"force"`
}

// ListGatewaysRequest asks for gateways.
type ListGatewaysRequest struct {
	IncludeImported bool `json:"include_imported"`
}

// SetDefaultGatewayRequest chooses the default gateway; its project, if it is imported.
type SetDefaultGatewayRequest struct {
	Name           string  `json:"name"`
	GatewayProject *string `json:"gateway_project"`
}

// SetWildcardDomainRequest sets the domain of a gateway.
type SetWildcardDomainRequest struct {
	Name           string `json:"name"`
	WildcardDomain string `json:"wildcard_domain"`
}

// A Named object is listed by name.
type Named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Export is what a project shares.
type Export struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	IsGlobal bool   `json:"is_global"`
	Imports  []struct {
		ProjectName string `json:"project_name"`
	} `json:"imports"`
	ExportedFleets   []Named `json:"exported_fleets"`
	ExportedGateways []Named `json:"exported_gateways"`
}

// Import is what another project shares with this one.
type Import struct {
	ID     string `json:"id"`
	Export struct {
		ID               string  `json:"id"`
		Name             string  `json:"name"`
		ProjectName      string  `json:"project_name"`
		ExportedFleets   []Named `json:"exported_fleets"`
		ExportedGateways []Named `json:"exported_gateways"`
	} `json:"export"`
}

// CreateExportRequest shares fleets and gateways.
type CreateExportRequest struct {
	Name             string   `json:"name"`
	IsGlobal         bool     `json:"is_global"`
	ImporterProjects []string `json:"importer_projects"`
	ExportedFleets   []string `json:"exported_fleets"`
	ExportedGateways []string `json:"exported_gateways"`
}

// UpdateExportRequest changes what is shared.
type UpdateExportRequest struct {
	Name                   string   `json:"name"`
	SetGlobal              bool     `json:"set_global"`
	UnsetGlobal            bool     `json:"unset_global"`
	AddImporterProjects    []string `json:"add_importer_projects"`
	RemoveImporterProjects []string `json:"remove_importer_projects"`
	AddExportedFleets      []string `json:"add_exported_fleets"`
	RemoveExportedFleets   []string `json:"remove_exported_fleets"`
	AddExportedGateways    []string `json:"add_exported_gateways"`
	RemoveExportedGateways []string `json:"remove_exported_gateways"`
}

// DeleteImportRequest names an import.
type DeleteImportRequest struct {
	ExportName        string `json:"export_name"`
	ExportProjectName string `json:"export_project_name"`
}

// AuthProvider is a way to log in.
type AuthProvider struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
}

// AuthorizeRequest begins to log in; the browser comes back to the local port.
type AuthorizeRequest struct {
	LocalPort int `json:"local_port"`
}

// AuthorizeResponse is where to send the browser.
type AuthorizeResponse struct {
	AuthorizationURL string `json:"authorization_url"`
}

// AuthCallbackRequest brings what the browser came back with.
type AuthCallbackRequest struct {
	Code  string `json:"code"`
	State string `json:"state"`
}
