package client

import (
	"context"

	"dstack/internal/api"
)

// GetRun returns a run by name or id.
func (c *Client) GetRun(ctx context.Context, project string, req api.GetRunRequest) (api.Run, error) {
	return answer[api.Run](ctx, c, in(project, "runs/get"), req)
}

// ListRuns returns a page of runs.
func (c *Client) ListRuns(ctx context.Context, req api.ListRunsRequest) ([]api.Run, error) {
	return answer[[]api.Run](ctx, c, "/api/runs/list", req)
}

// GetRunPlan returns what applying would do.
func (c *Client) GetRunPlan(ctx context.Context, project string, req RunPlanRequest) (api.RunPlan, error) {
	return answer[api.RunPlan](ctx, c, in(project, "runs/get_plan"), req)
}

// ApplyRunPlan submits a run or changes it in place.
func (c *Client) ApplyRunPlan(ctx context.Context, project string, req api.ApplyRunPlanRequest) (api.Run, error) {
	return answer[api.Run](ctx, c, in(project, "runs/apply"), req)
}

// StopRuns stops runs.
func (c *Client) StopRuns(ctx context.Context, project string, req api.StopRunsRequest) error {
	return c.post(ctx, in(project, "runs/stop"), req, nil)
}

// DeleteRuns deletes finished runs.
func (c *Client) DeleteRuns(ctx context.Context, project string, req api.DeleteRunsRequest) error {
	return c.post(ctx, in(project, "runs/delete"), req, nil)
}

// WatchRun answers when a run differs from what was seen, or after a while.
func (c *Client) WatchRun(ctx context.Context, project string, req api.WatchRunRequest) (api.WatchRunResponse, error) {
	return answer[api.WatchRunResponse](ctx, c, in(project, "runs/watch"), req)
}

// PollLogs returns a page of a log.
func (c *Client) PollLogs(ctx context.Context, project string, req api.PollLogsRequest) (api.JobSubmissionLogs, error) {
	return answer[api.JobSubmissionLogs](ctx, c, in(project, "logs/poll"), req)
}

// ListGpus returns kinds of GPUs that could be had.
func (c *Client) ListGpus(ctx context.Context, project string, req GpusRequest) (api.ListGpusResponse, error) {
	return answer[api.ListGpusResponse](ctx, c, in(project, "gpus/list"), req)
}
