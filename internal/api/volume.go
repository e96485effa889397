package api

import (
	"encoding/json"

	"dstack/internal/config"
)

// Volume is a network disk.
type Volume struct {
	ID               string                  `json:"id"`
	Name             string                  `json:"name"`
	User             string                  `json:"user"`
	ProjectName      string                  `json:"project_name"`
	Configuration    config.Volume           `json:"configuration"`
	External         bool                    `json:"external"` // registered, not made by the server
	CreatedAt        Time                    `json:"created_at"`
	LastProcessedAt  Time                    `json:"last_processed_at"`
	Status           VolumeStatus            `json:"status"`
	StatusMessage    *string                 `json:"status_message"`
	Deleted          bool                    `json:"deleted"`
	DeletedAt        *Time                   `json:"deleted_at"`
	VolumeID         *string                 `json:"volume_id"` // the provider's
	ProvisioningData *VolumeProvisioningData `json:"provisioning_data"`
	Cost             float64                 `json:"cost"` // US dollars so far
	Attachments      []VolumeAttachment      `json:"attachments"`
	AttachmentData   json.RawMessage         `json:"attachment_data"` // always null: of old servers
}

// VolumeProvisioningData is what the backend says about a volume.
type VolumeProvisioningData struct {
	Backend          *string  `json:"backend"`
	VolumeID         string   `json:"volume_id"`
	SizeGB           int      `json:"size_gb"`
	AvailabilityZone *string  `json:"availability_zone"`
	Price            *float64 `json:"price"` // US dollars per month
	Attachable       bool     `json:"attachable"`
	Detachable       bool     `json:"detachable"`
	BackendData      *string  `json:"backend_data"`
}

// VolumeAttachment is an instance that has the volume.
type VolumeAttachment struct {
	Instance       VolumeInstance        `json:"instance"`
	AttachmentData *VolumeAttachmentData `json:"attachment_data"`
}

// VolumeInstance names an instance that has a volume.
type VolumeInstance struct {
	Name        string  `json:"name"`
	FleetName   *string `json:"fleet_name"`
	InstanceNum int     `json:"instance_num"`
	InstanceID  *string `json:"instance_id"` // the provider's
}

// VolumeAttachmentData is where an instance has a volume.
type VolumeAttachmentData struct {
	DeviceName *string `json:"device_name"`
}

// ListVolumesRequest pages through the volumes that the caller may see.
type ListVolumesRequest struct {
	ProjectName   *string `json:"project_name"`
	OnlyActive    bool    `json:"only_active"`
	PrevCreatedAt *Time   `json:"prev_created_at"`
	PrevID        *string `json:"prev_id" cfg:"uuid"`
	Limit         *int    `json:"limit" cfg:"min=0,max=100"`
	Ascending     bool    `json:"ascending"`
}

// CreateVolumeRequest creates a volume.
type CreateVolumeRequest struct {
	Configuration config.Volume `json:"configuration" cfg:"req"`
}

// NameRequest names one object.
type NameRequest struct {
	Name string `json:"name" cfg:"req"`
}

// NamesRequest names objects.
type NamesRequest struct {
	Names []string `json:"names" cfg:"req"`
}
