package client

import (
	"bytes"
	"encoding/json"

	"dstack/internal/api"
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

// warned is a list that some servers wrap in an object, together with warnings.
type warned[T any] struct{ items []T }

// UnmarshalJSON reads both forms.
func (l *warned[T]) UnmarshalJSON(data []byte) error {
	if !bytes.HasPrefix(data, []byte("{")) {
		return json.Unmarshal(data, &l.items)
	}
	var object struct{ Exports, Imports []T }
	if err := json.Unmarshal(data, &object); err != nil {
		return err
	}
	l.items = append(object.Exports, object.Imports...)
	return nil
}
