package client

import (
	"context"
	"net/url"

	"dstack/internal/api"
)

// GetRun returns a run by name or id.
func (c *Client) GetRun(ctx context.Context, project string, req api.GetRunRequest) (out api.Run, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/get", req, &out)
	return out, err
}

// ListRuns returns a page of runs.
func (c *Client) ListRuns(ctx context.Context, req api.ListRunsRequest) (out []api.Run, err error) {
	err = c.post(ctx, "/api/runs/list", req, &out)
	return out, err
}

// GetRunPlan returns what applying would do.
func (c *Client) GetRunPlan(ctx context.Context, project string, req RunPlanRequest) (out api.RunPlan, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/get_plan", req, &out)
	return out, err
}

// ApplyRunPlan submits a run or changes it in place.
func (c *Client) ApplyRunPlan(ctx context.Context, project string, req api.ApplyRunPlanRequest) (out api.Run, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/apply", req, &out)
	return out, err
}

// StopRuns stops runs.
func (c *Client) StopRuns(ctx context.Context, project string, req api.StopRunsRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/stop", req, nil)
}

// DeleteRuns deletes finished runs.
func (c *Client) DeleteRuns(ctx context.Context, project string, req api.DeleteRunsRequest) error {
	return c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/delete", req, nil)
}

// WatchRun answers when a run differs from what was seen, or after a while.
func (c *Client) WatchRun(ctx context.Context, project string, req api.WatchRunRequest) (out api.WatchRunResponse, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/runs/watch", req, &out)
	return out, err
}

// PollLogs returns a page of a log.
func (c *Client) PollLogs(ctx context.Context, project string, req api.PollLogsRequest) (out api.JobSubmissionLogs, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/logs/poll", req, &out)
	return out, err
}

// ListGpus returns kinds of GPUs that could be had.
func (c *Client) ListGpus(ctx context.Context, project string, req GpusRequest) (out api.ListGpusResponse, err error) {
	err = c.post(ctx, "/api/project/"+url.PathEscape(project)+"/gpus/list", req, &out)
	return out, err
}
