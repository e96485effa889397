// Package client speaks the REST API: one method per endpoint, and errors that tell the user what to do.
//
// Tests talk to a server in the same process.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dstack/internal/api"
)

const (
	attempts   = 3
	retryPause = time.Second
	// maxBody bounds a response, in bytes.
	maxBody = 256 << 20
)

// ErrConnect means that no answer came from the server.
var ErrConnect = errors.New("no connection")

// Client is a connection to a server. Methods may be called at the same time.
type Client struct {
	base    string // as the user knows it
	origin  string // of requests
	token   string
	version string
	http    *http.Client
}

// New returns a client for the server at address, http(s)://… or http+unix://<escaped path of a socket>.
// An empty token makes anonymous requests. Version is what the client says to speak, [api.Version] if empty.
func New(address, token, version string) (*Client, error) {
	address = strings.TrimRight(address, "/")
	if strings.HasPrefix(address, "http+unix://") {
		return newUnix(address, token, version)
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a server: write http://host:port or https://host", address)
	}
	if version == "" {
		version = api.Version
	}
	return &Client{base: address, origin: address, token: token, version: version, http: &http.Client{CheckRedirect: stay}}, nil
}

func newUnix(address, token, version string) (*Client, error) {
	socket, err := url.PathUnescape(strings.TrimPrefix(address, "http+unix://"))
	if err != nil || socket == "" {
		return nil, fmt.Errorf("%q is not the URL of a socket: write http+unix:// and the path, escaped", address)
	}
	c, err := New("http://localhost", token, version)
	if err != nil {
		return nil, err
	}
	c.base = address
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialSocket(ctx, socket)
	}}
	return c, nil
}

// maxSocketPath is how long the path of a socket may be for the kernel, in bytes.
const maxSocketPath = 107

// dialSocket connects to a socket, that of a job in a deep folder included.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	if len(path) > maxSocketPath {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// stay does not follow redirects: they would turn a POST into a GET.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// post sends in as JSON, or nothing if it is nil, and reads the answer into out unless that is nil.
func (c *Client) post(ctx context.Context, path string, in, out any) error {
	var body []byte
	kind := ""
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("prepare request %s: %w", path, err)
		}
		kind = "application/json"
	}
	return c.call(ctx, http.MethodPost, path, kind, body, out)
}

// answer posts a request and returns what the server answers.
func answer[T any](ctx context.Context, c *Client, path string, request any) (out T, err error) {
	err = c.post(ctx, path, request, &out)
	return out, err
}

// in is the path of what is asked of a project.
func in(project, what string) string {
	return "/api/project/" + url.PathEscape(project) + "/" + what
}

func (c *Client) call(ctx context.Context, method, path, kind string, body []byte, out any) error {
	res, err := c.send(ctx, method, path, kind, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // read to its end
	if out == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxBody))
		return err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base+path, err)
	}
	if len(data) > maxBody {
		return fmt.Errorf("the answer of %s is larger than %d bytes", c.base+path, maxBody)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer of %s makes no sense: %w. Is this the URL of a dstack server?", c.base+path, err)
	}
	return nil
}

// send returns the response if its status is 200. A server that cannot be reached is tried again.
func (c *Client) send(ctx context.Context, method, path, kind string, body []byte) (*http.Response, error) {
	for n := 1; ; n++ {
		req, err := http.NewRequestWithContext(ctx, method, c.origin+path, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("prepare request %s: %w", path, err)
		}
		req.Header.Set("X-API-VERSION", c.version)
		req.Header.Set(api.ExtensionsHeader, "1")
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		if kind != "" {
			req.Header.Set("Content-Type", kind)
		}
		res, err := c.http.Do(req)
		if err == nil {
			return c.check(res, path)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if n == attempts || !refused(err) {
			return nil, &ConnectError{URL: c.base, Err: err}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

// refused reports whether the request cannot have reached the server.
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// A ConnectError says that the server gave no answer.
type ConnectError struct {
	URL string
	Err error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("Failed to connect to dstack server %s\nIs it running, and is the URL right? (%v)", e.URL, e.Err)
}

// Temporary: the server may be back soon.
func (e *ConnectError) Temporary() bool { return true }

func (e *ConnectError) Unwrap() error { return e.Err }

// Is makes it an [ErrConnect].
func (e *ConnectError) Is(target error) bool { return target == ErrConnect }

func (c *Client) check(res *http.Response, path string) (*http.Response, error) {
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }() // what matters was read
	data, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		data = nil // the status says enough
	}
	return nil, refusal(res, c.base+path, data)
}

// refusal makes an error of a response.
func refusal(res *http.Response, address string, data []byte) *api.Error {
	e := &api.Error{Status: res.StatusCode}
	switch res.StatusCode {
	case http.StatusBadRequest:
		e.Kind = api.KindBadRequest
		var body struct {
			Detail []struct {
				Msg    string
				Code   *api.Code
				Fields []string
			}
		}
		if json.Unmarshal(data, &body) == nil && len(body.Detail) > 0 && body.Detail[0].Msg != "" {
			e.Msg = body.Detail[0].Msg
			for _, d := range body.Detail {
				if d.Fields != nil {
					e.Fields = append(e.Fields, d.Fields)
				}
			}
			if body.Detail[0].Code != nil {
				e.Code = *body.Detail[0].Code
			}
			return e
		}
	case http.StatusUnprocessableEntity:
		e.Kind = api.KindValidation
		e.Msg = "Server validation error: \n" + validation(data)
		return e
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = api.KindForbidden
		e.Msg = fmt.Sprintf("Access to %s is denied. Please check your access token", address)
		return e
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		e.Kind = api.KindNotFound
		e.Msg = fmt.Sprintf("Status code %d when requesting %s", res.StatusCode, address)
		return e
	case http.StatusServiceUnavailable:
		var body struct{ Detail string }
		if json.Unmarshal(data, &body) == nil && body.Detail != "" {
			e.Kind, e.Msg = api.KindServer, "The server cannot answer now: "+body.Detail
			return e
		}
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		e.Msg = fmt.Sprintf("%s redirects to %s: use that server's URL in `dstack project add`", address, res.Header.Get("Location"))
		return e
	}
	e.Kind = api.KindServer
	e.Msg = fmt.Sprintf("Unexpected error: status code %d when requesting %s. Check the server's log for more details", res.StatusCode, address)
	return e
}

// validation writes what is wrong with a request, one line for each field.
func validation(data []byte) string {
	var body struct {
		Detail []struct {
			Loc []any
			Msg string
		}
	}
	if json.Unmarshal(data, &body) != nil || len(body.Detail) == 0 {
		return string(data)
	}
	lines := make([]string, len(body.Detail))
	for i, d := range body.Detail {
		path := make([]string, len(d.Loc))
		for j, l := range d.Loc {
			path[j] = fmt.Sprint(l)
		}
		lines[i] = strings.Join(path, ".") + ": " + d.Msg
	}
	return strings.Join(lines, "\n")
}

// upload sends content as the one file of a form, named by its hash.
func (c *Client) upload(ctx context.Context, path, hash string, r io.Reader, out any) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("file", hash)
	if err == nil {
		_, err = io.Copy(part, r)
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		return fmt.Errorf("prepare upload: %w", err)
	}
	return c.call(ctx, http.MethodPost, path, form.FormDataContentType(), body.Bytes(), out)
}
