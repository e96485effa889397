// Package gcpclient calls the REST APIs of Google Cloud, with credentials from where Google's
// programs look for them. It is what a few calls need in place of Google's large client libraries.
package gcpclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
)

// Config is what New needs; all is optional.
type Config struct {
	Endpoint string             // "https://host"
	Tokens   oauth2.TokenSource // default: the application default credentials
	Timeout  time.Duration      // of the wait for an answer after a request was sent; 0: 30 s
	Backoff  time.Duration      // the wait before a call is repeated first; 0: 500 ms
}

// ErrNoCredentials says that there are none, or that they cannot be read.
var ErrNoCredentials = errors.New("no Google Cloud credentials")

// Client calls one API.
type Client struct {
	Config
	http *http.Client
	// Project is the one that the credentials belong to, "" when they do not say.
	Project string
}

// New finds credentials for scopes. It calls nobody but, at most, the machine's metadata.
func New(ctx context.Context, c Config, scopes ...string) (*Client, error) {
	client := &Client{Config: c}
	if c.Tokens == nil {
		creds, err := google.FindDefaultCredentials(ctx, scopes...)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoCredentials, err)
		}
		client.Tokens, client.Project = creds.TokenSource, creds.ProjectID
	}
	client.Backoff = cmp.Or(c.Backoff, 500*time.Millisecond)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	transport.ResponseHeaderTimeout = cmp.Or(c.Timeout, 30*time.Second)
	client.http = &http.Client{Transport: &oauth2.Transport{Source: client.Tokens, Base: transport}, CheckRedirect: stay}
	return client, nil
}

// stay follows no redirect: the APIs have none, and the transport adds the token to whatever is asked.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Error is an answer that is none of success.
type Error struct {
	Status  int
	Message string
	Reason  string        // as the API words it: "RESOURCE_EXHAUSTED", "rateLimitExceeded"
	After   time.Duration // when to ask again, 0: not said
}

func (e *Error) Error() string {
	return fmt.Sprintf("%d %s: %s", e.Status, e.Reason, cmp.Or(e.Message, http.StatusText(e.Status)))
}

// Quota says that too much was asked for; nothing was done.
func (e *Error) Quota() bool {
	return e.Status == http.StatusTooManyRequests ||
		slices.Contains([]string{"RESOURCE_EXHAUSTED", "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"}, e.Reason)
}

// Temporary says that the same call may succeed later.
func (e *Error) Temporary() bool {
	return e.Status >= 500 || e.Status == http.StatusRequestTimeout || e.Quota()
}

// Request is one call.
type Request struct {
	Method, Path string // Path with the query
	Body         io.ReadSeeker
	Size         int64 // of Body
	ContentType  string
	Repeat       bool // it may be repeated when its outcome is unknown
}

// attempts bounds how often a call is made.
const attempts = 3

// Do makes a call and returns the answer, whose body is the caller's, or an *Error. A call that
// may be is repeated a few times.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	for n := 1; ; n++ {
		resp, err := c.once(ctx, r)
		e, answered := errors.AsType[*Error](err)
		if err == nil || !r.Repeat || n == attempts || ctx.Err() != nil || answered && !e.Temporary() {
			return resp, err
		}
		wait := c.Backoff << (n - 1)
		if answered && e.After > 0 {
			wait = min(e.After, 10*time.Second)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (c *Client) once(ctx context.Context, r Request) (*http.Response, error) {
	var body io.Reader
	if r.Body != nil {
		if _, err := r.Body.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		body = io.NopCloser(r.Body) // it is the caller's to close
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, c.Endpoint+r.Path, body)
	if err != nil {
		return nil, err
	}
	if r.Body != nil {
		req.ContentLength = r.Size
		if r.Size == 0 {
			req.Body = http.NoBody
		}
		req.Header.Set("Content-Type", r.ContentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // read only
	return nil, readError(resp)
}

func readError(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	var answer struct {
		Error struct {
			Message string
			Status  string
			Errors  []struct{ Reason string }
		}
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && json.Unmarshal(text, &answer) == nil {
		e.Message, e.Reason = answer.Error.Message, answer.Error.Status
		if e.Reason == "" && len(answer.Error.Errors) > 0 {
			e.Reason = answer.Error.Errors[0].Reason
		}
	}
	if e.Message == "" {
		e.Message = string(bytes.TrimSpace(text[:min(len(text), 200)]))
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.After = time.Duration(n) * time.Second
	}
	return e
}

// JSON calls an API of JSON: in and out are its bodies, out at most max bytes.
func (c *Client) JSON(ctx context.Context, path string, in, out any, max int64, repeat bool) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	resp, err := c.Do(ctx, Request{Method: http.MethodPost, Path: path, Body: bytes.NewReader(body), Size: int64(len(body)), ContentType: "application/json", Repeat: repeat})
	if err != nil {
		return err
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, max)).Decode(out)
	return errors.Join(err, resp.Body.Close())
}
