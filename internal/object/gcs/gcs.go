// Package gcs is a bucket of Google Cloud Storage. Credentials come from where Google's programs
// look for them: GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the machine's service account.
package gcs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"dstack/internal/gcpclient"
	"dstack/internal/object"
)

// Config is what New needs; only Bucket is required.
type Config struct {
	Bucket string
	gcpclient.Config
}

// Bucket is an [object.Bucket].
type Bucket struct {
	name   string
	client *gcpclient.Client
}

const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// New looks for credentials; gcpclient.ErrNoCredentials says that there are none.
func New(ctx context.Context, c Config) (*Bucket, error) {
	c.Endpoint = cmp.Or(c.Endpoint, "https://storage.googleapis.com")
	client, err := gcpclient.New(ctx, c.Config, scope)
	if err != nil {
		return nil, err
	}
	return &Bucket{c.Bucket, client}, nil
}

// Check implements [object.Bucket].
func (b *Bucket) Check(ctx context.Context) error {
	err := b.List(ctx, "dstack-no-such-object", func(object.Info) error { return nil })
	e, ok := errors.AsType[*gcpclient.Error](err)
	switch {
	case !ok:
		return err
	case e.Status == http.StatusNotFound:
		return fmt.Errorf("%w: there is no such bucket", object.ErrSettings)
	case e.Status >= 400 && e.Status < 500 && !e.Temporary():
		return fmt.Errorf("%w: %w", object.ErrSettings, err)
	}
	return err
}

func (b *Bucket) path(key string) string {
	return "/storage/v1/b/" + url.PathEscape(b.name) + "/o/" + url.PathEscape(key)
}

// do makes one call. The body of the answer is the caller's.
func (b *Bucket) do(ctx context.Context, method, path string, body io.ReadSeeker, size int64) (*http.Response, error) {
	return b.client.Do(ctx, gcpclient.Request{Method: method, Path: path, Body: body, Size: size, ContentType: "application/octet-stream", Repeat: true})
}

func (b *Bucket) wrap(op, key string, err error) error {
	if e, ok := errors.AsType[*gcpclient.Error](err); ok && e.Status == http.StatusNotFound {
		err = object.ErrNotFound
	}
	return fmt.Errorf("%s %s in bucket %s: %w", op, key, b.name, err)
}

// Put implements [object.Bucket].
func (b *Bucket) Put(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	path := "/upload/storage/v1/b/" + url.PathEscape(b.name) + "/o?uploadType=media&name=" + url.QueryEscape(key)
	resp, err := b.do(ctx, http.MethodPost, path, body, size)
	if err != nil {
		return b.wrap("put", key, err)
	}
	return resp.Body.Close()
}

// Get implements [object.Bucket].
func (b *Bucket) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	resp, err := b.do(ctx, http.MethodGet, b.path(key)+"?alt=media", nil, 0)
	if err != nil {
		return nil, b.wrap("get", key, err)
	}
	return resp.Body, nil
}

// resource is an object as the API shows it.
type resource struct {
	Name    string    `json:"name"`
	Size    string    `json:"size"`
	Updated time.Time `json:"updated"`
}

func (r resource) info() (object.Info, error) {
	size, err := strconv.ParseInt(r.Size, 10, 64)
	return object.Info{Key: r.Name, Size: size, Modified: r.Updated}, err
}

// maxAnswer bounds an answer of JSON, in bytes.
const maxAnswer = 16 << 20

func decode(resp *http.Response, v any) error {
	err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(v)
	return errors.Join(err, resp.Body.Close())
}

// Stat implements [object.Bucket].
func (b *Bucket) Stat(ctx context.Context, key string) (object.Info, error) {
	resp, err := b.do(ctx, http.MethodGet, b.path(key)+"?fields=name,size,updated", nil, 0)
	if err != nil {
		return object.Info{}, b.wrap("look for", key, err)
	}
	var r resource
	if err := decode(resp, &r); err != nil {
		return object.Info{}, b.wrap("look for", key, err)
	}
	return r.info()
}

// Delete implements [object.Bucket].
func (b *Bucket) Delete(ctx context.Context, key string) error {
	resp, err := b.do(ctx, http.MethodDelete, b.path(key), nil, 0)
	if err != nil {
		if err = b.wrap("delete", key, err); errors.Is(err, object.ErrNotFound) {
			return nil
		}
		return err
	}
	return resp.Body.Close()
}

// List implements [object.Bucket].
func (b *Bucket) List(ctx context.Context, prefix string, fn func(object.Info) error) error {
	q := url.Values{"prefix": {prefix}, "fields": {"nextPageToken,items(name,size,updated)"}}
	for {
		resp, err := b.do(ctx, http.MethodGet, "/storage/v1/b/"+url.PathEscape(b.name)+"/o?"+q.Encode(), nil, 0)
		if err != nil {
			return fmt.Errorf("list bucket %s: %w", b.name, err)
		}
		var page struct {
			Items         []resource `json:"items"`
			NextPageToken string     `json:"nextPageToken"`
		}
		if err := decode(resp, &page); err != nil {
			return fmt.Errorf("list bucket %s: %w", b.name, err)
		}
		for _, r := range page.Items {
			info, err := r.info()
			if err == nil {
				err = fn(info)
			}
			if err != nil {
				return err
			}
		}
		if page.NextPageToken == "" {
			return nil
		}
		q.Set("pageToken", page.NextPageToken)
	}
}
