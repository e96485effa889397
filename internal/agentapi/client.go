package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Client calls one agent. It is safe for concurrent use and opens few connections.
type Client struct {
	http *http.Client
}

// commandTimeout bounds every call but uploads and the event stream.
const commandTimeout = 20 * time.Second

// NewClient returns a client over connections that dial makes.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		// There is a client for each of ten thousand hosts, and little to say to most.
		ReadBufferSize:  1 << 10,
		WriteBufferSize: 1 << 10,
		// What a host says is bounded: see MaxBody and MaxEvent.
		MaxResponseHeaderBytes: 64 << 10,
	}}}
}

// NewClientOver returns a client whose requests are answered by rt: an agent in memory, say.
func NewClientOver(rt http.RoundTripper) *Client {
	return &Client{http: &http.Client{Transport: rt}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Host asks what machine this is.
func (c *Client) Host(ctx context.Context) (HostInfo, error) {
	var v HostInfo
	return v, c.call(ctx, http.MethodGet, "/v1/host", nil, &v)
}

// Tasks lists all tasks, terminated ones included until they are deleted.
func (c *Client) Tasks(ctx context.Context) ([]Task, error) {
	var v []Task
	return v, c.call(ctx, http.MethodGet, "/v1/tasks", nil, &v)
}

// Put starts a task, or returns it as it is when the agent has it already.
func (c *Client) Put(ctx context.Context, spec TaskSpec) (Task, error) {
	return c.task(ctx, http.MethodPut, spec.ID, "", spec)
}

// task makes a call whose answer is the task.
func (c *Client) task(ctx context.Context, method, id, verb string, in any) (Task, error) {
	var v Task
	if err := c.call(ctx, method, "/v1/tasks/"+id+verb, in, &v); err != nil {
		return Task{}, err
	}
	if wrong := v.check(id); wrong != "" {
		return Task{}, fmt.Errorf("the agent's answer about task %s makes no sense: %s", id, wrong)
	}
	return v, nil
}

// Terminate ends a task; one that has ended keeps its first reason.
func (c *Client) Terminate(ctx context.Context, id string, t Terminate) (Task, error) {
	return c.task(ctx, http.MethodPost, id, "/terminate", t)
}

// Delete forgets a terminated task and its files; an unknown one is no error.
func (c *Client) Delete(ctx context.Context, id string) error {
	err := c.call(ctx, http.MethodDelete, "/v1/tasks/"+id, nil, nil)
	if IsCode(err, CodeNotFound) {
		return nil
	}
	return err
}

// HasBlob says whether the agent holds a blob.
func (c *Client) HasBlob(ctx context.Context, sum string) (bool, error) {
	err := c.call(ctx, http.MethodHead, "/v1/blobs/"+sum, nil, nil)
	var e *StatusError
	if errors.As(err, &e) && e.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// uploadPatience is how long an agent may take no more of an upload, or not answer it.
const uploadPatience = time.Minute

var errStalled = fmt.Errorf("the agent takes nothing for %v", uploadPatience)

// PutBlob uploads a blob; the agent checks that it has the hash. However large it is, it is not waited for
// when nothing moves.
func (c *Client) PutBlob(ctx context.Context, sum string, r io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(uploadPatience, func() { cancel(errStalled) })
	defer stalled.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://agent/v1/blobs/"+sum, &moving{r, stalled})
	if err != nil {
		return fmt.Errorf("upload blob %s: %w", sum, err)
	}
	if err = c.do(req, nil); err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("upload blob %s: %w", sum, errStalled)
	}
	return err
}

// moving puts a timer off whenever somebody reads.
type moving struct {
	io.Reader
	stalled *time.Timer
}

func (m *moving) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.stalled.Reset(uploadPatience)
	return n, err
}

// Ack says that the events up to seq are stored.
func (c *Client) Ack(ctx context.Context, a Ack) error {
	return c.call(ctx, http.MethodPost, "/v1/events/ack", a, nil)
}

// Shutdown stops the agent; tasks go on.
func (c *Client) Shutdown(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/shutdown", nil, nil)
}

// Logs opens a task's stream at a byte offset.
func (c *Client) Logs(ctx context.Context, id string, src LogSource, offset int64) (io.ReadCloser, error) {
	from := fmt.Sprintf("http://agent/v1/tasks/%s/logs?source=%s&offset=%d", id, src, offset)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fmt.Errorf("read log of task %s: %w", id, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read log of task %s: %w", id, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, responseError(resp)
	}
	return resp.Body, nil
}

// Events reads the stream from after seq until ctx ends or the connection breaks. It
// calls handle for every event in order; an error of handle ends it.
func (c *Client) Events(ctx context.Context, after int64, wish Wish, handle func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A stream without heartbeats is dead, whatever TCP believes.
	silence := time.AfterFunc(3*HeartbeatEvery, cancel)
	defer silence.Stop()
	query := url.Values{"after": {strconv.FormatInt(after, 10)}}
	wish.query(query)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/events?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("open event stream: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("open event stream: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return responseError(resp)
	}
	r := newEventReader(resp.Body)
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return fmt.Errorf("event stream: %w", err)
		}
		silence.Stop() // nothing is read while the event is handled
		if err := handle(e); err != nil {
			return err
		}
		silence.Reset(3 * HeartbeatEvery)
	}
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("agent %s %s: %w", method, path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return fmt.Errorf("agent %s %s: %w", method, path, err)
	}
	return c.do(req, out)
}

func (c *Client) do(req *http.Request, out any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("agent %s %s: %w", req.Method, req.URL.Path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return responseError(resp)
	}
	if out == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, MaxBody)) // or the connection could not be used again
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody))
	if err == nil {
		err = unmarshal(data, out)
	}
	if err != nil {
		return fmt.Errorf("agent %s %s: %w", req.Method, req.URL.Path, err)
	}
	return nil
}

// StatusError is a refusal of the agent.
type StatusError struct {
	Status int
	Err    Error
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("agent: %s (status %d)", e.Err.Message, e.Status)
}

// IsCode says that err is a refusal with the code.
func IsCode(err error, code string) bool {
	var e *StatusError
	return errors.As(err, &e) && e.Err.Code == code
}

func responseError(resp *http.Response) error {
	e := &StatusError{Status: resp.StatusCode}
	if data, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody)); err == nil {
		_ = unmarshal(data, &e.Err) // a proxy's page leaves it empty
	}
	if e.Err.Message == "" {
		e.Err.Message = resp.Status
	}
	return e
}
