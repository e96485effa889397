package config

import (
	"encoding/json"
	"reflect"
)

// Volume is a network disk; which fields count depends on the backend.
type Volume struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend"`
	Name                *string       `json:"name"`
	Size                *Memory       `json:"size"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags"`
	VolumeID            *string       `json:"volume_id"`
	Region              string        `json:"region"`
	AvailabilityZone    *string       `json:"availability_zone"`
	ClaimName           *string       `json:"claim_name"`
	StorageClassName    *string       `json:"storage_class_name"`
	AccessModes         []string      `json:"access_modes"`
	ReadOnly            bool          `json:"read_only"`
}

type volumeBase struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend" cfg:"req"`
	Name                *string       `json:"name"`
	Size                *Memory       `json:"size"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags" cfg:"opt"`
}

type volumeZoned struct {
	volumeBase
	VolumeID         *string `json:"volume_id"`
	Region           string  `json:"region" cfg:"req"`
	AvailabilityZone *string `json:"availability_zone"`
}

type volumeRunpod struct {
	volumeBase
	VolumeID *string `json:"volume_id"`
	Region   string  `json:"region" cfg:"req"`
}

// volumeUnsized is of backends whose volumes have neither a size nor a place.
type volumeUnsized struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend" cfg:"req"`
	Name                *string       `json:"name"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags" cfg:"opt"`
	VolumeID            *string       `json:"volume_id"`
}

type volumeKubernetes struct {
	volumeBase
	Region           string   `json:"region"`
	ClaimName        *string  `json:"claim_name"`
	StorageClassName *string  `json:"storage_class_name"`
	AccessModes      []string `json:"access_modes"`
	ReadOnly         bool     `json:"read_only"`
}

func (v Volume) base() volumeBase {
	return volumeBase{TypeVolume, v.Backend, v.Name, v.Size, v.AutoCleanupDuration, v.Tags}
}

// MarshalJSON writes the fields of the volume's backend.
func (v Volume) MarshalJSON() ([]byte, error) {
	switch v.Backend {
	case "kubernetes":
		return json.Marshal(volumeKubernetes{v.base(), v.Region, v.ClaimName, v.StorageClassName, v.AccessModes, v.ReadOnly})
	case "daytona", "lium":
		return json.Marshal(volumeUnsized{TypeVolume, v.Backend, v.Name, v.AutoCleanupDuration, v.Tags, v.VolumeID})
	case "runpod":
		return json.Marshal(volumeRunpod{v.base(), v.VolumeID, v.Region})
	}
	return json.Marshal(volumeZoned{v.base(), v.VolumeID, v.Region, v.AvailabilityZone})
}

// UnmarshalJSON reads a stored volume.
func (v *Volume) UnmarshalJSON(data []byte) error { return decodeStored(data, v) }

func (v *Volume) decodeNode(d *decoder, n *node, loc []any) {
	if n.get("backend") == nil && n.kind == mapKind {
		d.add(n, at(loc, "backend"), "missing", "Field required")
		return
	}
	backend, ok := d.tag(n, loc, "backend", "aws", "gcp", "runpod", "kubernetes", "daytona", "lium")
	if !ok {
		return
	}
	loc = at(loc, backend)
	before := len(d.problems)
	switch backend {
	case "kubernetes":
		p := volumeKubernetes{AccessModes: []string{"ReadWriteOnce"}}
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = fromBase(p.volumeBase)
		v.Region, v.ClaimName, v.StorageClassName, v.AccessModes, v.ReadOnly = p.Region, p.ClaimName, p.StorageClassName, p.AccessModes, p.ReadOnly
	case "daytona", "lium":
		var p volumeUnsized
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = Volume{Name: p.Name, AutoCleanupDuration: p.AutoCleanupDuration, Tags: p.Tags, VolumeID: p.VolumeID}
	default: // Runpod accepts a zone and drops it
		var p volumeZoned
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = fromBase(p.volumeBase)
		v.VolumeID, v.Region, v.AvailabilityZone = p.VolumeID, p.Region, p.AvailabilityZone
		if backend == "runpod" {
			v.AvailabilityZone = nil
		}
	}
	if len(d.problems) > before {
		return
	}
	v.Type, v.Backend = TypeVolume, backend
	if off := n.get("auto_cleanup_duration"); off != nil && off.isTrue() {
		v.AutoCleanupDuration = nil
	}
}

func fromBase(b volumeBase) Volume {
	return Volume{Type: b.Type, Name: b.Name, Size: b.Size, AutoCleanupDuration: b.AutoCleanupDuration, Tags: b.Tags}
}
