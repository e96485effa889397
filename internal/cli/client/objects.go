package client

import (
	"context"

	"dstack/internal/api"
)

// ListProjectFleets returns the fleets of a project.
func (c *Client) ListProjectFleets(ctx context.Context, project string, req api.ListProjectFleetsRequest) ([]api.Fleet, error) {
	return answer[[]api.Fleet](ctx, c, in(project, "fleets/list"), req)
}

// GetFleet returns a fleet by name or id.
func (c *Client) GetFleet(ctx context.Context, project string, req api.GetFleetRequest) (api.Fleet, error) {
	return answer[api.Fleet](ctx, c, in(project, "fleets/get"), req)
}

// Costs returns what was paid for, which published servers do not tell: see program.NotServed.
func (c *Client) Costs(ctx context.Context, req api.CostsRequest) (api.Costs, error) {
	return answer[api.Costs](ctx, c, "/api/costs/get", req)
}

// GetFleetPlan returns what applying would do.
func (c *Client) GetFleetPlan(ctx context.Context, project string, req api.GetFleetPlanRequest) (api.FleetPlan, error) {
	return answer[api.FleetPlan](ctx, c, in(project, "fleets/get_plan"), req)
}

// ApplyFleetPlan creates a fleet or changes it in place.
func (c *Client) ApplyFleetPlan(ctx context.Context, project string, req api.ApplyFleetPlanRequest) (api.Fleet, error) {
	return answer[api.Fleet](ctx, c, in(project, "fleets/apply"), req)
}

// DeleteFleets deletes fleets.
func (c *Client) DeleteFleets(ctx context.Context, project string, req api.DeleteFleetsRequest) error {
	return c.post(ctx, in(project, "fleets/delete"), req, nil)
}

// DeleteFleetInstances deletes some instances of a fleet.
func (c *Client) DeleteFleetInstances(ctx context.Context, project string, req api.DeleteFleetInstancesRequest) error {
	return c.post(ctx, in(project, "fleets/delete_instances"), req, nil)
}

// ListVolumes returns the volumes of a project.
func (c *Client) ListVolumes(ctx context.Context, project string) ([]api.Volume, error) {
	return answer[[]api.Volume](ctx, c, in(project, "volumes/list"), nil)
}

// GetVolume returns a volume.
func (c *Client) GetVolume(ctx context.Context, project string, req api.NameRequest) (api.Volume, error) {
	return answer[api.Volume](ctx, c, in(project, "volumes/get"), req)
}

// CreateVolume creates a volume.
func (c *Client) CreateVolume(ctx context.Context, project string, req api.CreateVolumeRequest) (api.Volume, error) {
	return answer[api.Volume](ctx, c, in(project, "volumes/create"), req)
}

// DeleteVolumes deletes volumes.
func (c *Client) DeleteVolumes(ctx context.Context, project string, req api.NamesRequest) error {
	return c.post(ctx, in(project, "volumes/delete"), req, nil)
}

// ListGateways returns the gateways of a project, and those imported.
func (c *Client) ListGateways(ctx context.Context, project string, req api.ListGatewaysRequest) ([]api.Gateway, error) {
	return answer[[]api.Gateway](ctx, c, in(project, "gateways/list"), req)
}

// GetGateway returns a gateway.
func (c *Client) GetGateway(ctx context.Context, project string, req api.NameRequest) (api.Gateway, error) {
	return answer[api.Gateway](ctx, c, in(project, "gateways/get"), req)
}

// GetGatewayPlan returns what applying would do.
func (c *Client) GetGatewayPlan(ctx context.Context, project string, req api.GetGatewayPlanRequest) (api.GatewayPlan, error) {
	return answer[api.GatewayPlan](ctx, c, in(project, "gateways/get_plan"), req)
}

// ApplyGatewayPlan creates a gateway or changes it in place.
func (c *Client) ApplyGatewayPlan(ctx context.Context, project string, req api.ApplyGatewayPlanRequest) (api.Gateway, error) {
	return answer[api.Gateway](ctx, c, in(project, "gateways/apply"), req)
}

// DeleteGateways deletes gateways.
func (c *Client) DeleteGateways(ctx context.Context, project string, req api.NamesRequest) error {
	return c.post(ctx, in(project, "gateways/delete"), req, nil)
}

// SetDefaultGateway makes a gateway the default.
func (c *Client) SetDefaultGateway(ctx context.Context, project string, req api.SetDefaultGatewayRequest) error {
	return c.post(ctx, in(project, "gateways/set_default"), req, nil)
}

// SetWildcardDomain sets the domain of a gateway.
func (c *Client) SetWildcardDomain(ctx context.Context, project string, req api.SetWildcardDomainRequest) (api.Gateway, error) {
	return answer[api.Gateway](ctx, c, in(project, "gateways/set_wildcard_domain"), req)
}

// ListSecrets returns the secrets without their values.
func (c *Client) ListSecrets(ctx context.Context, project string) ([]api.Secret, error) {
	return answer[[]api.Secret](ctx, c, in(project, "secrets/list"), nil)
}

// GetSecret returns a secret with its value.
func (c *Client) GetSecret(ctx context.Context, project string, req api.GetSecretRequest) (api.Secret, error) {
	return answer[api.Secret](ctx, c, in(project, "secrets/get"), req)
}

// SetSecret creates or replaces a secret.
func (c *Client) SetSecret(ctx context.Context, project string, req api.SetSecretRequest) (api.Secret, error) {
	return answer[api.Secret](ctx, c, in(project, "secrets/create_or_update"), req)
}

// DeleteSecrets deletes secrets.
func (c *Client) DeleteSecrets(ctx context.Context, project string, req api.DeleteSecretsRequest) error {
	return c.post(ctx, in(project, "secrets/delete"), req, nil)
}

// ListExports returns what the project shares.
func (c *Client) ListExports(ctx context.Context, project string) ([]api.Export, error) {
	var list warned[api.Export]
	err := c.post(ctx, in(project, "exports/list"), nil, &list)
	return list.items, err
}

// CreateExport shares fleets and gateways with other projects.
func (c *Client) CreateExport(ctx context.Context, project string, req api.CreateExportRequest) (api.Export, error) {
	return answer[api.Export](ctx, c, in(project, "exports/create"), req)
}

// UpdateExport changes what is shared.
func (c *Client) UpdateExport(ctx context.Context, project string, req api.UpdateExportRequest) (api.Export, error) {
	return answer[api.Export](ctx, c, in(project, "exports/update"), req)
}

// DeleteExport shares no longer.
func (c *Client) DeleteExport(ctx context.Context, project string, req api.NameRequest) error {
	return c.post(ctx, in(project, "exports/delete"), req, nil)
}

// ListImports returns what other projects share with this one.
func (c *Client) ListImports(ctx context.Context, project string) ([]api.Import, error) {
	var list warned[api.Import]
	err := c.post(ctx, in(project, "imports/list"), nil, &list)
	return list.items, err
}

// DeleteImport gives an import back.
func (c *Client) DeleteImport(ctx context.Context, project string, req api.DeleteImportRequest) error {
	return c.post(ctx, in(project, "imports/delete"), req, nil)
}

// ListEvents returns a page of events.
func (c *Client) ListEvents(ctx context.Context, req api.ListEventsRequest) ([]api.Event, error) {
	return answer[[]api.Event](ctx, c, "/api/events/list", req)
}
