package client

import (
	"context"
	"net/url"

	"dstack/internal/api"
)

// ListProjectFleets returns the fleets of a project.
func (c *Client) ListProjectFleets(ctx context.Context, project string, req api.ListProjectFleetsRequest) (out []api.Fleet, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/list", req, &out)
	return out, err
}

// GetFleet returns a fleet by name or id.
func (c *Client) GetFleet(ctx context.Context, project string, req api.GetFleetRequest) (out api.Fleet, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/get", req, &out)
	return out, err
}

// Costs returns what was paid for, which published servers do not tell: see program.NotServed.
func (c *Client) Costs(ctx context.Context, req api.CostsRequest) (out api.Costs, err error) {
	err = c.post(ctx, "/api/costs/get", req, &out)
	return out, err
}

// GetFleetPlan returns what applying would do.
func (c *Client) GetFleetPlan(ctx context.Context, project string, req api.GetFleetPlanRequest) (out api.FleetPlan, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/get_plan", req, &out)
	return out, err
}

// ApplyFleetPlan creates a fleet or changes it in place.
func (c *Client) ApplyFleetPlan(ctx context.Context, project string, req api.ApplyFleetPlanRequest) (out api.Fleet, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/apply", req, &out)
	return out, err
}

// DeleteFleets deletes fleets.
func (c *Client) DeleteFleets(ctx context.Context, project string, req api.DeleteFleetsRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/delete", req, nil)
}

// DeleteFleetInstances deletes some instances of a fleet.
func (c *Client) DeleteFleetInstances(ctx context.Context, project string, req api.DeleteFleetInstancesRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/fleets/delete_instances", req, nil)
}

// ListVolumes returns the volumes of a project.
func (c *Client) ListVolumes(ctx context.Context, project string) (out []api.Volume, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/volumes/list", nil, &out)
	return out, err
}

// GetVolume returns a volume.
func (c *Client) GetVolume(ctx context.Context, project string, req api.NameRequest) (out api.Volume, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/volumes/get", req, &out)
	return out, err
}

// CreateVolume creates a volume.
func (c *Client) CreateVolume(ctx context.Context, project string, req api.CreateVolumeRequest) (out api.Volume, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/volumes/create", req, &out)
	return out, err
}

// DeleteVolumes deletes volumes.
func (c *Client) DeleteVolumes(ctx context.Context, project string, req api.NamesRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/volumes/delete", req, nil)
}

// ListGateways returns the gateways of a project, and those imported.
func (c *Client) ListGateways(ctx context.Context, project string, req api.ListGatewaysRequest) (out []api.Gateway, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/list", req, &out)
	return out, err
}

// GetGateway returns a gateway.
func (c *Client) GetGateway(ctx context.Context, project string, req api.NameRequest) (out api.Gateway, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/get", req, &out)
	return out, err
}

// GetGatewayPlan returns what applying would do.
func (c *Client) GetGatewayPlan(ctx context.Context, project string, req api.GetGatewayPlanRequest) (out api.GatewayPlan, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/get_plan", req, &out)
	return out, err
}

// ApplyGatewayPlan creates a gateway or changes it in place.
func (c *Client) ApplyGatewayPlan(ctx context.Context, project string, req api.ApplyGatewayPlanRequest) (out api.Gateway, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/apply", req, &out)
	return out, err
}

// DeleteGateways deletes gateways.
func (c *Client) DeleteGateways(ctx context.Context, project string, req api.NamesRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/delete", req, nil)
}

// SetDefaultGateway makes a gateway the default.
func (c *Client) SetDefaultGateway(ctx context.Context, project string, req api.SetDefaultGatewayRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/set_default", req, nil)
}

// SetWildcardDomain sets the domain of a gateway.
func (c *Client) SetWildcardDomain(ctx context.Context, project string, req api.SetWildcardDomainRequest) (out api.Gateway, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gateways/set_wildcard_domain", req, &out)
	return out, err
}

// ListSecrets returns the secrets without their values.
func (c *Client) ListSecrets(ctx context.Context, project string) (out []api.Secret, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/secrets/list", nil, &out)
	return out, err
}

// GetSecret returns a secret with its value.
func (c *Client) GetSecret(ctx context.Context, project string, req api.GetSecretRequest) (out api.Secret, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/secrets/get", req, &out)
	return out, err
}

// SetSecret creates or replaces a secret.
func (c *Client) SetSecret(ctx context.Context, project string, req api.SetSecretRequest) (out api.Secret, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/secrets/create_or_update", req, &out)
	return out, err
}

// DeleteSecrets deletes secrets.
func (c *Client) DeleteSecrets(ctx context.Context, project string, req api.DeleteSecretsRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/secrets/delete", req, nil)
}

// ListExports returns what the project shares.
func (c *Client) ListExports(ctx context.Context, project string) ([]api.Export, error) {
	var list warned[api.Export]
	err := c.post(ctx, "/api/project/"+url.PathEscape(project)+"/exports/list", nil, &list)
	return list.items, err
}

// CreateExport shares fleets and gateways with other projects.
func (c *Client) CreateExport(ctx context.Context, project string, req api.CreateExportRequest) (out api.Export, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/exports/create", req, &out)
	return out, err
}

// UpdateExport changes what is shared.
func (c *Client) UpdateExport(ctx context.Context, project string, req api.UpdateExportRequest) (out api.Export, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/exports/update", req, &out)
	return out, err
}

// DeleteExport shares no longer.
func (c *Client) DeleteExport(ctx context.Context, project string, req api.NameRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/exports/delete", req, nil)
}

// ListImports returns what other projects share with this one.
func (c *Client) ListImports(ctx context.Context, project string) ([]api.Import, error) {
	var list warned[api.Import]
	err := c.post(ctx, "/api/project/"+url.PathEscape(project)+"/imports/list", nil, &list)
	return list.items, err
}

// DeleteImport gives an import back.
func (c *Client) DeleteImport(ctx context.Context, project string, req api.DeleteImportRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/imports/delete", req, nil)
}

// ListEvents returns a page of events.
func (c *Client) ListEvents(ctx context.Context, req api.ListEventsRequest) (out []api.Event, err error) {
	err = c.post(ctx, "/api/events/list", req, &out)
	return out, err
}
