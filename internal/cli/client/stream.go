package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"dstack/internal/api"
)

// maxLine bounds one piece of a stream, in bytes.
const maxLine = 16 << 20

// StreamLogs calls f with each piece of a log as it comes, until the server ends the stream, f fails, or ctx ends.
// Only a piece with End set says that the log is complete.
func (c *Client) StreamLogs(ctx context.Context, project string, req api.StreamLogsRequest, f func(api.LogChunk) error) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("prepare stream of logs: %w", err)
	}
	res, err := c.send(ctx, http.MethodPost, in(project, "logs/stream"), "application/json", body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // ends the stream
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		var chunk api.LogChunk
		if len(lines.Bytes()) == 0 { // keeps the connection alive
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &chunk); err != nil {
			return fmt.Errorf("the stream of logs makes no sense: %w", err)
		}
		if err := f(chunk); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return lines.Err()
}

// UploadArchive uploads a tar that the run spec refers to.
func (c *Client) UploadArchive(ctx context.Context, hash string, r io.Reader) (out api.FileArchive, err error) {
	err = c.upload(ctx, "/api/files/upload_archive", hash, r, &out)
	return out, err
}

// UploadCode uploads the changes of a repository that were not pushed.
func (c *Client) UploadCode(ctx context.Context, project, repoID, hash string, r io.Reader) error {
	path := "/api/project/" + url.PathEscape(project) + "/repos/upload_code?repo_id=" + url.QueryEscape(repoID)
	return c.upload(ctx, path, hash, r, nil)
}

// JobMetrics returns at most limit samples of each metric of a job, newest first.
func (c *Client) JobMetrics(ctx context.Context, project, run string, replica, job, limit int) (out api.JobMetrics, err error) {
	q := "?replica_num=" + strconv.Itoa(replica) + "&job_num=" + strconv.Itoa(job) + "&limit=" + strconv.Itoa(limit)
	path := "/api/project/" + url.PathEscape(project) + "/metrics/job/" + url.PathEscape(run) + q
	err = c.call(ctx, http.MethodGet, path, "", nil, &out)
	return out, err
}
