package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	// ServerSocket is where a job with [JobSpec.ServerAccess] finds the server's API in its
	// container, and ServerURL what a client of that API is told.
	ServerSocket = "/run/dstack/server.sock"
	ServerURL    = "http+unix://%2Frun%2Fdstack%2Fserver.sock"
	// MaxCalls bounds the connections that one job has to the server at a time.
	MaxCalls = 64
	// Joined is the protocol that [Client.Accept] switches to: the bytes of the job's connection.
	Joined = "dstack-call"
)

// Accept waits, as long as ctx allows, until a task with [JobSpec.ServerAccess] connects to the
// server, and returns that connection. One call waits at a time: a later one takes the place of
// an earlier, which fails. CodeConflict and CodeNotFound say that the task does not connect any
// more.
func (c *Client) Accept(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/tasks/"+id+"/accept", nil)
	if err != nil {
		return nil, fmt.Errorf("wait for calls of task %s: %w", id, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", Joined)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("wait for calls of task %s: %w", id, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, responseError(resp)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("wait for calls of a task: the way to the agent carries no connections")
	}
	return conn, nil
}
